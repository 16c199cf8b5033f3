"""Vectors in this process's memory, or in a memory map."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hercules_scale.clustering.nearest_centroids import Float32, Int64, Scale, Sums
from hercules_scale.clustering.tile_sets import hold_tiles
from hercules_scale.clustering.tiles import TILE_ROWS, T, Thin, Tile, check_finite
from hercules_scale.clustering.vector_lengths import typical_length
from hercules_scale.errors import InputError

# Least binary places of a typical length that sums must keep; with fewer, vectors are refused.
LEAST_PLACES = 8


class LocalVectors:
    """Vectors in this process's memory, or in a memory map.

    Args:
        vectors: Shape (n, d), float32.
        weights: Number of items that each vector represents, shape (n,); by default one.
        n_gpus: Number of GPUs that this process was given.
        original_lengths: L2 norms before vectors were scaled or shortened, shape (n,); by default
            the norms of ``vectors``.

    Raises:
        InputError: A number is NaN or infinite (the message names the rows), or so large that sums
            would lose the digits of the others. Vectors of a run are shortened beforehand, see
            ``open_vectors``.
    """

    def __init__(
        self,
        vectors: Float32,
        weights: Int64 | None = None,
        n_gpus: int = 0,
        original_lengths: NDArray[np.float64] | None = None,
    ) -> None:
        check_finite(vectors, 0)
        of_items = weights is None
        if weights is None:
            weights = np.ones(len(vectors), np.int64)
        self.n_rows, self.dimension = len(vectors), int(vectors.shape[1])
        self._n_gpus = n_gpus
        tiles = [
            Tile(start, vectors[start : start + TILE_ROWS], weights[start : start + TILE_ROWS])
            for start in range(0, len(vectors), TILE_ROWS)
        ]
        if original_lengths is not None:
            for tile in tiles:
                tile.original_lengths = original_lengths[tile.first_row :][: len(tile.vectors)]
        # Tiles on a GPU need weights of one.
        self._tiles = hold_tiles(tiles, n_gpus if (weights == 1).all() else 0)
        typical = typical_length(self._tiles.count_lengths())
        largest, total = self._tiles.largest(), int(weights.sum())
        self._scale = Scale.of(total, largest, self.dimension, typical)
        if of_items and self._scale.vectors + math.log2(typical or 1) < LEAST_PLACES:
            raise InputError(
                f"vectors: sums cannot hold numbers of up to {largest:.2g} beside vectors of "
                f"length {typical:.2g}, the median; leave out those that are so much longer"
            )

    def assign(self, centroids: Float32, offsets: Float32 | None = None) -> Sums:
        """Assign every vector to its nearest of k centroids and sum each cluster."""
        return self._tiles.assign(centroids, offsets, self._scale)

    def map(self, work: Callable[[Tile], T], thin: Thin[T] | None = None) -> list[T]:
        """Return the results of a pure function over the tiles, in the order of the rows."""
        return [work(tile) for tile in self._tiles.tiles]

    def run(self, work: Callable[[int], T]) -> T:
        """Return the result of a pure function, run in this process."""
        return work(self._n_gpus)
