"""Commit records of shards.

A shard's data is written first and its record after it, so a record means that the data is
whole. A record carries the fingerprint of the configuration and input that made it.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from hercules_scale.storage import layout
from hercules_scale.storage.json_records import file_record, to_json
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import FileRecord

READ_THREADS = 16


@dataclass(frozen=True)
class Commit:
    """Record of a finished shard of a stage.

    Attributes:
        shard: Number of the shard.
        fingerprint: Fingerprint of the run that made it.
        files: Files of tables that were written.
        info: Small counts that later stages and the report need.
        kept: Files that were written for later stages alone.
        owner: Number of the lock under which the record was written.
    """

    shard: int
    fingerprint: str
    files: list[FileRecord] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)
    kept: list[FileRecord] = field(default_factory=list)
    owner: int = 0

    @property
    def all_files(self) -> list[FileRecord]:
        """Files that must exist for the commit to be valid."""
        return [*self.files, *self.kept]


def write_commit(store: Store, stage: str, commit: Commit) -> None:
    """Record that a shard is done; its files must be complete.

    The name of the record contains the owner of the output, so that an owner that lost the output
    cannot replace the record of another.
    """
    commit = replace(commit, owner=store.owner)
    store.write_bytes(layout.commit(stage, commit.shard, commit.owner), to_json(asdict(commit)))


def read_commits(store: Store, stage: str, run_fingerprint: str) -> dict[int, Commit]:
    """Return records of one stage by shard; records of another configuration are left out.

    If a shard has several records, the last owner's counts.
    """
    listed = store.list_files(f"{layout.WORK}/commits/{stage}")
    names = [name for name in listed if name.endswith(".json")]
    # A large run has thousands, and each request to an object store takes tens of milliseconds.
    with ThreadPoolExecutor(min(len(names), READ_THREADS) or 1) as threads:
        found = [_parse(data) for data in threads.map(store.read_bytes, names)]
    own = [each for each in found if each and each.fingerprint == run_fingerprint]
    return {each.shard: each for each in sorted(own, key=lambda each: (each.shard, each.owner))}


def read_commit(store: Store, stage: str, shard: int, run_fingerprint: str) -> Commit | None:
    """Return the present owner's record of a shard; None if missing or of another run."""
    try:
        commit = _parse(store.read_bytes(layout.commit(stage, shard, store.owner)))
    except FileNotFoundError:
        return None
    return commit if commit and commit.fingerprint == run_fingerprint else None


def _parse(data: bytes) -> Commit | None:
    """Return a commit; None if it is damaged, such as by a loss of power while it was written."""
    try:
        values = json.loads(data)
        for key in ("files", "kept"):
            values[key] = [
                file_record(record, (*layout.TABLES, layout.WORK)) for record in values[key]
            ]
        commit = Commit(**values)
        return commit if isinstance(commit.shard, int) and isinstance(commit.owner, int) else None
    except (ValueError, TypeError, KeyError):
        return None


def whole_commits(store: Store, commits: dict[int, Commit]) -> tuple[dict[int, Commit], list[str]]:
    """Leave out commits with files that are gone or have another length than recorded.

    Args:
        store: Output of the run.
        commits: Commits of one stage.

    Returns:
        The commits with all their files, and the names of files that are gone or cut.
    """
    folders = {
        file.path.rpartition("/")[0] for commit in commits.values() for file in commit.all_files
    }
    sizes: dict[str, int] = {}
    for folder in sorted(folders):
        sizes |= store.list_sizes(folder)
    lost: dict[int, list[str]] = {}
    for shard, commit in commits.items():
        for file in commit.all_files:
            if sizes.get(file.path) != file.size_bytes:
                lost.setdefault(shard, []).append(file.path)
    whole = {shard: commit for shard, commit in commits.items() if shard not in lost}
    return whole, [path for paths in lost.values() for path in paths]
