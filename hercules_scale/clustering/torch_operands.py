"""Vectors and centroids made ready for the product that proposes nearest ones, and its error.

Only torch is imported.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

# Rows are searched for candidates by the least score of each group of centroids.
GROUP = 16
MIN_GROUPS = 64
# A product's rows have whole 16-byte words, and three columns for a centroid's own term.
TERM_COLUMNS = 3
ALIGNMENT = 8
# Relative error of a float32 sum, per number summed. Tensor cores cut off where others round, and
# align a few products at a time: at most 1.5 · 2^-23 of the sum of magnitudes each.
# Source: Fasi, Higham, Mikaitis, Pranesh, Numerical behavior of NVIDIA tensor cores (2021).
SUM_ERROR = 2.0**-22


@dataclass(frozen=True)
class Rows:
    """Vectors made ready for the product.

    Attributes:
        exact: Shape (n, d), float32.
        product: Rounded, and ones for the centroids' terms, shape (n, width).
        lengths: L2 norms of the rounded vectors, shape (n,), float64.
        lost: L2 norms of what rounding took off, shape (n,), float64.
        longest: No vector is longer.
    """

    exact: Tensor
    product: Tensor
    lengths: Tensor
    lost: Tensor
    longest: float

    @classmethod
    def of(cls, exact: Tensor, dtype: torch.dtype) -> Rows:
        """Return vectors made ready for a product of a type.

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
        """Return some consecutive rows."""
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
    """Centroids made ready for the product, and what its error is made of.

    Attributes:
        exact: Shape (k, d), float32.
        offsets: Shape (k,), float64.
        product: -2 times the rounded centroids and their own terms in three columns, shape
            (group · n_groups, width). Centroid ``id`` is member ``id // n_groups`` of group
            ``id % n_groups``; rows that cannot be nearest have an infinite term.
        group: Members of a group.
        reach: Roots of the terms of those that can be nearest, in order, shape (m,).
        largest: Largest values of each block and the blocks before it: L2 norm, L2 norm after
            rounding, L2 norm of the rounding error, sum of a term's magnitudes and error of a
            term, shape (5, m).
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
        """Return centroids made ready for a product of a type with vectors no longer than
        ``longest``.

        Raises:
            ValueError: A number is not finite, or more centroids are wanted than there are.
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
        # Each group of the search has a least score, and n_nearest of them are needed.
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

        With x = x' + r and c = c' + s, x' and c' rounded: x·c - x'·c' = r·c + x'·s, at most
        |r||c| + |x'||s| by Cauchy and Schwarz. The product's own sums add ``SUM_ERROR`` a number.

        Centroids of more than 4 (|x| + b), b the n-th smallest norm, are left out: their scores lie
        so far above n others that no error makes them lower, and they would widen the bound.
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
    """Return the vectors in the product's type and width, their norms, and the norms of what was
    lost."""
    d = exact.shape[1]
    width = -(-(d + TERM_COLUMNS) // ALIGNMENT) * ALIGNMENT
    product = torch.zeros(n_rows, width, dtype=dtype, device=exact.device)
    product[: len(exact), :d] = exact
    back = product[: len(exact), :d].float()
    lengths = torch.linalg.vector_norm(back, dim=1, dtype=torch.float64)
    # Exact: float32 holds what 8 of its 24 digits leave.
    lost = torch.linalg.vector_norm(exact - back, dim=1, dtype=torch.float64)
    return product, lengths, lost


def _pieces(terms: Tensor, dtype: torch.dtype) -> Tensor:
    """Return terms as sums of three numbers of a type, shape (k, 3)."""
    pieces = []
    for _ in range(TERM_COLUMNS):
        pieces.append(terms.to(dtype))
        left = terms - pieces[-1].double()
        terms = torch.where(torch.isfinite(terms), left, 0.0)
    return torch.stack(pieces, dim=1)


def _too_far(terms: Tensor, reach: Tensor, n_nearest: int) -> Tensor:
    """Return the centroids that are nearest to no row: their large terms and norms would widen the
    bound.

    A score lies within ``reach`` = 2 max|x| |c| of the term.
    """
    upper = terms + reach
    bound = torch.kthvalue(upper, n_nearest).values
    # Far above the rounding of float64.
    return terms - reach - bound > 1e-9 * (upper + bound)
