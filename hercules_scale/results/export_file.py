"""The file that an export writes, on a disk or an object store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from hercules_scale.config.resources import StorageConfig
from hercules_scale.errors import InputError
from hercules_scale.storage.store import Store


@contextmanager
def open_destination(
    uri: str, overwrite: bool, storage: StorageConfig | None = None
) -> Iterator[Any]:
    """Open a file for writing as a binary stream.

    A local file appears whole, at the end; a failed export leaves no file. Memory is that of the
    stream's buffer.

    Args:
        uri: Path or URI of the file.
        overwrite: Whether an existing file may be replaced.
        storage: Access to its folder.

    Raises:
        InputError: The URI names a folder, an existing file that may not be replaced, or a place
            that cannot be written.
    """
    store, name = split_file(uri, storage)
    opened = False
    try:
        with ExitStack() as stack:
            try:
                if store.fsspec.isdir(store.path(name)):
                    raise InputError(f"{uri}: is a folder; name a file in it")
                if not overwrite and store.exists(name):
                    raise InputError(f"{uri}: exists; give another name, or --force to replace it")
                stream = stack.enter_context(store.open_output(name))
            except OSError as error:
                reason = error.strerror or " ".join(str(error).split())[:200]
                raise InputError(
                    f"{uri}: cannot be written ({reason}); give another place"
                ) from None
            opened = True
            yield stream
    except BaseException:
        # Closing a stream to an object store publishes even an incomplete file.
        if opened and not store.is_local:
            store.delete_files(name)
        raise


def split_file(uri: str, storage: StorageConfig | None = None) -> tuple[Store, str]:
    """Return the store of a file's folder, and the name of the file.

    Raises:
        InputError: The URI names no file.
    """
    folder, slash, name = uri.rpartition("/")
    if name in ("", ".", "..") or folder.endswith(":/"):
        raise InputError(f"{uri or repr(uri)}: names no file; give one, such as tree.json")
    return Store(folder or ("/" if slash else "."), storage), name
