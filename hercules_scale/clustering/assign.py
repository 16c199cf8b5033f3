"""The seam of clustering: something that holds vectors, assigns them to centroids and sums them.

The k-means loop knows this interface alone, never where the vectors lie.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import faiss
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

TILE_ROWS = 65_536
# Rows that are summed in float64 at a time; 8,192 rows of 384 dimensions are 25 MB.
SUM_ROWS = 8_192

# Small batches otherwise take another code path, whose rounding differs.
faiss.cvar.distance_compute_blas_threshold = 0


@dataclass(frozen=True)
class Sums:
    """What one pass over vectors adds up to, in fixed point, so that any order gives it.

    Attributes:
        sums: Sum of each cluster's vectors times ``2**bits``, shape (k, d), int64.
        counts: Weight of each cluster's vectors, shape (k,), int64; their number where all weigh 1.
        objective: Sum of squared L2 distances to the nearest centroid times ``2**bits``.
        n_changed: Vectors whose cluster is another than at the pass before.
        bits: Binary places.
    """

    sums: Int64
    counts: Int64
    objective: int
    n_changed: int
    bits: int

    @property
    def inertia(self) -> float:
        """Sum of squared L2 distances to the nearest centroid."""
        return self.objective / 2.0**self.bits

    def totals(self) -> NDArray[np.float64]:
        """Sum of each cluster's vectors, shape (k, d)."""
        return self.sums.astype(np.float64) / 2.0**self.bits

    def means(self, otherwise: Float32) -> Float32:
        """Mean of each cluster, shape (k, d); rows of ``otherwise`` where a cluster is empty."""
        means = (self.totals() / np.maximum(self.counts, 1)[:, None]).astype(np.float32)
        return np.where(self.counts[:, None] > 0, means, otherwise)


class VectorSet(Protocol):
    """Vectors that can be assigned to centroids."""

    @property
    def n_rows(self) -> int:
        """Vectors held."""
        ...

    @property
    def dimension(self) -> int:
        """Length d of a vector."""
        ...

    def take(self, rows: Int64) -> Float32:
        """Vectors of some rows, shape (len(rows), d)."""
        ...

    def weights(self, rows: Int64) -> Int64:
        """Weights of some rows, shape (len(rows),)."""
        ...

    def assign(self, centroids: Float32, offsets: Float32 | None = None) -> Sums:
        """Assign every vector to its nearest of k centroids and sum each cluster.

        Args:
            centroids: Shape (k, d).
            offsets: Added to the squared distances to each centroid, not below 0, shape (k,).
        """
        ...

    def labels(self) -> NDArray[np.int32]:
        """Clusters of the last ``assign``, shape (n,)."""
        ...

    def distances(self) -> Float32:
        """Squared L2 distances of the last ``assign``, shape (n,)."""
        ...


def nearest(vectors: Float32, centroids: Float32, n_nearest: int = 1) -> tuple[Float32, Int64]:
    """The nearest centroids of each vector.

    Args:
        vectors: Shape (n, d).
        centroids: Shape (k, d).
        n_nearest: Centroids wanted, at most k.

    Returns:
        Squared L2 distances and centroid ids, both (n, n_nearest), nearest first; of equally
        near centroids the one of the lowest id.
    """
    distances, ids = faiss.knn(vectors, centroids, n_nearest)
    return np.maximum(distances, 0.0), ids


def fixed_point_bits(n_rows: int, largest: float) -> int:
    """Binary places that keep sums of ``n_rows`` numbers of at most ``largest`` in int64."""
    return 62 - math.ceil(math.log2(max(n_rows, 2))) - math.ceil(math.log2(max(largest, 2**-40)))


def sum_clusters(
    vectors: Float32, labels: Int64, n_clusters: int, bits: int, weights: Int64 | None = None
) -> Int64:
    """Sum of each cluster's vectors, each times its weight, in fixed point, shape (k, d).

    Each block of rows is summed in float64 and then rounded, so that the sum of blocks does not
    depend on their order.
    """
    sums = np.zeros((n_clusters, vectors.shape[1]), np.int64)
    for start in range(0, len(vectors), SUM_ROWS):
        block = labels[start : start + SUM_ROWS]
        share = np.ones(len(block)) if weights is None else weights[start : start + SUM_ROWS]
        members = sparse.csr_array(
            (share.astype(np.float64), (block, np.arange(len(block)))), (n_clusters, len(block))
        )
        exact = members @ vectors[start : start + SUM_ROWS].astype(np.float64)
        sums += np.rint(exact * 2.0**bits).astype(np.int64)
    return sums


class LocalVectors:
    """Vectors in this process's memory, or in a memory map.

    Args:
        vectors: Shape (n, d), float32.
        weights: How many items each vector stands for, shape (n,); by default one.
    """

    def __init__(self, vectors: Float32, weights: Int64 | None = None) -> None:
        self._vectors = vectors
        self._weights = np.ones(len(vectors), np.int64) if weights is None else weights
        self._labels = np.full(len(vectors), -1, np.int32)
        self._distances = np.zeros(len(vectors), np.float32)
        largest = max((float(np.abs(tile).max(initial=0)) for _, tile in self.tiles()), default=0)
        # A squared distance is at most d (2 max|x|)^2.
        self._bits = fixed_point_bits(
            int(self._weights.sum()), max(largest, 4 * self.dimension * largest * largest)
        )

    @property
    def n_rows(self) -> int:
        """Vectors held."""
        return len(self._vectors)

    @property
    def dimension(self) -> int:
        """Length d of a vector."""
        return int(self._vectors.shape[1])

    def tiles(self) -> Iterator[tuple[int, Float32]]:
        """First row and vectors of every tile."""
        for start in range(0, len(self._vectors), TILE_ROWS):
            yield start, np.ascontiguousarray(self._vectors[start : start + TILE_ROWS])

    def take(self, rows: Int64) -> Float32:
        """Vectors of some rows, shape (len(rows), d)."""
        return np.asarray(self._vectors[rows])

    def weights(self, rows: Int64) -> Int64:
        """Weights of some rows, shape (len(rows),)."""
        return self._weights[rows]

    def assign(self, centroids: Float32, offsets: Float32 | None = None) -> Sums:
        """Assign every vector to its nearest of k centroids and sum each cluster."""
        k = len(centroids)
        if offsets is not None:
            # An offset is a squared distance along one more dimension, where vectors lie at 0.
            centroids = np.hstack([centroids, np.sqrt(offsets)[:, None]])
        sums = np.zeros((k, self.dimension), np.int64)
        counts = np.zeros(k, np.int64)
        objective = n_changed = 0
        for start, tile in self.tiles():
            flat = tile if offsets is None else np.pad(tile, ((0, 0), (0, 1)))
            distances, ids = nearest(flat, centroids)
            labels = ids[:, 0]
            rows = slice(start, start + len(tile))
            weights = self._weights[rows]
            n_changed += int(np.count_nonzero(self._labels[rows] != labels))
            self._labels[rows] = labels
            self._distances[rows] = distances[:, 0]
            sums += sum_clusters(tile, labels, k, self._bits, weights)
            np.add.at(counts, labels, weights)
            total = (distances[:, 0].astype(np.float64) * weights).sum()
            objective += int(np.rint(total * 2.0**self._bits))
        return Sums(sums, counts, objective, n_changed, self._bits)

    def labels(self) -> NDArray[np.int32]:
        """Clusters of the last ``assign``, shape (n,)."""
        return self._labels.copy()

    def distances(self) -> Float32:
        """Squared L2 distances of the last ``assign``, shape (n,)."""
        return self._distances.copy()
