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

from hercules_scale.errors import InputError, StorageError
from hercules_scale.storage import layout
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import FileRecord

# Raised when a stage leaves other files, records or counts than before for a later one to read.
FORMAT = 3
TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"

READ_THREADS = 16


@dataclass(frozen=True)
class Commit:
    """One shard of one stage, done.

    Attributes:
        shard: Number of the shard.
        fingerprint: Of the run that made it.
        files: What it wrote.
        info: Small counts that later stages and the report need.
        kept: What it wrote for later stages alone.
    """

    shard: int
    fingerprint: str
    files: list[FileRecord] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)
    kept: list[FileRecord] = field(default_factory=list)

    @property
    def all_files(self) -> list[FileRecord]:
        """Whatever must be there for the commit to hold."""
        return [*self.files, *self.kept]


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
    for key in ("files", "kept"):
        values[key] = [FileRecord(**record) for record in values.get(key, [])]
    return Commit(**values)


def whole_commits(
    store: Store, commits: dict[int, Commit], rewritten: dict[int, Commit] | None = None
) -> tuple[dict[int, Commit], list[str]]:
    """Leave out commits whose files are gone or have another length than was recorded.

    Args:
        store: Output of the run.
        commits: Of one stage.
        rewritten: Of a later stage that writes some of the files anew.

    Returns:
        The commits whose files are there, and the names of those that are not.
    """
    known = {
        (file.path, file.size_bytes)
        for commit in (rewritten or {}).values()
        for file in commit.all_files
    }
    folders = {
        file.path.rpartition("/")[0] for commit in commits.values() for file in commit.all_files
    }
    sizes: dict[str, int] = {}
    for folder in sorted(folders):
        sizes |= store.list_sizes(folder)
    lost: dict[int, list[str]] = {}
    for shard, commit in commits.items():
        for file in commit.all_files:
            size = sizes.get(file.path)
            if size != file.size_bytes and (file.path, size) not in known:
                lost.setdefault(shard, []).append(file.path)
    whole = {shard: commit for shard, commit in commits.items() if shard not in lost}
    return whole, [path for paths in lost.values() for path in paths]


def publish(store: Store, tables: dict[str, list[FileRecord]], run_fingerprint: str) -> None:
    """Write the manifest, then the mark of success, each unless it is there.

    Raises:
        StorageError: Another run published here meanwhile.
    """
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
        # Of an attempt that was stopped before the mark.
        store.write_bytes(layout.MANIFEST, manifest)
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
    return time.strftime(TIME_FORMAT, time.gmtime())


def _how_far(record: dict[str, Any]) -> str:
    stages = record.get("stages") or [{"name": "none", "done": 0, "total": 0, "unit": "items"}]
    last = next((each for each in stages if each["done"] < each["total"]), stages[-1])
    return f"stage {last['name']}, {last['done']:,} of {last['total']:,} {last['unit']}"


def replace_table(store: Store, table: str, files: list[FileRecord]) -> None:
    """Have the manifest of a finished run list other files of a table, then delete the old ones.

    Args:
        store: Output of the run.
        table: Name of the table.
        files: Its files from now on; new ones have names that none of the old ones has.
    """
    manifest = json.loads(store.read_bytes(layout.MANIFEST))
    old = manifest["tables"].get(table, [])
    manifest["tables"][table] = [asdict(file) for file in files]
    store.write_bytes(layout.MANIFEST, to_json(manifest))
    kept = {file.path for file in files}
    for record in old:
        if record["path"] not in kept:
            store.delete_files(record["path"])


def published_files(store: Store) -> dict[str, list[FileRecord]]:
    """Files of each table of a finished run.

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
    manifest = json.loads(store.read_bytes(layout.MANIFEST))
    return {
        name: [FileRecord(**record) for record in records]
        for name, records in manifest["tables"].items()
    }
