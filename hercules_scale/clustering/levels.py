"""A hierarchy of clusters, level on level."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from hercules_scale.clustering.assign import Float32, Int32, nearest
from hercules_scale.clustering.checkpoints import Checkpoints
from hercules_scale.clustering.choose_k import CurvePoint, choose_k
from hercules_scale.clustering.kmeans import KMeansResult, kmeans
from hercules_scale.clustering.refinement import Tree, refine_tree
from hercules_scale.clustering.tiles import LocalVectors, VectorSet, labels_of
from hercules_scale.config import HierarchyConfig


@dataclass(frozen=True)
class Level:
    """Clusters of one level.

    Attributes:
        centroids: Shape (k, d).
        parents: Cluster of the level above that each belongs to, shape (k,); nothing at the top.
    """

    centroids: Float32
    parents: Int32 | None


@dataclass(frozen=True)
class Levels:
    """A whole hierarchy; the vector set holds the labels of its finest level.

    Attributes:
        levels: Finest first.
        runs: How each was found, before refinement.
        tree: What refinement came to, where there was any.
        curve: How counts of clusters were chosen, where they were left to the data.
    """

    levels: list[Level]
    runs: list[KMeansResult]
    tree: Tree | None = None
    curve: list[CurvePoint] = field(default_factory=list)


def build_levels(
    vectors: VectorSet,
    config: HierarchyConfig,
    checkpoints: Checkpoints | None = None,
    on_level: Callable[[int, KMeansResult], None] = lambda number, result: None,
) -> Levels:
    """Cluster the items, then the centroids, and so on, finest level first.

    With ``refinement: tree`` a centroid weighs as much as it has items, and the tree is refined as
    a whole at the end; ``none`` is the paper's way. A level that asks for no fewer clusters than
    the level below turned out to have is left out. With ``levels: auto`` the count of each level
    is chosen when the level below is there, until a level has few clusters.

    Args:
        vectors: The items.
        config: The hierarchy section.
        checkpoints: Where states are kept.
        on_level: Called with the number of each level and how it was found.

    Source: HERCULES, Algorithm 3 (direct mode).
    """
    runs: list[KMeansResult] = []
    parents: list[Int32] = []
    below = vectors
    curve: list[CurvePoint] = []

    def counts() -> Iterator[int]:
        if isinstance(config.levels, list):
            yield from config.levels
            return
        # Each is asked for when the level below is there.
        while points := choose_k(below, config, len(runs) + 1, checkpoints):
            curve.extend(points)
            yield next(point.k for point in points if point.chosen)

    for k in counts():
        if runs and k >= below.n_rows:
            continue
        runs.append(kmeans(below, k, config, len(runs) + 1, checkpoints))
        if len(runs) > 1:
            parents.append(labels_of(below))
        on_level(len(runs), runs[-1])
        weights = runs[-1].counts if config.refinement == "tree" else None
        below = LocalVectors(runs[-1].centroids, weights)
    centroids = [run.centroids for run in runs]
    tree = None
    if config.refinement == "tree" and parents:
        tree = refine_tree(vectors, centroids[0], parents, config.metric, checkpoints)
        tree = _without_empty(vectors, tree)
        centroids, parents = tree.centroids, tree.parents
    above: list[Int32 | None] = [*parents, None]
    levels = [Level(*level) for level in zip(centroids, above, strict=True)]
    return Levels(levels, runs, tree, curve)


def _without_empty(vectors: VectorSet, tree: Tree) -> Tree:
    """A tree without the clusters that lost their last item, ids dense again."""
    used = [np.flatnonzero(counts) for counts in tree.counts]
    if all(len(kept) == len(counts) for kept, counts in zip(used, tree.counts, strict=True)):
        return tree
    parents = [
        np.searchsorted(used[level + 1], parent[used[level]]).astype(np.int32)
        for level, parent in enumerate(tree.parents)
    ]
    tree = replace(
        tree,
        parents=parents,
        centroids=[each[kept] for each, kept in zip(tree.centroids, used, strict=True)],
        counts=[each[kept] for each, kept in zip(tree.counts, used, strict=True)],
        path=tree.path[used[0]],
        offsets=tree.offsets[used[0]],
    )
    # No item moves, since nobody was in what is left out.
    vectors.assign(tree.path, tree.offsets)
    return tree


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


def compute_memberships(vectors: Float32, leaves: Int32, levels: list[Level]) -> Memberships:
    """Clusters, distances and margins of some items.

    Args:
        vectors: Shape (n, d), in the space that was clustered.
        leaves: Their clusters at level 1, shape (n,).
        levels: Finest first.
    """
    labels, distances, margins = [], [], []
    own = leaves
    for level in levels:
        difference = vectors - level.centroids[own]
        distance = np.einsum("ij,ij->i", difference, difference, dtype=np.float64)
        labels.append(own)
        distances.append(distance.astype(np.float32))
        if len(level.centroids) == 1:
            margins.append(np.full(len(vectors), np.nan, np.float32))
        else:
            near, ids = nearest(vectors, level.centroids, 2)
            other = np.where(ids[:, 0] == own, near[:, 1], near[:, 0])
            margins.append((other - distance).astype(np.float32))
        if level.parents is not None:
            own = level.parents[own]
    return Memberships(
        np.stack(labels, axis=1).astype(np.int32),
        np.stack(distances, axis=1),
        np.stack(margins, axis=1),
    )
