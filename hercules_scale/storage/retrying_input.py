"""Large remote file that is read in pieces, each read being repeated after transient errors."""

from __future__ import annotations

import io
from typing import Any

import pyarrow.fs as pafs

from hercules_scale.storage.retries import patiently


class RetryingInput(io.RawIOBase):
    """File of an object store that can be read from any place in it.

    Args:
        system: The file system.
        path: Path of the file there.
        seconds: Time after the first failure in which a read is repeated.
        place: URI for the message of an error.

    Raises:
        FileNotFoundError: There is no such file.
    """

    def __init__(self, system: pafs.FileSystem, path: str, seconds: float, place: str) -> None:
        self._seconds, self._place = seconds, place
        self._file: Any = patiently(lambda: system.open_input_file(path), seconds, place)
        self._size, self._position = int(self._file.size()), 0

    def readable(self) -> bool:
        """Return true."""
        return True

    def seekable(self) -> bool:
        """Return true."""
        return True

    def tell(self) -> int:
        """Return the offset of the next read."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place, counted from the beginning, from here or from the end."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        """Return up to ``size`` bytes from here, or all that are left."""
        left = max(self._size - self._position, 0)
        length = left if size is None or size < 0 else min(size, left)
        start = self._position
        data = patiently(
            lambda: bytes(self._file.read_at(length, start)), self._seconds, self._place
        )
        self._position += len(data)
        return data

    def readinto(self, buffer: Any, /) -> int:
        """Fill a buffer with as many bytes as are left, and return their number."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            self._file.close()
        super().close()
