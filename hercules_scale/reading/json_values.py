"""JSON objects of a stream that are not one per line: in an array, or printed over several
lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from hercules_scale.errors import InputError

_BLOCK_BYTES = 2**20
_BEGINS = re.compile(rb"[^\s,\[\]\xef\xbb\xbf]")
_ENDS = re.compile(rb"[,\]{\n]")
_STRUCTURE = re.compile(rb'["{}\[\]]')
_IN_STRING = re.compile(rb'["\\]')


class _Values:
    """Scanner that finds the beginnings and ends of the values of a stream."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._parts = bytearray()
        self._size = self._depth = 0
        self._in_string = self._escaped = self._is_object = False
        self.is_open = False

    @property
    def is_cut(self) -> bool:
        """Whether an object is open."""
        return self.is_open and self._is_object

    def rest(self) -> Iterator[bytes]:
        """Yield the bytes that are left at the end."""
        if self.is_open:
            yield bytes(self._parts)

    def feed(self, data: bytes) -> Iterator[bytes | None]:
        """Yield the values that end in some bytes; None for one that is too long."""
        at = start = 0
        while at < len(data):
            if not self.is_open:
                found = _BEGINS.search(data, at)
                if found is None:
                    return
                start = at = found.start()
                self.is_open, self._is_object = True, data[at : at + 1] == b"{"
            at, ended = self._end(data, at)
            if ended:
                self._keep(data[start:at])
                yield bytes(self._parts) if self._size <= self._longest else None
                self._parts, self._size, self.is_open = bytearray(), 0, False
        if self.is_open:
            self._keep(data[start:])

    def _keep(self, data: bytes) -> None:
        self._size += len(data)
        if self._size <= self._longest:
            self._parts += data

    def _end(self, data: bytes, at: int) -> tuple[int, bool]:
        """Return the end of the value, or of the next token in it, and whether the value ends
        there."""
        if self._escaped:
            self._escaped = False
            return at + 1, False
        pattern = _IN_STRING if self._in_string else _STRUCTURE if self._is_object else _ENDS
        found = pattern.search(data, at)
        if found is None:
            return len(data), False
        mark = found[0]
        if not self._is_object:
            return found.start(), True
        if self._in_string:
            self._in_string, self._escaped = mark != b'"', mark == b"\\"
        elif mark == b'"':
            self._in_string = True
        else:
            self._depth += 1 if mark in b"{[" else -1
        return found.end(), self._depth == 0 and not self._in_string


def json_values(stream: Any, where: str, longest: int) -> Iterator[bytes | None]:
    """Yield each object of a stream, and any other value in it; None for one that is too long.

    Args:
        stream: Binary stream of UTF-8.
        where: The file, for messages.
        longest: Largest number of bytes of an object.

    Raises:
        InputError: An object does not end.
    """
    values, n_values = _Values(longest), 0
    while data := bytes(stream.read(_BLOCK_BYTES)):
        for value in values.feed(data):
            n_values += 1
            yield value
    if values.is_cut:
        raise InputError(
            f"{where}: the JSON value that follows {n_values:,} others does not end; replace the "
            "file or leave it out"
        )
    yield from values.rest()
