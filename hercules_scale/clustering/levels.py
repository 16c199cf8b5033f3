"""A hierarchy of clusters, level on level."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hercules_scale.clustering.assign import Float32, LocalVectors, VectorSet, nearest
from hercules_scale.clustering.kmeans import KMeansResult, kmeans
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
) -> list[Level]:
    """Cluster the items, then the centroids, and so on, finest level first.

    A level that asks for no fewer clusters than the level below turned out to have is left out.

    Source: HERCULES, Algorithm 3 (direct mode, unweighted centroids).
    """
    levels: list[Level] = []
    below = vectors
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
        below = LocalVectors(result.centroids)
    return levels


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
