"""The manifest that readers follow, and the files of tables that it names."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import Any

from hercules_scale.errors import InputError, StorageError
from hercules_scale.storage import layout
from hercules_scale.storage.json_records import file_record, json_object, to_json
from hercules_scale.storage.run_file import read_record
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import FileRecord

_PART = re.compile(r"\w+/part-(\d{6,})(-\d{6,})?\.parquet", re.ASCII)


def check_free(store: Store, key: str) -> None:
    """Refuse a folder that holds something else than a run or the beginning of one.

    Args:
        store: The folder.
        key: The option that names the folder, for messages.

    Raises:
        InputError: The folder holds something else; the message names it.
    """
    names = store.list_folder("")
    if layout.RUN in names:
        return
    others = [name for name in names if name != layout.WORK]
    if layout.WORK in names:
        begun = store.list_folder(layout.WORK)
        others += [f"{layout.WORK}/{name}" for name in begun if name not in layout.BEGUN]
    if others:
        more = f" and {len(others) - 1:,} more" * (len(others) > 1)
        raise InputError(
            f"{key} {store.uri}: must be a new or empty folder, or hold this run, but it holds "
            f"{others[0]!r}{more}; give another folder"
        )


def publish(store: Store, tables: dict[str, list[FileRecord]], run_fingerprint: str) -> None:
    """Write the manifest, then the mark of success, each unless it exists.

    Uncommitted files of earlier owners are deleted first, since people read all files of a folder
    as one table.

    Raises:
        StorageError: Another run published here meanwhile.
    """
    for name, files in tables.items():
        if any(_has_owner(file.path) for file in files):
            _delete_others(store, name, files)
    manifest = to_json(
        {
            "fingerprint": run_fingerprint,
            "tables": {name: [asdict(file) for file in files] for name, files in tables.items()},
        }
    )
    if not store.create(layout.MANIFEST, manifest):
        if store.exists(layout.SUCCESS) and store.read_bytes(layout.MANIFEST) != manifest:
            raise StorageError(
                f"{store.uri}: another run has published here meanwhile, and what it published "
                "stays; give another output.path"
            )
        # The manifest is from an attempt that was stopped before the mark.
        store.write_bytes(layout.MANIFEST, manifest)
    store.create(layout.SUCCESS, b"")


def replace_table(store: Store, table: str, files: list[FileRecord]) -> None:
    """Replace the files of a table in the manifest of a finished run, then delete the old files.

    They are deleted at once, since people read all files of a folder as one table. Readers that
    have opened the run read the manifest again (``read_files``). The caller must hold the lock of
    the output.

    Args:
        store: Output of the run.
        table: Name of the table.
        files: New list of the table's files; ``next_part`` numbers new ones.
    """
    manifest = json.loads(store.read_bytes(layout.MANIFEST))
    manifest["tables"][table] = [asdict(file) for file in files]
    store.write_bytes(layout.MANIFEST, to_json(manifest))
    _delete_others(store, table, files)


def next_part(store: Store, table: str, least: int = 0) -> int:
    """Return the number for a new file of a table: above all others, and at least ``least``."""
    return max([least - 1, *map(number_of, store.list_files(table))]) + 1


def number_of(path: str) -> int:
    """Return the number of a file of a table; -1 if its name has another form."""
    found = _PART.fullmatch(path)
    return -1 if found is None else int(found[1])


def _has_owner(path: str) -> bool:
    """Return whether the name of a file has the number of a lock in it."""
    found = _PART.fullmatch(path)
    return found is not None and found[2] is not None


def _delete_others(store: Store, table: str, files: list[FileRecord]) -> None:
    """Delete the files of a table, known by their names, except the given ones."""
    kept = {file.path for file in files}
    for name in store.list_files(table):
        if name not in kept and number_of(name) >= 0:
            store.delete_files(name)


def published_files(store: Store) -> dict[str, list[FileRecord]]:
    """Return the files of each table of a finished run.

    Raises:
        InputError: There is no run at this place, or it is not finished.
    """
    if not store.exists(layout.SUCCESS):
        if store.exists(layout.RUN):
            raise InputError(
                f"{store.uri}: the run is not finished; run it again, it resumes "
                f"({_how_far(read_record(store))}; more by hercules-scale status)"
            )
        raise InputError(f"{store.uri}: holds no run; give the output path of a finished run")
    name = f"{store.uri}/{layout.MANIFEST}"
    manifest = json_object(name, store.read_bytes(layout.MANIFEST))
    try:
        return {
            _known_table(table): [file_record(record, (table,)) for record in records]
            for table, records in manifest["tables"].items()
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{name}: {type(error).__name__}: {error}; the manifest is damaged or was changed, "
            "give the output of a run of hercules-scale"
        ) from None


def _known_table(name: str) -> str:
    if name not in layout.TABLES:
        raise ValueError(f"{name[:60]!r} is no table")
    return name


def _how_far(record: dict[str, Any]) -> str:
    stages = record.get("stages") or [{"name": "none", "done": 0, "total": 0, "unit": "items"}]
    last = next((each for each in stages if each["done"] < each["total"]), stages[-1])
    return f"stage {last['name']}, {last['done']:,} of {last['total']:,} {last['unit']}"
