"""Means, variances and ranges of groups of rows, added part by part.

Source: Chan, Golub and LeVeque, "Algorithms for computing the sample variance" (1983), for sums of
squares that lose no digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Figures of k groups of rows in p variables.

    Attributes:
        n: Rows of each group, shape (k,).
        mean: Shape (k, p); 0 for a group without rows.
        squares: Sums of squared differences from the mean, shape (k, p).
        low: Smallest values, shape (k, p); infinite for a group without rows.
        high: Largest values, shape (k, p).
    """

    n: NDArray[np.int64]
    mean: Float64
    squares: Float64
    low: Float64
    high: Float64

    @classmethod
    def of(cls, values: Float64, groups: NDArray[np.int64] | None = None, k: int = 1) -> Moments:
        """Return the figures of rows.

        Args:
            values: Shape (n, p), finite.
            groups: Group of each row, from 0 to k - 1; by default all are one group.
            k: Number of groups.
        """
        p = values.shape[1]
        if groups is None:
            groups = np.zeros(len(values), np.int64)
        n = np.bincount(groups, minlength=k)
        low, high = np.full((k, p), np.inf), np.full((k, p), -np.inf)
        mean, squares = np.zeros((k, p)), np.zeros((k, p))
        order = np.argsort(groups, kind="stable")
        held = np.flatnonzero(n)
        starts = np.concatenate([[0], np.cumsum(n[held])[:-1]]).astype(np.int64)
        if len(held):
            ordered = values[order]
            low[held] = np.minimum.reduceat(ordered, starts)
            high[held] = np.maximum.reduceat(ordered, starts)
            with np.errstate(over="ignore"):
                mean[held] = np.add.reduceat(ordered, starts) / n[held, None]
                squares[held] = np.add.reduceat((ordered - mean[groups[order]]) ** 2, starts)
        return cls(n, mean, squares, low, high)

    def add(self, other: Moments) -> Moments:
        """Return the figures of the rows of both, group by group."""
        n = self.n + other.n
        share = (other.n / np.maximum(n, 1))[:, None]
        apart = other.mean - self.mean
        with np.errstate(over="ignore"):
            between = apart**2 * self.n[:, None] * share
        return Moments(
            n,
            self.mean + apart * share,
            self.squares + other.squares + between,
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
        )

    def grouped(self, parents: NDArray[np.int32], k: int) -> Moments:
        """Return the figures of unions of groups.

        Args:
            parents: Union that each group belongs to, shape (own k,).
            k: Number of unions.
        """
        p = self.mean.shape[1]
        found = Moments.of(np.zeros((0, p)), np.zeros(0, np.int64), k)
        # Step by step, the first, second, ... group of each union is added, so that no two collide.
        order = np.argsort(parents, kind="stable")
        counts = np.bincount(parents, minlength=k)
        within = np.arange(len(parents)) - np.repeat(np.cumsum(counts) - counts, counts)
        for step in range(int(counts.max(initial=0))):
            own = order[within == step]
            part = Moments.of(np.zeros((0, p)), np.zeros(0, np.int64), k)
            into = parents[own]
            for name in ("n", "mean", "squares", "low", "high"):
                getattr(part, name)[into] = getattr(self, name)[own]
            found = found.add(part)
        return found

    @property
    def std(self) -> Float64:
        """Standard deviations over all rows, shape (k, p); 0 for a group without rows."""
        return np.asarray(np.sqrt(self.squares / np.maximum(self.n, 1)[:, None]))

    def of_variables(self, names: Sequence[str]) -> list[list[dict[str, str | float]]]:
        """Return the figures of each variable by group, as ``numeric_stats`` holds them."""
        figures = {"mean": self.mean, "min": self.low, "max": self.high, "std": self.std}
        return [
            [
                {"variable": name}
                | {key: float(values[group, place]) for key, values in figures.items()}
                for place, name in enumerate(names)
            ]
            for group in range(len(self.n))
        ]

    def to_lists(self) -> dict[str, list[object]]:
        """Return the content as JSON holds it."""
        names = ("n", "mean", "squares", "low", "high")
        return {name: getattr(self, name).tolist() for name in names}

    @classmethod
    def from_lists(cls, lists: dict[str, list[object]]) -> Moments:
        """Read the output of ``to_lists``."""
        n = np.asarray(lists["n"], np.int64)
        names = ("mean", "squares", "low", "high")
        return cls(n, *(np.asarray(lists[name], np.float64) for name in names))
