"""Search for ids that occur twice, among any number of ids.

The ids of each piece are hashed and sorted. The worker of a bucket reads its range of hashes from
each piece, so every hash is written and read once. Ids are read again only if a hash occurs twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hercules_scale.runtime.context import RunContext
from hercules_scale.runtime.shard_tasks import ShardResult
from hercules_scale.runtime.shards import Stage, run_shards
from hercules_scale.storage import layout
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import read_table

STAGE, SORT_STAGE = "check_ids", "sort_ids"
# Up to this many ids are compared directly, in about 130 MB.
IDS_COMPARED = 500_000
# Hashes of 32 MB.
IDS_PER_BUCKET = 4_000_000
# For at most this many hashes that occur twice, the ids are compared.
HASHES_COMPARED = 1_000
NAMED = 3

Hashes = NDArray[np.uint64]


def find_repeated_ids(
    context: RunContext, scanned: str, n_pieces: int, n_items: int
) -> tuple[int, list[str]]:
    """Return the number of ids that occur more than once, and the first of them.

    Args:
        context: The run.
        scanned: Table with one part per piece, which holds the piece's ``item_id``.
        n_pieces: Number of parts.
        n_items: Number of ids in all parts.
    """
    n_buckets, workers = -(-n_items // IDS_PER_BUCKET), context.config.resources.n_tasks
    few = n_items <= IDS_COMPARED
    if not few:
        stage = Stage(SORT_STAGE, "pieces", n_pieces, workers)
        run_shards(context, stage, n_pieces, _SortWorker(context.store, scanned, n_buckets))
    stage = Stage(STAGE, "buckets", n_buckets, workers)
    worker = _CheckWorker(context.store, scanned, n_pieces, n_buckets, few)
    commits = run_shards(context, stage, n_buckets, worker).values()
    if not few:
        context.store.delete_files(layout.stage_file(SORT_STAGE, ""))
    names = [item_id for commit in commits for item_id in commit.info["first"]]
    return sum(commit.info["twice"] for commit in commits), names[:NAMED]


def _ids(store: Store, scanned: str, piece: int) -> pa.Array:
    table = read_table(store, layout.work_part(scanned, piece), ["item_id"])
    return pa.concat_arrays([pa.array([], pa.string()), *table["item_id"].chunks])


def _hash(ids: pa.Array) -> Hashes:
    return pd.util.hash_array(ids.to_numpy(zero_copy_only=False), categorize=False)


def _sorted(piece: int) -> str:
    return layout.stage_file(SORT_STAGE, f"{piece:06d}")


@dataclass(frozen=True)
class _SortWorker:
    """Writes the places where buckets begin, then the sorted hashes of a piece's ids."""

    store: Store
    scanned: str
    n_buckets: int

    def __call__(self, piece: int) -> ShardResult:
        hashes = np.sort(_hash(_ids(self.store, self.scanned, piece)))
        firsts = [(bucket << 64) // self.n_buckets for bucket in range(self.n_buckets)]
        begins = np.searchsorted(hashes, np.array(firsts, np.uint64))
        with self.store.open_output(_sorted(piece)) as stream:
            stream.write(np.append(begins, len(hashes)).astype(np.int64).tobytes())
            stream.write(hashes.data)
        return ShardResult()


@dataclass(frozen=True)
class _CheckWorker:
    """Counts the ids of a bucket that occur more than once; few ids are compared directly."""

    store: Store
    scanned: str
    n_pieces: int
    n_buckets: int
    few: bool

    def __call__(self, bucket: int) -> ShardResult:
        if self.few:
            repeated = _repeated([self._ids(piece) for piece in range(self.n_pieces)])
            return _result(len(repeated), repeated)
        parts = [self._hashes(piece, bucket) for piece in range(self.n_pieces)]
        hashes = np.sort(np.concatenate(parts))
        twice = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
        compared = twice[:HASHES_COMPARED]
        of_these = [
            self._ids(piece, compared)
            for piece, part in enumerate(parts)
            if np.isin(compared, part).any()
        ]
        repeated = _repeated(of_these)
        return _result(len(twice) - len(compared) + len(repeated), repeated)

    def _ids(self, piece: int, hashes: Hashes | None = None) -> pa.Array:
        ids = _ids(self.store, self.scanned, piece)
        return ids if hashes is None else ids.filter(pa.array(np.isin(_hash(ids), hashes)))

    def _hashes(self, piece: int, bucket: int) -> Hashes:
        bounds = self.store.read_range(_sorted(piece), 8 * bucket, 16)
        start, stop = np.frombuffer(bounds, np.int64).tolist()
        first = 8 * (self.n_buckets + 1 + start)
        data = self.store.read_range(_sorted(piece), first, 8 * (stop - start))
        return np.frombuffer(data, np.uint64)


def _repeated(parts: list[pa.Array]) -> pa.Array:
    counts = pc.value_counts(pa.concat_arrays([pa.array([], pa.string()), *parts]))
    return counts.filter(pc.greater(counts.field("counts"), 1)).field("values")


def _result(n_repeated: int, repeated: pa.Array) -> ShardResult:
    return ShardResult([], {"twice": n_repeated, "first": repeated.slice(0, NAMED).to_pylist()})
