"""Operands of the matrix product that proposes nearest centroids, and bounds on its error.

This module imports torch alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

# Centroids in a group, and least number of groups; a search first looks at the least score of each
# group.
GROUP = 16
MIN_GROUPS = 64
# A row of an operand has three columns for a centroid's own term, and is padded to whole words of
# 16 bytes.
TERM_COLUMNS = 3
ALIGNMENT = 8
# Relative error of a float32 sum, per number summed. Tensor cores truncate where other units round,
# and align a few products at a time: each adds at most 1.5 · 2^-23 of the sum of magnitudes.
# Source: Fasi, Higham, Mikaitis, Pranesh, Numerical behavior of NVIDIA tensor cores (2021).
SUM_ERROR = 2.0**-22


@dataclass(frozen=True)
class Rows:
    """Vectors prepared for the product.

    Attributes:
        exact: Shape (n, d), float32.
        product: Rounded vectors, then ones for the centroids' terms, shape (n, width).
        lengths: L2 norms of the rounded vectors, shape (n,), float64.
        lost: L2 norms of the rounding errors, shape (n,), float64.
        longest: Upper bound on the length of a vector.
    """

    exact: Tensor
    product: Tensor
    lengths: Tensor
    lost: Tensor
    longest: float

    @classmethod
    def of(cls, exact: Tensor, dtype: torch.dtype) -> Rows:
        """Return vectors prepared for a product of type ``dtype``.

        Raises:
            ValueError: A number is not finite.
        """
        d = exact.shape[1]
        product, lengths, lost = _rounded(exact, dtype, len(exact))
        product[:, d : d + TERM_COLUMNS] = 1
        longest = float((lengths + lost).max()) if len(exact) else 0.0
        if not math.isfinite(longest):
            raise ValueError("vectors must be finite, got NaN or infinity; leave such rows out")
        return cls(exact, product, lengths, lost, longest)

    def part(self, start: int, stop: int) -> Rows:
        """Return the rows from ``start`` up to ``stop``."""
        rows = slice(start, stop)
        return replace(
            self,
            exact=self.exact[rows],
            product=self.product[rows],
            lengths=self.lengths[rows],
            lost=self.lost[rows],
        )


@dataclass(frozen=True)
class Centroids:
    """Centroids prepared for the product, and the parts of its error bound.

    Attributes:
        exact: Shape (k, d), float32.
        offsets: Shape (k,), float64.
        product: -2 times the rounded centroids, then their own terms in three columns, shape
            (group · n_groups, width). Centroid ``id`` is member ``id // n_groups`` of group
            ``id % n_groups``; centroids that cannot be nearest have an infinite term.
        group: Number of centroids in a group.
        reach: Square roots of the terms of the m centroids that can be nearest, ascending,
            shape (m,).
        largest: Running maxima over these centroids in that order: L2 norm, L2 norm after rounding,
            L2 norm of the rounding error, sum of a term's magnitudes and error of a term,
            shape (5, m).
        n_nearest: Number of centroids to find.
    """

    exact: Tensor
    offsets: Tensor
    product: Tensor
    group: int
    reach: Tensor
    largest: Tensor
    n_nearest: int

    @classmethod
    def of(
        cls,
        exact: Tensor,
        offsets: Tensor | None,
        longest: float,
        n_nearest: int,
        dtype: torch.dtype,
    ) -> Centroids:
        """Return centroids prepared for a product of type ``dtype`` with vectors no longer than
        ``longest``.

        Raises:
            ValueError: A number is not finite, or ``n_nearest`` is not from 1 to k.
        """
        k, d = exact.shape
        if not 1 <= n_nearest <= k:
            raise ValueError(f"n_nearest must be from 1 to the {k} centroids, got {n_nearest}")
        own = torch.zeros(k, dtype=torch.float64, device=exact.device)
        own = own if offsets is None else offsets.double()
        norms = torch.linalg.vector_norm(exact, dim=1, dtype=torch.float64)
        terms = norms.square() + own
        if not bool(torch.isfinite(terms).all()):
            raise ValueError("centroids and offsets must be finite, got NaN or infinity")
        near = ~_too_far(terms, 2 * longest * norms, n_nearest)
        # Each group has one least score, and at least n_nearest of these are needed.
        group = GROUP if k >= GROUP * max(MIN_GROUPS, n_nearest) else 1
        padded = -(-k // (group * ALIGNMENT)) * group * ALIGNMENT
        product, lengths, lost = _rounded(exact, dtype, padded)
        product *= -2
        product[:k][~near] = 0
        pieces = _pieces(torch.where(near, terms - terms[near].min(), torch.inf), dtype)
        product[:, d] = torch.inf
        product[:k, d : d + TERM_COLUMNS] = pieces
        kept = pieces[near].double()
        term_lost = (terms[near] - terms[near].min() - kept.sum(dim=1)).abs()
        reach, order = terms[near].sqrt().sort()
        each = (norms[near], lengths[near], lost[near], kept.abs().sum(dim=1), term_lost)
        largest = torch.stack(each)[:, order].cummax(dim=1).values
        return cls(exact, own, product, group, reach, largest, n_nearest)

    def error(self, rows: Rows) -> Tensor:
        """Return a bound on the error of any score of each row, shape (n,), float64.

        With x = x' + r and c = c' + s, where x' and c' are rounded, x·c - x'·c' = r·c + x'·s is at
        most |r||c| + |x'||s| by Cauchy and Schwarz. The sums of the product add ``SUM_ERROR`` for
        each number.

        Centroids with a reach above 4 (|x| + b), where b is the n-th smallest reach, are left out:
        their scores exceed n others by more than any error, and they would widen the bound.
        """
        width = self.product.shape[1]
        bound = 4 * (rows.lengths + rows.lost + self.reach[self.n_nearest - 1])
        last = torch.searchsorted(self.reach, bound, right=True) - 1
        length, rounded_length, lost, term, term_lost = self.largest[:, last]
        rounding = 2 * (rows.lost * length + rows.lengths * lost)
        summed = 2 * rows.lengths * rounded_length + term
        tiny = width * torch.finfo(torch.float32).tiny
        error: Tensor = rounding + term_lost + SUM_ERROR * width * summed + tiny
        return error


def _rounded(exact: Tensor, dtype: torch.dtype, n_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the vectors in the product's type and width, their norms, and the norms of the
    rounding errors."""
    d = exact.shape[1]
    width = -(-(d + TERM_COLUMNS) // ALIGNMENT) * ALIGNMENT
    product = torch.zeros(n_rows, width, dtype=dtype, device=exact.device)
    product[: len(exact), :d] = exact
    back = product[: len(exact), :d].float()
    lengths = torch.linalg.vector_norm(back, dim=1, dtype=torch.float64)
    # This is exact: bfloat16 keeps 8 of the 24 binary digits, and float32 holds the rest.
    lost = torch.linalg.vector_norm(exact - back, dim=1, dtype=torch.float64)
    return product, lengths, lost


def _pieces(terms: Tensor, dtype: torch.dtype) -> Tensor:
    """Return three numbers of type ``dtype`` for each term, which add up to about it,
    shape (k, 3)."""
    pieces = []
    for _ in range(TERM_COLUMNS):
        pieces.append(terms.to(dtype))
        left = terms - pieces[-1].double()
        terms = torch.where(torch.isfinite(terms), left, 0.0)
    return torch.stack(pieces, dim=1)


def _too_far(terms: Tensor, reach: Tensor, n_nearest: int) -> Tensor:
    """Return whether each centroid is too far to be nearest to any row, shape (k,).

    The large terms and norms of such centroids would widen the error bound. A score lies within
    ``reach`` = 2 max|x| |c| of its centroid's term.
    """
    upper = terms + reach
    bound = torch.kthvalue(upper, n_nearest).values
    # The margin lies far above the rounding errors of float64.
    return terms - reach - bound > 1e-9 * (upper + bound)
