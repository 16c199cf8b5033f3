"""One folder on a file system or object store, by URI.

Bulk data goes through pyarrow's file systems; listing, small files and conditional creation
through fsspec. Credentials are the ambient ones: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_ENDPOINT_URL and the like, or the machine's role.
"""

from __future__ import annotations

import os
import uuid
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.fs as pafs

from hercules_scale.errors import InputError

SCHEMES = {"file": "local", "s3": "s3fs", "gs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
CREATED_BEFORE = ("PreconditionFailed", "ConditionalRequestConflict", "412")


def split_uri(uri: str) -> tuple[str, str]:
    """The scheme of a URI (``file`` for a local path) and its path as fsspec wants it.

    Raises:
        InputError: The scheme is not one that this package reads.
    """
    scheme, separator, path = uri.partition("://")
    if not separator:
        return "file", str(Path(uri).expanduser().absolute())
    if scheme not in SCHEMES:
        raise InputError(
            f"{uri}: scheme {scheme!r} is not known; use a local path, s3://, gs:// or az://"
        )
    return scheme, (path if scheme != "file" else str(Path(path).absolute()))


class Store:
    """A folder by URI, with paths relative to it.

    Args:
        uri: A local path, ``s3://bucket/folder``, ``gs://...`` or ``az://...``.

    Raises:
        InputError: The scheme is unknown, or its package is not installed.
    """

    def __init__(self, uri: str) -> None:
        self.scheme, path = split_uri(uri)
        self.root = path.rstrip("/")
        self.uri = uri.rstrip("/")

    def __reduce__(self) -> tuple[type[Store], tuple[str]]:
        # A worker opens its own connections.
        return (Store, (self.uri,))

    @property
    def is_local(self) -> bool:
        """Whether the folder lies on this machine's file system."""
        return self.scheme == "file"

    @cached_property
    def fsspec(self) -> Any:
        """The fsspec file system, for listing and small files."""
        options: dict[str, Any] = {} if self.is_local else {"use_listings_cache": False}
        try:
            return fsspec.filesystem(self.scheme, **options)
        except ImportError:
            raise InputError(
                f"{self.uri}: reading {self.scheme}:// needs the package "
                f"{SCHEMES[self.scheme]}; install it"
            ) from None

    @cached_property
    def arrow(self) -> pafs.FileSystem:
        """The pyarrow file system, for bulk data."""
        if self.is_local:
            return pafs.LocalFileSystem()
        if self.scheme == "s3":
            endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
            return pafs.S3FileSystem(endpoint_override=endpoint)
        return pafs.PyFileSystem(pafs.FSSpecHandler(self.fsspec))

    def path(self, name: str) -> str:
        """The full path of a relative name, without the scheme."""
        return f"{self.root}/{name}" if name else self.root

    def exists(self, name: str) -> bool:
        """Whether a file or folder of this name exists."""
        return bool(self.fsspec.exists(self.path(name)))

    def read_bytes(self, name: str) -> bytes:
        """A small file, whole.

        Raises:
            FileNotFoundError: There is none.
        """
        return bytes(self.fsspec.cat_file(self.path(name)))

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """Some bytes of a large file."""
        with self.arrow.open_input_file(self.path(name)) as stream:
            return bytes(stream.read_at(length, start))

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a small file at once: readers see the old content or the new."""
        path = self.path(name)
        if not self.is_local:
            self.fsspec.pipe_file(path, data)
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(f"{path}.{uuid.uuid4().hex}.tmp")
        temporary.write_bytes(data)
        temporary.replace(path)

    def create(self, name: str, data: bytes) -> bool:
        """Write a small file unless it exists, in one conditional step.

        Returns:
            Whether this call made the file.
        """
        path = self.path(name)
        if self.is_local:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        try:
            self.fsspec.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            # s3fs has no type of its own for a failed precondition.
            response = getattr(error.__cause__, "response", {})
            if response.get("Error", {}).get("Code") in CREATED_BEFORE:
                return False
            raise
        return True

    def list_files(self, folder: str) -> list[str]:
        """Names of the files under a folder, relative to the root, sorted."""
        try:
            found = self.fsspec.find(self.path(folder))
        except FileNotFoundError:
            return []
        return sorted(str(path)[len(self.root) + 1 :] for path in found)

    def delete_files(self, folder: str) -> None:
        """Delete a folder with all its files, if there is one."""
        if self.exists(folder):
            self.fsspec.rm(self.path(folder), recursive=True)

    def open_output(self, name: str) -> Any:
        """A binary stream to write a large file; it is whole once closed."""
        if self.is_local:
            Path(self.path(name)).parent.mkdir(parents=True, exist_ok=True)
        return self.arrow.open_output_stream(self.path(name))
