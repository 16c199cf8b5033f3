"""Initial centroids."""

from __future__ import annotations

import numpy as np
from sklearn.cluster import kmeans_plusplus

from hercules_scale.clustering.assign import Float32, Int64, LocalVectors, VectorSet
from hercules_scale.clustering.hashing import hash_rows

SAMPLE_PER_CLUSTER = 256
# From here on k-means++ costs more than it saves: 16,317 s of seeding against 8.8 s an iteration
# were measured at n=2.25M, k=6003.
LARGE_K = 1000
RESTARTS = 3
SAMPLE_ITERATIONS = 10


def initial_centroids(vectors: VectorSet, k: int, seed: int, level: int) -> Float32:
    """Centroids to start from, shape (k, d).

    Small k: k-means++ on a sample of at most 256 k rows, the best of three restarts after a few
    iterations on that sample. Large k: k rows of the sample.

    Source: k-means++ (Arthur and Vassilvitskii, SODA 2007).
    """
    rows = sample_rows(vectors.n_rows, SAMPLE_PER_CLUSTER * k, seed, level)
    if k >= LARGE_K:
        return vectors.take(rows[:k])
    rows = np.sort(rows)
    sample, weights = vectors.take(rows), vectors.weights(rows)
    local = LocalVectors(sample, weights)
    best: Float32 | None = None
    best_inertia = np.inf
    for restart in range(RESTARTS):
        draw = int(hash_rows(seed, level, "kmeans++", restart, np.zeros(1, np.int64))[0] >> 32)
        centroids = kmeans_plusplus(
            sample, k, sample_weight=weights.astype(np.float64), random_state=draw
        )[0].astype(np.float32)
        for _ in range(SAMPLE_ITERATIONS):
            sums = local.assign(centroids)
            centroids = sums.means(centroids)
        if sums.inertia < best_inertia:
            best, best_inertia = centroids, sums.inertia
    assert best is not None
    return best


def sample_rows(n_rows: int, size: int, seed: int, level: int) -> Int64:
    """Rows of a uniform sample without replacement, in random order: the smallest hashes."""
    rows = np.arange(n_rows)
    hashes = hash_rows(seed, level, "sample", 0, rows)
    if size < n_rows:
        rows = np.argpartition(hashes, size)[:size]
    return rows[np.argsort(hashes[rows], kind="stable")]
