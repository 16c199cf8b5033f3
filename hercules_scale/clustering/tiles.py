"""The seam of clustering: vectors in tiles of fixed rows, wherever they lie.

A tile is the same rows whoever holds it. The k-means loop sees a ``VectorSet`` alone: it asks for
one pass of assignment, or maps a pure function over the tiles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from hercules_scale.clustering.assign import Float32, Int32, Int64, Scale, Sums, move_rows, nearest
from hercules_scale.clustering.exact import Pass, find_labels
from hercules_scale.clustering.hashing import hash_rows
from hercules_scale.clustering.passive_faiss import faiss
from hercules_scale.clustering.search import (
    FaissGpuSearch,
    Search,
    nearest_torch_gpu,
    vector_lengths,
)
from hercules_scale.clustering.threads import map_blocks
from hercules_scale.errors import InputError

if TYPE_CHECKING:
    from hercules_scale.clustering.torch_nearest import DeviceTiles

TILE_ROWS = 65_536
# Rows that a thread searches at a time; faiss takes as many by itself.
SEARCH_ROWS = 4_096
# Rows at fault that a message names.
NAMED_ROWS = 5
# A vector so many times as long as the median is far away; a power of two.
FAR = 1024
# Lengths are counted by the first bits of their float32: exponent and three binary digits.
_SHIFT, _N_BINS = 20, 1 << 12
# Sums keep so many binary places of a typical length, or vectors are refused.
LEAST_PLACES = 8

T = TypeVar("T")

Thin: TypeAlias = Callable[[list[T]], list[T]]
Keyed = tuple[Int64, NDArray[Any]]
"""Rows, and what they are ordered by."""
_Near = tuple[Int32, Int64, Float32]


@dataclass
class Tile:
    """Some consecutive rows.

    Attributes:
        first_row: Row id of the first.
        vectors: Shape (n, d), float32.
        weights: Number of items that each represents, shape (n,).
        labels: Clusters of the last assignment, shape (n,); -1 before the first.
        distances: Squared L2 distances of the last assignment, shape (n,).
        bounds: Lower bounds on the L2 distances to all centroids but the own, shape (n,).
        lengths: L2 norms of the vectors, shape (n,).
    """

    first_row: int
    vectors: Float32
    weights: Int64
    labels: Int32 = field(init=False)
    distances: Float32 = field(init=False)
    bounds: NDArray[np.float64] = field(init=False)
    lengths: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self.labels = np.full(len(self.vectors), -1, np.int32)
        self.distances = np.zeros(len(self.vectors), np.float32)
        self.bounds = np.zeros(len(self.vectors))
        self.lengths = vector_lengths(self.vectors)

    @property
    def rows(self) -> Int64:
        """Row ids, shape (n,)."""
        return np.arange(self.first_row, self.first_row + len(self.vectors))


def _largest_number(vectors: Float32) -> float:
    """Return the largest number in vectors, without sign."""
    return max(float(vectors.max()), -float(vectors.min()))


def check_finite(vectors: Float32, first_row: int) -> None:
    """Refuse vectors that hold NaN or infinity, since one would spoil every mean.

    Raises:
        InputError: It names the rows.
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


def count_lengths(lengths: NDArray[np.floating[Any]]) -> Int64:
    """Return the counts of lengths in each of 4,096 ranges; add up over any parts of the rows."""
    counts = np.bincount(_to_float32(lengths).view(np.uint32) >> _SHIFT, minlength=_N_BINS)
    return counts.astype(np.int64)


def is_far(lengths: NDArray[np.floating[Any]], limit: float) -> NDArray[np.bool_]:
    """Return whether ``count_far`` counts each length."""
    return np.asarray(_to_float32(lengths) >= limit)


def _to_float32(lengths: NDArray[np.floating[Any]]) -> Float32:
    capped: Float32 = np.minimum(lengths, np.finfo(np.float32).max).astype(np.float32)
    return capped


def typical_length(counts: Int64) -> float:
    """Return end of the range that the median of counted lengths above 0 is in; 0 where there are
    none."""
    ends = np.cumsum(counts[1:])
    if ends[-1] == 0:
        return 0.0
    middle = 1 + int(np.searchsorted(ends, (ends[-1] + 1) // 2))
    return float(np.array((middle + 1) << _SHIFT, np.uint32).view(np.float32))


def far_limit(counts: Int64) -> float:
    """Return the length from which on vectors are far away; infinite where none can be."""
    return FAR * typical_length(counts) or math.inf


def count_far(counts: Int64, limit: float) -> int:
    """Return counted lengths that are no shorter than a limit that ``far_limit`` gave."""
    if limit > np.finfo(np.float32).max:
        return 0
    return int(counts[int(np.array(limit, np.float32).view(np.uint32)) >> _SHIFT :].sum())


class VectorSet(Protocol):
    """Vectors that can be assigned to centroids."""

    @property
    def n_rows(self) -> int:
        """Vectors held."""
        ...

    @property
    def dimension(self) -> int:
        """Length d of a vector."""
        ...

    def assign(self, centroids: Float32, offsets: Float32 | None = None) -> Sums:
        """Assign every vector to its nearest of k centroids and sum each cluster.

        Args:
            centroids: Shape (k, d).
            offsets: Added to the squared distances to each centroid, not below 0, shape (k,).
        """
        ...

    def map(self, work: Callable[[Tile], T], thin: Thin[T] | None = None) -> list[T]:
        """Return the results of a pure function over the tiles, in the order of the rows.

        Args:
            work: The function.
            thin: Makes fewer or smaller of the results of one worker, before they are sent.
        """
        ...

    def run(self, work: Callable[[int], T]) -> T:
        """Return the result of a pure function, on the best machine that holds vectors.

        Args:
            work: Called with the GPUs that it may use.
        """
        ...


class TileSet:
    """Tiles that this process holds: the work of one worker, or of a run in one process.

    Sums are carried from pass to pass, and only rows that changed cluster are moved in them.

    Args:
        tiles: Tiles in any order.
        search: Finds the nearest centroids; by default faiss on the CPU.
    """

    def __init__(self, tiles: Sequence[Tile], search: Search = nearest) -> None:
        self.tiles = list(tiles)
        self._search = search
        self._before: Pass | None = None
        self._sums = np.zeros((0, 0), np.int64)
        self._counts = np.zeros(0, np.int64)

    def largest(self) -> float:
        """Return the largest number in the vectors, without sign."""
        return max((_largest_number(tile.vectors) for tile in self.tiles), default=0.0)

    def count_lengths(self) -> Int64:
        """Return the counts of the vectors' lengths; see ``count_lengths``."""
        return sum((count_lengths(t.lengths) for t in self.tiles), np.zeros(_N_BINS, np.int64))

    def assign(self, centroids: Float32, offsets: Float32 | None, scale: Scale) -> Sums:
        """Assign every vector to its nearest centroid and sum each cluster."""
        step = Pass.of(centroids, offsets, self._before)
        self._before = step
        before = []
        for tile in self.tiles:
            before.append(tile.labels)
            tile.labels, tile.distances, tile.bounds = self._find(tile, step)
        changed = [old != tile.labels for old, tile in zip(before, self.tiles, strict=True)]
        n_changed = sum(int(np.count_nonzero(each)) for each in changed)
        # To move a row is to take it out and to put it in.
        fresh = 2 * n_changed > sum(map(len, changed)) or len(self._counts) != len(centroids)
        if fresh:
            self._sums = np.zeros(centroids.shape, np.int64)
            self._counts = np.zeros(len(centroids), np.int64)
        for tile, old, moved in zip(self.tiles, before, changed, strict=True):
            # A whole tile is not copied.
            rows = slice(None) if fresh else np.flatnonzero(moved)
            move_rows(
                self._sums,
                self._counts,
                tile.vectors[rows],
                np.full(len(old), -1, np.int32) if fresh else old[rows],
                tile.labels[rows],
                tile.weights[rows],
                scale,
            )
        objective = sum(_objective(tile, scale) for tile in self.tiles)
        return Sums(self._sums.copy(), self._counts.copy(), objective, n_changed, scale)

    def _find(self, tile: Tile, step: Pass) -> tuple[Int32, Float32, NDArray[np.float64]]:
        """Return labels, distances and bounds of a tile."""

        def work(rows: slice) -> tuple[Int32, Float32, NDArray[np.float64]]:
            given = (tile.vectors[rows], tile.lengths[rows], tile.labels[rows], tile.bounds[rows])
            return find_labels(*given, step, self._search)

        # A GPU has threads of its own.
        block_rows = SEARCH_ROWS if self._search is nearest else TILE_ROWS
        parts = map_blocks(work, len(tile.vectors), block_rows)
        labels, distances, bounds = (np.concatenate(each) for each in zip(*parts, strict=True))
        return labels, distances, bounds


class DeviceTileSet(TileSet):
    """Tiles with vectors that stay on a GPU over all passes; labels and sums equal the CPU's.

    Args:
        tiles: Tiles in any order; each vector weighs one.
        device: Device of torch that holds them.
    """

    def __init__(self, tiles: Sequence[Tile], device: str = "cuda") -> None:
        super().__init__(tiles)
        self._device = device
        self._held: DeviceTiles | None = None

    def assign(self, centroids: Float32, offsets: Float32 | None, scale: Scale) -> Sums:
        """Assign every vector to its nearest centroid and sum each cluster."""
        if self._held is None:
            # torch takes seconds to load, and a process without a GPU has no need of it here.
            from hercules_scale.clustering.torch_nearest import DeviceTiles

            vectors = [tile.vectors for tile in self.tiles]
            self._held = DeviceTiles(vectors, scale.vectors, self._device)
        found = [each.cpu().numpy() for each in self._held.assign(centroids, offsets)]
        ends = np.cumsum([len(tile.vectors) for tile in self.tiles])
        labels, distances = (np.split(each, ends[:-1]) for each in found)
        objective = n_changed = 0
        for tile, new, near in zip(self.tiles, labels, distances, strict=True):
            n_changed += int(np.count_nonzero(tile.labels != new))
            tile.labels, tile.distances = new, near
            objective += _objective(tile, scale)
        sums, counts = self._held.sums.cpu().numpy(), self._held.counts.cpu().numpy()
        return Sums(sums.copy(), counts.copy(), objective, n_changed, scale)


def _objective(tile: Tile, scale: Scale) -> int:
    """Return the weighted sum of a tile's squared distances, fixed point."""
    fixed = np.rint(tile.distances.astype(np.float64) * 2.0**scale.distances)
    if float(fixed.max(initial=0)) * float(tile.weights.sum()) < 2.0**62:
        return int((fixed.astype(np.int64) * tile.weights).sum())
    return sum(
        int(each) * weight for each, weight in zip(fixed, tile.weights.tolist(), strict=True)
    )


def hold_tiles(tiles: Sequence[Tile], n_gpus: int) -> TileSet:
    """Return the tile set of a process that was given some GPUs.

    With torch the tiles stay on the GPU where they fit. Else each goes there for its search, by
    faiss where it is built for GPUs. A cluster's GPUs need not be of a kind that either can use.
    """
    if n_gpus < 1:
        return TileSet(tiles)
    import torch

    has_torch = torch.cuda.is_available()
    if has_torch:
        from hercules_scale.clustering.torch_nearest import device_bytes

        needed = device_bytes(sum(tile.vectors.size for tile in tiles))
        if needed <= torch.cuda.mem_get_info()[0]:
            return DeviceTileSet(tiles)
    if faiss.get_num_gpus() > 0:
        return TileSet(tiles, FaissGpuSearch())
    return TileSet(tiles, nearest_torch_gpu) if has_torch else TileSet(tiles)


class LocalVectors:
    """Vectors in this process's memory, or in a memory map.

    Args:
        vectors: Shape (n, d), float32.
        weights: Number of items that each vector represents, shape (n,); by default one.
        n_gpus: GPUs that this process was given.

    Raises:
        InputError: A number is NaN or infinite; it names the rows. Or a number is so large that
            sums would lose the others; vectors of a run have been cut before, see
            ``open_vectors``.
    """

    def __init__(self, vectors: Float32, weights: Int64 | None = None, n_gpus: int = 0) -> None:
        check_finite(vectors, 0)
        of_items = weights is None
        if weights is None:
            weights = np.ones(len(vectors), np.int64)
        self.n_rows, self.dimension = len(vectors), int(vectors.shape[1])
        self._n_gpus = n_gpus
        tiles = [
            Tile(start, vectors[start : start + TILE_ROWS], weights[start : start + TILE_ROWS])
            for start in range(0, len(vectors), TILE_ROWS)
        ]
        # On a GPU each vector weighs one.
        self._tiles = hold_tiles(tiles, n_gpus if (weights == 1).all() else 0)
        typical = typical_length(self._tiles.count_lengths())
        largest, total = self._tiles.largest(), int(weights.sum())
        self._scale = Scale.of(total, largest, self.dimension, typical)
        if of_items and self._scale.vectors + math.log2(typical or 1) < LEAST_PLACES:
            raise InputError(
                f"vectors: sums cannot hold numbers of up to {largest:.2g} beside vectors of "
                f"length {typical:.2g}, the median; leave out those that are so much longer"
            )

    def assign(self, centroids: Float32, offsets: Float32 | None = None) -> Sums:
        """Assign every vector to its nearest of k centroids and sum each cluster."""
        return self._tiles.assign(centroids, offsets, self._scale)

    def map(self, work: Callable[[Tile], T], thin: Thin[T] | None = None) -> list[T]:
        """Return the results of a pure function over the tiles, in the order of the rows."""
        return [work(tile) for tile in self._tiles.tiles]

    def run(self, work: Callable[[int], T]) -> T:
        """Return the result of a pure function, here."""
        return work(self._n_gpus)


def labels_of(vectors: VectorSet) -> Int32:
    """Return the clusters of the last assignment, shape (n,)."""
    return np.concatenate(vectors.map(_labels))


def _labels(tile: Tile) -> Int32:
    return tile.labels


def take(vectors: VectorSet, rows: Int64) -> tuple[Float32, Int64]:
    """Return the vectors of some rows, shape (len(rows), d), and their weights, in the order
    asked."""
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
    """Return the rows of a uniform sample without replacement, in random order: the smallest
    hashes."""
    work = partial(_smallest_hashes, size=size, seed=seed, level=level)
    return smallest_keys(vectors.map(work, partial(thin_keys, size=size)), size)[0]


def _smallest_hashes(
    tile: Tile, size: int, seed: int, level: int
) -> tuple[Int64, NDArray[np.uint64]]:
    hashes = hash_rows(seed, level, "sample", 0, tile.rows)
    kept = np.argpartition(hashes, size)[:size] if size < len(hashes) else np.arange(len(hashes))
    return tile.rows[kept], hashes[kept]


def smallest_keys(parts: list[Keyed], size: int) -> Keyed:
    """Return the rows of the smallest keys of all parts, by (key, row), and the keys."""
    rows, keys = (np.concatenate(each) for each in zip(*parts, strict=True))
    kept = np.lexsort((rows, keys))[:size]
    return rows[kept], keys[kept]


def thin_keys(parts: list[Keyed], size: int) -> list[Keyed]:
    """Return the same as one part: the smallest of a union are the smallest of the parts'
    smallest."""
    return [smallest_keys(parts, size)]


def nearest_rows(vectors: VectorSet, n_nearest: int) -> Int64:
    """Return the rows nearest to each centroid of the last assignment, by (distance, row).

    The nearest of a union are the nearest of the parts' nearest, so any split of the rows gives
    the same.

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
    """Return the positions of the ``n_first`` of each label by (key, row), by label, least key
    first."""
    order = np.lexsort((rows, keys, labels))
    ordered = labels[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered, side="left")
    first: Int64 = order[rank < n_first]
    return first
