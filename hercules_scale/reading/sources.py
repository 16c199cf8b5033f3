"""Files of an input, and checks that they do not change."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any
from urllib.parse import unquote

import numpy as np
import numpy.lib.format as npy
import pyarrow as pa
import pyarrow.parquet as pq

from hercules_scale.config.resources import StorageConfig
from hercules_scale.errors import InputError
from hercules_scale.storage.store import Store

# Formats of text, which may be compressed.
COMPRESSED = ("csv", "jsonl", "txt")
# Name of a folder of the form key=value.
PARTITION = re.compile(r"([^/=]+)=([^/]*)")
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
# Keys under which file systems give the version of a file.
VERSIONS = ("ETag", "etag", "mtime", "LastModified", "last_modified")
# Up to this many files of a folder are looked up by name; for more, the folder is listed.
ASKED_BY_NAME = 16


@dataclass(frozen=True)
class FileState:
    """State of a local file, or of the target of a link, besides its length.

    Attributes:
        mtime_ns: Time of the last change of its content, which programs may set.
        ctime_ns: Time of the last change of content or attributes, which programs cannot set.
        inode: Its number on a disk; None on file systems that may renumber files.
        host: The machine; on others, ``ctime_ns`` and ``inode`` have no meaning.
    """

    mtime_ns: int
    ctime_ns: int
    inode: int | None
    host: str

    @classmethod
    def of(cls, path: str) -> FileState | None:
        """Return the state of a file; None if it is not found, which its reader reports."""
        try:
            found = os.stat(path)
        except OSError:
            return None
        # Network file systems and file systems of programs have no disk, and device number 0.
        inode = found.st_ino if os.major(found.st_dev) else None
        return cls(found.st_mtime_ns, found.st_ctime_ns, inode, platform.node())


@dataclass(frozen=True)
class SourceFile:
    """One input file.

    Attributes:
        folder: URI of the folder that holds it.
        name: Its name in that folder.
        format: ``parquet``, ``csv``, ``jsonl``, ``txt``, ``document``, ``npy`` or ``image``.
        size_bytes: Its length.
        version: Entity tag or time of change (of a link, not its target); part of a run's
            fingerprint.
        state: State of a local file, which shows changes that ``version`` misses.
        storage: Access to the folder; it is not part of the file, nor of its record.
    """

    folder: str
    name: str
    format: str
    size_bytes: int
    version: str
    state: FileState | None = None
    storage: StorageConfig = field(default=StorageConfig(), compare=False, repr=False)

    @property
    def store(self) -> Store:
        """Store of the folder that holds the file."""
        return Store(self.folder, self.storage)

    def record(self) -> dict[str, Any]:
        """Return the file's values as ``run.json`` has them."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        del values["storage"]
        return values | {"state": self.state and asdict(self.state)}

    @property
    def uri(self) -> str:
        """URI of the file, as errors and ``rejected`` name it."""
        return f"{self.folder}/{self.name}"

    @property
    def partitions(self) -> dict[str, str | None]:
        """Columns that folders name, such as ``topic=bikes/``, and their values; None for null."""
        found = map(PARTITION.fullmatch, self.name.split("/")[:-1])
        return {
            unquote(each[1]): None if each[2] == NO_VALUE else unquote(each[2])
            for each in found
            if each
        }


@dataclass(frozen=True)
class NpyHeader:
    """Header of a ``.npy`` file.

    Attributes:
        n_rows: Number of rows.
        width: Number of columns.
        dtype: Type of the numbers.
        offset: Byte at which the numbers begin.
    """

    n_rows: int
    width: int
    dtype: np.dtype[Any]
    offset: int


def with_state(source: SourceFile, store: Store, entry: dict[str, object]) -> SourceFile:
    """Return a file with its size and version in a listing of its folder, and its state now."""
    version = next((entry[name] for name in VERSIONS if entry.get(name)), "")
    size = entry["size"]
    assert isinstance(size, int)
    state = FileState.of(store.path(source.name)) if store.is_local else None
    return replace(source, size_bytes=size, version=str(version).strip('"'), state=state)


def check_unchanged(sources: list[SourceFile]) -> None:
    """Refuse files that are not as they were when they were listed.

    Raises:
        InputError: A file has changed or is gone; the message says how.
    """
    by_folder: dict[str, list[SourceFile]] = {}
    for source in sources:
        by_folder.setdefault(source.folder, []).append(source)
    now = [found for own in by_folder.values() for found in _found_again(own)]
    before = sorted(sources, key=lambda source: source.uri)
    now.sort(key=lambda source: source.uri)
    changes = changed_files([each.record() for each in before], [each.record() for each in now])
    if changes:
        raise InputError(
            f"input.path must not change while it is read, but {'; '.join(changes)}; run again "
            "with another output once nothing writes to the input"
        )


def _found_again(sources: list[SourceFile]) -> list[SourceFile]:
    """Return the files of one folder as they are now, without files that are gone."""
    store = sources[0].store

    def entries() -> dict[str, dict[str, object]]:
        if len(sources) > ASKED_BY_NAME:
            return store.find("")
        found = {}
        for source in sources:
            path = store.path(source.name)
            with suppress(FileNotFoundError):
                found[path] = store.fsspec.info(path)
        return found

    by_path = store.patiently(entries)
    there = [source for source in sources if store.path(source.name) in by_path]
    return [with_state(source, store, by_path[store.path(source.name)]) for source in there]


def changed_files(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[str]:
    """Return a sentence for each file that changed; for many files, for the first three only.

    Args:
        old: Files as ``run.json`` has them; values that an older version did not record are not
            compared.
        new: Files as they are now.
    """
    before, now = (
        {f"{file.get('folder', '')}/{file['name']}": file for file in each} for each in (old, new)
    )
    changes = [f"the input file {uri} is gone" for uri in sorted(before.keys() - now.keys())]
    changes += [f"the input file {uri} is new" for uri in sorted(now.keys() - before.keys())]
    for uri in sorted(before.keys() & now.keys()):
        was, is_ = _comparable(before[uri], now[uri])
        keys = [key for key in was if was[key] != is_.get(key)]
        if keys:
            said = (", ".join(f"{key} {each.get(key)}" for key in keys) for each in (was, is_))
            changes.append("the input file {} has changed ({} before, now {})".format(uri, *said))
    if not changes and list(before) != list(now):
        changes.append("the input files come in another order")
    more = [f"and {len(changes) - 3:,} more input files"] if len(changes) > 3 else []
    return changes[:3] + more


def _comparable(old: dict[str, Any], new: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the values of a file at two times that can be compared."""
    flat = [{**file, **(file.get("state") or {})} for file in (old, new)]
    same_host = flat[0].get("host") == flat[1].get("host")
    left_out = {"state", "host"} | (set() if same_host else {"ctime_ns", "inode"})
    if not (old.get("state") and new.get("state")):
        left_out |= {"mtime_ns", "ctime_ns", "inode"}
    was, is_ = ({key: file[key] for key in file.keys() - left_out} for file in flat)
    return dict(sorted(was.items())), is_


def parquet_file(
    source: SourceFile,
    metadata: pq.FileMetaData | None = None,
    as_dictionaries: Sequence[str] = (),
) -> pq.ParquetFile:
    """Return an open Parquet file.

    Args:
        source: The file.
        metadata: Its footer, where it has been read.
        as_dictionaries: Columns of bytes in which a repeated value is held once.

    Raises:
        InputError: It is no Parquet file, or is cut off.
    """
    store = source.store
    try:
        return pq.ParquetFile(
            store.open_input(source.name), metadata=metadata, read_dictionary=list(as_dictionaries)
        )
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        # Names of columns may be damaged too.
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{source.uri}: cannot be read as Parquet ({reason}); replace the file or leave it out"
        ) from None


def npy_header(source: SourceFile) -> NpyHeader:
    """Return the header of a NumPy file with one row per item.

    Raises:
        InputError: It is no such file, or does not hold rows of real numbers.
    """
    store = source.store
    try:
        with store.open_input(source.name) as file:
            version = npy.read_magic(file)  # type: ignore[no-untyped-call]
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, by_column, dtype = read(file)  # type: ignore[no-untyped-call]
            offset = file.tell()
    except Exception as error:
        # NumPy parses a header as Python, so a damaged one may raise any exception of Python.
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{source.uri}: cannot be read as npy ({reason}); replace the file or leave it out"
        ) from None
    problem, remedy = "", "save it as numpy.ascontiguousarray(x, 'float32')"
    if dtype.kind not in "fiub" or dtype.itemsize > 8:
        problem, remedy = f"real numbers, got {dtype}", "save an array of them, of float32"
    elif by_column:
        problem = "rows one after another (C order), got columns (Fortran order)"
    elif len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] == 0):
        problem = f"an array of shape (items, numbers), got {shape}"
    if problem:
        raise InputError(f"{source.uri}: must hold {problem}; {remedy}")
    width = shape[1] if len(shape) == 2 else 1
    if source.size_bytes < offset + shape[0] * width * dtype.itemsize:
        raise InputError(
            f"{source.uri}: is cut off, its header says {shape[0]:,} rows; replace the file"
        )
    return NpyHeader(shape[0], width, dtype, offset)
