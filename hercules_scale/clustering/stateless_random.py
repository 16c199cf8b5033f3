"""Random numbers without state: a draw depends on its purpose, not on its worker or its time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_INCREMENT = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def hash_rows(
    seed: int, level: int, phase: str, index: int, rows: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """Return 64 well-mixed bits for each row, shape (n,).

    Args:
        seed: Seed of the run.
        level: Level of the hierarchy.
        phase: Purpose of the draw, such as ``sample``.
        index: Round, restart or iteration of the phase.
        rows: Row ids (or any integers), shape (n,).

    Source: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
    """
    state = np.zeros(1, np.uint64)
    for part in (seed, level, int.from_bytes(phase.encode()[:8].ljust(8), "little"), index):
        state = _mix(state ^ np.uint64(part & 0xFFFFFFFFFFFFFFFF))
    return _mix(state ^ rows.astype(np.uint64))


def uniform(
    seed: int, level: int, phase: str, index: int, rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return a number in (0, 1) for each row, shape (n,); see ``hash_rows``."""
    bits = hash_rows(seed, level, phase, index, rows) >> np.uint64(12)
    return (bits.astype(np.float64) + 0.5) / 2.0**52


def draw_seed(seed: int, level: int, phase: str, index: int) -> int:
    """Return a seed of 63 bits for one restart or round of a phase."""
    return int(hash_rows(seed, level, phase, index, np.zeros(1, np.int64))[0] >> np.uint64(1))


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        state = state + _INCREMENT
        state = (state ^ (state >> np.uint64(30))) * _MULTIPLIERS[0]
        state = (state ^ (state >> np.uint64(27))) * _MULTIPLIERS[1]
    return state ^ (state >> np.uint64(31))
