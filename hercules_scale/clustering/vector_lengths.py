"""Counts of vector lengths by range, and the length from which vectors count as far away."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hercules_scale.clustering.nearest_centroids import Float32, Int64

# A vector is far away if it is at least this many times as long as the median; a power of two.
FAR = 1024
# Lengths are counted by the first bits of their float32: the exponent and three binary digits.
_SHIFT, N_BINS = 20, 1 << 12


def vector_lengths(vectors: Float32) -> NDArray[np.float64]:
    """Return L2 norms, shape (n,)."""
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)))


def count_lengths(lengths: NDArray[np.floating[Any]]) -> Int64:
    """Return the number of lengths in each of 4,096 ranges; counts of parts of the rows add up."""
    counts = np.bincount(_to_float32(lengths).view(np.uint32) >> _SHIFT, minlength=N_BINS)
    return counts.astype(np.int64)


def is_far(lengths: NDArray[np.floating[Any]], limit: float) -> NDArray[np.bool_]:
    """Return whether each length is at or above a limit, as ``count_far`` counts it."""
    return np.asarray(_to_float32(lengths) >= limit)


def _to_float32(lengths: NDArray[np.floating[Any]]) -> Float32:
    capped: Float32 = np.minimum(lengths, np.finfo(np.float32).max).astype(np.float32)
    return capped


def typical_length(counts: Int64) -> float:
    """Return the upper end of the range that holds the median length above 0; 0 if all are 0."""
    ends = np.cumsum(counts[1:])
    if ends[-1] == 0:
        return 0.0
    middle = 1 + int(np.searchsorted(ends, (ends[-1] + 1) // 2))
    return float(np.array((middle + 1) << _SHIFT, np.uint32).view(np.float32))


def far_limit(counts: Int64) -> float:
    """Return the length from which vectors count as far away; infinite if all lengths are 0."""
    return FAR * typical_length(counts) or math.inf


def count_far(counts: Int64, limit: float) -> int:
    """Return the number of counted lengths at or above a limit from ``far_limit``."""
    if limit > np.finfo(np.float32).max:
        return 0
    return int(counts[int(np.array(limit, np.float32).view(np.uint32)) >> _SHIFT :].sum())
