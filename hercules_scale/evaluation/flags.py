"""Items of a cluster that deserve a look: outliers, ambiguous items and near-duplicates.

The items of a cluster come in blocks that fit into memory, so that a cluster may have any size.

Source: near-duplicates within clusters, the one nearest to the centroid kept: Abbas et al.,
SemDeDup (2023).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import joblib
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

OUTLIER, AMBIGUOUS, NEAR_DUPLICATE = KINDS = ("outlier", "ambiguous", "near_duplicate")
# Columns of a found flag.
FOUND = pa.schema(
    [
        ("row", pa.int64()),
        ("item_id", pa.string()),
        ("kind", pa.string()),
        ("score", pa.float32()),
        ("duplicate_of", pa.int64()),
    ]
)
# Rows and columns of a product of vectors; 1 MB, which stays in the processor's cache.
TILE = 512
# Cosines in float32 may be wrong by this much.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Block:
    """Items of one cluster, the nearest to the centroid first, and by row among equals.

    Attributes:
        rows: Rows of the items, shape (n,).
        ids: Their ``item_id``.
        distances: Squared L2 distances to the centroid, NaN if unknown, shape (n,).
        margins: Margins to the best other centroid, NaN if unknown, shape (n,).
        units: Vectors of length 1, or zero vectors, shape (n, d); d is 0 if there are none.
    """

    rows: Int64
    ids: pa.Array
    distances: Float32
    margins: Float32
    units: Float32

    @classmethod
    def of(
        cls,
        rows: Int64,
        ids: pa.Array,
        distances: Float32,
        margins: Float32,
        vectors: Float32,
        labels: NDArray[Any],
    ) -> Block:
        """Return items of any length and order as a block, cluster by cluster.

        Args:
            rows: See the attribute.
            ids: See the attribute.
            distances: See the attribute.
            margins: See the attribute.
            vectors: Vectors of any length, shape (n, d).
            labels: Their clusters, shape (n,).
        """
        order = np.lexsort((rows, distances, labels))
        vectors = vectors[order]
        lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
        scales = np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths > 0)
        vectors *= scales[:, None].astype(np.float32)
        ids = ids.take(pa.array(order))
        return cls(rows[order], ids, distances[order], margins[order], vectors)

    def part(self, start: int, stop: int) -> Block:
        """Return some items, without a copy."""
        own = slice(start, stop)
        numbers = self.distances[own], self.margins[own], self.units[own]
        return Block(self.rows[own], self.ids.slice(start, stop - start), *numbers)


def flag_cluster(
    blocks: Iterable[Block], n_items: int, share: float, cosine: float | None
) -> Iterator[pa.Table]:
    """Yield the flags of the items of one cluster.

    Outliers are the ``share`` of items that are farthest from the centroid, ambiguous items the
    ``share`` with the smallest margins; items that are equal to the first one beyond the share get
    no flag. A near-duplicate has at least the given cosine to an item that is nearer to the
    centroid, or as near with a lower row. Memory is that of two blocks.

    Args:
        blocks: Blocks of the cluster; they are read several times.
        n_items: Number of items of the cluster.
        share: Share of outliers, and of ambiguous items.
        cosine: Least cosine of near-duplicates; None if they are not wanted.

    Yields:
        Rows of ``FOUND``. Scores are the distance over the cluster's mean distance, the margin, and
        the largest cosine to an item before, which ``duplicate_of`` names.
    """
    far, unsure, mean = _limits(blocks, int(n_items * share + 1e-9))
    for block in blocks:
        beyond = np.flatnonzero(block.distances > far)[::-1]
        if len(beyond):
            yield _found(block, beyond, OUTLIER, block.distances[beyond] / mean)
        below = np.flatnonzero(block.margins < unsure)
        if len(below):
            below = below[np.lexsort((block.rows[below], block.margins[below]))]
            yield _found(block, below, AMBIGUOUS, block.margins[below])
        if cosine is not None:
            best, of = _most_similar(block, blocks)
            same = np.flatnonzero(best >= cosine - ROUNDING)
            if len(same):
                same = same[np.lexsort((block.rows[same], -best[same]))]
                scores = np.minimum(best[same], 1)
                yield _found(block, same, NEAR_DUPLICATE, scores, of[same])


def _limits(blocks: Iterable[Block], count: int) -> tuple[float, float, float]:
    """Return the distance that outliers exceed, the margin that ambiguous items stay below, and the
    mean distance.

    Each is the value of the first item beyond the ``count`` most extreme ones.
    """
    if count == 0:
        return np.inf, -np.inf, 1.0
    far = low = np.empty(0, np.float32)
    total, n_known = 0.0, 0
    for block in blocks:
        far = _largest(far, block.distances, count + 1)
        low = _largest(low, -block.margins, count + 1)
        total += float(np.nansum(block.distances, dtype=np.float64))
        n_known += int((~np.isnan(block.distances)).sum())
    return float(far.min()), -float(low.min()), total / max(n_known, 1) or 1.0


def _largest(kept: Float32, values: Float32, count: int) -> Float32:
    """Return the largest of two sets of values; unknown ones are the smallest."""
    values = np.where(np.isnan(values), np.float32(-np.inf), values)
    both = np.concatenate([kept, values])
    return both if len(both) <= count else np.partition(both, len(both) - count)[-count:]


def _most_similar(block: Block, blocks: Iterable[Block]) -> tuple[Float32, Int64]:
    """Return each item's largest cosine to an item before it, -inf if it is the first, and that
    item's row."""
    n = len(block.rows)
    best, of = np.full(n, -np.inf, np.float32), np.full(n, -1, np.int64)

    def compare(start: int) -> None:
        own, until = block.units[start : start + TILE], before[start : start + TILE]
        for first in range(0, int(until.max()), TILE):
            cosines = own @ other.units[first : first + TILE].T
            columns = np.arange(first, first + cosines.shape[1])
            if until.min() <= columns[-1]:
                cosines[columns >= until[:, None]] = -np.inf
            place = cosines.argmax(axis=1)
            found = cosines[np.arange(len(own)), place]
            better = np.flatnonzero(found > best[start : start + TILE])
            best[start + better] = found[better]
            of[start + better] = other.rows[first + place[better]]

    for other in blocks:
        before = _n_before(block, other)
        if n <= TILE:
            compare(0)
        else:
            with ThreadPoolExecutor(joblib.cpu_count()) as threads:
                # Each call changes rows of its own.
                list(threads.map(compare, range(0, n, TILE)))
    return best, of


def _n_before(block: Block, other: Block) -> Int64:
    """Return the number of items of another block before each item of a block."""
    n = len(block.rows)
    if other is block or np.array_equal(other.rows, block.rows):
        return np.arange(n)
    both = [
        np.concatenate(pair)
        for pair in ((block.rows, other.rows), (block.distances, other.distances))
    ]
    places = np.empty(len(both[0]), np.int64)
    places[np.lexsort(both)] = np.arange(len(places))
    before: Int64 = places[:n] - np.arange(n)
    return before


def _found(
    block: Block, places: Int64, kind: str, scores: Float32, of: Int64 | None = None
) -> pa.Table:
    n = len(places)
    columns: dict[str, Any] = {
        "row": block.rows[places],
        "item_id": block.ids.take(pa.array(places)),
        "kind": pa.repeat(kind, n),
        "score": scores.astype(np.float32),
        "duplicate_of": pa.nulls(n, pa.int64()) if of is None else of,
    }
    return pa.table(columns, schema=FOUND)
