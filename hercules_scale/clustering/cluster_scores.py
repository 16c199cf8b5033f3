"""Scores of clusters by their vectors alone: silhouettes, Davies-Bouldin, Calinski-Harabasz."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from hercules_scale.clustering.exact_nearest import nearest_others
from hercules_scale.clustering.nearest_centroids import SUM_ROWS, Float32, Int64
from hercules_scale.clustering.stateless_random import uniform
from hercules_scale.clustering.tiles import Tile, VectorSet, first_of_each, labels_of, take
from hercules_scale.config.hierarchy import HierarchyConfig

# Vectors of each cluster that are scored, so that small clusters count as much as large ones.
ROWS_PER_CLUSTER = 256
# Clusters for which the distances to all others are in memory at a time.
PAIRS_OF = 1024

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class CurvePoint:
    """Scores of a clustering into k clusters; all but the inertia are None if k is 1.

    Attributes:
        level: Level that is built.
        k: Number of clusters found.
        simplified_silhouette: Mean over clusters of the mean over vectors of (b - a) / max(a, b),
            where a is the Euclidean distance to the mean of the cluster's other vectors, and b the
            distance to the nearest centroid of another cluster.
        standard_error: Standard error of ``silhouette`` over vectors if that was asked for, else of
            ``simplified_silhouette`` over clusters.
        silhouette: Full silhouette, if it was asked for.
        davies_bouldin: Lower is better.
        calinski_harabasz: Higher is better.
        inertia: Sum of squared L2 distances of the vectors that were clustered, perhaps a sample,
            to their own centroids.
        chosen: Whether the level gets this number of clusters.
    """

    level: int
    k: int
    simplified_silhouette: float | None
    standard_error: float | None
    silhouette: float | None
    davies_bouldin: float | None
    calinski_harabasz: float | None
    inertia: float
    chosen: bool = False


def score_clusters(
    vectors: VectorSet, centroids: Float32, config: HierarchyConfig, level: int = 1
) -> CurvePoint:
    """Return the scores of the clusters around given centroids; no cluster may be empty.

    Scores are computed from values of each row in the order of rows, so they do not depend on how
    rows are split. Peak memory: 24 bytes a row and two copies of the scored rows.

    Args:
        vectors: Vectors, at most about 50,000.
        centroids: Centroids, fewer than the vectors, shape (k, d).
        config: ``seed``, and ``k_score`` for the full silhouette.
        level: Level that is built, for the draws.

    Source: simplified silhouette, Hruschka, de Castro and Campello, Evolutionary algorithms for
        clustering gene-expression data (2004); the others as scikit-learn defines them.
    """
    sums = vectors.assign(centroids)
    k = len(centroids)
    point = CurvePoint(level, k, None, None, None, None, None, sums.inertia)
    if k == 1:
        return point
    labels = labels_of(vectors)
    weights = np.concatenate(vectors.map(_weights))
    means = sums.totals() / sums.counts[:, None]
    distances = np.concatenate(vectors.map(partial(_distances, centres=means)))
    within = float((weights * distances**2).sum())
    spread = np.bincount(labels, weights * distances, k) / sums.counts
    of_clusters = _simplified_silhouettes(
        vectors, labels, centroids, sums.counts, config.seed, level
    )
    error = of_clusters.std(ddof=1) / math.sqrt(k)
    silhouette = None
    if config.k_score == "silhouette":
        of_rows = _silhouettes(vectors, labels)
        silhouette = float(of_rows.mean())
        error = of_rows.std(ddof=1) / math.sqrt(len(of_rows))
    return replace(
        point,
        simplified_silhouette=float(of_clusters.mean()),
        standard_error=float(error),
        silhouette=silhouette,
        davies_bouldin=davies_bouldin(means, spread),
        calinski_harabasz=calinski_harabasz(means, sums.counts.astype(np.float64), within),
    )


def _weights(tile: Tile) -> Float64:
    return tile.weights.astype(np.float64)


def _distances(tile: Tile, centres: Float64) -> Float64:
    """Return the Euclidean distance of each vector to its cluster's centre, shape (n,)."""
    parts = []
    for start in range(0, len(tile.vectors), SUM_ROWS):
        part = slice(start, start + SUM_ROWS)
        parts.append(_euclidean(tile.vectors[part], centres[tile.labels[part]]))
    return np.concatenate(parts)


def _euclidean(vectors: Float32, others: Float32 | Float64) -> Float64:
    difference = vectors.astype(np.float64) - others
    lengths: Float64 = np.sqrt(np.einsum("ij,ij->i", difference, difference))
    return lengths


def _simplified_silhouettes(
    vectors: VectorSet,
    labels: NDArray[np.int32],
    centroids: Float32,
    counts: Int64,
    seed: int,
    level: int,
) -> Float64:
    """Return the mean score of each cluster over its vectors with the smallest hashes, shape (k,).

    A vector is compared with the mean of its cluster's other vectors. With the vector itself in
    that mean, small clusters score high in any data (2,000 vectors of noise had .05 at 11 clusters
    and .19 at 498).

    A cluster of one vector scores 0, as in the full silhouette.
    """
    # Every k uses the same draw, so that scores differ by their clusters alone.
    keys = uniform(seed, level, "choose-k", 0, np.arange(len(labels))).astype(np.float32)
    rows = np.sort(first_of_each(labels, keys, np.arange(len(labels)), ROWS_PER_CLUSTER))
    points, weights = take(vectors, rows)
    own = labels[rows]
    other = nearest_others(points, own, centroids)
    a, b = _euclidean(points, centroids[own]), _euclidean(points, centroids[other])
    # Without its own weight w, the mean of a cluster of weight W lies W / (W - w) times as far.
    a *= counts[own] / np.maximum(counts[own] - weights, 1)
    scores = (b - a) / np.maximum(np.maximum(a, b), np.finfo(np.float64).tiny)
    scores[np.bincount(labels)[own] == 1] = 0.0
    k = len(centroids)
    means: Float64 = np.bincount(own, weights * scores, k) / np.bincount(own, weights, k)
    return means


def _silhouettes(vectors: VectorSet, labels: NDArray[np.int32]) -> Float64:
    """Return the full silhouette of every vector, shape (n,)."""
    from sklearn.metrics import silhouette_samples

    points = take(vectors, np.arange(len(labels)))[0]
    return np.asarray(silhouette_samples(points, labels), np.float64)


def calinski_harabasz(means: Float64, counts: Float64, within: float) -> float:
    """Return the variance between clusters divided by the variance within, by degrees of freedom.

    Args:
        means: Shape (k, d).
        counts: Vectors of each cluster, shape (k,).
        within: Sum of squared L2 distances of the vectors to their clusters' means.
    """
    if within == 0:
        return 1.0
    n, k = counts.sum(), len(means)
    mean = (counts[:, None] * means).sum(axis=0) / n
    between = (counts * ((means - mean) ** 2).sum(axis=1)).sum()
    return float(between * (n - k) / (within * (k - 1)))


def davies_bouldin(means: Float64, spread: Float64) -> float:
    """Return the mean over clusters i of the largest (s_i + s_j) / |c_i - c_j|.

    Args:
        means: Shape (k, d).
        spread: Mean Euclidean distance of each cluster's vectors to its mean, shape (k,).
    """
    if np.allclose(spread, 0):
        return 0.0
    # scipy takes a third of a second to load, and only this function needs it here.
    from scipy.spatial.distance import cdist

    worst = []
    # All pairs of many clusters would not fit in memory.
    for start in range(0, len(means), PAIRS_OF):
        part = slice(start, start + PAIRS_OF)
        apart = cdist(means[part], means)
        apart[apart == 0] = np.inf
        worst.append(((spread[part, None] + spread) / apart).max(axis=1))
    return float(np.concatenate(worst).mean())
