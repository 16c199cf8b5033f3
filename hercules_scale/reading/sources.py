"""Which files an input names, and the pieces they are read in."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from hercules_scale.errors import InputError
from hercules_scale.storage.store import Store, split_uri

FORMATS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".txt": "txt",
}
PIECE_ROWS = 65_536
PIECE_BYTES = 128 * 2**20


@dataclass(frozen=True)
class SourceFile:
    """One input file.

    Attributes:
        folder: URI of the folder that holds it.
        name: Its name in that folder.
        format: ``parquet``, ``csv``, ``jsonl`` or ``txt``.
        size_bytes: Its length.
        version: Entity tag or time of change, so that a changed input is noticed.
    """

    folder: str
    name: str
    format: str
    size_bytes: int
    version: str

    @property
    def uri(self) -> str:
        """Where it lies, as errors and ``rejected`` name it."""
        return f"{self.folder}/{self.name}"


@dataclass(frozen=True)
class Piece:
    """A part of one file that one task reads: some row groups of Parquet, or a whole file."""

    source: SourceFile
    row_groups: tuple[int, ...] | None = None
    first_row: int = 0


def list_sources(paths: list[str]) -> list[SourceFile]:
    """The files that paths, folders and globs name, in a stable order.

    Raises:
        InputError: A path names nothing, or files of an unknown format, or of several formats.
    """
    sources = [source for path in paths for source in _expand(path)]
    by_uri = {source.uri: source for source in sources}
    if len(by_uri) < len(sources):
        uris = [source.uri for source in sources]
        twice = next(uri for uri in uris if uris.count(uri) > 1)
        raise InputError(f"input.path names {twice} twice; name each file once")
    formats = sorted({source.format for source in sources})
    if len(formats) > 1:
        raise InputError(
            f"input.path must name files of one format, got {' and '.join(formats)}; "
            "give a glob such as folder/*.parquet"
        )
    return sources


def _expand(path: str) -> list[SourceFile]:
    scheme, location = split_uri(path)
    prefix = "" if scheme == "file" else f"{scheme}://"
    fixed = location.split("*")[0].split("?")[0].split("[")[0]
    is_glob = fixed != location
    root = fixed.rpartition("/")[0] if is_glob else location.rstrip("/")
    store = Store(prefix + root)
    entries = _find(store, path)
    if not is_glob and root in entries:
        # The path is a file itself.
        store, entries = Store(prefix + root.rpartition("/")[0]), {root: entries[root]}
    names = [name for name in sorted(entries) if _is_data(name[len(store.root) + 1 :])]
    if is_glob:
        names = [name for name in names if fnmatch.fnmatchcase(name, location)]
    if not names:
        raise InputError(f"input.path {path}: names no file; give a file, folder or glob")
    return [_source(store, name, entries[name]) for name in names]


def _find(store: Store, path: str) -> dict[str, dict[str, object]]:
    try:
        found: dict[str, dict[str, object]] = store.fsspec.find(store.root, detail=True)
        return found
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"input.path {path}: cannot be listed: {error}") from None


def _is_data(name: str) -> bool:
    """Whether a name is data: markers and hidden files start with ``_`` or ``.``."""
    return not any(part.startswith(("_", ".")) for part in name.split("/"))


def _source(store: Store, path: str, entry: dict[str, object]) -> SourceFile:
    name = path[len(store.root) + 1 :]
    stem = name.lower().removesuffix(".gz")
    format_ = next((value for end, value in FORMATS.items() if stem.endswith(end)), None)
    if format_ is None or (format_ == "parquet" and name.lower().endswith(".gz")):
        raise InputError(
            f"{store.uri}/{name}: the format must be one of {', '.join(FORMATS)} (csv, jsonl and "
            "txt also as .gz); rename the file or leave it out with a glob"
        )
    version = entry.get("ETag") or entry.get("mtime") or entry.get("LastModified") or ""
    size = entry["size"]
    assert isinstance(size, int)
    return SourceFile(store.uri, name, format_, size, str(version).strip('"'))


def split_into_pieces(source: SourceFile) -> list[Piece]:
    """Pieces of one file, in row order.

    Raises:
        InputError: A Parquet file cannot be read.
    """
    if source.format != "parquet":
        return [Piece(source)]
    metadata = parquet_file(source).metadata
    pieces: list[Piece] = []
    groups: list[int] = []
    rows = size = first_row = 0
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        if groups and (rows + group.num_rows > PIECE_ROWS or size > PIECE_BYTES):
            pieces.append(Piece(source, tuple(groups), first_row))
            first_row, groups, rows, size = first_row + rows, [], 0, 0
        groups.append(index)
        rows += group.num_rows
        size += group.total_byte_size
    return [*pieces, Piece(source, tuple(groups), first_row)]


def parquet_file(source: SourceFile) -> pq.ParquetFile:
    """An open Parquet file.

    Raises:
        InputError: It is no Parquet file, or is cut off.
    """
    store = Store(source.folder)
    try:
        return pq.ParquetFile(store.arrow.open_input_file(store.path(source.name)))
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{source.uri}: cannot be read as Parquet ({reason}); replace the file or leave it out"
        ) from None
