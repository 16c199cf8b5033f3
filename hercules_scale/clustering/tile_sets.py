"""Tiles that one process holds and assigns, on its CPUs or on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hercules_scale.clustering.exact_nearest import Pass, find_labels
from hercules_scale.clustering.faiss_import import faiss
from hercules_scale.clustering.gpu_search import FaissGpuSearch, nearest_torch_gpu
from hercules_scale.clustering.nearest_centroids import (
    Float32,
    Int32,
    Int64,
    Scale,
    Search,
    Sums,
    move_rows,
    nearest,
)
from hercules_scale.clustering.parallel_blocks import map_blocks
from hercules_scale.clustering.tiles import TILE_ROWS, Tile
from hercules_scale.clustering.vector_lengths import N_BINS, count_lengths

if TYPE_CHECKING:
    from hercules_scale.clustering.torch_nearest import DeviceTiles

# Rows that a thread searches at a time, as many as faiss itself would take.
SEARCH_ROWS = 4_096


def _largest_number(vectors: Float32) -> float:
    """Return the largest absolute value in vectors."""
    return max(float(vectors.max()), -float(vectors.min()))


class TileSet:
    """Tiles that this process holds, for one worker or for a run in one process.

    Sums are kept between passes, and only rows that changed their cluster are moved in them.

    Args:
        tiles: Tiles in any order.
        search: Search for the nearest centroids; by default faiss on the CPU.
    """

    def __init__(self, tiles: Sequence[Tile], search: Search = nearest) -> None:
        self.tiles = list(tiles)
        self._search = search
        self._before: Pass | None = None
        self._sums = np.zeros((0, 0), np.int64)
        self._counts = np.zeros(0, np.int64)

    def largest(self) -> float:
        """Return the largest absolute value in the vectors."""
        return max((_largest_number(tile.vectors) for tile in self.tiles), default=0.0)

    def count_lengths(self) -> Int64:
        """Return the counts of the vectors' lengths; see ``count_lengths``."""
        return sum((count_lengths(t.lengths) for t in self.tiles), np.zeros(N_BINS, np.int64))

    def assign(self, centroids: Float32, offsets: Float32 | None, scale: Scale) -> Sums:
        """Assign every vector to its nearest centroid and sum each cluster."""
        step = Pass.of(centroids, offsets, self._before)
        self._before = step
        before = []
        for tile in self.tiles:
            before.append(tile.labels)
            tile.labels, tile.distances, tile.bounds = self._find(tile, step)
        changed = [old != tile.labels for old, tile in zip(before, self.tiles, strict=True)]
        n_changed = sum(int(np.count_nonzero(each)) for each in changed)
        # A moved row costs two additions, so new sums are cheaper if more than half of the rows
        # moved.
        fresh = 2 * n_changed > sum(map(len, changed)) or len(self._counts) != len(centroids)
        if fresh:
            self._sums = np.zeros(centroids.shape, np.int64)
            self._counts = np.zeros(len(centroids), np.int64)
        for tile, old, moved in zip(self.tiles, before, changed, strict=True):
            # The slice avoids a copy of the whole tile.
            rows = slice(None) if fresh else np.flatnonzero(moved)
            move_rows(
                self._sums,
                self._counts,
                tile.vectors[rows],
                np.full(len(old), -1, np.int32) if fresh else old[rows],
                tile.labels[rows],
                tile.weights[rows],
                scale,
            )
        objective = sum(_objective(tile, scale) for tile in self.tiles)
        return Sums(self._sums.copy(), self._counts.copy(), objective, n_changed, scale)

    def _find(self, tile: Tile, step: Pass) -> tuple[Int32, Float32, NDArray[np.float64]]:
        """Return labels, distances and bounds of a tile."""

        def work(rows: slice) -> tuple[Int32, Float32, NDArray[np.float64]]:
            given = (tile.vectors[rows], tile.lengths[rows], tile.labels[rows], tile.bounds[rows])
            return find_labels(*given, step, self._search)

        # A GPU has its own threads.
        block_rows = SEARCH_ROWS if self._search is nearest else TILE_ROWS
        parts = map_blocks(work, len(tile.vectors), block_rows)
        labels, distances, bounds = (np.concatenate(each) for each in zip(*parts, strict=True))
        return labels, distances, bounds


class DeviceTileSet(TileSet):
    """Tiles with vectors that stay on a GPU over all passes; labels and sums equal the CPU's.

    Args:
        tiles: Tiles in any order; each vector weighs one.
        device: Torch device that holds them.
    """

    def __init__(self, tiles: Sequence[Tile], device: str = "cuda") -> None:
        super().__init__(tiles)
        self._device = device
        self._held: DeviceTiles | None = None

    def assign(self, centroids: Float32, offsets: Float32 | None, scale: Scale) -> Sums:
        """Assign every vector to its nearest centroid and sum each cluster."""
        if self._held is None:
            # torch takes seconds to load, and a process without a GPU has no need of it here.
            from hercules_scale.clustering.torch_nearest import DeviceTiles

            vectors = [tile.vectors for tile in self.tiles]
            self._held = DeviceTiles(vectors, scale.vectors, self._device)
        found = [each.cpu().numpy() for each in self._held.assign(centroids, offsets)]
        ends = np.cumsum([len(tile.vectors) for tile in self.tiles])
        labels, distances = (np.split(each, ends[:-1]) for each in found)
        objective = n_changed = 0
        for tile, new, near in zip(self.tiles, labels, distances, strict=True):
            n_changed += int(np.count_nonzero(tile.labels != new))
            tile.labels, tile.distances = new, near
            objective += _objective(tile, scale)
        sums, counts = self._held.sums.cpu().numpy(), self._held.counts.cpu().numpy()
        return Sums(sums.copy(), counts.copy(), objective, n_changed, scale)


def _objective(tile: Tile, scale: Scale) -> int:
    """Return the weighted sum of a tile's squared distances, in fixed point."""
    fixed = np.rint(tile.distances.astype(np.float64) * 2.0**scale.distances)
    if float(fixed.max(initial=0)) * float(tile.weights.sum()) < 2.0**62:
        return int((fixed.astype(np.int64) * tile.weights).sum())
    return sum(
        int(each) * weight for each, weight in zip(fixed, tile.weights.tolist(), strict=True)
    )


def hold_tiles(tiles: Sequence[Tile], n_gpus: int) -> TileSet:
    """Return the tile set of a process with some number of GPUs.

    Tiles stay on the GPU if torch can use it and they fit. Otherwise each tile is copied there for
    its search, by faiss if it is built for GPUs, else by torch. If neither library can use the GPUs
    of the machine, the CPU searches.
    """
    if n_gpus < 1:
        return TileSet(tiles)
    import torch

    has_torch = torch.cuda.is_available()
    if has_torch:
        from hercules_scale.clustering.torch_nearest import device_bytes

        needed = device_bytes(sum(tile.vectors.size for tile in tiles))
        if needed <= torch.cuda.mem_get_info()[0]:
            return DeviceTileSet(tiles)
    if faiss.get_num_gpus() > 0:
        return TileSet(tiles, FaissGpuSearch())
    return TileSet(tiles, nearest_torch_gpu) if has_torch else TileSet(tiles)
