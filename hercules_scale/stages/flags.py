"""Flags items cluster by cluster, in this process.

Parts of consecutive shards are sorted by finest cluster, with vectors, into the work folder. Then
each bucket of consecutive clusters is read from all parts. A bucket fits into a block of memory; a
cluster that does not is a bucket of its own and is read block by block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from hercules_scale.evaluation.flags import FOUND, KINDS, Block, flag_cluster
from hercules_scale.runtime.context import RunContext
from hercules_scale.runtime.shard_tasks import ShardResult
from hercules_scale.runtime.shards import Stage, run_shards
from hercules_scale.storage import layout, schemas
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import (
    FileRecord,
    column_vectors,
    gathered,
    iterate_rows,
    read_rows,
    read_schema,
    read_table,
    write_tables,
)

TABLE = "flags"
SORTED, FOUND_IN = f"{TABLE}/sorted", f"{TABLE}/found"
# Bytes of an item beside its vector.
ITEM_BYTES = 64
READ_THREADS = 8
# Columns of a sorted part, without vectors.
NUMBERS = ("level_1", "distance_1", "margin_1")


class Counts(NamedTuple):
    """Number of items with a flag, and of clusters that have such items."""

    items: int
    clusters: int


@dataclass(frozen=True)
class FlagSource:
    """Source of flags: the tables of a run, and their division into parts and buckets.

    Attributes:
        store: Output of the run.
        memberships: Files of the table, a shard each.
        embeddings: Files of the table; none if near-duplicates are not wanted.
        sizes: Number of items of each finest cluster, shape (k_1,).
        share: See ``flag_cluster``.
        cosine: See ``flag_cluster``.
        block_bytes: Bytes of a part or block.
    """

    store: Store
    memberships: list[FileRecord]
    embeddings: list[FileRecord]
    sizes: NDArray[np.int64]
    share: float
    cosine: float | None
    block_bytes: int

    @cached_property
    def dimension(self) -> int:
        """Dimension of vectors; 0 if there are none."""
        if not self.embeddings:
            return 0
        schema = read_schema(self.store, self.embeddings[0].path)
        return int(schema.field("embedding").type.list_size)

    @property
    def block_rows(self) -> int:
        """Number of items of a block."""
        return max(self.block_bytes // (4 * self.dimension + ITEM_BYTES), 1)

    @cached_property
    def parts(self) -> list[range]:
        """Consecutive shards of each part, at least one."""
        return _grouped([file.rows for file in self.memberships], self.block_rows)

    @cached_property
    def buckets(self) -> list[range]:
        """Consecutive clusters of each bucket, at least one."""
        return _grouped(self.sizes.tolist(), self.block_rows)


def _grouped(sizes: list[int], most: int) -> list[range]:
    """Return consecutive ranges with a sum of at most ``most``, or of a single size."""
    cuts, total = [0], 0
    for place, size in enumerate(sizes):
        if place > cuts[-1] and total + size > most:
            cuts.append(place)
            total = 0
        total += size
    return [range(start, stop) for start, stop in pairwise([*cuts, len(sizes)])]


@dataclass(frozen=True)
class _SortWorker:
    source: FlagSource

    def __call__(self, part: int) -> ShardResult:
        source, store = self.source, self.source.store
        shards = source.parts[part]
        # Each step frees the table before it, so that memory holds two.
        table = pa.concat_tables(self._read(shard) for shard in shards).combine_chunks()
        order = np.argsort(table["level_1"].to_numpy(), kind="stable")
        table = table.take(pa.array(order))
        ends = [bucket.start for bucket in source.buckets] + [len(source.sizes)]
        cuts = np.searchsorted(table["level_1"].to_numpy(), ends).tolist()
        # A bucket reads its own row groups alone.
        file = write_tables(
            store,
            layout.work_part(SORTED, part, store.owner),
            table.schema,
            lambda: (table.slice(start, stop - start) for start, stop in pairwise(cuts)),
        )
        return ShardResult([file], {"cuts": cuts}, table.num_rows)

    def _read(self, shard: int) -> pa.Table:
        source, columns = self.source, ["row", "item_id", *NUMBERS]
        table = read_table(source.store, source.memberships[shard].path, columns)
        if source.embeddings:
            path = source.embeddings[shard].path
            vectors = read_table(source.store, path, ["embedding"])["embedding"]
            table = table.append_column("embedding", vectors)
        return table


@dataclass(frozen=True)
class _FlagWorker:
    source: FlagSource
    parts: list[tuple[str, list[int]]]

    def __call__(self, bucket: int) -> ShardResult:
        source, store = self.source, self.source.store
        clusters = source.buckets[bucket]
        spans = [(path, cuts[bucket], cuts[bucket + 1]) for path, cuts in self.parts]
        blocks = _Blocks(store, spans, source.block_rows)
        counts: dict[str, list[int]] = {}

        def flags() -> Iterator[pa.Table]:
            counts.update({kind: [0, 0] for kind in KINDS})
            for cluster_id, own in _by_cluster(blocks, clusters):
                kinds: dict[str, int] = {}
                n_own = int(source.sizes[cluster_id])
                for table in flag_cluster(own, n_own, source.share, source.cosine):
                    kind = table["kind"][0].as_py()
                    kinds[kind] = kinds.get(kind, 0) + table.num_rows
                    yield _as_flags(table, cluster_id)
                for kind, n_items in kinds.items():
                    counts[kind] = [counts[kind][0] + n_items, counts[kind][1] + 1]

        path = layout.work_part(FOUND_IN, bucket, store.owner)
        file = write_tables(store, path, schemas.FLAGS, lambda: gathered(flags()))
        return ShardResult([file], {"counts": counts}, blocks.n_items)


def _as_flags(found: pa.Table, cluster_id: int) -> pa.Table:
    n = found.num_rows
    own = {"level": pa.repeat(1, n), "cluster_id": pa.repeat(cluster_id, n)}
    columns = {name: found[name] for name in FOUND.names} | own
    return pa.table({name: columns[name] for name in schemas.FLAGS.names}).cast(schemas.FLAGS)


@dataclass(frozen=True)
class _Blocks:
    """Items of a bucket, read whenever they are iterated over.

    Attributes:
        store: Output of the run.
        spans: Path, first row and end of the bucket in each part.
        rows: Rows of a block.
    """

    store: Store
    spans: list[tuple[str, int, int]]
    rows: int

    @property
    def n_items(self) -> int:
        """Number of items."""
        return sum(stop - start for _, start, stop in self.spans)

    def __iter__(self) -> Iterator[Block]:
        return (self.read(first)[0] for first in range(0, self.n_items, self.rows))

    def read(self, first: int) -> tuple[Block, NDArray[np.int32]]:
        """Return a block from an item on, cluster by cluster, and the clusters of its items."""
        pieces, before = [], 0
        for path, start, stop in self.spans:
            begin = start + max(first - before, 0)
            end = min(start + first + self.rows - before, stop)
            if begin < end:
                pieces.append((path, begin, end))
            before += stop - start
        with ThreadPoolExecutor(READ_THREADS) as threads:
            table = pa.concat_tables(
                threads.map(lambda piece: read_rows(self.store, *piece), pieces)
            )
        labels = table["level_1"].to_numpy()
        distances, margins = (
            pc.fill_null(table[name], np.float32(np.nan)).to_numpy() for name in NUMBERS[1:]
        )
        ids, vectors = table["item_id"].combine_chunks(), np.zeros((len(labels), 0), np.float32)
        if "embedding" in table.column_names:
            vectors = column_vectors(table["embedding"])
            table = table.drop_columns(["embedding"])
        rows = table["row"].to_numpy()
        return Block.of(rows, ids, distances, margins, vectors, labels), np.sort(labels)


def _by_cluster(blocks: _Blocks, clusters: range) -> Iterator[tuple[int, Iterable[Block]]]:
    """Yield each cluster of a bucket with its blocks."""
    if blocks.n_items > blocks.rows:
        (only,) = clusters
        yield only, blocks
    elif blocks.n_items:
        block, labels = blocks.read(0)
        cuts = np.searchsorted(labels, [*clusters, clusters.stop]).tolist()
        for cluster_id, (start, stop) in zip(clusters, pairwise(cuts), strict=True):
            if start < stop:
                yield cluster_id, [block.part(start, stop)]


def flag_items(
    context: RunContext, source: FlagSource, part: int
) -> tuple[FileRecord, dict[str, Counts]]:
    """Write a file of the table ``flags``.

    Memory is that of the cluster sizes and of some blocks. An interrupted call resumes with the
    parts and buckets that have no commit; ``forget`` deletes what it resumes with.

    Args:
        context: The run, with a fingerprint of the run and of ``source``.
        source: Source of the flags.
        part: Number of the file.

    Returns:
        The file; numbers of flags by kind.
    """
    store, n_items = context.store, sum(file.rows for file in source.memberships)
    stage = Stage(SORTED, "items", n_items, 1, here=True)
    parts = run_shards(context, stage, len(source.parts), _SortWorker(source))
    cuts = [(commit.files[0].path, commit.info["cuts"]) for commit in parts.values()]
    stage = Stage(FOUND_IN, "items", n_items, 1, here=True)
    # Tiles have threads of their own; more threads inside a product would wait for them.
    with threadpool_limits(1, "blas"):
        found = run_shards(context, stage, len(source.buckets), _FlagWorker(source, cuts))
    paths = [commit.files[0].path for commit in found.values()]
    file = write_tables(
        store,
        layout.part(TABLE, part, store.owner),
        schemas.FLAGS,
        lambda: gathered(table for path in paths for table in iterate_rows(store, path)),
    )
    counts = {
        kind: Counts(*(sum(numbers) for numbers in zip(*each, strict=True)))
        for kind in KINDS
        for each in [[commit.info["counts"][kind] for commit in found.values()]]
    }
    return file, counts


def forget(store: Store) -> None:
    """Delete the sorted parts, the flags of buckets, and their commits."""
    # Commits are deleted first, since a part that has a commit is read.
    store.delete_files(f"{layout.WORK}/commits/{TABLE}")
    store.delete_files(f"{layout.WORK}/{TABLE}")
