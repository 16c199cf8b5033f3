"""Scatter of vectors in tiles, with the same bits wherever the tiles are."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from hercules_scale.clustering.nearest_centroids import Int64
from hercules_scale.clustering.parallel_blocks import map_blocks, one_product_thread
from hercules_scale.clustering.tiles import Tile, VectorSet
from hercules_scale.reduction.pca import Scatter

# Rows of one matrix product; 4,096 rows of 384 dimensions are 13 MB in float64.
BLOCK_ROWS = 4_096


def scatter_of_tiles(vectors: VectorSet, limit: float) -> Scatter:
    """Return the scatter of vectors as they were before they were scaled or shortened.

    Products are added in fixed point, so that the result has the same bits wherever the tiles
    are and whatever the number of threads. Each worker sends d x d numbers.

    Args:
        vectors: Tiles of vectors, at least one of them with a length of at most ``limit``.
        limit: Largest original length of a vector that counts.
    """
    # No sum of products is larger than the sum of squares.
    squares = sum(vectors.map(partial(_squares, limit=limit)))
    places = 62 - max(math.ceil(math.log2(squares)) if squares else 0, -900)
    parts = vectors.map(partial(_sums, limit=limit, places=places), _thin)
    n = sum(part.n for part in parts)
    mean = np.sum([part.total for part in parts], axis=0) / n
    products = np.ldexp(_total(parts).astype(np.float64), -places)
    return Scatter(n, mean, products - n * np.outer(mean, mean))


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
