"""Files that an input names, files that are skipped, and files that are refused."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import NoReturn

from hercules_scale.config.resources import StorageConfig
from hercules_scale.errors import HerculesScaleError, InputError
from hercules_scale.reading.sources import COMPRESSED, SourceFile, with_state
from hercules_scale.storage.file_systems import split_uri
from hercules_scale.storage.retries import reason_of
from hercules_scale.storage.store import Store

FORMATS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".json": "jsonl",
    ".ndjson": "jsonl",
    ".txt": "txt",
    ".npy": "npy",
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"), "image"),
}
PACKED = (".gz", ".bz2", ".xz", ".zst")
# Formats of tables that are not read, and how to convert them; other files, such as a README, are
# skipped.
CONVERTED = {
    **dict.fromkeys(
        (".xlsx", ".xlsm", ".xls", ".ods"),
        "save each sheet as csv, or in Python pandas.read_excel(name).to_parquet('data.parquet')",
    ),
    **dict.fromkeys((".arrow", ".feather"), "convert it with pandas.read_feather and to_parquet"),
    **dict.fromkeys((".avro", ".orc", ".db", ".sqlite", ".pkl", ".npz"), "convert it to Parquet"),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".rar", ".7z"), "unpack it"),
    **dict.fromkeys((".pdf", ".docx", ".html", ".xml"), "convert it to txt, csv or jsonl"),
}
# Formats among these that are not tables; such files are skipped beside data.
DOCUMENTS = (".pdf", ".docx", ".html", ".xml")
# Formats of tables that keep files which no longer belong to the table.
LAKES = (
    (re.compile(r"(^|/)_delta_log/"), "Delta", "deltalake.DeltaTable(folder).to_pyarrow_table()"),
    (
        re.compile(r"(^|/)metadata/[^/]*\.metadata\.json$"),
        "Iceberg",
        "pyiceberg.table.StaticTable.from_metadata(file).scan().to_arrow()",
    ),
    (re.compile(r"(^|/)\.hoodie/"), "Hudi", "Spark"),
)
# Folders of such tables' own files, and number of folders above the data that are searched for
# them.
LAKE_FOLDERS, LAKE_LEVELS = ("_delta_log", "metadata", ".hoodie"), 4
# Files of operating systems, and a folder of network storage, among the user's files.
LEFT_FILES, LEFT_FOLDER = ("thumbs.db", "desktop.ini"), "@eaDir"
README = re.compile(r"(readme|license|licence|notice|changelog|copying)\b", re.I)


def list_sources(
    paths: list[str],
    skipped: dict[str, str] | None = None,
    documents: bool = False,
    storage: StorageConfig | None = None,
) -> list[SourceFile]:
    """Return the files that paths, folders and globs name, in a stable order.

    Args:
        paths: Paths that the user names.
        skipped: Dictionary to which files that are left out are added, with the reason.
        documents: Whether each txt file is one text.
        storage: Access to the paths.

    Raises:
        InputError: A path names no file or no data, files of an unknown format or of several
            formats, or a table with files that no longer belong to it.
    """
    left_out: dict[str, str] = {}
    sources = [source for path in paths for source in _expand(path, storage, left_out)]
    by_uri = {source.uri: source for source in sources}
    if len(by_uri) < len(sources):
        uris = [source.uri for source in sources]
        twice = next(uri for uri in uris if uris.count(uri) > 1)
        raise InputError(f"input.path names {twice} twice; name each file once")
    # An empty image is an item that will be rejected.
    empty = [each for each in sources if each.size_bytes == 0 and each.format != "image"]
    left_out |= {each.uri: "the file is empty" for each in empty}
    sources = [each for each in sources if each.uri not in left_out]
    mixed = len({each.format for each in sources}) > 1
    readmes = [each.uri for each in sources if _is_readme(each.name, mixed)]
    if len(readmes) < len(sources):
        left_out |= dict.fromkeys(readmes, "its name is none of data")
        sources = [each for each in sources if each.uri not in left_out]
    first = {source.format: source.name.rpartition("/")[2] for source in reversed(sources)}
    if len(first) > 1:
        listed = " and ".join(f"{kind} ({first[kind]})" for kind in sorted(first))
        raise InputError(
            f"input.path must name files of one format, got {listed}; give a glob such as "
            "folder/*.parquet"
        )
    if not sources:
        uri, reason = next(iter(left_out.items()))
        raise InputError(f"{uri}: {reason}; replace it or leave it out")
    if skipped is not None:
        skipped.update(left_out)
    return [_document(source) for source in sources] if documents else sources


def _document(source: SourceFile) -> SourceFile:
    if source.format != "txt":
        raise InputError(
            f"{source.uri}: input.documents is for txt files, and this one is {source.format}; "
            "leave it out"
        )
    return replace(source, format="document")


def _is_readme(name: str, mixed: bool) -> bool:
    """Return whether a file only accompanies data, such as a README.

    Among files of several formats, the beginning of its name decides, else the whole name.
    """
    name = name.rpartition("/")[2]
    return bool(README.match(name) if mixed else README.fullmatch(name.partition(".")[0]))


def _expand(path: str, storage: StorageConfig | None, skipped: dict[str, str]) -> list[SourceFile]:
    scheme, location = split_uri(path)
    prefix = "" if scheme == "file" else f"{scheme}://"
    root, rest = _literal(prefix, location.rstrip("/"), storage)
    is_glob = bool(rest)
    store = Store(prefix + root, storage)
    entries = _find(store, path)
    if not is_glob and root in entries:
        # The path is a file itself, which may have a name that is skipped in folders.
        store = Store(prefix + root.rpartition("/")[0], storage)
        return [_source(store, root, entries[root])]
    inner = {name: name[len(store.root) + 1 :] for name in sorted(entries)}
    names = [name for name in inner if _is_data(inner[name])]
    if is_glob:
        pattern = f"{glob.escape(root)}/{rest}"
        names = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
    if not names:
        raise InputError(f"input.path {path}: names no file; give a file, folder or glob")
    _refuse_lakes(path, [*entries, *_beside_parents(store)], names)
    marked = [inner[name] for name in inner if _is_marked(inner[name])]
    skipped |= {f"{store.uri}/{name}": "its name begins with _" for name in marked if not is_glob}
    uris = {name: f"{store.uri}/{name[len(store.root) + 1 :]}" for name in names}
    unknown = [uri for uri in uris.values() if not _format(uri)]
    if len(unknown) == len(uris):
        _refuse_format(unknown[0])
    sources = [_source(store, name, entries[name]) for name, uri in uris.items() if _format(uri)]
    skipped |= dict.fromkeys(unknown, "the format is not known")
    return sources


def _literal(prefix: str, location: str, storage: StorageConfig | None) -> tuple[str, str]:
    """Return the part of a path that is not a glob, and the glob below it.

    A name with the characters of a glob is none if a file or folder of that name exists.
    """
    parts = location.split("/")
    for place, part in enumerate(parts):
        path = "/".join(parts[: place + 1])
        if glob.has_magic(part) and not _is_there(Store(prefix + path, storage)):
            return "/".join(parts[:place]), "/".join(parts[place:])
    return location, ""


def _is_there(store: Store) -> bool:
    try:
        return bool(store.fsspec.exists(store.root))
    except HerculesScaleError:
        raise
    except Exception:
        # The listing reports the problem.
        return False


def _find(store: Store, path: str) -> dict[str, dict[str, object]]:
    try:
        found: dict[str, dict[str, object]] = store.find("")
        return _followed(store, found) if store.is_local else found
    except FileNotFoundError:
        return {}
    except HerculesScaleError:
        raise
    except Exception as error:
        # Every file system has its own exceptions.
        raise InputError(
            f"input.path {path}: cannot be listed ({reason_of(error)}); check the path, the "
            "bucket, the credentials and storage.endpoint"
        ) from None


def _followed(store: Store, entries: dict[str, dict[str, object]]) -> dict[str, dict[str, object]]:
    """Return the files of a local folder, including files in linked folders, each folder once."""
    found: dict[str, dict[str, object]] = {}
    seen = {os.path.realpath(store.root)}
    todo = list(entries.items())
    while todo:
        name, entry = todo.pop()
        if not (entry.get("islink") and os.path.isdir(name)):
            found[name] = entry
            continue
        real = os.path.realpath(name)
        # Links to a folder above the link, or to a folder that is read anyway, are not followed.
        if not any(_holds(real, each) or _holds(each, real) for each in seen):
            seen.add(real)
            todo += store.fsspec.find(name, detail=True).items()
    return found


def _holds(folder: str, path: str) -> bool:
    return f"{path}/".startswith(f"{folder.rstrip('/')}/")


def _refuse_lakes(path: str, entries: Iterable[str], names: list[str]) -> None:
    """Refuse tables of lakes, since their folders keep files that the current version does not
    have."""
    for pattern, lake, reader in LAKES:
        found = {name[: match.start()] for name in entries if (match := pattern.search(name))}
        if any(_holds(folder, name) for folder in found for name in names):
            raise InputError(
                f"input.path {path}: is a {lake} table; its folder keeps files that its current "
                f"version has not; write that version as Parquet, with {reader}, or name the files "
                "that are to be read"
            )


def _beside_parents(store: Store) -> Iterator[str]:
    """Yield files that mark a folder above the data as the table of a lake."""
    parent = store.root
    for _ in range(LAKE_LEVELS):
        parent = parent.rpartition("/")[0]
        if not parent.strip("/"):
            return
        for folder in LAKE_FOLDERS:
            # A folder that is not there, or may not be listed, says nothing.
            with suppress(Exception):
                names = store.fsspec.ls(f"{parent}/{folder}", detail=False)
                yield from (f"/{name.strip('/')}" if store.is_local else name for name in names)


def _is_data(name: str) -> bool:
    """Return whether a name may be data.

    Markers and hidden files begin with ``_`` or ``.``, and programs leave their own files.
    """
    *folders, own = name.split("/")
    hidden = any(part.startswith(("_", ".", "~$")) for part in (*folders, own))
    return not (hidden or own.lower() in LEFT_FILES or LEFT_FOLDER in folders)


def _is_marked(name: str) -> bool:
    """Return whether a file would be data but for the ``_`` that its own name begins with."""
    folder, _, own = name.rpartition("/")
    return own.startswith("_") and _is_data(f"{folder}/{own[1:]}") and own.endswith(tuple(FORMATS))


def _format(uri: str) -> str | None:
    """Return the format by the ending of a name; None if it is not known."""
    lower = uri.lower()
    packed = next((ending for ending in PACKED if lower.endswith(ending)), "")
    stem = lower.removesuffix(packed)
    found = next((value for end, value in FORMATS.items() if stem.endswith(end)), None)
    if found is None and stem.endswith(tuple(CONVERTED)) and not stem.endswith(DOCUMENTS):
        _refuse_format(uri)
    return None if packed and found not in COMPRESSED else found


def _refuse_format(uri: str) -> NoReturn:
    remedy = next((what for end, what in CONVERTED.items() if uri.lower().endswith(end)), None)
    raise InputError(
        f"{uri}: the format must be one of {', '.join(FORMATS)} (csv, tsv, jsonl, json and txt "
        f"also as {', '.join(PACKED)}); {remedy or 'rename the file or leave it out with a glob'}"
    )


def _source(store: Store, path: str, entry: dict[str, object]) -> SourceFile:
    name = path[len(store.root) + 1 :]
    format_ = _format(f"{store.uri}/{name}")
    if format_ is None:
        _refuse_format(f"{store.uri}/{name}")
    listed = SourceFile(store.uri, name, format_, 0, "", storage=store.options)
    return with_state(listed, store, entry)
