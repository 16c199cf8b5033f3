"""Folder on a file system or object store, by URI.

Bulk data goes through pyarrow's file systems; listing, small files and conditional creation go
through fsspec. Both repeat requests after transient errors; in addition, each call here is repeated
for ``storage.retry_seconds``.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.fs as pafs

from hercules_scale.config.resources import StorageConfig
from hercules_scale.errors import StorageError
from hercules_scale.storage import layout
from hercules_scale.storage.file_systems import (
    is_reached_by_endpoint,
    open_arrow_s3,
    open_fsspec,
    split_uri,
)
from hercules_scale.storage.retries import patiently
from hercules_scale.storage.retrying_input import RetryingInput

CREATED_BEFORE = ("PreconditionFailed", "ConditionalRequestConflict", "412")
HASTY_SECONDS = 5.0
# Suffix of files that are being written, so that they are not read as data.
UNFINISHED = ".tmp"

_LOCK = re.compile(r"\d{6,}\.json", re.ASCII)
_OURS_UNFINISHED = re.compile(rf"\..+\.[0-9a-f]{{32}}{re.escape(UNFINISHED)}")
FOLDERS = (layout.WORK, *layout.TABLES)

# Errors of file systems without hard links.
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}

T = TypeVar("T")


class Store:
    """Folder by URI, with paths relative to it.

    Args:
        uri: A local path, ``s3://bucket/folder``, ``gs://...`` or ``az://...``.
        options: Access to the folder; by default from the environment.
        owner: Number of the lock under which it is written; 0 for none. Each write and deletion,
            also in workers, checks that there is no lock with a higher number.

    Raises:
        InputError: The scheme is unknown, or its package is not installed.
    """

    def __init__(self, uri: str, options: StorageConfig | None = None, owner: int = 0) -> None:
        self.scheme, path = split_uri(uri)
        self.root = path.rstrip("/")
        self.uri = uri.rstrip("/")
        self.options = options or StorageConfig()
        self.owner = owner

    def __reduce__(self) -> tuple[type[Store], tuple[str, StorageConfig, int]]:
        # A worker opens its own connections, and may work in another folder.
        uri = f"{self.root}/" if self.is_local else self.uri
        return (type(self), (uri, self.options, self.owner))

    @property
    def hasty(self) -> Store:
        """The same folder, with a wait of only a few seconds for outages."""
        seconds = min(self.options.retry_seconds, HASTY_SECONDS)
        options = self.options.model_copy(update={"retry_seconds": seconds})
        return Store(self.uri, options, self.owner)

    @property
    def is_local(self) -> bool:
        """Whether the folder lies on this machine's file system."""
        return self.scheme == "file"

    @cached_property
    def fsspec(self) -> Any:
        """The fsspec file system, for listing and small files."""
        return open_fsspec(self.uri, self.scheme, self.options)

    @property
    def is_reached_by_endpoint(self) -> bool:
        """Whether options or environment name another host than the cloud's own."""
        return is_reached_by_endpoint(self.options)

    @cached_property
    def arrow(self) -> pafs.FileSystem:
        """The pyarrow file system, for bulk data."""
        if self.is_local:
            return pafs.LocalFileSystem()
        if self.scheme == "s3":
            return open_arrow_s3(self.options)
        return pafs.PyFileSystem(pafs.FSSpecHandler(self.fsspec))

    def patiently(self, work: Callable[[], T]) -> T:
        """Do some work with the storage, and repeat it after transient errors.

        Raises:
            StorageError: It fails for ``storage.retry_seconds``, or there is no space.
        """
        return patiently(work, self.options.retry_seconds, self.uri)

    def lock_names(self) -> list[str]:
        """Return the names of the locks of this output; the last one holds."""
        names = filter(_LOCK.fullmatch, self.list_folder(layout.LOCKS))
        return [f"{layout.LOCKS}/{name}" for name in sorted(names)]

    def check_owner(self) -> None:
        """Check that the lock under which this store is written still holds.

        Raises:
            StorageError: Another run has taken over the output, even if it has ended since, or the
                owner of the lock has ended.
        """
        if self.owner and self.lock_names()[-1:] != [layout.lock(self.owner)]:
            raise StorageError(
                f"{self.uri}: was taken over by another run, or this one has ended (lock "
                f"{self.owner} holds no more), so this is not written; let the other one finish"
            )

    def path(self, name: str) -> str:
        """Return the full path of a relative name, without the scheme."""
        return f"{self.root}/{name}" if name else self.root

    def exists(self, name: str) -> bool:
        """Return whether a file or folder of this name exists."""
        return self.patiently(lambda: bool(self.fsspec.exists(self.path(name))))

    def read_bytes(self, name: str) -> bytes:
        """Return the content of a small file.

        Raises:
            FileNotFoundError: There is no such file.
        """
        return self.patiently(lambda: bytes(self.fsspec.cat_file(self.path(name))))

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """Return ``length`` bytes of a large file from offset ``start``."""

        def read() -> bytes:
            with self.arrow.open_input_file(self.path(name)) as stream:
                return bytes(stream.read_at(length, start))

        return self.patiently(read)

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a small file at once: readers see the old content or the new."""
        path = self.path(name)
        if not self.is_local:
            self._put(path, data)
            return
        with self._written_beside(path) as temporary:
            self.patiently(lambda: temporary.write_bytes(data))

    def create(self, name: str, data: bytes) -> bool:
        """Write a small file unless it exists, in one conditional step.

        Returns:
            Whether this call made the file. False may be wrong if an answer of the storage was
            lost; compare the content.
        """
        path = self.path(name)
        if self.is_local:
            return self._create_local(path, data)
        try:
            self._put(path, data, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            # s3fs does not have its own type for every failed precondition.
            response = getattr(error.__cause__, "response", {})
            if response.get("Error", {}).get("Code") in CREATED_BEFORE:
                return False
            raise
        return True

    def _put(self, path: str, data: bytes, **options: Any) -> None:
        def put() -> None:
            self.check_owner()
            self.fsspec.pipe_file(path, data, **options)

        self.patiently(put)

    @cached_property
    def creates_conditionally(self) -> bool:
        """Whether ``create`` refuses a file that exists; object stores are tested for it."""
        if self.is_local:
            return True
        name = layout.stage_file("probe", uuid.uuid4().hex)
        self.create(name, b"")
        second = self.create(name, b"")
        self.delete_files(name)
        return not second

    def _create_local(self, path: str, data: bytes) -> bool:
        """Make a file with its content at once, or not at all; return whether it was made."""
        with suppress(FileExistsError), self._written_beside(path, keep=False) as temporary:
            self.patiently(lambda: temporary.write_bytes(data))
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            self.check_owner()
            try:
                os.link(temporary, path)
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                with Path(path).open("xb") as file:
                    file.write(data)
            return True
        return False

    @contextmanager
    def _written_beside(self, path: str, keep: bool = True) -> Iterator[Path]:
        """Provide a temporary path for a file, which moves to its place once it is complete."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}{UNFINISHED}")
        try:
            yield temporary
            # Even after a loss of power, there is either the whole file or none.
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            if keep:
                self.check_owner()
                temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    def find(self, folder: str) -> dict[str, dict[str, Any]]:
        """Return the listing of the files under a folder, or of one file, by full path.

        Raises:
            FileNotFoundError: There is no such folder or file; not every storage raises it.
        """
        found: Any = self.fsspec.find(self.path(folder), detail=True)
        if isinstance(found, list):
            # For a single file, adlfs gives only the name.
            found = {name: self.fsspec.info(name) for name in found}
        return dict(found)

    def list_files(self, folder: str) -> list[str]:
        """Return the names of the files under a folder, relative to the root, sorted."""
        return sorted(self.list_sizes(folder))

    def list_folder(self, folder: str) -> list[str]:
        """Return the sorted names of files and folders directly in a folder, if it exists."""
        path = self.path(folder)
        try:
            found = self.patiently(lambda: self.fsspec.ls(path, detail=False))
        except FileNotFoundError:
            return []
        names = {str(each).rstrip("/").rpartition("/")[2] for each in found if each != path}
        # Some object stores keep an empty object of the folder's own name.
        return sorted(names - {""})

    def list_sizes(self, folder: str) -> dict[str, int]:
        """Return the lengths in bytes of the files under a folder, by name relative to the root."""
        try:
            found = self.patiently(lambda: self.find(folder))
        except FileNotFoundError:
            return {}
        # Some object stores keep an empty object of the folder's own name.
        found.pop(self.path(folder), None)
        return {path[len(self.root) + 1 :]: int(entry["size"]) for path, entry in found.items()}

    def delete_files(self, folder: str) -> None:
        """Delete a folder with all its files, if there is one."""

        def delete() -> None:
            self.check_owner()
            if self.fsspec.exists(self.path(folder)):
                with suppress(FileNotFoundError):
                    self.fsspec.rm(self.path(folder), recursive=True)

        self.patiently(delete)

    def delete_unfinished(self) -> None:
        """Delete unfinished files of killed writers, only in the folders of a run.

        Object stores have no such files.
        """
        if not self.is_local:
            return
        self.check_owner()
        root = Path(self.root)
        files = [root.glob("*"), *((root / name).rglob("*") for name in FOLDERS)]
        for path in itertools.chain.from_iterable(files):
            if _OURS_UNFINISHED.fullmatch(path.name) and path.is_file():
                path.unlink(missing_ok=True)

    def open_input(self, name: str) -> Any:
        """Open a large file that can be read from any place in it."""
        if self.is_local:
            return self.arrow.open_input_file(self.path(name))
        return RetryingInput(self.arrow, self.path(name), self.options.retry_seconds, self.uri)

    @contextmanager
    def open_output(self, name: str) -> Iterator[Any]:
        """Provide a binary stream to write a large file, which is complete once it is closed.

        A local file appears only then, and not at all after an error; an object store may keep the
        beginning of a file that failed.
        """
        if not self.is_local:
            # This is the last moment for the check, since a written object cannot be taken back.
            self.check_owner()
            with self.arrow.open_output_stream(self.path(name)) as stream:
                yield stream
            return
        with (
            self._written_beside(self.path(name)) as temporary,
            self.arrow.open_output_stream(str(temporary)) as stream,
        ):
            yield stream
