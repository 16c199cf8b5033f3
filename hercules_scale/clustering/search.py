"""Searches for nearest centroids on a GPU, and error bounds of float32 distances.

A search proposes; ``exact.find_labels`` decides in float64 where float32 cannot, so all searches
lead to the same labels.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hercules_scale.clustering.assign import Float32, Int64, with_offsets
from hercules_scale.clustering.passive_faiss import faiss

Search = Callable[[Float32, Float32, int, Float32 | None], tuple[Float32, Int64]]

# Relative error of a float32 sum, per number summed, four times that of rounding to nearest.
SUM_ERROR = 2.0**-22


def nearest_torch_gpu(
    vectors: Float32, centroids: Float32, n_nearest: int, offsets: Float32 | None
) -> tuple[Float32, Int64]:
    """Search with torch on a GPU, to which vectors and centroids are copied for each search."""
    # torch takes seconds to load, and a process without a GPU has no need of it here.
    from hercules_scale.clustering.torch_nearest import nearest_torch

    distances, ids = nearest_torch(vectors, centroids, n_nearest, offsets)
    return distances.cpu().numpy(), ids.cpu().numpy()


class FaissGpuSearch:
    """Search with a build of FAISS for GPUs.

    Its memory on the GPU and its indices of centroids are kept between the tiles of a pass.
    """

    def __init__(self) -> None:
        self._resources = faiss.StandardGpuResources()
        self._held: list[tuple[Float32, Float32 | None, Any]] = []
        # An index on a GPU serves one thread at a time.
        self._turn = threading.Lock()

    def __call__(
        self, vectors: Float32, centroids: Float32, n_nearest: int, offsets: Float32 | None
    ) -> tuple[Float32, Int64]:
        """Return squared distances and ids of the nearest centroids, both (n, n_nearest)."""
        if offsets is not None:
            vectors = np.pad(vectors, ((0, 0), (0, 1)))
        with self._turn:
            distances, ids = self._index(centroids, offsets).search(vectors, n_nearest)
        return distances, ids

    def _index(self, centroids: Float32, offsets: Float32 | None) -> Any:
        for held, added, index in self._held:
            if held is centroids and added is offsets:
                return index
        points = centroids if offsets is None else with_offsets(centroids, offsets)
        index = faiss.GpuIndexFlatL2(self._resources, points.shape[1])
        index.add(points)
        # Two indices are kept: all centroids of a pass, and the centroids that moved farthest.
        self._held = [*self._held[-1:], (centroids, offsets, index)]
        return index


def error_bounds(
    lengths: NDArray[np.float64], dimension: int, centroids: Float32, offsets: Float32 | None
) -> NDArray[np.float64]:
    """Return bounds on the errors of float32 distances from vectors of given lengths, shape (n,).

    Distances are computed as |x|² + |c|² - 2 x·c. A bound holds for centroids that may be among the
    two nearest to a vector x. With b the second smallest norm of all centroids, a centroid with a
    norm above 3 |x| + 2 b lies more than twice as far from x as two others. Such a centroid is
    neither nearest nor mistaken for it, and ``least_squares`` bounds its distance.
    """
    squares = np.einsum("ij,ij->i", centroids, centroids, dtype=np.float64)
    if offsets is not None:
        squares = squares + offsets
    norms = np.sort(np.sqrt(squares))
    reach = 3 * lengths + 2 * norms[:2][-1]
    longest = norms[np.searchsorted(norms, reach, side="right") - 1]
    return np.asarray(_relative_error(dimension) * (lengths + longest) ** 2)


def least_squares(
    distances: NDArray[np.floating], errors: NDArray[np.float64], dimension: int
) -> NDArray[np.float64]:
    """Return lower bounds on the true squared distances, given distances in float32.

    A centroid that ``errors`` does not cover is more than three times as long as the vector, so its
    distance is at least half the sum of both norms.
    """
    share = 1 - 4 * _relative_error(dimension)
    return np.asarray(np.maximum(distances.astype(np.float64) * share - errors, 0))


def _relative_error(dimension: int) -> float:
    """Return the error bound of a float32 distance, as a share of (|x| + |c|)²."""
    return SUM_ERROR * (dimension + 4)


def exact_distances(
    vectors: Float32, centroids: Float32, offsets: Float32 | None, ids: Int64
) -> NDArray[np.float64]:
    """Return squared L2 distances in float64 to some centroids of each row, shape (n, m)."""
    difference = vectors[:, None].astype(np.float64) - centroids[ids]
    exact = np.square(difference, out=difference).sum(axis=2)
    return np.asarray(exact if offsets is None else exact + offsets[ids])
