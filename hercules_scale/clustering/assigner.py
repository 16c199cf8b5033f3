"""Assigner of items to the clusters of a finished hierarchy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hercules_scale.clustering.exact_nearest import Pass, find_labels
from hercules_scale.clustering.kmeans import project
from hercules_scale.clustering.levels import Level, Levels, Memberships, compute_memberships
from hercules_scale.clustering.nearest_centroids import (
    Float32,
    Int32,
    Int64,
    cut_lengths,
    nearest,
    to_unit,
)
from hercules_scale.clustering.refinement import Parents, add_up
from hercules_scale.clustering.vector_lengths import (
    count_lengths,
    far_limit,
    is_far,
    vector_lengths,
)


@dataclass(frozen=True)
class Assigner:
    """Rule that assigns vectors to the clusters of a hierarchy.

    An item joins the cluster of level 1 that its nearest cell belongs to, and the ancestors of that
    cluster. Cells are the centroids after k-means, one vector for each path after tree refinement,
    and the merged points after agglomeration.

    Attributes:
        metric: ``squared_l2`` or ``cosine``.
        mean: Vector that is subtracted from each vector, shape (d,); zeros for ``cosine``.
        limit: Length to which longer vectors are then shortened.
        cells: Vectors of the cells, shape (m, d).
        offsets: Offset of the squared distances to each cell, shape (m,).
        leaves: Cluster of level 1 that each cell belongs to, shape (m,).
        levels: Levels, finest first.
    """

    metric: str
    mean: Float32
    limit: float
    cells: Float32
    offsets: Float32
    leaves: Int32
    levels: list[Level]

    @classmethod
    def of_levels(
        cls, found: Levels, mean: NDArray[np.float64], limit: float, metric: str
    ) -> Assigner:
        """Return the assigner that reproduces the labels of a hierarchy.

        Args:
            found: The hierarchy.
            mean: Vector that was subtracted from each vector, shape (d,).
            limit: Length to which longer vectors were shortened.
            metric: Metric of the hierarchy.
        """
        # A cell that no vector was assigned to belongs to no cluster.
        used = np.flatnonzero(found.leaves >= 0)
        return cls(
            metric,
            mean.astype(np.float32),
            limit,
            found.path[used],
            found.offsets[used],
            found.leaves[used],
            found.levels,
        )

    @classmethod
    def of_means(
        cls, counts: Int64, totals: NDArray[np.float64], parents: Parents, metric: str
    ) -> Assigner:
        """Return an assigner to the nearest mean of level 1.

        Args:
            counts: Items of each cluster of level 1, shape (k_1,).
            totals: Sums of their vectors (of unit length for ``cosine``), shape (k_1, d).
            parents: Parent of each cluster of levels 1 to L - 1.
            metric: ``squared_l2``, or ``cosine`` for centroids of unit length.
        """
        # Clusters of items that are far away would pull the mean towards them.
        lengths = np.linalg.norm(totals / np.maximum(counts, 1)[:, None], axis=1)
        near = ~is_far(lengths, far_limit(count_lengths(lengths)))
        mean = totals[near].sum(axis=0) / counts[near].sum()
        if metric == "cosine":
            mean[:] = 0
        centroids = [
            project((total / np.maximum(count, 1)[:, None] - mean).astype(np.float32), metric)
            for count, total in zip(*add_up(counts, totals, parents), strict=True)
        ]
        above: list[Int32 | None] = [*parents, None]
        levels = [Level(*level) for level in zip(centroids, above, strict=True)]
        used = np.flatnonzero(counts).astype(np.int32)
        offsets = np.zeros(len(used), np.float32)
        vectors = centroids[0][used]
        return cls(metric, mean.astype(np.float32), math.inf, vectors, offsets, used, levels)

    @property
    def dimension(self) -> int:
        """Length d of a vector."""
        return len(self.mean)

    @property
    def sizes(self) -> list[int]:
        """Number of clusters of each level, finest first."""
        return [len(level.centroids) for level in self.levels]

    def to_space(self, vectors: Float32) -> Float32:
        """Return embeddings in the space of the clusters, shape (n, d)."""
        found = (to_unit(vectors) if self.metric == "cosine" else vectors) - self.mean
        if math.isfinite(self.limit):
            cut_lengths(found, vector_lengths(found), self.limit)
        return found

    def find_leaves(self, vectors: Float32) -> Int32:
        """Return the level-1 cluster of each vector from ``to_space``, shape (n,)."""
        unknown, unbounded = np.full(len(vectors), -1, np.int32), np.zeros(len(vectors))
        lengths = vector_lengths(vectors)
        cells, _, _ = find_labels(vectors, lengths, unknown, unbounded, self._pass, nearest)
        return self.leaves[cells]

    def memberships(self, vectors: Float32, leaves: Int32) -> Memberships:
        """Return clusters, distances and margins of vectors from ``to_space`` at every level."""
        return compute_memberships(vectors, leaves, self.levels)

    @cached_property
    def _pass(self) -> Pass:
        return Pass.of(self.cells, self.offsets, None)
