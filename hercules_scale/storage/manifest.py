"""Commit records of shards, and the manifest that readers follow.

A shard's data is written first and its record after it, so a record means that the data is
whole. A record carries the fingerprint of the configuration and input that made it.
"""

from __future__ import annotations

import hashlib
import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from hercules_scale.errors import InputError
from hercules_scale.storage import layout
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import FileRecord

# Raised when a stage leaves other files, records or counts than before for a later one to read.
FORMAT = 1

READ_THREADS = 16


@dataclass(frozen=True)
class Commit:
    """One shard of one stage, done.

    Attributes:
        shard: Number of the shard.
        fingerprint: Of the run that made it.
        files: What it wrote.
        info: Small counts that later stages and the report need.
    """

    shard: int
    fingerprint: str
    files: list[FileRecord] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)


def to_json(value: Any) -> bytes:
    """JSON in one stable form."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False).encode()


def fingerprint(value: Any) -> str:
    """A short hash of a JSON value."""
    return hashlib.sha256(to_json(value)).hexdigest()[:16]


def write_commit(store: Store, stage: str, commit: Commit) -> None:
    """Say that a shard is done; its files are already whole."""
    store.write_bytes(layout.commit(stage, commit.shard), to_json(asdict(commit)))


def read_commits(store: Store, stage: str, run_fingerprint: str) -> dict[int, Commit]:
    """Records of one stage by shard; those of another configuration are left out."""
    listed = store.list_files(f"{layout.WORK}/commits/{stage}")
    names = [name for name in listed if name.endswith(".json")]
    # A large run has thousands, and each request to an object store takes tens of milliseconds.
    with ThreadPoolExecutor(min(len(names), READ_THREADS) or 1) as threads:
        found = [_parse(data) for data in threads.map(store.read_bytes, names)]
    commits = {each.shard: each for each in found if each.fingerprint == run_fingerprint}
    return dict(sorted(commits.items()))


def read_commit(store: Store, stage: str, shard: int, run_fingerprint: str) -> Commit | None:
    """The record of one shard; none of another configuration."""
    try:
        commit = _parse(store.read_bytes(layout.commit(stage, shard)))
    except FileNotFoundError:
        return None
    return commit if commit.fingerprint == run_fingerprint else None


def _parse(data: bytes) -> Commit:
    values = json.loads(data)
    values["files"] = [FileRecord(**record) for record in values["files"]]
    return Commit(**values)


def publish(store: Store, tables: dict[str, list[FileRecord]], run_fingerprint: str) -> None:
    """Write the manifest, then the mark of success."""
    manifest = {
        "fingerprint": run_fingerprint,
        "tables": {name: [asdict(file) for file in files] for name, files in tables.items()},
    }
    store.write_bytes(layout.MANIFEST, to_json(manifest))
    store.create(layout.SUCCESS, b"")


def read_record(store: Store) -> dict[str, Any]:
    """What ``run.json`` says, and how far the run has come since.

    Raises:
        FileNotFoundError: There is no run.
    """
    record: dict[str, Any] = json.loads(store.read_bytes(layout.RUN))
    with suppress(FileNotFoundError):
        record |= json.loads(store.read_bytes(layout.PROGRESS))
    return record


def timestamp() -> str:
    """This moment in UTC, as ``run.json`` has it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def replace_table(store: Store, table: str, files: list[FileRecord]) -> None:
    """Have the manifest of a finished run list other files of a table, then delete the old ones.

    Args:
        store: Output of the run.
        table: Name of the table.
        files: Its new files, written under names that none of the old ones has.
    """
    manifest = json.loads(store.read_bytes(layout.MANIFEST))
    old = manifest["tables"].get(table, [])
    manifest["tables"][table] = [asdict(file) for file in files]
    store.write_bytes(layout.MANIFEST, to_json(manifest))
    for record in old:
        store.delete_files(record["path"])


def published_files(store: Store) -> dict[str, list[FileRecord]]:
    """Files of each table of a finished run.

    Raises:
        InputError: There is no run at this place, or it is not finished.
    """
    if not store.exists(layout.SUCCESS):
        if store.exists(layout.RUN):
            raise InputError(f"{store.uri}: the run is not finished; run it again, it resumes")
        raise InputError(f"{store.uri}: holds no run; give the output path of a finished run")
    manifest = json.loads(store.read_bytes(layout.MANIFEST))
    return {
        name: [FileRecord(**record) for record in records]
        for name, records in manifest["tables"].items()
    }
