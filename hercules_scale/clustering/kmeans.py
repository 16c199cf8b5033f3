"""Lloyd's k-means over any vector set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hercules_scale.clustering.assign import Float32, Int64, LocalVectors, VectorSet
from hercules_scale.clustering.hashing import hash_rows
from hercules_scale.clustering.init import initial_centroids
from hercules_scale.clustering.nearest_rows import nearest_rows

MAX_ITERATIONS = 100
# Stop when the objective falls by less than this share in one iteration.
TOLERANCE = 1e-5
PERTURBATION = 1e-3


@dataclass(frozen=True)
class KMeansResult:
    """Clusters of one level.

    Attributes:
        centroids: Shape (k, d).
        labels: Cluster of each vector, shape (n,); ids are dense from 0.
        inertia: Sum of squared L2 distances to the own centroid.
        n_iterations: Iterations that were run.
        converged: Whether the objective had stopped falling.
        n_refilled: Empty clusters that were given new centroids on the way.
        n_empty: Clusters asked for that stayed empty and were left out.
    """

    centroids: Float32
    labels: NDArray[np.int32]
    inertia: float
    n_iterations: int
    converged: bool
    n_refilled: int
    n_empty: int


def kmeans(
    vectors: VectorSet,
    k: int,
    seed: int,
    level: int,
    resampling_rounds: int = 0,
    resampling_points: int = 10,
) -> KMeansResult:
    """Cluster vectors, with resampling if asked.

    Args:
        vectors: The vectors of the level below.
        k: Clusters wanted, at most the number of vectors.
        seed: Seed of the run.
        level: Level that is built, for the draws.
        resampling_rounds: Rounds m of resampling.
        resampling_points: Vectors r nearest to each centroid that a round keeps.

    Returns:
        The clusters; fewer than k where there are fewer distinct vectors.

    Source: HERCULES, Algorithm 3, lines 12-25; Vo et al., Automatic Data Curation for
        Self-Supervised Learning (2024).
    """
    if not 1 <= k <= vectors.n_rows:
        raise ValueError(f"k must be from 1 to the {vectors.n_rows} vectors, got {k}")
    result = lloyd(vectors, initial_centroids(vectors, k, seed, level), seed, level)
    for round_ in range(1, resampling_rounds + 1):
        rows = np.sort(nearest_rows(result.labels, vectors.distances(), resampling_points)[1])
        if len(rows) < k:
            break
        # Each round draws afresh, so its seed is a hash of the run's and its own number.
        draw = int(hash_rows(seed, level, "resample", round_, np.zeros(1, np.int64))[0] >> 1)
        core = LocalVectors(vectors.take(rows), vectors.weights(rows))
        refined = lloyd(core, initial_centroids(core, k, draw, level), draw, level)
        result = _compact(vectors, refined.centroids, refined, k)
    return result


def lloyd(vectors: VectorSet, centroids: Float32, seed: int, level: int) -> KMeansResult:
    """Iterate from given centroids until the objective stops falling."""
    k = len(centroids)
    previous = np.inf
    n_refilled = 0
    converged = False
    iteration = refilled = 0
    sums = vectors.assign(centroids)
    while iteration < MAX_ITERATIONS and not converged:
        iteration += 1
        centroids = sums.means(centroids)
        empty = np.flatnonzero(sums.counts == 0)
        refilled = _refill(centroids, sums.counts, empty, seed, level, iteration)
        n_refilled += refilled
        previous, sums = sums.inertia, vectors.assign(centroids)
        steady = sums.n_changed == 0 or previous - sums.inertia <= TOLERANCE * previous
        # A refill may raise the objective for a while, and identical vectors never split.
        converged = steady and (refilled == 0 or sums.n_changed == 0)
    if refilled:
        # The last refill moved the split clusters' centroids off their means.
        centroids = sums.means(centroids)
        sums = vectors.assign(centroids)
    done = KMeansResult(
        centroids, vectors.labels(), sums.inertia, iteration, converged, n_refilled, 0
    )
    return _compact(None, centroids, done, k)


def _compact(
    vectors: VectorSet | None, centroids: Float32, result: KMeansResult, k: int
) -> KMeansResult:
    """Leave out empty clusters, after a new assignment to the centroids where vectors are given."""
    labels, inertia = result.labels, result.inertia
    if vectors is not None:
        inertia = vectors.assign(centroids).inertia
        labels = vectors.labels()
    used, dense = np.unique(labels, return_inverse=True)
    return KMeansResult(
        centroids[used],
        dense.astype(np.int32),
        inertia,
        result.n_iterations,
        result.converged,
        result.n_refilled,
        k - len(used),
    )


def _refill(
    centroids: Float32, counts: Int64, empty: Int64, seed: int, level: int, iteration: int
) -> int:
    """Split the largest clusters to give each empty one a centroid, in place.

    The two halves are the old centroid a little to either side along hashed signs.

    Source: faiss ``Clustering.cpp``, ``split_clusters``.
    """
    counts = counts.copy()
    for cluster in empty:
        largest = int(counts.argmax())
        if counts[largest] < 2:
            return 0
        columns = np.arange(centroids.shape[1]) + int(cluster) * centroids.shape[1]
        bits = hash_rows(seed, level, "refill", iteration, columns) & np.uint64(1)
        step = PERTURBATION * np.abs(centroids[largest]) * (2.0 * bits.astype(np.float32) - 1)
        centroids[cluster] = centroids[largest] + step
        centroids[largest] = centroids[largest] - step
        counts[cluster] = counts[largest] // 2
        counts[largest] -= counts[cluster]
    return len(empty)
