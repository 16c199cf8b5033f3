"""Initial centroids: from a sample, by k-means++ or by k-means||."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from hercules_scale.clustering.exact_nearest import Pass, find_labels
from hercules_scale.clustering.local_vectors import LocalVectors
from hercules_scale.clustering.nearest_centroids import Float32, Int64, nearest
from hercules_scale.clustering.stateless_random import draw_seed, uniform
from hercules_scale.clustering.tiles import (
    Tile,
    VectorSet,
    sample_rows,
    smallest_keys,
    take,
    thin_keys,
)
from hercules_scale.config.hierarchy import HierarchyConfig

# Rows per cluster of the sample that is clustered in place of all vectors, of the sample on which
# draws of k-means++ are refined, and of the rows that they are drawn from. More rows did not lower
# the final inertia of k-means.
SAMPLE_PER_CLUSTER = 256
REFINED_PER_CLUSTER = 64
DRAWN_PER_CLUSTER = 32
# From this k on, k-means++ costs more than it saves: at n=2.25M and k=6003, seeding took 16,317 s
# and an iteration 8.8 s.
LARGE_K = 1000
# Largest number of draws of k-means++, number of draws kept after the first comparison of their
# inertia, and iterations before each of the two comparisons.
DRAWS, DRAWS_KEPT = 12, 3
ITERATIONS = (2, 8)
# Centroids in all draws together, about: the time of a draw grows with k squared, and draws of many
# centroids differ less.
CENTROIDS_DRAWN = 1200
# Points count as equal if their squared distance, in float64, is at most this share of the sum of
# their squared lengths.
ROUNDING = 1e-13
# Up to this many points have a table of all their distances, of at most 256 MiB. It is filled this
# many rows at a time, which stay in the processor's cache.
TABLE_POINTS, TABLE_ROWS = 8_192, 64
PARALLEL_ROUNDS = 2
PARALLEL_OVERSAMPLING = 2

FromEach = Callable[[Int64], Float32]


def initial_centroids(
    vectors: VectorSet, k: int, config: HierarchyConfig, level: int, seed: int
) -> Float32:
    """Return centroids to start from, shape (k, d).

    Args:
        vectors: Vectors, at least k.
        k: Number of centroids.
        config: ``init`` is the method; ``auto`` takes k-means++ on a sample for k below 1,000, and
            sampled rows from 1,000 on.
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
    rows = sample_rows(vectors, REFINED_PER_CLUSTER * k, seed, level)
    return vectors.run(partial(kmeans_plus_plus, *take(vectors, rows), k, seed, level))


def kmeans_plus_plus(
    points: Float32, weights: Int64, k: int, seed: int, level: int, n_gpus: int = 0
) -> Float32:
    """Return the best of some k-means++ draws after a few iterations, shape (k, d).

    Args:
        points: Shape (n, d), in random order, since the first of them are drawn from.
        weights: Shape (n,).
        k: Centroids wanted, at most n.
        seed: Seed of this start.
        level: Level that is built, for the draws.
        n_gpus: GPUs that this process may use.
    """
    local = LocalVectors(points, weights, n_gpus)
    drawn = slice(DRAWN_PER_CLUSTER * k)
    from_each = distances_of(points[drawn])
    starts = []
    for number in range(min(max(CENTROIDS_DRAWN // k, DRAWS_KEPT), DRAWS)):
        random = np.random.default_rng(draw_seed(seed, level, "kmeans++", number))
        starts.append(points[draw_apart(from_each, weights[drawn], k, random)])
    for n_iterations in ITERATIONS:
        inertia = []
        for number, centroids in enumerate(starts):
            for iteration in range(n_iterations):
                sums = local.assign(centroids)
                centroids = sums.means(centroids)
                # The first iteration counts changes from the labels of another draw.
                if iteration and not sums.n_changed:
                    break
            starts[number] = centroids
            inertia.append(sums.inertia)
        best = np.argsort(inertia, kind="stable")[:DRAWS_KEPT]
        starts = [starts[number] for number in best]
    return starts[0]


def distances_of(points: Float32) -> FromEach:
    """Return a function that gives the squared L2 distances from some points to all, by position.

    Distances are rounded to float32, since the last digits of matrix products depend on the
    threads. For few points, all distances are computed at once, which takes 4 bytes a pair.

    Args:
        points: Shape (n, d).
    """
    # Squares of numbers far from 0 would leave no digits for the differences between points.
    exact = points - points.mean(axis=0, dtype=np.float64)
    squares = np.einsum("ij,ij->i", exact, exact)

    def apart(rows: Int64 | slice, n_others: int) -> Float32:
        both = squares[:n_others] + squares[rows][:, None]
        found = exact[rows] @ exact[:n_others].T
        found *= -2
        found += both
        return np.where(found > ROUNDING * both, found, 0).astype(np.float32)

    n = len(points)
    if n > TABLE_POINTS:
        return lambda rows: apart(rows, n)
    table = np.empty((n, n), np.float32)
    for start in range(0, n, TABLE_ROWS):
        stop = min(start + TABLE_ROWS, n)
        table[start:stop, :stop] = apart(slice(start, stop), stop)
        table[:start, start:stop] = table[start:stop, :start].T
    return table.__getitem__


def draw_apart(from_each: FromEach, weights: Int64, k: int, random: np.random.Generator) -> Int64:
    """Return the positions of k points, drawn one after another and far from each other.

    The chance of a point is proportional to its weight times its squared distance to the nearest
    point drawn before. Of 2 + ln k candidates for each point, the one that leaves the least inertia
    is taken.

    Args:
        from_each: Distances of n points; see ``distances_of``.
        weights: Shape (n,).
        k: Points wanted, at most n.
        random: Generator of random numbers.

    Source: k-means++ (Arthur and Vassilvitskii, SODA 2007), the greedy variant of its section 7.
    """
    n_candidates = 2 + int(np.log(k))

    def draw(chances: NDArray[np.float64], n_draws: int) -> Int64:
        ends = chances.cumsum()
        drawn: Int64 = np.searchsorted(ends, random.random(n_draws) * ends[-1], "right")
        return np.minimum(drawn, len(weights) - 1)

    chosen = draw(weights.astype(np.float64), 1).tolist()
    distances = from_each(np.array(chosen))[0]
    while len(chosen) < k:
        chances = weights * distances.astype(np.float64)
        if not chances.any():
            # Every point equals one that was drawn.
            others = np.setdiff1d(np.arange(len(weights)), chosen)
            return np.array([*chosen, *others[: k - len(chosen)]], np.int64)
        candidates = draw(chances, n_candidates)
        left = np.minimum(from_each(candidates), distances)
        best = int(np.einsum("ij,j->i", left, weights, dtype=np.float64).argmin())
        chosen.append(int(candidates[best]))
        distances = left[best]
    return np.array(chosen, np.int64)


def kmeans_parallel(vectors: VectorSet, k: int, seed: int, level: int) -> Float32:
    """Return centroids by k-means||: two rounds that draw 2k rows by squared distance, then
    k-means++.

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
    return vectors.run(partial(kmeans_plus_plus, candidates, weights, k, seed, level))


def draw_far_rows(
    vectors: VectorSet, centroids: Float32, n_draws: int, seed: int, level: int, round_: int
) -> Int64:
    """Return rows drawn without replacement by weight times squared distance, ascending.

    The draw takes the rows with the smallest -ln(u) / (w D^2), so it does not depend on how rows
    are split.

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
    parts = vectors.map(work, partial(thin_keys, size=n_draws))
    return np.sort(smallest_keys(parts, n_draws)[0])


def _far_keys(
    tile: Tile, centroids: Float32, n_draws: int, seed: int, level: int, round_: int
) -> tuple[Int64, NDArray[np.float64]]:
    unknown, unbounded = np.full(len(tile.vectors), -1, np.int32), np.zeros(len(tile.vectors))
    step = Pass.of(centroids, None, None)
    given = (tile.vectors, tile.lengths, unknown, unbounded, step, nearest)
    # Distances are exact, since the last digits of a search's own depend on its threads.
    distances = find_labels(*given)[1].astype(np.float64)
    far = np.flatnonzero(distances > 0)
    chance = uniform(seed, level, "far", round_, tile.rows[far])
    keys = -np.log(chance) / (tile.weights[far] * distances[far])
    kept = np.lexsort((far, keys))[:n_draws]
    return tile.rows[far[kept]], keys[kept]
