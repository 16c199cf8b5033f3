"""Initial centroids: from a sample, by k-means++ or by k-means||."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import kmeans_plusplus

from hercules_scale.clustering.assign import Float32, Int64, nearest
from hercules_scale.clustering.hashing import draw_seed, uniform
from hercules_scale.clustering.tiles import LocalVectors, Tile, VectorSet, sample_rows, take
from hercules_scale.config import HierarchyConfig

SAMPLE_PER_CLUSTER = 256
# From here on k-means++ costs more than it saves: 16,317 s of seeding against 8.8 s an iteration
# were measured at n=2.25M, k=6003.
LARGE_K = 1000
RESTARTS = 3
SAMPLE_ITERATIONS = 10
PARALLEL_ROUNDS = 2
PARALLEL_OVERSAMPLING = 2


def initial_centroids(
    vectors: VectorSet, k: int, config: HierarchyConfig, level: int, seed: int
) -> Float32:
    """Centroids to start from, shape (k, d).

    Args:
        vectors: At least k of them.
        k: Centroids wanted.
        config: ``init`` is the way; ``auto`` takes k-means++ on a sample for k below 1,000 and a
            sample above.
        level: Level that is built, for the draws.
        seed: Seed of this start.
    """
    way = config.init
    if way == "auto":
        way = "sample" if k >= LARGE_K else "kmeans++"
    if way == "sample":
        return take(vectors, sample_rows(vectors, k, seed, level))[0]
    if way == "kmeans||":
        return kmeans_parallel(vectors, k, seed, level)
    rows = np.sort(sample_rows(vectors, SAMPLE_PER_CLUSTER * k, seed, level))
    return kmeans_plus_plus(*take(vectors, rows), k, seed, level)


def kmeans_plus_plus(points: Float32, weights: Int64, k: int, seed: int, level: int) -> Float32:
    """The best of three k-means++ draws after a few iterations, shape (k, d).

    Args:
        points: Shape (n, d).
        weights: Shape (n,).
        k: Centroids wanted, at most n.
        seed: Seed of this start.
        level: Level that is built, for the draws.

    Source: k-means++ (Arthur and Vassilvitskii, SODA 2007).
    """
    local = LocalVectors(points, weights)
    best, best_inertia = points[:k], np.inf
    for restart in range(RESTARTS):
        centroids = kmeans_plusplus(
            points,
            k,
            sample_weight=weights.astype(np.float64),
            random_state=draw_seed(seed, level, "kmeans++", restart) >> 32,
        )[0].astype(np.float32)
        for _ in range(SAMPLE_ITERATIONS):
            sums = local.assign(centroids)
            centroids = sums.means(centroids)
        if sums.inertia < best_inertia:
            best, best_inertia = centroids, sums.inertia
    return best


def kmeans_parallel(vectors: VectorSet, k: int, seed: int, level: int) -> Float32:
    """Two rounds of 2k rows drawn by squared distance over all rows, then weighted k-means++.

    Source: Scalable K-Means++ (Bahmani et al., VLDB 2012).
    """
    candidates = take(vectors, sample_rows(vectors, 1, seed, level))[0]
    for round_ in range(PARALLEL_ROUNDS):
        rows = draw_far_rows(vectors, candidates, PARALLEL_OVERSAMPLING * k, seed, level, round_)
        candidates = np.concatenate([candidates, take(vectors, rows)[0]])
    if len(candidates) < k:
        # There are fewer distinct vectors than clusters.
        rows = sample_rows(vectors, k, seed, level)
        candidates = np.concatenate([candidates, take(vectors, rows)[0]])
    weights = vectors.assign(candidates).counts
    return kmeans_plus_plus(candidates, weights, k, seed, level)


def draw_far_rows(
    vectors: VectorSet, centroids: Float32, n_draws: int, seed: int, level: int, round_: int
) -> Int64:
    """Rows drawn without replacement by weight times squared distance, in the order of rows.

    The draw takes the smallest -ln(u) / (w D^2), which merges exactly over any split of the rows.

    Source: Efraimidis and Spirakis, Weighted random sampling with a reservoir (2006).
    """
    work = partial(
        _far_keys,
        centroids=centroids,
        n_draws=n_draws,
        seed=seed,
        level=level,
        round_=round_,
    )
    parts = vectors.map(work)
    rows, keys = (np.concatenate(each) for each in zip(*parts, strict=True))
    return np.sort(rows[np.lexsort((rows, keys))[:n_draws]])


def _far_keys(
    tile: Tile, centroids: Float32, n_draws: int, seed: int, level: int, round_: int
) -> tuple[Int64, NDArray[np.float64]]:
    distances = nearest(tile.vectors, centroids)[0][:, 0].astype(np.float64)
    far = np.flatnonzero(distances > 0)
    chance = uniform(seed, level, "far", round_, tile.rows[far])
    keys = -np.log(chance) / (tile.weights[far] * distances[far])
    kept = np.lexsort((far, keys))[:n_draws]
    return tile.rows[far[kept]], keys[kept]
