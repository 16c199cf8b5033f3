"""Agglomerative clustering of weighted points: single rows, or micro-clusters of many rows.

scipy's ``linkage`` does not support weights, which micro-clusters need.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hercules_scale.clustering.checkpoints import Checkpoints
from hercules_scale.clustering.kmeans import KMeansResult, kmeans
from hercules_scale.clustering.nearest_centroids import Float32, Int32, Int64
from hercules_scale.clustering.refinement import Parents, add_up, means
from hercules_scale.clustering.tiles import VectorSet, take
from hercules_scale.config.hierarchy import MAX_AGGLOMERATED, HierarchyConfig, Linkage

# Up to this number of rows, every row is its own point.
EXACT_ROWS = MAX_AGGLOMERATED
# For more rows, the least number of micro-clusters, in all and for each cluster of level 1.
MICRO_CLUSTERS = 2_000
MICRO_PER_CLUSTER = 4

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Dendrogram:
    """Every merge of n points, from n clusters to one.

    Attributes:
        merges: The two clusters of each merge, lowest merge first, shape (n - 1, 2). A cluster has
            the name of its lowest point; the lower name comes first.
        heights: Dissimilarity of the two clusters, ascending, shape (n - 1,): the squared L2
            distance times ``2 a b / (a + b)``, with their weights a and b, for ``ward``, else the
            L2 distance. With weights of one, these are scipy's heights, squared for ``ward``.
    """

    merges: Int32
    heights: Float64


def agglomerate(points: Float64, weights: Int64, linkage: Linkage) -> Dendrogram:
    """Merge the nearest two clusters until one is left.

    A point of weight w counts like w equal points. Among equally near neighbours, a cluster takes
    the one before it in the chain of neighbours, else the one with the lowest point. This needs
    8 n^2 bytes (200 MB for 5,000 points) and time of order n^2 d.

    Args:
        points: Shape (n, d), float64; at most ``MAX_AGGLOMERATED``.
        weights: Number of items that each point represents, above 0, shape (n,).
        linkage: Linkage of clusters.

    Source: Müllner, Modern hierarchical, agglomerative clustering algorithms (2011), section 3.2.
    """
    n = len(points)
    if not 1 <= n <= MAX_AGGLOMERATED:
        raise ValueError(f"points must be from 1 to {MAX_AGGLOMERATED:,}, got {n:,}")
    if weights.min() <= 0:
        raise ValueError(f"weights must be above 0, got {weights.min()}")
    weight = weights.astype(np.float64)
    table = _dissimilarities(points, weight, linkage)
    merges, heights = np.empty((n - 1, 2), np.int32), np.empty(n - 1)
    chain = [0]
    for step in range(n - 1):
        lower, upper = _nearest_pair(table, chain)
        merges[step], heights[step] = (lower, upper), table[lower, upper]
        _merge(table, weight, lower, upper, linkage)
        # The cluster with point 0 always exists, so an empty chain can begin there.
        chain = chain or [0]
    # The chain finds merges out of order, but a merge inside another is found first and never
    # higher.
    order = np.argsort(heights, kind="stable")
    return Dendrogram(merges[order], heights[order])


def cut(dendrogram: Dendrogram, k: int) -> Int32:
    """Return the k clusters that remain when all merges but the k - 1 highest are made.

    Returns:
        Cluster of each point, shape (n,), numbered by lowest point. Clusters of a cut with larger k
        nest in the clusters of a cut with smaller k.
    """
    n = len(dendrogram.heights) + 1
    if not 1 <= k <= n:
        raise ValueError(f"k must be from 1 to the {n} points, got {k}")
    lowest = np.arange(n)
    made = dendrogram.merges[: n - k]
    lowest[made[:, 1]] = made[:, 0]
    while (lowest[lowest] != lowest).any():
        lowest = lowest[lowest]
    labels: Int32 = np.unique(lowest, return_inverse=True)[1].astype(np.int32)
    return labels


def _dissimilarities(points: Float64, weight: Float64, linkage: Linkage) -> Float64:
    """Return the dissimilarities of all points, shape (n, n); infinite from a point to itself."""
    # scipy takes a third of a second to load, and only this function needs it here.
    from scipy.spatial.distance import cdist

    table: Float64 = cdist(points, points, "sqeuclidean" if linkage == "ward" else "euclidean")
    if linkage == "ward":
        # By rows, since a second table would double the memory.
        for row, own in zip(table, weight, strict=True):
            row *= 2 * (own * weight) / (own + weight)
    np.fill_diagonal(table, np.inf)
    return table


def _nearest_pair(table: Float64, chain: list[int]) -> tuple[int, int]:
    """Follow nearest neighbours until two clusters are nearest to each other; take them off the
    chain.

    With a reducible linkage, these may be merged at once, even if other clusters lie nearer
    together.
    """
    while True:
        row = table[chain[-1]]
        nearest = int(row.argmin())
        # Among equally near clusters, the one before comes first, or the chain could go in a
        # circle.
        if len(chain) > 1 and row[chain[-2]] == row[nearest]:
            lower, upper = sorted((chain.pop(), chain.pop()))
            return lower, upper
        chain.append(nearest)


def _merge(table: Float64, weight: Float64, lower: int, upper: int, linkage: Linkage) -> None:
    """Put the merged cluster into the place of the lower one, by Lance and Williams' formulas."""
    one, two = table[lower], table[upper]
    a, b = weight[lower], weight[upper]
    near = np.minimum(one, two)
    if linkage == "single":
        merged = near
    elif linkage == "complete":
        merged = np.maximum(one, two)
    elif linkage == "average":
        merged = (a * one + b * two) / (a + b)
    else:
        between = one[upper]
        merged = ((a + weight) * one + (b + weight) * two - weight * between) / (a + b + weight)
    # Rounding must not bring a cluster nearer than its parts were: chains rely on that.
    merged = np.maximum(merged, near)
    merged[[lower, upper]] = np.inf
    table[lower] = table[:, lower] = merged
    table[upper] = table[:, upper] = np.inf
    weight[lower] += b


@dataclass(frozen=True)
class CutResult:
    """Clusters of one level, cut from the dendrogram.

    Attributes:
        centroids: Means of the items, shape (k, d); of unit length for ``cosine``.
        counts: Weight of each cluster's items, shape (k,).
        linkage: Linkage of clusters.
        n_points: Number of points that were agglomerated.
        height: Height of the highest merge that was made, 0 where none was; see ``Dendrogram``.
        next_height: Height of the lowest merge that was not made; None if all were made.
    """

    centroids: Float32
    counts: Int64
    linkage: Linkage
    n_points: int
    height: float
    next_height: float | None


@dataclass(frozen=True)
class Agglomeration:
    """Nested clusters; a label in the vector set is the point that a vector belongs to.

    Attributes:
        levels: Levels, finest first.
        parents: Parent of each cluster of levels 1 to L - 1.
        leaves: Cluster of level 1 of each label in the vector set; -1 for labels that no vector
            has.
        points: Point of each label, shape (number of labels, d); a vector gets the label of its
            nearest point.
        micro: Result of k-means for the micro-clusters, if there are any.
    """

    levels: list[CutResult]
    parents: Parents
    leaves: Int32
    points: Float32
    micro: KMeansResult | None


def agglomerate_vectors(
    vectors: VectorSet, config: HierarchyConfig, checkpoints: Checkpoints | None = None
) -> Agglomeration:
    """Agglomerate rows, or their micro-clusters, and cut one dendrogram at every level.

    Up to ``EXACT_ROWS`` rows, each row is a point of weight one, but rows that float32 cannot tell
    apart share a point. More rows are first grouped into micro-clusters by k-means, and the points
    are their means. ``ward`` is then exact for these micro-clusters; the other linkages measure
    between means.

    Args:
        vectors: The items.
        config: Linkage, levels, metric, and the settings of k-means.
        checkpoints: Store of the states of k-means.

    Returns:
        The clusters, without levels that would not be coarser than the level below.
    """
    asked = config.listed_levels
    finest = asked[0]
    if finest > vectors.n_rows:
        raise ValueError(f"k must be from 1 to the {vectors.n_rows} vectors, got {finest}")
    points, micro = _points(vectors, config, checkpoints)
    sums = vectors.assign(points)
    used = np.flatnonzero(sums.counts)
    counts, totals = sums.counts[used], sums.totals()[used]
    centres = totals / counts[:, None]
    dendrogram = vectors.run(lambda n_gpus: agglomerate(centres, counts, config.linkage))
    sizes = sorted({min(k, len(used)) for k in asked}, reverse=True)
    labels = [cut(dendrogram, k) for k in sizes]
    parents = [_parents(*pair) for pair in itertools.pairwise(labels)]
    all_counts, all_totals = add_up(counts, totals, [labels[0], *parents])
    centroids = means(all_counts[1:], all_totals[1:], [], config.metric)
    levels = [
        CutResult(*level, config.linkage, len(used), *_heights(dendrogram, len(level[0])))
        for level in zip(centroids, all_counts[1:], strict=True)
    ]
    leaves = np.full(len(sums.counts), -1, np.int32)
    leaves[used] = labels[0]
    return Agglomeration(levels, parents, leaves, points, micro)


def _points(
    vectors: VectorSet, config: HierarchyConfig, checkpoints: Checkpoints | None
) -> tuple[Float32, KMeansResult | None]:
    """Return points to agglomerate, shape (points, d), and their result if k-means made them.

    Some points may have no vectors.
    """
    if vectors.n_rows <= EXACT_ROWS:
        return take(vectors, np.arange(vectors.n_rows))[0], None
    wanted = max(MICRO_CLUSTERS, MICRO_PER_CLUSTER * config.listed_levels[0])
    micro = kmeans(vectors, min(wanted, EXACT_ROWS), config, 0, checkpoints)
    return micro.centroids, micro


def _parents(finer: Int32, coarser: Int32) -> Int32:
    """Return the cluster of the coarser cut that holds each cluster of the finer cut."""
    first = np.unique(finer, return_index=True)[1]
    return coarser[first]


def _heights(dendrogram: Dendrogram, k: int) -> tuple[float, float | None]:
    """Return the heights of the last merge made and of the next one, at k clusters."""
    heights = dendrogram.heights
    made = len(heights) + 1 - k
    height = float(heights[made - 1]) if made else 0.0
    return height, float(heights[made]) if k > 1 else None
