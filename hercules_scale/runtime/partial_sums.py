"""Sums over all items, computed in parts and added in the order of the items.

The parts do not depend on the process that computes them, so the sums have the same bits in this
process and on workers. A worker writes the sums of a part as a small table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import pyarrow as pa

from hercules_scale.runtime.context import RunContext, Shards
from hercules_scale.runtime.shard_tasks import ShardResult
from hercules_scale.runtime.shards import Stage, run_shards
from hercules_scale.storage import layout
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import read_table, write_table

# Most parts of all items, so that the sums of large runs take little storage.
MAX_PARTS = 64
# Stage of the sums; their names come after it.
STAGE = "evaluate"


class PartWork(Protocol):
    """Computes the sums of some shards; it is sent to the workers."""

    def __call__(self, shards: range, /) -> pa.Table:
        """Return a small table of a size that does not depend on the number of items."""
        ...


class Gather(Protocol):
    """Runs work on every part."""

    def __call__(self, name: str, work: PartWork, /) -> Iterator[pa.Table]:
        """Return the table of each part, in the order of the items."""
        ...


def parts_of(shards: Shards) -> list[range]:
    """Return consecutive shards in at most 64 parts."""
    n_parts = min(len(shards), MAX_PARTS)
    cuts = [part * len(shards) // n_parts for part in range(n_parts + 1)]
    return [range(start, stop) for start, stop in pairwise(cuts)]


@dataclass(frozen=True)
class GatherHere:
    """Does the work in this process, a part at a time, and writes nothing."""

    shards: Shards

    def __call__(self, name: str, work: PartWork) -> Iterator[pa.Table]:
        """Return the table of each part, computed when it is asked for."""
        return map(work, parts_of(self.shards))


@dataclass(frozen=True)
class _PartWorker:
    store: Store
    shards: Shards
    stage: str
    work: PartWork

    def __call__(self, part: int) -> ShardResult:
        shards = parts_of(self.shards)[part]
        # The owner is in the name, since another owner may add up other columns.
        path = layout.work_part(self.stage, part, self.store.owner)
        file = write_table(self.store, path, self.work(shards))
        first, last = self.shards.bounds(shards.start)[0], self.shards.bounds(shards.stop - 1)[1]
        return ShardResult([file], units=last - first)


@dataclass(frozen=True)
class GatherOnRay:
    """Runs work on workers; parts that have a commit are not computed again.

    Attributes:
        context: The run.
        shards: Shards of all items.
    """

    context: RunContext
    shards: Shards

    def __call__(self, name: str, work: PartWork) -> Iterator[pa.Table]:
        """Yield the table of each part, read when it is asked for.

        Raises:
            StageError: A worker failed.
        """
        context, shards = self.context, self.shards
        workers = context.config.resources.n_tasks
        stage = Stage(f"{STAGE}/{name}", "items", shards.n_items, workers)
        worker = _PartWorker(context.store, shards, stage.name, work)
        commits = run_shards(context, stage, len(parts_of(shards)), worker)
        for commit in commits.values():
            yield read_table(context.store, commit.files[0].path)

    def forget(self, name: str | None = None) -> None:
        """Delete the parts of one name, or all, and their commits."""
        folder = STAGE if name is None else f"{STAGE}/{name}"
        # Commits are deleted first, since a part that has a commit is read.
        self.context.store.delete_files(f"{layout.WORK}/commits/{folder}")
        self.context.store.delete_files(f"{layout.WORK}/{folder}")
