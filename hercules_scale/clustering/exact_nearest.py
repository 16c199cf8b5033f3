"""Nearest centroid of every vector, exact in float64; most vectors are not searched again.

A float32 search proposes. If float32 cannot tell which of two centroids is nearer to a vector,
float64 decides, and ties go to the lowest id. So labels depend only on the vector and the
centroids, not on the batch, the threads, the search or earlier passes.

Each vector keeps a lower bound on its distance to any centroid but its own. In each pass, the bound
falls by the distance that centroids moved. While the vector's own centroid is nearer than the
bound, no search is needed. The few centroids that moved farthest would spoil the bounds of all
vectors, so they are searched separately.

Source: Hamerly, Making k-means even faster (SDM 2010); compare the groups of Ding et al., Yinyang
K-Means (ICML 2015).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hercules_scale.clustering.distance_errors import error_bounds, exact_distances, least_squares
from hercules_scale.clustering.faiss_import import faiss
from hercules_scale.clustering.nearest_centroids import (
    Float32,
    Int32,
    Int64,
    Search,
    nearest,
    with_offsets,
)
from hercules_scale.clustering.vector_lengths import vector_lengths

Float64 = NDArray[np.float64]

# Rows of a block: 3 MB at 384 dimensions, which stay in the processor's cache.
BLOCK_ROWS = 2_048
# Near-ties are decided among this many centroids; only many near-equal ones need more.
DECIDED_AMONG = 8
# From this share of rows on, all rows are searched, which costs no more and needs no copy.
SEARCH_ALL_FROM = 0.8
DIFFERENCE_BYTES = 32 << 20
# One centroid in this many is searched separately: the ones that moved farthest.
FAST_SHARE = 8


@dataclass(frozen=True)
class Pass:
    """Data of one assignment, prepared once for all tiles.

    Attributes:
        centroids: Shape (k, d).
        offsets: Offset of the squared distances to each centroid, shape (k,).
        distinct: Ids of the distinct centroids; among equal ones, of the first.
        fast: Ids of the centroids that moved farthest since the pass before; None if the bounds of
            that pass cannot be used.
        moved: Largest move of any other centroid.
        moved_most: Largest move of any centroid.
    """

    centroids: Float32
    offsets: Float32
    distinct: Int64
    fast: Int64 | None = None
    moved: float = 0.0
    moved_most: float = 0.0

    @classmethod
    def of(cls, centroids: Float32, offsets: Float32 | None, before: Pass | None) -> Pass:
        """Return the pass for some centroids, which follows the pass ``before``."""
        if offsets is None:
            offsets = np.zeros(len(centroids), np.float32)
        wide = with_offsets(centroids, offsets)
        distinct = _distinct_rows(wide)
        k = len(centroids)
        if before is None or len(before.centroids) != k or len(distinct) < k:
            return cls(centroids, offsets, distinct)
        step = wide.astype(np.float64) - with_offsets(before.centroids, before.offsets)
        moved = np.sqrt(np.einsum("ij,ij->i", step, step))
        order = np.argsort(moved, kind="stable")
        slow = k - k // FAST_SHARE
        most = (float(moved[order[slow - 1]]), float(moved[order[-1]]))
        return cls(centroids, offsets, distinct, order[slow:], *most)

    # All tiles get the same objects, so that a search can keep what it builds from them.
    @cached_property
    def distinct_centroids(self) -> tuple[Float32, Float32 | None]:
        """Distinct centroids, and their offsets if any is not 0."""
        return self._part(self.distinct)

    @cached_property
    def fast_centroids(self) -> tuple[Float32, Float32 | None]:
        """Centroids that moved farthest, and their offsets if any is not 0."""
        assert self.fast is not None
        return self._part(self.fast)

    def _part(self, ids: Int64) -> tuple[Float32, Float32 | None]:
        offsets = self.offsets[ids]
        return self.centroids[ids], offsets if offsets.any() else None


def _distinct_rows(wide: Float32) -> Int64:
    """Return the positions of the distinct rows; among equal ones, of the first."""
    # Comparing whole rows is slow, and rows with different sums must differ.
    if len(np.unique(wide.sum(axis=1, dtype=np.float64))) == len(wide):
        return np.arange(len(wide))
    return np.sort(np.unique(wide, axis=0, return_index=True)[1])


def own_distances(vectors: Float32, labels: Int32, step: Pass) -> Float32:
    """Return squared L2 distances to the own centroids plus their offsets, shape (n,)."""
    distances = squared_distances(vectors, step.centroids, labels, np.float32)
    distances += step.offsets[labels]
    return distances


def squared_distances(
    vectors: Float32,
    centroids: Float32,
    ids: Int32 | Int64,
    dtype: type[np.floating[Any]] = np.float64,
) -> NDArray[Any]:
    """Return the squared L2 distance of each vector to one centroid, shape (n,).

    Each distance depends on its vector and its centroid alone.
    """
    distances = np.empty(len(vectors), dtype)
    for start in range(0, len(vectors), BLOCK_ROWS):
        part = slice(start, start + BLOCK_ROWS)
        difference = centroids[ids[part]]
        np.subtract(vectors[part], difference, out=difference)
        distances[part] = np.einsum("ij,ij->i", difference, difference, dtype=dtype)
    return distances


def find_labels(
    vectors: Float32, lengths: Float64, labels: Int32, bounds: Float64, step: Pass, search: Search
) -> tuple[Int32, Float32, Float64]:
    """Return the exact nearest centroids.

    Args:
        vectors: Shape (n, d).
        lengths: L2 norms of the vectors, shape (n,).
        labels: Labels of the pass before, shape (n,).
        bounds: Lower bounds on the L2 distances to all centroids but the own, after the pass
            before, shape (n,).
        step: The pass to compute.
        search: Search that proposes centroids in float32.

    Returns:
        Labels, squared L2 distances (with offsets) and the bounds for the next pass.
    """
    errors = error_bounds(lengths, vectors.shape[1], step.centroids, step.offsets)
    if step.fast is not None:
        own = own_distances(vectors, labels, step)
        needed = own + 2 * errors
        nearly_all = SEARCH_ALL_FROM * len(vectors)
        lowered = np.maximum(bounds - step.moved_most * (1 + 1e-12), 0)
        bounds = np.maximum(bounds - step.moved * (1 + 1e-12), 0)
        kept = bounds * bounds > needed
        if len(step.fast) and len(vectors) - np.count_nonzero(kept) < nearly_all:
            # Only rows that would be kept, but that a fast centroid may reach, need a closer bound.
            reached = kept & (lowered * lowered <= needed)
            bounds = np.where(reached, bounds, lowered)
            near = np.flatnonzero(reached)
            if len(near):
                given = (vectors[near], errors[near], labels[near])
                bounds[near] = np.minimum(bounds[near], _nearest_fast(*given, step, search))
        todo = np.flatnonzero(bounds * bounds <= needed)
        if len(todo) == 0:
            return labels, own, bounds
        if len(todo) < nearly_all:
            labels = labels.copy()
            labels[todo], bounds[todo] = _search(vectors[todo], errors[todo], step, search)
            own[todo] = own_distances(vectors[todo], labels[todo], step)
            return labels, own, bounds
    labels, bounds = _search(vectors, errors, step, search)
    return labels, own_distances(vectors, labels, step), bounds


def _nearest_fast(
    vectors: Float32, errors: Float64, labels: Int32, step: Pass, search: Search
) -> Float64:
    """Return lower bounds on the L2 distances to the fast centroids, except the own, shape (n,)."""
    assert step.fast is not None
    centroids, offsets = step.fast_centroids
    n_found = min(2, len(centroids))
    distances, ids = search(vectors, centroids, n_found, offsets)
    own_first = step.fast[ids[:, 0]] == labels
    # If the own centroid is the only fast one, there is no other.
    second = distances[:, 1] if n_found == 2 else np.float32(np.inf)
    squares = np.where(own_first, second, distances[:, 0])
    return np.asarray(np.sqrt(least_squares(squares, errors, vectors.shape[1])))


def _search(vectors: Float32, errors: Float64, step: Pass, search: Search) -> tuple[Int32, Float64]:
    """Return labels and bounds of some vectors."""
    centroids, offsets = step.distinct_centroids
    k = len(centroids)
    distances, ids = search(vectors, centroids, min(2, k), offsets)
    labels = ids[:, 0].copy()
    if k == 1:
        return step.distinct[labels].astype(np.int32), np.full(len(vectors), np.inf)
    squares = least_squares(distances[:, 1], errors, vectors.shape[1])
    unsure = np.flatnonzero(distances[:, 1] - distances[:, 0] <= 2 * errors)
    if len(unsure):
        added = step.offsets[step.distinct]
        labels[unsure] = _decide(vectors[unsure], errors[unsure], centroids, added)
        squares[unsure] = least_squares(distances[unsure, 0], errors[unsure], vectors.shape[1])
    if len(step.distinct) < len(step.centroids):
        # A copy of the own centroid may lie as near as the centroid itself.
        squares[:] = 0
    return step.distinct[labels].astype(np.int32), np.sqrt(squares)


def nearest_others(vectors: Float32, own: Int32, centroids: Float32) -> Int64:
    """Return the nearest centroid of each vector except its own, exact in float64.

    Args:
        vectors: Shape (n, d).
        own: Own centroid of each vector, shape (n,).
        centroids: Centroids, at least two, shape (k, d).

    Returns:
        Ids, shape (n,); the lowest among equally near centroids.
    """
    n_found = min(3, len(centroids))
    distances, ids = nearest(vectors, centroids, n_found)
    is_own = ids == own[:, None]
    # If the own centroid was not found, the last one found is one too many.
    is_own[~is_own.any(axis=1), -1] = True
    others: Int64 = ids[~is_own].reshape(len(ids), n_found - 1)
    if n_found > 2:
        apart = distances[~is_own].reshape(others.shape)
        errors = error_bounds(vector_lengths(vectors), vectors.shape[1], centroids, None)
        unsure = np.flatnonzero(apart[:, 1] - apart[:, 0] <= 2 * errors)
        offsets = np.zeros(len(centroids), np.float32)
        given = (vectors[unsure], errors[unsure], centroids, offsets, own[unsure])
        others[unsure, 0] = _decide(*given)
    return np.asarray(others[:, 0])


def _decide(
    vectors: Float32,
    errors: Float64,
    centroids: Float32,
    offsets: Float32,
    without: Int32 | None = None,
) -> Int64:
    """Return the nearest centroids in float64, ties to the lowest id.

    The centroid of each vector in ``without`` is left out.
    """
    n_found = min(DECIDED_AMONG, len(centroids))
    wide = np.pad(vectors, ((0, 0), (0, 1)))
    distances, ids = faiss.knn(wide, with_offsets(centroids, offsets), n_found)
    best, squares = np.empty(len(vectors), np.int64), np.empty(len(vectors))
    rows = max(1, DIFFERENCE_BYTES // (8 * n_found * centroids.shape[1]))
    for start in range(0, len(vectors), rows):
        part = slice(start, start + rows)
        exact = exact_distances(vectors[part], centroids, offsets, ids[part])
        if without is not None:
            exact[ids[part] == without[part, None]] = np.inf
        first = np.lexsort((ids[part], exact))[:, :1]
        best[part] = np.take_along_axis(ids[part], first, axis=1)[:, 0]
        squares[part] = np.take_along_axis(exact, first, axis=1)[:, 0]
    if n_found < len(centroids):
        # Centroids that were not found are no nearer than the last one found.
        for row in np.flatnonzero(distances[:, -1] - squares <= 2 * errors).tolist():
            difference = centroids.astype(np.float64) - vectors[row]
            every = np.einsum("ij,ij->i", difference, difference) + offsets
            if without is not None:
                every[without[row]] = np.inf
            best[row] = int(every.argmin())
    return best
