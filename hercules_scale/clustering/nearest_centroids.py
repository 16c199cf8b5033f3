"""Nearest centroids, and sums of clusters with the same bits in any order of additions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from hercules_scale.clustering.faiss_import import faiss
from hercules_scale.clustering.parallel_blocks import map_blocks
from hercules_scale.errors import InputError

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
# Search with the arguments and results of ``nearest``.
Search = Callable[[Float32, Float32, int, Float32 | None], tuple[Float32, Int64]]

# Rows that are converted to fixed point at a time; 1,024 rows of 384 dimensions are 3 MB.
SUM_ROWS = 1_024
# Least binary places that sums keep of a squared distance equal to the typical length squared.
DISTANCE_PLACES = 24
# Smaller lengths, and larger squares of lengths, lose some or all of their digits in float32.
LEAST_LENGTH, LARGEST_SQUARE = 1e-18, float(np.finfo(np.float32).max)

# Otherwise faiss computes small batches by another code path, with other rounding.
faiss.cvar.distance_compute_blas_threshold = 0


def nearest(
    vectors: Float32, centroids: Float32, n_nearest: int = 1, offsets: Float32 | None = None
) -> tuple[Float32, Int64]:
    """Return the nearest centroids of each vector.

    Args:
        vectors: Shape (n, d).
        centroids: Shape (k, d).
        n_nearest: Number of centroids to find, at most k.
        offsets: Offset of the squared distances to each centroid, at least 0, shape (k,).

    Returns:
        Squared L2 distances and centroid ids, both (n, n_nearest), nearest first; among equally
        near centroids, the lowest id comes first. Distances come from a matrix product, so their
        last digits depend on the batch and the threads. They only propose: final distances are
        computed from a vector and its centroid alone, see ``exact_nearest``.
    """
    if offsets is not None:
        centroids = with_offsets(centroids, offsets)
        vectors = np.pad(vectors, ((0, 0), (0, 1)))
    distances, ids = faiss.knn(vectors, centroids, n_nearest)
    return np.maximum(distances, 0.0), ids


def with_offsets(centroids: Float32, offsets: Float32) -> Float32:
    """Return centroids with one more dimension, which adds the offsets to squared distances.

    It holds the square roots of the offsets; vectors have 0 there.
    """
    return np.hstack([centroids, np.sqrt(offsets)[:, None]])


def to_unit(vectors: Float32) -> Float32:
    """Return vectors scaled to length 1; zero vectors stay zero."""
    with np.errstate(over="ignore"):
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.where(lengths > 0, vectors / np.maximum(lengths, np.float32(1e-30)), vectors)
    odd = np.flatnonzero((lengths < LEAST_LENGTH) | ~np.isfinite(lengths))
    if len(odd):
        exact = vectors[odd].astype(np.float64)
        norms = np.linalg.norm(exact, axis=1, keepdims=True)
        unit[odd] = exact / np.where(norms > 0, norms, 1)
    return unit


def cut_lengths(vectors: Float32, lengths: NDArray[np.float64], limit: float) -> Int64:
    """Shorten vectors that are longer than a limit to that limit, in place.

    Args:
        vectors: Shape (n, d).
        lengths: L2 norms of the vectors, shape (n,).
        limit: Largest length, above 0.

    Returns:
        Positions of the vectors that were shortened.
    """
    far = np.flatnonzero(lengths > limit)
    if len(far):
        vectors[far] *= (limit / lengths[far])[:, None]
    return far


@dataclass(frozen=True)
class Scale:
    """Binary places of fixed-point sums; sums of vectors fit in int64.

    Attributes:
        vectors: Places of sums of vectors.
        distances: Places of sums of squared distances, which may exceed 64 bits.
    """

    vectors: int
    distances: int

    @classmethod
    def of(cls, total_weight: int, largest: float, dimension: int, typical: float = 0.0) -> Scale:
        """Return the scale for vectors of numbers with absolute values up to ``largest``.

        A squared distance is at most d (2 max|x|)^2. If a few vectors are much longer than the
        others, sums of squared distances get the places that the others need.

        Args:
            total_weight: Total weight of all vectors.
            largest: Largest absolute value.
            dimension: Length d of a vector.
            typical: Length of a typical vector; 0 where all are 0.

        Raises:
            InputError: Squared distances may be too large for float32.
        """
        square = 4 * dimension * largest * largest
        if square > LARGEST_SQUARE:
            most = math.sqrt(LARGEST_SQUARE / (4 * dimension))
            raise InputError(
                f"vectors: numbers must be at most {most:.2g} from 0 for their squares to be "
                f"computed, got {largest:.2g}; divide all of them by a constant"
            )
        distances = _places(total_weight, square)
        if typical > 0:
            least = DISTANCE_PLACES - 2 * math.floor(math.log2(max(typical, 2**-40)))
            distances = max(distances, least)
        return cls(_places(total_weight, largest), distances)


def _places(count: int, largest: float) -> int:
    return 62 - math.ceil(math.log2(max(count, 2))) - math.ceil(math.log2(max(largest, 2**-40)))


@dataclass(frozen=True)
class Sums:
    """Sums of one pass over vectors, in fixed point, so that the order of additions does not
    matter.

    Attributes:
        sums: Sum of each cluster's vectors times ``2**scale.vectors``, shape (k, d), int64.
        counts: Weight of each cluster's vectors, shape (k,), int64; their number where all weigh 1.
        objective: Sum of squared L2 distances to the nearest centroid (and its offset) times
            ``2**scale.distances``.
        n_changed: Number of vectors that changed their cluster since the pass before.
        scale: Binary places of the sums.
    """

    sums: Int64
    counts: Int64
    objective: int
    n_changed: int
    scale: Scale

    @property
    def inertia(self) -> float:
        """Sum of squared L2 distances to the nearest centroid."""
        return self.objective / 2.0**self.scale.distances

    def totals(self) -> NDArray[np.float64]:
        """Return the sum of each cluster's vectors, shape (k, d)."""
        return self.sums.astype(np.float64) / 2.0**self.scale.vectors

    def means(self, otherwise: Float32) -> Float32:
        """Return the mean of each cluster, shape (k, d); empty clusters get their row of
        ``otherwise``."""
        means = (self.totals() / np.maximum(self.counts, 1)[:, None]).astype(np.float32)
        return np.where(self.counts[:, None] > 0, means, otherwise)


def move_rows(
    sums: Int64,
    counts: Int64,
    vectors: Float32,
    old: Int32,
    new: Int32,
    weights: Int64,
    scale: Scale,
) -> None:
    """Take vectors out of their old clusters and into their new ones, in place.

    Each number is rounded to fixed point by itself, so sums depend only on which vectors are in a
    cluster, not on the order in which they joined it.

    Args:
        sums: Shape (k, d), fixed point.
        counts: Shape (k,).
        vectors: Shape (n, d).
        old: Clusters that the vectors leave, shape (n,); -1 for none.
        new: Clusters that they join, shape (n,).
        weights: Shape (n,).
        scale: Binary places of the sums.
    """
    lock = Lock()

    def move(part: slice) -> None:
        exact = np.multiply(vectors[part], 2.0**scale.vectors, dtype=np.float64)
        fixed = np.rint(exact, out=exact).astype(np.int64)
        leaving = np.flatnonzero(old[part] >= 0)
        clusters = np.concatenate([new[part], old[part][leaving]])
        signed = np.concatenate([weights[part], -weights[part][leaving]])
        columns = np.concatenate([np.arange(len(fixed)), leaving])
        order = np.argsort(clusters, kind="stable")
        ordered = clusters[order]
        starts = np.flatnonzero(np.diff(ordered, prepend=-1))
        ends = np.append(starts, len(ordered))
        used = ordered[starts]
        shape = (len(used), len(fixed))
        moved = sparse.csr_array((signed[order], columns[order], ends), shape) @ fixed
        with lock:
            sums[used] += moved
            np.add.at(counts, clusters, signed)

    map_blocks(move, len(vectors), SUM_ROWS)
