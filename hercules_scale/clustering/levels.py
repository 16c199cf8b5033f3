"""A hierarchy of clusters, level on level."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hercules_scale.clustering.assign import Float32, LocalVectors, VectorSet, nearest
from hercules_scale.clustering.kmeans import KMeansResult, kmeans
from hercules_scale.clustering.refinement import Tree, refine_tree
from hercules_scale.config import HierarchyConfig


@dataclass(frozen=True)
class Level:
    """Clusters of one level.

    Attributes:
        centroids: Shape (k, d).
        children: Cluster of this level that each cluster of the level below (each item, at
            level 1) belongs to.
        kmeans: How it was found.
    """

    centroids: Float32
    children: NDArray[np.int32]
    kmeans: KMeansResult


def build_levels(
    vectors: VectorSet,
    config: HierarchyConfig,
    on_level: Callable[[int, KMeansResult], None] = lambda number, result: None,
    on_refined: Callable[[Tree], None] = lambda tree: None,
) -> list[Level]:
    """Cluster the items, then the centroids, and so on, finest level first.

    With ``refinement: tree`` a centroid weighs as much as it has items, and the tree is refined as
    a whole at the end; ``none`` is the paper's way. A level that asks for no fewer clusters than
    the level below turned out to have is left out.

    Args:
        vectors: The items.
        config: The hierarchy section.
        on_level: Called with the number of each level and how it was found.
        on_refined: Called with the refined tree.

    Source: HERCULES, Algorithm 3 (direct mode).
    """
    levels: list[Level] = []
    below = vectors
    sizes = np.ones(vectors.n_rows, np.int64)
    for k in config.levels:
        if levels and k >= below.n_rows:
            continue
        result = kmeans(
            below,
            k,
            config.seed,
            len(levels) + 1,
            config.resampling.rounds,
            config.resampling.points_per_cluster,
        )
        levels.append(Level(result.centroids, result.labels, result))
        on_level(len(levels), result)
        sizes = np.bincount(result.labels, sizes).astype(np.int64)
        below = LocalVectors(result.centroids, sizes if config.refinement == "tree" else None)
    if config.refinement == "none" or len(levels) == 1:
        return levels
    tree = refine_tree(vectors, levels[0].centroids, [level.children for level in levels[1:]])
    on_refined(tree)
    return _without_empty(levels, tree)


def _without_empty(levels: list[Level], tree: Tree) -> list[Level]:
    """Levels of a refined tree, ids dense again where clusters lost their last item."""
    refined = []
    children = tree.leaves
    for number, level in enumerate(levels):
        used, dense = np.unique(children, return_inverse=True)
        refined.append(Level(tree.centroids[number][used], dense.astype(np.int32), level.kmeans))
        if number + 1 < len(levels):
            children = tree.parents[number][used]
    return refined


@dataclass(frozen=True)
class Memberships:
    """Where some items belong, at every level.

    Attributes:
        labels: Clusters, shape (n, L), finest level first.
        distances: Squared L2 distances to the own centroid, shape (n, L).
        margins: Distance to the best other centroid of the level minus that to the own, shape
            (n, L); below zero where the item's path does not hold its nearest centroid, NaN
            where the level has one cluster.
    """

    labels: NDArray[np.int32]
    distances: Float32
    margins: Float32


def compute_memberships(
    vectors: Float32, leaves: NDArray[np.int32], levels: list[Level]
) -> Memberships:
    """Clusters, distances and margins of some items.

    Args:
        vectors: Shape (n, d), in the space that was clustered.
        leaves: Their clusters at level 1, shape (n,).
        levels: Finest first.
    """
    labels, distances, margins = [], [], []
    own = leaves
    for number, level in enumerate(levels):
        if number > 0:
            own = level.children[own]
        difference = vectors - level.centroids[own]
        distance = np.einsum("ij,ij->i", difference, difference, dtype=np.float64)
        labels.append(own)
        distances.append(distance.astype(np.float32))
        if len(level.centroids) == 1:
            margins.append(np.full(len(vectors), np.nan, np.float32))
            continue
        near, ids = nearest(vectors, level.centroids, 2)
        other = np.where(ids[:, 0] == own, near[:, 1], near[:, 0])
        margins.append((other - distance).astype(np.float32))
    return Memberships(
        np.stack(labels, axis=1).astype(np.int32),
        np.stack(distances, axis=1),
        np.stack(margins, axis=1),
    )
