"""A reader of large JSON objects, member by member, with one array element by element."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

from hercules_scale.errors import InputError

CHUNK_BYTES = 1 << 20
_SPACE = re.compile(r"[ \t\r\n]*")
# Longest token that may be cut at the end of the text read so far, such as -Infinity.
_TOKEN = 16


class _Text:
    """Text of a stream that is not parsed yet."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._decoder = stream, codecs.getincrementaldecoder("utf-8-sig")()
        self._text, self._at, self._ended, self._dropped = "", 0, False, 0

    def _more(self, n_bytes: int) -> None:
        data = self._stream.read(n_bytes)
        self._ended = not data
        self._dropped += self._at
        self._text = self._text[self._at :] + self._decoder.decode(data, self._ended)
        self._at = 0

    def next_mark(self) -> str:
        """Return the next character other than space, without taking it; empty at the end."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._more(CHUNK_BYTES)

    def take(self, marks: str) -> str:
        """Take the next character, which must be one of ``marks``."""
        mark = self.next_mark()
        if not mark or mark not in marks:
            wanted = " or ".join(marks)
            raise ValueError(f"{wanted} wanted, {mark or 'the end of the file'} found")
        self._at += 1
        return mark

    def value(self) -> Any:
        """Take the next whole value."""
        self.next_mark()
        wanted = CHUNK_BYTES
        while True:
            try:
                value, end = json.JSONDecoder().raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                cut = error.pos + _TOKEN > len(self._text) or error.msg.startswith("Unterminated")
                if self._ended or not cut:
                    raise ValueError(error.msg) from None
            else:
                # A number at the end of the text may go on in the next chunk.
                if end < len(self._text) or self._ended:
                    self._at = end
                    return value
            self._more(wanted)
            wanted *= 2

    @property
    def place(self) -> int:
        return self._dropped + self._at


def read_members(stream: Any, name: str, streamed: str) -> Iterator[tuple[str, Any]]:
    """Yield the members of an object.

    Memory is that of one member, or of one element of the streamed one.

    Args:
        stream: Binary, UTF-8.
        name: Name of the file, for messages.
        streamed: Name of the member with an array, which is read element by element.

    Yields:
        Name and value of a member; for the streamed member, its name and one element.

    Raises:
        InputError: The file is not a JSON object, or is cut off.
    """
    text = _Text(stream)
    try:
        text.take("{")
        mark = "}" if text.next_mark() == "}" else ","
        if mark == "}":
            text.take("}")
        while mark == ",":
            key = text.value()
            if not isinstance(key, str):
                raise ValueError("a member's name must be text")
            text.take(":")
            if key == streamed:
                for element in _elements(text):
                    yield key, element
            else:
                yield key, text.value()
            mark = text.take(",}")
        if text.next_mark():
            raise ValueError("more after the end of the object")
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{name}: must be one JSON object, whole and in UTF-8; after character "
            f"{text.place:,}: {reason}; write the file again"
        ) from None


def _elements(text: _Text) -> Iterator[Any]:
    text.take("[")
    if text.next_mark() == "]":
        text.take("]")
        return
    mark = ","
    while mark == ",":
        yield text.value()
        mark = text.take(",]")
