"""Workers of smoothing: they sort tiles by cell, gather buckets, average and scatter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from hercules_scale.clustering.kmeans import kmeans
from hercules_scale.clustering.local_vectors import LocalVectors
from hercules_scale.clustering.nearest_centroids import Float32, Int32, Int64, to_unit
from hercules_scale.clustering.smoothing import average, find_neighbours
from hercules_scale.clustering.tiles import TILE_ROWS, Tile, labels_of
from hercules_scale.config.hierarchy import HierarchyConfig
from hercules_scale.runtime.context import Shards
from hercules_scale.runtime.shard_tasks import ShardResult
from hercules_scale.stages.smooth_files import (
    Blocks,
    Place,
    bucket_name,
    round_name,
    tile_name,
    write_array,
)
from hercules_scale.storage import layout
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import vector_column, write_table

SMOOTHED = f"{layout.WORK}/smoothed"
CELL_ROWS = 2_048
# Each vector is compared with at least this many others; the reported recall shows the loss.
CANDIDATE_ROWS = 32_768


def coarse_config(k: int, seed: int) -> HierarchyConfig:
    """Return the configuration of a quick clustering into k cells."""
    return HierarchyConfig(levels=[k], seed=seed, max_iterations=5, tolerance=1e-3)


@dataclass(frozen=True)
class TileSorter:
    """Writes a tile's vectors and rows in the order of their cells."""

    store: Store
    rank: Int64
    unit: bool

    def __call__(self, tile: Tile) -> Int32:
        """Write a tile; return its number of rows in each cell, shape (cells,)."""
        cells = self.rank[tile.labels]
        order = np.argsort(cells, kind="stable")
        vectors = tile.vectors[order]
        index = tile.first_row // TILE_ROWS
        write_array(self.store, tile_name(index), to_unit(vectors) if self.unit else vectors)
        write_array(self.store, tile_name(index, "rows"), tile.rows[order])
        return np.bincount(cells, minlength=len(self.rank)).astype(np.int32)


@dataclass(frozen=True)
class Gather:
    """Collects a bucket's rows from all tiles, and divides them into blocks.

    Attributes:
        place: Files of smoothing.
        seed: Seed of the clustering into blocks.
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
        """Divide a bucket into blocks.

        Returns:
            An order of the bucket's rows, and sizes and centroids of the blocks in that order.
        """
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
            found = kmeans(own, k, coarse_config(k, self.seed))
            labels = labels_of(own)
            orders.append(start + np.argsort(labels, kind="stable"))
            for label, size in enumerate(np.bincount(labels).tolist()):
                for left in range(size, 0, -CANDIDATE_ROWS):
                    blocks.append((min(left, CANDIDATE_ROWS), found.centroids[label]))
        sizes = np.array([size for size, _ in blocks])
        return np.concatenate(orders), sizes, np.stack([centroid for _, centroid in blocks])


@dataclass(frozen=True)
class Average:
    """Averages a bucket's vectors with their neighbours.

    Attributes:
        place: Files of smoothing.
        neighbours: Number of neighbours of each vector.
        unit: Whether vectors have unit length.
        candidates: Least number of vectors that each vector is compared with.
        round: Number of this round, from 1.
        rounds: Number of all rounds.
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
        """Return the places of the neighbours of a block's vectors, among all that were read."""
        places = np.concatenate(
            [np.arange(begins[each], begins[each] + sizes[each]) for each in among.tolist()]
        )
        own = np.arange(begins[block], begins[block] + sizes[block])
        own_places = np.searchsorted(places, own)
        found = find_neighbours(vectors[own], vectors[places], own_places, self.neighbours)
        return places[found]

    def _count_hits(self, bucket: int, positions: Int64) -> dict[str, int]:
        """Count the sampled rows' true neighbours that were found, and all that were wanted."""
        index = self.place.index
        rows = self._rows_at(np.arange(*index.starts[bucket : bucket + 2]))
        here = np.flatnonzero(np.isin(rows, index.recall_rows))
        true = index.recall_neighbours[np.searchsorted(index.recall_rows, rows[here])]
        found = self._rows_at(positions[here].reshape(-1)).reshape(true.shape)
        hits = int((found[:, :, None] == true[:, None, :]).any(axis=2).sum())
        return {"hits": hits, "wanted": found.size}

    def _rows_at(self, positions: Int64) -> Int64:
        """Return the row ids at some positions."""
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
class Scatter:
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
