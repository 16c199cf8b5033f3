"""Text files as streams of UTF-8, unpacked and decoded as they are read."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Collection
from typing import Any

import pyarrow as pa

from hercules_scale.config.reading import CsvConfig
from hercules_scale.errors import InputError
from hercules_scale.reading.dialect import HEAD_BYTES, Dialect, detect
from hercules_scale.reading.sources import SourceFile

UNPACK: dict[str, Callable[[Any], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": lambda stream: pa.CompressedInputStream(stream, "zstd"),
}
# Exceptions of these functions for damaged data.
UNPACK_ERRORS = (EOFError, zlib.error, lzma.LZMAError)

POINTER = "a pointer of Git LFS"
# Beginnings of files that a failed download left.
NO_DATA = {
    b"version https://git-lfs": POINTER,
    b"<!doctype html": "a page of HTML",
    b"<html": "a page of HTML",
}
# Beginnings of files that are not text, though their names say so.
NO_TEXT = {
    b"\x1f\x8b": ("packed by gzip", "name it .gz"),
    b"BZh9": ("packed by bzip2", "name it .bz2"),
    b"\xfd7zXZ\0": ("packed by xz", "name it .xz"),
    b"\x28\xb5\x2f\xfd": ("packed by zstd", "name it .zst"),
    b"PK\x03\x04": ("an archive or a workbook", "unpack it, or save each sheet as csv"),
    b"\xd0\xcf\x11\xe0": ("a workbook of Excel", "save each sheet as csv"),
    b"PAR1": ("a Parquet file", "name it .parquet"),
    b"%PDF-": ("a PDF", "convert it to text"),
}


def open_bytes(source: SourceFile) -> Any:
    """Return a stream of a file's bytes, unpacked."""
    store = source.store
    stream = store.arrow.open_input_stream(store.path(source.name), compression=None)
    ending = next((each for each in UNPACK if source.name.lower().endswith(each)), None)
    return UNPACK[ending](stream) if ending else stream


def dialect_of(source: SourceFile, given: CsvConfig, names: Collection[str] = ()) -> Dialect:
    """Return the dialect of a text file, from its first bytes; see ``detect``.

    Raises:
        InputError: The file was left by a failed download, or is not text.
    """
    head = read_head(source, HEAD_BYTES)
    for mark, kind in NO_DATA.items():
        if head.lstrip().lower().startswith(mark) and (
            source.format not in ("txt", "document") or kind == POINTER
        ):
            raise InputError(f"{source.uri}: is {kind}; fetch the data itself")
    for mark, (kind, remedy) in NO_TEXT.items():
        if head.startswith(mark):
            raise InputError(f"{source.uri}: is {kind}, and not what its name says; {remedy}")
    if ".tsv" in source.name.lower() and given.delimiter is None and b"\t" in head:
        given = given.model_copy(update={"delimiter": "\t"})
    return detect(head, len(head) < HEAD_BYTES, given, source.format == "csv", names)


def open_text(source: SourceFile, dialect: Dialect) -> Any:
    """Return a stream of a file as UTF-8; invalid bytes of a file in UTF-8 stay as they are."""
    stream = open_bytes(source)
    if dialect.encoding.lower().replace("_", "-") in ("utf-8", "utf8", "ascii", "us-ascii"):
        return stream
    if not isinstance(stream, pa.NativeFile):
        stream = pa.PythonFile(stream, "r")
    return pa.transcoding_input_stream(stream, dialect.encoding, "utf-8")


def open_buffered(source: SourceFile, dialect: Dialect) -> Any:
    """Return the same stream, buffered, with newlines as ends of lines in place of lone carriage
    returns."""
    stream = open_text(source, dialect)
    return io.BufferedReader(_Lines(stream), 2**18)


class _Lines(io.RawIOBase):
    """A stream with newlines as ends of lines, also if they were lone carriage returns."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._by_returns: bool | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = bytes(self._stream.read(len(buffer)))
        if self._by_returns is None:
            self._by_returns = b"\r" in data and b"\n" not in data
        if self._by_returns:
            data = data.replace(b"\r", b"\n")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()


def read_head(source: SourceFile, n_bytes: int) -> bytes:
    """Return the first bytes of a file, unpacked."""
    parts: list[bytes] = []
    with open_bytes(source) as stream:
        while n_bytes > 0 and (part := bytes(stream.read(n_bytes))):
            parts.append(part)
            n_bytes -= len(part)
    return b"".join(parts)
