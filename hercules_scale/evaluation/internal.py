"""Density and separation of clusters: silhouette, Davies-Bouldin, Calinski-Harabasz.

Two passes over parts of the vectors compute them: the first sums the vectors of each cluster, the
second their distances to the means. Only the Euclidean silhouette compares pairs.

Source: HERCULES, section 3.7; Rousseeuw (1987); Davies and Bouldin (1979); Calinski and Harabasz
(1974); values are scikit-learn's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from hercules_scale.clustering.cluster_scores import calinski_harabasz, davies_bouldin
from hercules_scale.clustering.nearest_centroids import Float32, Int32

Float64 = NDArray[np.float64]
Vectors = Float32 | Float64
Labels = NDArray[np.integer[Any]]
Distance = Literal["cosine", "euclidean"]

# Vectors that are worked on at a time, and clusters that they are compared with; 32 MB.
BLOCK_ROWS, BLOCK_CLUSTERS = 4_096, 1_024
# Vectors with distances to a block of others in memory; 16 MB.
PAIR_ROWS = 512
# A cosine distance below this is rounding.
SAME = 1e-12
# Standard errors to each side of a mean that hold 95% of the normal distribution.
NORMAL_95 = 1.959964


class Figure(NamedTuple):
    """One measured figure.

    Attributes:
        value: The figure.
        n: Number of items, clusters or vectors measured.
        low: Lower end of the 95% confidence interval; None if the figure is exact.
        high: Upper end of the interval.
    """

    value: float
    n: int
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ClusterSums:
    """Sums of the vectors of each of k clusters.

    Attributes:
        counts: Number of vectors, shape (k,).
        vectors: Sums of the vectors, shape (k, d).
        units: Sums of the vectors scaled to length 1, shape (k, d); zero vectors add nothing.
    """

    counts: NDArray[np.int64]
    vectors: Float64
    units: Float64

    @classmethod
    def of(cls, vectors: Vectors, labels: Labels, k: int) -> ClusterSums:
        """Return the sums of vectors (n, d) by their clusters (n,), added in the order given."""
        sums = cls.zero(k, vectors.shape[1])
        for start in range(0, len(vectors), BLOCK_ROWS):
            block = vectors[start : start + BLOCK_ROWS].astype(np.float64)
            members = _members(labels[start : start + BLOCK_ROWS], k)
            sums.vectors[:] += members @ block
            sums.units[:] += members @ _to_unit(block)
        sums.counts[:] = np.bincount(labels, minlength=k)
        return sums

    @classmethod
    def zero(cls, k: int, dimension: int) -> ClusterSums:
        """Return the sums of no vectors."""
        shape = (k, dimension)
        return cls(np.zeros(k, np.int64), np.zeros(shape), np.zeros(shape))

    def plus(self, other: ClusterSums) -> ClusterSums:
        """Return the sums of the vectors of both."""
        return ClusterSums(
            self.counts + other.counts, self.vectors + other.vectors, self.units + other.units
        )

    def merged(self, parents: Int32, k: int) -> ClusterSums:
        """Return the sums of k coarser clusters.

        Args:
            parents: Coarser cluster that each cluster lies in.
            k: Number of coarser clusters.
        """
        members = _members(parents, k)
        return ClusterSums(members @ self.counts, members @ self.vectors, members @ self.units)

    @property
    def can_be_measured(self) -> bool:
        """Whether there are at least two clusters, and one of them has more than one vector."""
        return 1 < len(self.counts) < int(self.counts.sum())

    @property
    def means(self) -> Float64:
        """Mean of each cluster, shape (k, d)."""
        return self.vectors / self.counts[:, None]


@dataclass(frozen=True)
class Spread:
    """Sums over the vectors of each of k clusters, each of shape (k,).

    Attributes:
        distances: Sum of Euclidean distances to the cluster's mean.
        squared: Sum of squared L2 distances to the cluster's mean.
        silhouettes: Sum of cosine silhouettes; zeros where they were not asked for.
    """

    distances: Float64
    squared: Float64
    silhouettes: Float64

    @classmethod
    def of(cls, vectors: Vectors, labels: Labels, sums: ClusterSums, cosine: bool) -> Spread:
        """Return the spread of vectors (n, d), which may be a part of the vectors in ``sums``.

        Peak memory: 32 MB, and 8 bytes for each number of the means.
        """
        k, means = len(sums.counts), sums.means
        unit_means = sums.units / sums.counts[:, None]
        total = cls(np.zeros(k), np.zeros(k), np.zeros(k))
        for start in range(0, len(vectors), BLOCK_ROWS):
            block = vectors[start : start + BLOCK_ROWS].astype(np.float64)
            own = labels[start : start + BLOCK_ROWS]
            apart = block - means[own]
            squared = np.einsum("ij,ij->i", apart, apart)
            total.squared[:] += np.bincount(own, squared, k)
            total.distances[:] += np.bincount(own, np.sqrt(squared), k)
            if cosine and sums.can_be_measured:
                scores = _cosine_silhouettes(_to_unit(block), own, sums, unit_means)
                total.silhouettes[:] += np.bincount(own, scores, k)
        return total

    def plus(self, other: Spread) -> Spread:
        """Return the spread of the vectors of both."""
        return Spread(
            self.distances + other.distances,
            self.squared + other.squared,
            self.silhouettes + other.silhouettes,
        )


def figures(sums: ClusterSums, spread: Spread, silhouette: Figure | None) -> dict[str, Figure]:
    """Return the metrics of some clusters; none for one cluster, or if each has one vector.

    Args:
        sums: Sums of all vectors.
        spread: Spread of all vectors.
        silhouette: Their Euclidean silhouette; by default the cosine one is taken from ``spread``.
    """
    if not sums.can_be_measured:
        return {}
    n, means = int(sums.counts.sum()), sums.means
    ratio = calinski_harabasz(means, sums.counts.astype(np.float64), float(spread.squared.sum()))
    return {
        "silhouette": silhouette or Figure(float(spread.silhouettes.sum()) / n, n),
        "davies_bouldin": Figure(davies_bouldin(means, spread.distances / sums.counts), n),
        "calinski_harabasz": Figure(ratio, n),
    }


def internal_metrics(vectors: Vectors, labels: Labels, distance: Distance) -> dict[str, Figure]:
    """Return the metrics of vectors in memory, such as centroids.

    Args:
        vectors: Shape (n, d), finite.
        labels: Cluster of each, shape (n,).
        distance: Distance of the silhouette; the other two metrics are Euclidean.

    Returns:
        ``silhouette``, ``davies_bouldin``, ``calinski_harabasz``; empty for one cluster, or if each
        cluster has one vector.
    """
    names, dense = np.unique(labels, return_inverse=True)
    sums = ClusterSums.of(vectors, dense, len(names))
    if not sums.can_be_measured:
        return {}
    spread = Spread.of(vectors, dense, sums, cosine=distance == "cosine")
    if distance == "cosine":
        return figures(sums, spread, None)
    total = 0.0
    for start in range(0, len(vectors), PAIR_ROWS):
        part = slice(start, start + PAIR_ROWS)
        apart = distance_sums(vectors[part], vectors, dense, len(names))
        total += float(euclidean_silhouettes(apart, dense[part], sums.counts).sum())
    return figures(sums, spread, Figure(total / len(vectors), len(vectors)))


def distance_sums(queries: Vectors, vectors: Vectors, labels: Labels, k: int) -> Float64:
    """Return the sum of Euclidean distances from each query to the vectors of each cluster.

    Args:
        queries: Shape (q, d).
        vectors: Shape (n, d).
        labels: Cluster of each vector, shape (n,).
        k: Number of clusters.

    Returns:
        Shape (q, k).
    """
    # scipy takes a third of a second to load, and only this function needs it here.
    from scipy.spatial.distance import cdist

    total = np.zeros((len(queries), k))
    for start in range(0, len(vectors), BLOCK_ROWS):
        part = slice(start, start + BLOCK_ROWS)
        total += (_members(labels[part], k) @ cdist(vectors[part], queries)).T
    return total


def euclidean_silhouettes(apart: Float64, own: Labels, counts: NDArray[np.int64]) -> Float64:
    """Return the silhouette of each query, shape (q,).

    Args:
        apart: ``distance_sums`` to all vectors, the queries among them, shape (q, k).
        own: Cluster of each query, shape (q,).
        counts: Number of vectors of each of at least two clusters, shape (k,).
    """
    rows = np.arange(len(own))
    others = apart / counts
    others[rows, own] = np.inf
    inside = apart[rows, own] / np.maximum(counts[own] - 1, 1)
    return _silhouettes(inside, others.min(axis=1), counts[own])


def sampled_mean(values: Float64) -> Figure:
    """Return the mean of a random sample, with its 95% confidence interval."""
    mean, n = float(values.mean()), len(values)
    margin = NORMAL_95 * float(values.std(ddof=1)) / math.sqrt(n)
    return Figure(mean, n, mean - margin, mean + margin)


def _cosine_silhouettes(
    units: Float64, own: Labels, sums: ClusterSums, unit_means: Float64
) -> Float64:
    """Return silhouettes by the mean cosine distance to a cluster, which is 1 - x . mean(unit
    vectors)."""
    counts = sums.counts[own]
    nearest = np.full(len(units), -np.inf)
    for start in range(0, len(unit_means), BLOCK_CLUSTERS):
        similar = units @ unit_means[start : start + BLOCK_CLUSTERS].T
        here = np.flatnonzero((own >= start) & (own < start + BLOCK_CLUSTERS))
        similar[here, own[here] - start] = -np.inf
        np.maximum(nearest, similar.max(axis=1), out=nearest)
    to_own = np.einsum("ij,ij->i", units, sums.units[own])
    to_itself = np.einsum("ij,ij->i", units, units)
    # A vector's distance to itself is no part of its mean distance to its cluster.
    inside = ((counts - 1) - (to_own - to_itself)) / np.maximum(counts - 1, 1)
    outside = 1 - nearest
    inside[inside < SAME], outside[outside < SAME] = 0.0, 0.0
    return _silhouettes(inside, outside, counts)


def _silhouettes(inside: Float64, outside: Float64, counts: NDArray[np.int64]) -> Float64:
    """Return (b - a) / max(a, b); 0 if both are 0, or if a vector is alone in its cluster."""
    larger = np.maximum(inside, outside)
    scores: Float64 = np.zeros(len(larger))
    np.divide(outside - inside, larger, out=scores, where=larger > 0)
    scores[counts == 1] = 0.0
    return scores


def _members(labels: Labels, k: int) -> Any:
    """Return a sparse matrix of shape (k, n), 1 where a vector lies in a cluster."""
    return sparse.csr_array(
        (np.ones(len(labels), np.int64), (labels, np.arange(len(labels)))), (k, len(labels))
    )


def _to_unit(vectors: Float64) -> Float64:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units: Float64 = vectors / np.where(lengths > 0, lengths, 1.0)
    return units
