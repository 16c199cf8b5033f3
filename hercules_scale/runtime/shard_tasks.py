"""Work on one shard in a worker: its data is written, then the commit record.

Only a small row travels through Ray, never the data.
"""

from __future__ import annotations

import logging
import resource
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from hercules_scale.runtime.context import Shards
from hercules_scale.runtime.waiting import DEATHS
from hercules_scale.storage import layout
from hercules_scale.storage.commits import Commit, read_commit, write_commit
from hercules_scale.storage.retries import explain
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import FileRecord

logger = logging.getLogger(__name__)
# Error type of a row about a shard that is not tried again.
DIED = "died"


@dataclass(frozen=True)
class ShardResult:
    """Result of a worker for one shard."""

    files: list[FileRecord] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)
    units: int = 1


class ShardWorker(Protocol):
    """Work on one shard at a time, in a task or an actor; heavy parts load at the first shard."""

    def __call__(self, shard: int, /) -> ShardResult:
        """Write the shard's files, and return their records."""
        ...


class ShardTask:
    """Runs one shard in a worker and returns the outcome as a row."""

    def __init__(self, worker: ShardWorker, store: Store, stage: str, fingerprint: str) -> None:
        self._worker, self._store = worker, store
        self._stage, self._fingerprint = stage, fingerprint

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Work on the only shard of a batch."""
        (shard,) = batch["shard"]
        units, error_type, error = 0, "", ""
        try:
            # Ray repeats work that a lost process or node had done and not yet reported.
            commit = read_commit(self._store, self._stage, int(shard), self._fingerprint)
            if commit is None:
                with _attempt(self._store, self._stage, int(shard)) as may_begin:
                    if may_begin:
                        result = self._store.patiently(lambda: self._worker(int(shard)))
                        commit = commit_of(int(shard), self._fingerprint, result)
                        write_commit(self._store, self._stage, commit)
            if commit is None:
                error_type, error = DIED, _place(self._worker, int(shard))
            else:
                units = commit.info["units"]
        except Exception as problem:
            # The error becomes a row, because an exception would lose its type on the way.
            logger.exception("stage %s, shard %s", self._stage, shard)
            problem = explain(problem, self._store.uri) or problem
            error_type, error = type(problem).__name__, " ".join(str(problem).split())[:1000]
        return {
            "shard": np.array([shard]),
            "units": np.array([units]),
            "peak_bytes": np.array([peak_bytes()]),
            "error_type": np.array([error_type]),
            "error": np.array([error]),
        }


@contextmanager
def _attempt(store: Store, stage: str, shard: int) -> Iterator[bool]:
    """Keep a mark while a worker processes a shard; it remains if the worker dies.

    Yields:
        Whether the shard may be processed: False once ``DEATHS`` workers died at it.
    """
    # All marks are in one folder: in a folder per shard, a mark that another process writes while
    # the folder is deleted would be lost.
    folder, name = attempts_folder(stage), f"{shard:06d}"
    marks = [mark for mark in store.list_folder(folder) if mark.partition(".")[0] == name]
    if len(marks) >= DEATHS:
        yield False
        return
    marks.append(f"{name}.{uuid.uuid4().hex}")
    store.write_bytes(f"{folder}/{marks[-1]}", b"")
    try:
        yield True
    finally:
        # The worker is alive, even if it raised an exception.
        for mark in marks:
            store.delete_files(f"{folder}/{mark}")


def attempts_folder(stage: str) -> str:
    """Return the folder with the marks of shards that workers are processing."""
    return f"{layout.WORK}/attempts/{stage}"


def _place(worker: ShardWorker, shard: int) -> str:
    """Describe the place of a shard for an error message."""
    pieces, shards = getattr(worker, "pieces", None), getattr(worker, "shards", None)
    if pieces is not None:
        place: str = pieces[shard].described
        return place
    if isinstance(shards, Shards):
        start, stop = shards.bounds(shard)
        return f"items {start:,} to {stop - 1:,}"
    return f"of {worker.__class__.__name__.strip('_')}"


def commit_of(shard: int, fingerprint: str, result: ShardResult) -> Commit:
    """Return the commit of a shard, given its result."""
    return Commit(shard, fingerprint, result.files, {**result.info, "units": result.units})


def peak_bytes() -> int:
    """Return the largest resident memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
