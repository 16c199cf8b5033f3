"""Neighbourhood smoothing of vectors that do not fit in memory.

Vectors are put in the order of cells, which are clusters of a coarse k-means, so that neighbours
lie near one another in files: each tile is sorted by cell, and buckets of cells, or of parts of
large ones, are gathered from the tiles. There are at most ``MAX_CELLS``, so that time and memory
grow with the rows and not with their square; cells of more rows are clustered again, bucket by
bucket, into blocks. The neighbours of a block's vectors are searched, exactly, in the nearest
blocks of the nearest cells. Each round reads the blocks that a bucket needs and writes the bucket
anew; at the end the rows go back to their shards. What is read and written depends on the vectors
alone, so results do not depend on who does it.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from hercules_scale.clustering.assign import Float32, Int32, Int64, nearest, to_unit
from hercules_scale.clustering.choose_k import k_range
from hercules_scale.clustering.hashing import draw_seed
from hercules_scale.clustering.kmeans import kmeans
from hercules_scale.clustering.smoothing import (
    AUTO_SAMPLE_ROWS,
    SmoothingChoice,
    average,
    choose_smoothing,
    find_neighbours,
    is_unit,
)
from hercules_scale.clustering.tiles import (
    TILE_ROWS,
    LocalVectors,
    Tile,
    VectorSet,
    labels_of,
    sample_rows,
    take,
)
from hercules_scale.config.hierarchy import HierarchyConfig
from hercules_scale.runtime.context import RunContext, Shards
from hercules_scale.runtime.shards import ShardResult, ShardWorker, Stage, done_shards, run_shards
from hercules_scale.runtime.waiting import Room
from hercules_scale.stages.smooth_files import (
    INDEX,
    STAGE,
    Blocks,
    Place,
    bucket_name,
    file_name,
    round_name,
    tile_name,
    write_array,
)
from hercules_scale.stages.vectors import LOCAL_ROWS, ShardTiles, open_vectors
from hercules_scale.storage import layout
from hercules_scale.storage.manifest import Commit, read_commits, write_commit
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import FileRecord, vector_column, write_table

SMOOTHED = f"{layout.WORK}/smoothed"
# Up to here all neighbours are searched exactly.
EXACT_ROWS = 32_768
CELL_ROWS = 2_048
MAX_CELLS = 1_024
# Vectors that each vector is compared with, at least; recall is reported for this.
CANDIDATE_ROWS = 32_768
BUCKET_ROWS = 65_536
RECALL_ROWS = 256


@dataclass(frozen=True)
class Smoothing:
    """Result of smoothing.

    Attributes:
        table: The table of vectors to cluster.
        report: Neighbours, rounds, recall and what ``auto`` saw, for ``run.json``.
    """

    table: str
    report: dict[str, Any]


def smooth_vectors(context: RunContext, shards: Shards, dimension: int) -> Smoothing:
    """Write the smoothed vectors, where the configuration or ``auto`` asks for them."""
    if context.config.hierarchy.smoothing.neighbours == 0:
        return Smoothing("embeddings", {"neighbours": 0})
    before = read_commits(context.store, STAGE, context.fingerprint)
    done = done_shards(context, STAGE)
    if not done:
        if before:
            # Files between its steps are deleted once it is done.
            rounds = range(1, context.config.hierarchy.smoothing.rounds + 1)
            steps = ["index", "gather", *(f"round_{round_}" for round_ in rounds), "scatter"]
            for step in steps:
                context.store.delete_files(f"{layout.WORK}/commits/smooth_{step}")
        with context.reporter.stage(STAGE, shards.n_items, "items", 0) as progress:
            report, files = _smooth(context, shards, dimension)
            progress.advance(shards.n_items)
        write_commit(context.store, STAGE, Commit(0, context.fingerprint, files, report))
    else:
        report = done[0].info
    for alarm in report["alarms"]:
        context.reporter.alarm(alarm)
    kept = {name: value for name, value in report.items() if name != "alarms"}
    return Smoothing(SMOOTHED if report["neighbours"] else "embeddings", kept)


def _smooth(
    context: RunContext, shards: Shards, dimension: int
) -> tuple[dict[str, Any], list[FileRecord]]:
    report = _index(context, shards, dimension)
    neighbours, rounds = report["neighbours"], report["rounds"]
    if not neighbours:
        return report, []
    store = context.store
    place = Place(store)
    n_tiles, n_buckets = len(place.index.counts), len(place.index.buckets) - 1
    gather = _Gather(place, draw_seed(context.config.hierarchy.seed, 0, "blocks", 0))
    _run(context, shards, "smooth_gather", n_buckets, gather)
    store.delete_files(file_name("tile"))
    hits = wanted = 0
    for round_ in range(1, rounds + 1):
        worker = _Average(place, neighbours, report["unit"], CANDIDATE_ROWS, round_, rounds)
        for commit in _run(context, shards, f"smooth_round_{round_}", n_buckets, worker):
            hits, wanted = hits + commit.info["hits"], wanted + commit.info["wanted"]
        store.delete_files(file_name(f"round-{round_ - 1}"))
    scattered = _run(context, shards, "smooth_scatter", n_tiles, _Scatter(place, shards, rounds))
    store.delete_files(file_name(f"round-{rounds}"))
    files = [file for commit in scattered for file in commit.files]
    return report | {"recall": hits / wanted if wanted else 1.0}, files


def _index(context: RunContext, shards: Shards, dimension: int) -> dict[str, Any]:
    """Decide how to smooth, and sort the tiles by cell if at all."""
    done = read_commits(context.store, "smooth_index", context.fingerprint)
    if done:
        return done[0].info
    config = context.config.hierarchy
    source = ShardTiles(context.store, shards, dimension)
    workers = context.config.resources.workers
    room = Room(context, STAGE, f"resources.workers {workers:,} of 1 CPU")
    with open_vectors(source, "squared_l2", workers, room=room) as (vectors, space):
        sample = np.sort(sample_rows(vectors, AUTO_SAMPLE_ROWS, config.seed, 0))
        centred, _ = take(vectors, sample)
        unit = is_unit(centred + space.mean.astype(np.float32))
        choice = _choose(config, centred, shards.n_items, unit)
        report = {"rounds": config.smoothing.rounds, "unit": unit, **vars(choice)}
        # Averages with neighbours hide them from the clustering.
        report["alarms"] = space.alarms(shards.n_items) if choice.neighbours else []
        if choice.neighbours:
            _write_index(context.store, vectors, config, choice.neighbours, unit)
    write_commit(context.store, "smooth_index", Commit(0, context.fingerprint, info=report))
    return report


def _choose(config: HierarchyConfig, sample: Float32, n_rows: int, unit: bool) -> SmoothingChoice:
    asked = config.smoothing.neighbours
    if asked != "auto":
        return SmoothingChoice(min(asked, n_rows - 1))
    finest = k_range(n_rows, 1, config.max_k)[0] if config.levels == "auto" else config.levels[0]
    return choose_smoothing(sample, n_rows, finest, config.smoothing.rounds, unit, config.seed)


def _run(
    context: RunContext, shards: Shards, name: str, n_parts: int, worker: ShardWorker
) -> Iterable[Commit]:
    """Every part of a step: on Ray, or in this process where there is little to do."""
    if shards.n_items <= LOCAL_ROWS:
        done = read_commits(context.store, name, context.fingerprint)
        for part in range(n_parts):
            if part not in done:
                result = context.store.patiently(partial(worker, part))
                done[part] = Commit(part, context.fingerprint, result.files, result.info)
                write_commit(context.store, name, done[part])
    else:
        stage = Stage(name, "parts", n_parts, context.config.resources.workers)
        done = run_shards(context, stage, n_parts, worker)
    return done.values()


def _write_index(
    store: Store, vectors: VectorSet, config: HierarchyConfig, neighbours: int, unit: bool
) -> None:
    """Sort every tile by cell, and write what all steps have to know."""
    n_wanted = 1 if vectors.n_rows <= EXACT_ROWS else vectors.n_rows // CELL_ROWS
    n_cells = min(n_wanted, MAX_CELLS)
    coarse = _coarse(n_cells, draw_seed(config.seed, 0, "cells", 0))
    centroids = kmeans(vectors, n_cells, coarse).centroids
    order = _near_one_another(centroids, vectors.n_rows, coarse)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    counts = np.stack(vectors.map(_TileSorter(store, rank, unit)))
    wanted = np.sort(sample_rows(vectors, RECALL_ROWS, config.seed, 0))
    queries, _ = take(vectors, wanted)
    queries = to_unit(queries) if unit else queries
    work = partial(_nearest_of_tile, queries=queries, own=wanted, n_nearest=neighbours, unit=unit)
    distances, rows = (np.hstack(each) for each in zip(*vectors.map(work), strict=True))
    nearest_first = np.lexsort((rows, distances), axis=1)[:, :neighbours]
    buffer = io.BytesIO()
    parts, part_cells, buckets = _cut(counts.sum(axis=0))
    np.savez(
        buffer,
        counts=counts,
        centroids=centroids[order],
        parts=parts,
        part_cells=part_cells,
        buckets=buckets,
        divided=n_cells < n_wanted,
        recall_rows=wanted,
        recall_neighbours=np.take_along_axis(rows, nearest_first, axis=1),
    )
    store.write_bytes(INDEX, buffer.getvalue())


def _coarse(k: int, seed: int) -> HierarchyConfig:
    return HierarchyConfig(levels=[k], seed=seed, max_iterations=5, tolerance=1e-3)


def _cut(sizes: Int64) -> tuple[Int64, Int64, Int64]:
    """Cut cells into parts and gather them into buckets.

    Returns:
        First position of each part, and the end; the cell of each part; first part of each bucket,
        and the end.
    """
    starts, cells, buckets = [0], [], [0]
    for cell, size in enumerate(sizes.tolist()):
        # A cell of many equal vectors is cut too, so that no search is over too many.
        for left in range(size, 0, -CANDIDATE_ROWS):
            starts.append(starts[-1] + min(left, CANDIDATE_ROWS))
            cells.append(cell)
            if starts[-1] - starts[buckets[-1]] >= BUCKET_ROWS:
                buckets.append(len(cells))
    if buckets[-1] < len(cells):
        buckets.append(len(cells))
    return np.array(starts), np.array(cells), np.array(buckets)


def _near_one_another(centroids: Float32, n_rows: int, config: HierarchyConfig) -> Int64:
    """Cells in an order in which those that lie together are numbered together."""
    n_groups = min(len(centroids), -(-n_rows // BUCKET_ROWS))
    local = LocalVectors(centroids)
    kmeans(local, n_groups, config)
    return np.argsort(labels_of(local), kind="stable")


def _nearest_of_tile(
    tile: Tile, queries: Float32, own: Int64, n_nearest: int, unit: bool
) -> tuple[Float32, Int64]:
    """Distances and rows of the nearest of a tile to each query, itself left out."""
    vectors = to_unit(tile.vectors) if unit else tile.vectors
    distances, ids = nearest(queries, vectors, min(n_nearest + 1, len(vectors)))
    rows = ids + tile.first_row
    return np.where(rows == own[:, None], np.float32(np.inf), distances), rows


@dataclass(frozen=True)
class _TileSorter:
    """Writes a tile's vectors and rows in the order of their cells."""

    store: Store
    rank: Int64
    unit: bool

    def __call__(self, tile: Tile) -> Int32:
        """Rows of each cell in the tile, shape (cells,)."""
        cells = self.rank[tile.labels]
        order = np.argsort(cells, kind="stable")
        vectors = tile.vectors[order]
        index = tile.first_row // TILE_ROWS
        write_array(self.store, tile_name(index), to_unit(vectors) if self.unit else vectors)
        write_array(self.store, tile_name(index, "rows"), tile.rows[order])
        return np.bincount(cells, minlength=len(self.rank)).astype(np.int32)


@dataclass(frozen=True)
class _Gather:
    """Collects a bucket's rows from all tiles, and divides them into blocks.

    Attributes:
        place: Folder of the files.
        seed: Of the clustering into blocks.
    """

    place: Place
    seed: int

    def __call__(self, bucket: int) -> ShardResult:
        """Write the bucket's vectors, rows and blocks."""
        place, index = self.place, self.place.index
        taken, begins = index.taken(bucket), index.begins(bucket)
        vectors, rows, cells = [], [], []
        for tile in np.flatnonzero(taken.any(axis=1)).tolist():
            start, n_rows = int(begins[tile]), int(taken[tile].sum())
            vectors.append(place.vectors(tile_name(tile), start, n_rows))
            rows.append(place.rows(tile_name(tile, "rows"), start, n_rows))
            cells.append(np.repeat(np.arange(taken.shape[1]), taken[tile]))
        order = np.argsort(np.concatenate(cells), kind="stable")
        gathered = np.concatenate(vectors)[order]
        within, sizes, centroids = self._divide(bucket, gathered)
        place.write(round_name(0, bucket), gathered[within])
        place.write(bucket_name(bucket, "rows"), np.concatenate(rows)[order][within])
        place.write(bucket_name(bucket, "sizes"), sizes)
        place.write(bucket_name(bucket, "centroids"), centroids)
        return ShardResult()

    def _divide(self, bucket: int, vectors: Float32) -> tuple[Int64, Int64, Float32]:
        """An order of the bucket's rows, and sizes and centroids of the blocks in that order."""
        index = self.place.index
        parts = slice(index.buckets[bucket], index.buckets[bucket + 1])
        cells = index.part_cells[parts]
        starts = index.parts[parts] - index.starts[bucket]
        if not index.divided:
            sizes = np.diff(np.append(starts, len(vectors)))
            return np.arange(len(vectors)), sizes, index.centroids[cells]
        orders: list[Int64] = []
        blocks: list[tuple[int, Float32]] = []
        firsts = starts[np.flatnonzero(np.diff(cells, prepend=-1))]
        for start, stop in zip(firsts, np.append(firsts[1:], len(vectors)), strict=True):
            own = LocalVectors(vectors[start:stop])
            k = max(1, int(stop - start) // CELL_ROWS)
            found = kmeans(own, k, _coarse(k, self.seed))
            labels = labels_of(own)
            orders.append(start + np.argsort(labels, kind="stable"))
            for label, size in enumerate(np.bincount(labels).tolist()):
                for left in range(size, 0, -CANDIDATE_ROWS):
                    blocks.append((min(left, CANDIDATE_ROWS), found.centroids[label]))
        sizes = np.array([size for size, _ in blocks])
        return np.concatenate(orders), sizes, np.stack([centroid for _, centroid in blocks])


@dataclass(frozen=True)
class _Average:
    """Averages a bucket's vectors with their neighbours.

    Attributes:
        place: Folder of the files.
        neighbours: Of each vector.
        unit: Whether vectors have unit length.
        candidates: Vectors that each is compared with, at least.
        round: This round.
        rounds: Rounds in all.
    """

    place: Place
    neighbours: int
    unit: bool
    candidates: int
    round: int
    rounds: int

    def __call__(self, bucket: int) -> ShardResult:
        """Write the bucket's averages, and in the first round its neighbours."""
        place, index = self.place, self.place.index
        blocks = place.near_blocks(bucket)
        own = blocks.of(bucket)
        candidates = [blocks.candidates(block, self.candidates) for block in own.tolist()]
        needed = np.unique(np.concatenate(candidates))
        vectors = np.concatenate([self._read_block(blocks, block) for block in needed.tolist()])
        # Start of each needed block among the vectors that were read.
        begins = np.zeros(len(blocks.sizes), np.int64)
        begins[needed] = np.cumsum(blocks.sizes[needed]) - blocks.sizes[needed]
        n_rows = int(index.starts[bucket + 1] - index.starts[bucket])
        info = {"hits": 0, "wanted": 0}
        if self.round == 1:
            places = np.concatenate(
                [
                    self._search(block, among, vectors, blocks.sizes, begins)
                    for block, among in zip(own.tolist(), candidates, strict=True)
                ]
            )
            block_of = needed[np.searchsorted(begins[needed], places, side="right") - 1]
            positions = blocks.starts[block_of] + places - begins[block_of]
            place.write(bucket_name(bucket, "neighbours"), positions)
            info = self._count_hits(bucket, positions)
        else:
            positions = place.rows(bucket_name(bucket, "neighbours"), 0, n_rows * self.neighbours)
            positions = positions.reshape(-1, self.neighbours)
            block_of = np.searchsorted(blocks.starts, positions, side="right") - 1
            places = begins[block_of] + positions - blocks.starts[block_of]
        begin = int(begins[own[0]])
        smoothed = average(vectors[begin : begin + n_rows], places, vectors, self.unit)
        if self.round == self.rounds:
            rows = place.rows(bucket_name(bucket, "rows"), 0, n_rows)
            order = np.argsort(rows)
            smoothed = smoothed[order]
            place.write(bucket_name(bucket, "final-rows"), rows[order])
        place.write(round_name(self.round, bucket), smoothed)
        return ShardResult(info=info)

    def _read_block(self, blocks: Blocks, block: int) -> Float32:
        bucket = int(blocks.buckets[block])
        start = int(blocks.starts[block] - self.place.index.starts[bucket])
        return self.place.vectors(
            round_name(self.round - 1, bucket), start, int(blocks.sizes[block])
        )

    def _search(
        self, block: int, among: Int64, vectors: Float32, sizes: Int64, begins: Int64
    ) -> Int64:
        """Places of the neighbours of a block's vectors, among all that were read."""
        places = np.concatenate(
            [np.arange(begins[each], begins[each] + sizes[each]) for each in among.tolist()]
        )
        own = np.arange(begins[block], begins[block] + sizes[block])
        own_places = np.searchsorted(places, own)
        found = find_neighbours(vectors[own], vectors[places], own_places, self.neighbours)
        return places[found]

    def _count_hits(self, bucket: int, positions: Int64) -> dict[str, int]:
        """Number of true neighbours of the sampled rows that were found."""
        index = self.place.index
        rows = self._rows_at(np.arange(*index.starts[bucket : bucket + 2]))
        here = np.flatnonzero(np.isin(rows, index.recall_rows))
        true = index.recall_neighbours[np.searchsorted(index.recall_rows, rows[here])]
        found = self._rows_at(positions[here].reshape(-1)).reshape(true.shape)
        hits = int((found[:, :, None] == true[:, None, :]).any(axis=2).sum())
        return {"hits": hits, "wanted": found.size}

    def _rows_at(self, positions: Int64) -> Int64:
        """Row ids at some positions."""
        starts = self.place.index.starts
        rows = np.empty(len(positions), np.int64)
        bucket_of = np.searchsorted(starts, positions, side="right") - 1
        for bucket in np.unique(bucket_of).tolist():
            n_rows = int(starts[bucket + 1] - starts[bucket])
            all_rows = self.place.rows(bucket_name(bucket, "rows"), 0, n_rows)
            here = bucket_of == bucket
            rows[here] = all_rows[positions[here] - starts[bucket]]
        return rows


@dataclass(frozen=True)
class _Scatter:
    """Writes the shards of a tile from all buckets."""

    place: Place
    shards: Shards
    rounds: int

    def __call__(self, tile: int) -> ShardResult:
        """Write the tile's shards of the table."""
        place, index = self.place, self.place.index
        counts = index.counts
        n_rows, first_row = int(counts[tile].sum()), int(index.first_rows[tile])
        vectors = np.empty((n_rows, index.dimension), np.float32)
        starts, lengths = index.of_tile(tile)
        for bucket in np.flatnonzero(lengths).tolist():
            start, length = int(starts[bucket]), int(lengths[bucket])
            rows = place.rows(bucket_name(bucket, "final-rows"), start, length) - first_row
            vectors[rows] = place.vectors(round_name(self.rounds, bucket), start, length)
        files = []
        for shard in range(first_row // self.shards.rows, len(self.shards)):
            start, end = (bound - first_row for bound in self.shards.bounds(shard))
            if start >= n_rows:
                break
            table = pa.table({"embedding": vector_column(vectors[start:end])})
            files.append(write_table(place.store, layout.part(SMOOTHED, shard), table))
        return ShardResult(files)
