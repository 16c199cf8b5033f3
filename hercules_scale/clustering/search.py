"""Which search for nearest centroids a process uses: on a GPU where it has one.

A search proposes; ``exact.find_labels`` decides in float64 where float32 cannot, so labels are the
same by any of them.
"""

from __future__ import annotations

from collections.abc import Callable

import faiss
import numpy as np
from numpy.typing import NDArray

from hercules_scale.clustering.assign import Float32, Int64, nearest, with_offsets

Search = Callable[[Float32, Float32, int, Float32 | None], tuple[Float32, Int64]]

# Centroids that faiss gives beyond those wanted, for float64 to choose among.
EXTRA = 4
# Relative error of a float32 sum, per number summed, four times that of rounding to nearest.
SUM_ERROR = 2.0**-22
# Rows that are decided in float64 at a time; 5 candidates of 768 dimensions are 31 kB a row.
DECIDED_ROWS = 4_096


def choose_search(n_gpus: int) -> Search:
    """The search of a process that was given some GPUs.

    faiss on a GPU where faiss is built for it, else torch on a GPU, else faiss on the CPU: a
    cluster's GPUs need not be of a kind that either can use.
    """
    if n_gpus < 1:
        return nearest
    if faiss.get_num_gpus() > 0:
        return _nearest_faiss_gpu
    # torch takes seconds to load, and a process without a GPU has no need of it here.
    import torch

    return _nearest_torch_gpu if torch.cuda.is_available() else nearest


def _nearest_torch_gpu(
    vectors: Float32, centroids: Float32, n_nearest: int, offsets: Float32 | None
) -> tuple[Float32, Int64]:
    from hercules_scale.clustering.torch_nearest import nearest_torch

    distances, ids = nearest_torch(vectors, centroids, n_nearest, offsets)
    return distances.cpu().numpy(), ids.cpu().numpy()


def _nearest_faiss_gpu(
    vectors: Float32, centroids: Float32, n_nearest: int, offsets: Float32 | None
) -> tuple[Float32, Int64]:
    n_found = min(n_nearest + EXTRA, len(centroids))
    wide, wide_centroids = vectors, centroids
    if offsets is not None:
        wide_centroids = with_offsets(centroids, offsets)
        wide = np.pad(vectors, ((0, 0), (0, 1)))
    found = faiss.knn_gpu(faiss.StandardGpuResources(), wide, wide_centroids, n_found)
    return decide(vectors, centroids, n_nearest, offsets, *found)


def decide(
    vectors: Float32,
    centroids: Float32,
    n_nearest: int,
    offsets: Float32 | None,
    distances: Float32,
    ids: Int64,
) -> tuple[Float32, Int64]:
    """The nearest of some centroids found in float32, near-ties decided in float64.

    Args:
        vectors: Shape (n, d).
        centroids: Shape (k, d).
        n_nearest: Centroids wanted.
        offsets: Added to the squared distances to each centroid, shape (k,).
        distances: Squared L2 distances found, with offsets, shape (n, m), nearest first.
        ids: Centroids found, shape (n, m), with m above ``n_nearest`` unless m = k.

    Returns:
        Squared L2 distances and centroid ids, both (n, n_nearest), nearest first; of centroids
        equally near in float64 the one of the lowest id.
    """
    errors = error_bounds(vector_lengths(vectors), vectors.shape[1], centroids, offsets)
    gaps = np.diff(distances[:, : n_nearest + 1].astype(np.float64), axis=1)
    unsure = np.flatnonzero((gaps <= 2 * errors[:, None]).any(axis=1))
    best = np.maximum(distances[:, :n_nearest], 0.0)
    best_ids = ids[:, :n_nearest].copy()
    for start in range(0, len(unsure), DECIDED_ROWS):
        rows = unsure[start : start + DECIDED_ROWS]
        exact = exact_distances(vectors[rows], centroids, offsets, ids[rows])
        order = np.lexsort((ids[rows], exact))[:, :n_nearest]
        best[rows] = np.take_along_axis(exact, order, axis=1)
        best_ids[rows] = np.take_along_axis(ids[rows], order, axis=1)
    if ids.shape[1] < len(centroids):
        # Centroids that were not found are no nearer than the last one found.
        spread = distances[:, -1].astype(np.float64) - distances[:, n_nearest - 1]
        rows = np.flatnonzero(spread <= 2 * errors)
        best[rows], best_ids[rows] = _among_all(vectors[rows], centroids, n_nearest, offsets)
    return best, best_ids


def vector_lengths(vectors: Float32) -> NDArray[np.float64]:
    """L2 norms, shape (n,)."""
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)))


def error_bounds(
    lengths: NDArray[np.float64], dimension: int, centroids: Float32, offsets: Float32 | None
) -> NDArray[np.float64]:
    """Bound on the error of a float32 distance of vectors of some lengths to any centroid.

    Distances are taken as |x|² + |c|² - 2 x·c.
    """
    squares = np.einsum("ij,ij->i", centroids, centroids, dtype=np.float64)
    if offsets is not None:
        squares = squares + offsets
    summed = (lengths + np.sqrt(squares.max())) ** 2
    return np.asarray(SUM_ERROR * (dimension + 4) * summed)


def exact_distances(
    vectors: Float32, centroids: Float32, offsets: Float32 | None, ids: Int64
) -> NDArray[np.float64]:
    """Squared L2 distances in float64 to some centroids of each row, shape (n, m)."""
    difference = vectors[:, None].astype(np.float64) - centroids[ids]
    exact = np.square(difference, out=difference).sum(axis=2)
    return np.asarray(exact if offsets is None else exact + offsets[ids])


def _among_all(
    vectors: Float32, centroids: Float32, n_nearest: int, offsets: Float32 | None
) -> tuple[Float32, Int64]:
    import torch

    from hercules_scale.clustering.torch_nearest import nearest_torch

    distances, ids = nearest_torch(
        vectors, centroids, n_nearest, offsets, device="cpu", dtype=torch.float32
    )
    return distances.numpy(), ids.numpy()
