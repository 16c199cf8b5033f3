"""Places of cells, buckets and blocks in the files of smoothing; see ``smooth``."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hercules_scale.clustering.nearest_centroids import Float32, Int32, Int64
from hercules_scale.storage import layout
from hercules_scale.storage.store import Store

STAGE = "smooth"
INDEX = layout.stage_file(STAGE, "index.npz")
# Neighbours of a block are searched in blocks of the nearest cells: at least this many cells, with
# at least this many vectors.
NEAR_CELLS, NEAR_ROWS = 4, 262_144


class Index:
    """Positions of cells, parts and buckets; rows are ordered by cell, and in a cell by tile.

    Attributes:
        counts: Rows of each cell in each tile, shape (tiles, cells), int32.
        first_rows: First row of each tile, shape (tiles,).
        parts: First position of each part of a cell, and the end, shape (parts + 1,).
        part_cells: Cell of each part, shape (parts,).
        buckets: First part of each bucket, and the end, shape (buckets + 1,).
        starts: First position of each bucket, and the end, shape (buckets + 1,).
        centroids: Centroids of the cells, shape (cells, d).
        divided: Whether cells are so large that they are clustered again.
        recall_rows: Sampled rows that recall is measured on, sorted, shape (q,).
        recall_neighbours: True neighbours of these rows, shape (q, neighbours).
    """

    def __init__(self, store: Store) -> None:
        with np.load(io.BytesIO(store.read_bytes(INDEX))) as arrays:
            self.counts: Int32 = arrays["counts"]
            self.parts: Int64 = arrays["parts"]
            self.part_cells: Int64 = arrays["part_cells"]
            self.buckets: Int64 = arrays["buckets"]
            self.recall_rows: Int64 = arrays["recall_rows"]
            self.recall_neighbours: Int64 = arrays["recall_neighbours"]
            self.centroids: Float32 = arrays["centroids"]
            self.divided = bool(arrays["divided"])
        self.starts = self.parts[self.buckets]
        self._sizes = self.counts.sum(axis=0, dtype=np.int64)
        self._cells = np.cumsum(self._sizes) - self._sizes
        rows = self.counts.sum(axis=1, dtype=np.int64)
        self.first_rows = np.cumsum(rows) - rows
        self.dimension = int(self.centroids.shape[1])

    def taken(self, bucket: int) -> Int64:
        """Return the number of rows that a bucket takes from each tile and cell.

        The rows are consecutive in the tile.

        Returns:
            Numbers of shape (tiles, cells from the bucket's first to its last).
        """
        start, stop = self.starts[bucket : bucket + 2]
        cells = self._cells_of(bucket)
        ends = self._cells[cells] + np.cumsum(self.counts[:, cells], axis=0, dtype=np.int64)
        begins = ends - self.counts[:, cells]
        taken: Int64 = np.minimum(ends, stop) - np.maximum(begins, start)
        return np.maximum(taken, 0)

    def begins(self, bucket: int) -> Int64:
        """Return the place in each tile where the rows of a bucket begin, shape (tiles,)."""
        first = self._cells_of(bucket).start
        of_first = self.counts[:, first].astype(np.int64)
        before = self._cells[first] + np.cumsum(of_first) - of_first
        skipped = np.clip(self.starts[bucket] - before, 0, of_first)
        begins: Int64 = self.counts[:, :first].sum(axis=1, dtype=np.int64) + skipped
        return begins

    def of_tile(self, tile: int) -> tuple[Int64, Int64]:
        """Return the places of a tile's rows in each bucket, once the bucket is sorted by row.

        Returns:
            Numbers of rows from earlier tiles and from this tile, both of shape (buckets,).
        """
        begins = (self._cells + self.counts[:tile].sum(axis=0, dtype=np.int64))[self.part_cells]
        ends = begins + self.counts[tile, self.part_cells]
        starts, stops = self.parts[:-1], self.parts[1:]
        earlier = np.clip(begins, starts, stops) - starts
        own = np.clip(ends, starts, stops) - starts - earlier
        firsts = self.buckets[:-1]
        return np.add.reduceat(earlier, firsts), np.add.reduceat(own, firsts)

    def _cells_of(self, bucket: int) -> slice:
        held = self.part_cells[self.buckets[bucket] : self.buckets[bucket + 1]]
        return slice(int(held[0]), int(held[-1]) + 1)

    def near_buckets(self, centroids: Float32) -> Int64:
        """Return the buckets with rows of the cells nearest to some centroids, in order."""
        near = set()
        for centroid in centroids:
            order = np.argsort(((self.centroids - centroid) ** 2).sum(axis=1), kind="stable")
            enough = np.searchsorted(np.cumsum(self._sizes[order]), NEAR_ROWS) + 1
            near.update(order[: max(int(enough), NEAR_CELLS)].tolist())
        cells = np.array(sorted(near))
        firsts = np.searchsorted(self.starts, self._cells[cells], side="right") - 1
        ends = np.searchsorted(self.starts, self._cells[cells] + self._sizes[cells])
        return np.unique(
            np.concatenate([np.arange(*each) for each in zip(firsts, ends, strict=True)])
        )


@dataclass(frozen=True)
class Blocks:
    """Blocks of some buckets, in order.

    Attributes:
        buckets: Bucket of each block, shape (blocks,).
        starts: First position of each block, shape (blocks,).
        sizes: Number of rows of each block, shape (blocks,).
        centroids: Centroid of each block, shape (blocks, d).
    """

    buckets: Int64
    starts: Int64
    sizes: Int64
    centroids: Float32

    def of(self, bucket: int) -> Int64:
        """Return the numbers of the blocks of a bucket."""
        return np.flatnonzero(self.buckets == bucket)

    def candidates(self, block: int, at_least: int) -> Int64:
        """Return the blocks in which a block's neighbours are searched, with itself, in order."""
        distances = ((self.centroids - self.centroids[block]) ** 2).sum(axis=1)
        distances[block] = -1
        order = np.argsort(distances, kind="stable")
        enough = np.searchsorted(np.cumsum(self.sizes[order]), at_least) + 1
        return np.sort(order[:enough])


@dataclass(frozen=True)
class Place:
    """Reader and writer of the files of smoothing."""

    store: Store

    @cached_property
    def index(self) -> Index:
        """Index of the files, read once in each process."""
        return Index(self.store)

    def vectors(self, name: str, start: int, n_rows: int) -> Float32:
        """Return ``n_rows`` consecutive vectors of a file, shape (n_rows, d)."""
        data = _read_bytes(self.store, name, start, n_rows, 4 * self.index.dimension)
        return np.frombuffer(data, np.float32).reshape(n_rows, self.index.dimension)

    def rows(self, name: str, start: int, n_rows: int) -> Int64:
        """Return ``n_rows`` consecutive integers of a file, shape (n_rows,)."""
        return np.frombuffer(_read_bytes(self.store, name, start, n_rows, 8), np.int64)

    def near_blocks(self, bucket: int) -> Blocks:
        """Return the blocks of a bucket and of the buckets near it."""
        index = self.index
        near = index.near_buckets(self._centroids(bucket)).tolist()
        sizes = [self._numbers(bucket_name(each, "sizes"), np.int64) for each in near]
        starts = [
            index.starts[each] + np.cumsum(own) - own for each, own in zip(near, sizes, strict=True)
        ]
        return Blocks(
            np.repeat(near, [len(own) for own in sizes]),
            np.concatenate(starts),
            np.concatenate(sizes),
            np.concatenate([self._centroids(each) for each in near]),
        )

    def _centroids(self, bucket: int) -> Float32:
        numbers = self._numbers(bucket_name(bucket, "centroids"), np.float32)
        return numbers.reshape(-1, self.index.dimension)

    def _numbers(self, name: str, dtype: type[Any]) -> NDArray[Any]:
        return np.frombuffer(self.store.read_bytes(file_name(name)), dtype)

    def write(self, name: str, array: NDArray[Any]) -> None:
        """Write an array to a file of smoothing."""
        write_array(self.store, name, array)


def tile_name(tile: int, kind: str = "vectors") -> str:
    """Return the name of the file of a tile's vectors or rows, in the order of cells."""
    return f"tile/{tile:06d}-{kind}"


def bucket_name(bucket: int, kind: str) -> str:
    """Return the name of the file with one kind of data of a bucket."""
    return f"bucket/{bucket:06d}-{kind}"


def round_name(round_: int, bucket: int) -> str:
    """Return the name of the file of a bucket's vectors after a round."""
    return f"round-{round_}/{bucket:06d}"


def file_name(name: str) -> str:
    """Return the path of a file of smoothing under the output."""
    return layout.stage_file(STAGE, name)


def write_array(store: Store, name: str, array: NDArray[Any]) -> None:
    """Write an array to a file of smoothing."""
    with store.open_output(file_name(name)) as stream:
        stream.write(np.ascontiguousarray(array).data)


def _read_bytes(store: Store, name: str, start: int, n_rows: int, row_bytes: int) -> bytes:
    return store.read_range(file_name(name), start * row_bytes, n_rows * row_bytes)
