"""Principal components by exact sums, a block of vectors at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hercules_scale.clustering.nearest_centroids import Int64
from hercules_scale.clustering.parallel_blocks import map_blocks, one_product_thread
from hercules_scale.clustering.tiles import Tile, VectorSet

# Rows of one matrix product; 4,096 rows of 384 dimensions are 13 MB in float64.
BLOCK_ROWS = 4_096


@dataclass(frozen=True)
class PCA:
    """A fitted projection.

    Attributes:
        mean: Shape (d,).
        components: Orthonormal rows, largest variance first, shape (c, d). The entry of largest
            magnitude in each row is positive.
    """

    mean: NDArray[np.float64]
    components: NDArray[np.float64]

    @classmethod
    def of_record(cls, record: dict[str, Any]) -> PCA:
        """Return the projection of a record from ``record``."""
        return cls(np.array(record["mean"]), np.array(record["components"]))

    def record(self) -> dict[str, Any]:
        """Return mean and components as lists, for JSON."""
        return {"mean": self.mean.tolist(), "components": self.components.tolist()}

    def moved(self, by: NDArray[np.floating[Any]]) -> PCA:
        """Return the projection for vectors to which ``by``, shape (d,), was added."""
        return PCA(self.mean + by, self.components)

    def transform(self, vectors: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Return coordinates of vectors, shape (n, c).

        The bits of a row depend on its vector alone: a matrix product's would depend on threads.
        """
        project = partial(np.einsum, "ij,kj->ik", dtype=np.float64)
        origin = project(self.mean[None], self.components)
        return np.asarray(project(vectors, self.components) - origin, np.float32)


@dataclass(frozen=True)
class Scatter:
    """Scatter of vectors about their mean; d x d numbers, whatever the number of vectors.

    Attributes:
        n: Number of vectors.
        mean: Mean of the vectors, shape (d,).
        products: Sum over the vectors x of (x - mean)(x - mean)', shape (d, d).
    """

    n: int
    mean: NDArray[np.float64]
    products: NDArray[np.float64]

    @classmethod
    def of(cls, vectors: NDArray[np.float32]) -> Scatter:
        """Return the scatter of at least one vector, shape (n, d)."""
        mean = vectors.mean(axis=0, dtype=np.float64)
        apart = vectors - mean
        return cls(len(vectors), mean, apart.T @ apart)

    @classmethod
    def of_tiles(cls, vectors: VectorSet, limit: float) -> Scatter:
        """Return the scatter of vectors as they were before they were scaled or shortened.

        Products are added in fixed point, so that the result has the same bits wherever the tiles
        are and whatever the number of threads. Each worker sends d x d numbers.

        Args:
            vectors: Tiles of at least one vector whose length is at most ``limit``.
            limit: Largest original length of a vector that counts.
        """
        # No sum of products is larger than the sum of squares.
        squares = sum(vectors.map(partial(_squares, limit=limit)))
        places = 62 - max(math.ceil(math.log2(squares)) if squares else 0, -900)
        parts = vectors.map(partial(_sums, limit=limit, places=places), _thin)
        n = sum(part.n for part in parts)
        mean = np.sum([part.total for part in parts], axis=0) / n
        products = np.ldexp(_total(parts).astype(np.float64), -places)
        return cls(n, mean, products - n * np.outer(mean, mean))

    def components(self, n_components: int) -> PCA:
        """Return the first principal components; beyond d they are zero."""
        _, vectors = np.linalg.eigh(self.products / self.n)
        components = np.zeros((n_components, len(self.mean)))
        found = vectors[:, ::-1][:, :n_components].T
        largest = np.abs(found).argmax(axis=1)
        signs = np.sign(found[np.arange(len(found)), largest])
        components[: len(found)] = found * signs[:, None]
        return PCA(self.mean, components)


@dataclass(frozen=True)
class _Sums:
    """Number and sum of vectors of a tile, and their products in fixed point, shape (d, d)."""

    n: int
    total: NDArray[np.float64]
    products: Int64


def _squares(tile: Tile, limit: float) -> float:
    lengths = tile.original_lengths
    return float(np.square(lengths[lengths <= limit]).sum())


def _sums(tile: Tile, limit: float, places: int) -> _Sums:
    d = tile.vectors.shape[1]
    products = np.zeros((d, d), np.int64)
    lock = Lock()

    def add(rows: slice) -> tuple[int, NDArray[np.float64]]:
        vectors = tile.original(rows).astype(np.float64)
        near = tile.original_lengths[rows] <= limit
        if not near.all():
            vectors = vectors[near]
        exact = np.ldexp(vectors.T @ vectors, places)
        fixed = np.rint(exact, out=exact).astype(np.int64)
        with lock:
            products[:] += fixed
        return len(vectors), vectors.sum(axis=0)

    with one_product_thread():
        parts = map_blocks(add, len(tile.vectors), BLOCK_ROWS)
    return _Sums(sum(n for n, _ in parts), np.sum([total for _, total in parts], axis=0), products)


def _thin(parts: list[_Sums]) -> list[_Sums]:
    """Return the same parts, with the products of all in the first one.

    Floating-point sums stay separate, since they depend on the order of all tiles.
    """
    none = np.zeros((), np.int64)
    first = replace(parts[0], products=_total(parts))
    return [first, *(replace(part, products=none) for part in parts[1:])]


def _total(parts: list[_Sums]) -> Int64:
    return sum((part.products for part in parts), np.zeros((), np.int64))
