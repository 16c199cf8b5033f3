"""Interface between clustering and vectors: tiles of fixed rows, wherever they are stored.

A tile has the same rows on any worker. The k-means loop sees only a ``VectorSet``: it asks for one
pass of assignment, or maps a pure function over the tiles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from hercules_scale.clustering.nearest_centroids import Float32, Int32, Int64, Sums
from hercules_scale.clustering.stateless_random import hash_rows
from hercules_scale.clustering.vector_lengths import vector_lengths
from hercules_scale.errors import InputError

TILE_ROWS = 65_536
# Faulty rows that a message names.
NAMED_ROWS = 5

T = TypeVar("T")

Thin: TypeAlias = Callable[[list[T]], list[T]]
Keyed = tuple[Int64, NDArray[Any]]
"""Rows, and the keys that order them."""
_Near = tuple[Int32, Int64, Float32]


@dataclass
class Tile:
    """Vectors of consecutive rows, with the results of their last assignment.

    Attributes:
        first_row: Row id of the first vector.
        vectors: Shape (n, d), float32.
        weights: Number of items that each vector represents, shape (n,).
        labels: Clusters of the last assignment, shape (n,); -1 before the first.
        distances: Squared L2 distances of the last assignment, shape (n,).
        bounds: Lower bounds on the L2 distances to all centroids but the own, shape (n,).
        lengths: L2 norms of the vectors, shape (n,).
        original_lengths: L2 norms before vectors were scaled or shortened, shape (n,).
    """

    first_row: int
    vectors: Float32
    weights: Int64
    labels: Int32 = field(init=False)
    distances: Float32 = field(init=False)
    bounds: NDArray[np.float64] = field(init=False)
    lengths: NDArray[np.float64] = field(init=False)
    original_lengths: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self.labels = np.full(len(self.vectors), -1, np.int32)
        self.distances = np.zeros(len(self.vectors), np.float32)
        self.bounds = np.zeros(len(self.vectors))
        self.lengths = self.original_lengths = vector_lengths(self.vectors)

    @property
    def rows(self) -> Int64:
        """Row ids, shape (n,)."""
        return np.arange(self.first_row, self.first_row + len(self.vectors))

    def original(self, rows: slice) -> NDArray[np.floating[Any]]:
        """Return some vectors as they were before they were scaled or shortened, shape (m, d)."""
        lengths, original = self.lengths[rows], self.original_lengths[rows]
        if (lengths == original).all():
            return self.vectors[rows]
        factors = np.divide(original, lengths, out=np.ones(len(lengths)), where=lengths > 0)
        return np.asarray(self.vectors[rows] * factors[:, None])


def check_finite(vectors: Float32, first_row: int) -> None:
    """Refuse vectors that hold NaN or infinity, since one would spoil every mean.

    Raises:
        InputError: A number is NaN or infinite; the message names the rows.
    """
    if np.isfinite(vectors.sum(dtype=np.float64)):
        return
    rows = first_row + np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    named = ", ".join(map(str, rows[:NAMED_ROWS].tolist()))
    more = f" and {len(rows) - NAMED_ROWS} more" if len(rows) > NAMED_ROWS else ""
    raise InputError(
        f"vectors of rows {named}{more}: every number must be finite, got NaN or infinity; leave "
        "those rows out or fix them"
    )


class VectorSet(Protocol):
    """Vectors that can be assigned to centroids."""

    @property
    def n_rows(self) -> int:
        """Number of vectors."""
        ...

    @property
    def dimension(self) -> int:
        """Length d of a vector."""
        ...

    def assign(self, centroids: Float32, offsets: Float32 | None = None) -> Sums:
        """Assign every vector to its nearest of k centroids and sum each cluster.

        Args:
            centroids: Shape (k, d).
            offsets: Offset of the squared distances to each centroid, at least 0, shape (k,).
        """
        ...

    def map(self, work: Callable[[Tile], T], thin: Thin[T] | None = None) -> list[T]:
        """Return the results of a pure function over the tiles, in the order of the rows.

        Args:
            work: The function.
            thin: Function that shrinks the list of a worker's results so far, after each tile.
        """
        ...

    def run(self, work: Callable[[int], T]) -> T:
        """Return the result of a pure function, on the best machine that holds vectors.

        Args:
            work: The function, called with the number of GPUs that it may use.
        """
        ...


def labels_of(vectors: VectorSet) -> Int32:
    """Return the clusters of the last assignment, shape (n,)."""
    return np.concatenate(vectors.map(_labels))


def _labels(tile: Tile) -> Int32:
    return tile.labels


def take(vectors: VectorSet, rows: Int64) -> tuple[Float32, Int64]:
    """Return the vectors of some rows, shape (len(rows), d), and their weights, in the order of
    ``rows``."""
    order = np.argsort(rows, kind="stable")
    parts = vectors.map(partial(_rows_of_tile, rows=rows[order]))
    back = np.empty(len(rows), np.int64)
    back[order] = np.arange(len(rows))
    return (
        np.concatenate([part[0] for part in parts])[back],
        np.concatenate([part[1] for part in parts])[back],
    )


def _rows_of_tile(tile: Tile, rows: Int64) -> tuple[Float32, Int64]:
    last = tile.first_row + len(tile.vectors)
    here = rows[np.searchsorted(rows, tile.first_row) : np.searchsorted(rows, last)]
    return tile.vectors[here - tile.first_row], tile.weights[here - tile.first_row]


def sample_rows(vectors: VectorSet, size: int, seed: int, level: int) -> Int64:
    """Return the rows of a uniform sample without replacement, in random order.

    The sample holds the rows with the smallest hashes.
    """
    work = partial(_smallest_hashes, size=size, seed=seed, level=level)
    return smallest_keys(vectors.map(work, partial(thin_keys, size=size)), size)[0]


def _smallest_hashes(
    tile: Tile, size: int, seed: int, level: int
) -> tuple[Int64, NDArray[np.uint64]]:
    hashes = hash_rows(seed, level, "sample", 0, tile.rows)
    kept = np.argpartition(hashes, size)[:size] if size < len(hashes) else np.arange(len(hashes))
    return tile.rows[kept], hashes[kept]


def smallest_keys(parts: list[Keyed], size: int) -> Keyed:
    """Return the rows with the smallest keys of all parts, ordered by (key, row), and their
    keys."""
    rows, keys = (np.concatenate(each) for each in zip(*parts, strict=True))
    kept = np.lexsort((rows, keys))[:size]
    return rows[kept], keys[kept]


def thin_keys(parts: list[Keyed], size: int) -> list[Keyed]:
    """Reduce parts to one part with their smallest keys.

    The smallest keys of a union are the smallest among the smallest keys of its parts.
    """
    return [smallest_keys(parts, size)]


def nearest_rows(vectors: VectorSet, n_nearest: int) -> Int64:
    """Return the rows nearest to each centroid of the last assignment, by (distance, row).

    The nearest rows of a union are the nearest among the nearest rows of its parts, so the result
    does not depend on how rows are split.

    Returns:
        Row ids by cluster, nearest first.
    """
    work = partial(_nearest_of_tile, n_nearest=n_nearest)
    return _nearest(vectors.map(work, partial(_thin_nearest, n_nearest=n_nearest)), n_nearest)[1]


def _nearest(parts: list[_Near], n_nearest: int) -> _Near:
    labels, rows, distances = (np.concatenate(each) for each in zip(*parts, strict=True))
    kept = first_of_each(labels, distances, rows, n_nearest)
    return labels[kept], rows[kept], distances[kept]


def _thin_nearest(parts: list[_Near], n_nearest: int) -> list[_Near]:
    return [_nearest(parts, n_nearest)]


def _nearest_of_tile(tile: Tile, n_nearest: int) -> _Near:
    kept = first_of_each(tile.labels, tile.distances, tile.rows, n_nearest)
    return tile.labels[kept], tile.rows[kept], tile.distances[kept]


def first_of_each(labels: Int32, keys: NDArray[Any], rows: Int64, n_first: int) -> Int64:
    """Return the positions of the first ``n_first`` rows of each label, ordered by
    (label, key, row)."""
    order = np.lexsort((rows, keys, labels))
    ordered = labels[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered, side="left")
    first: Int64 = order[rank < n_first]
    return first
