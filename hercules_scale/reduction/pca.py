"""Principal components by exact sums, a block of vectors at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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

    def transform(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return coordinates of vectors, shape (n, c)."""
        return ((vectors - self.mean) @ self.components.T).astype(np.float32)


@dataclass(frozen=True)
class Scatter:
    """Scatter of vectors about their mean; d x d numbers, whatever the number of vectors.

    Source: Chan, Golub and LeVeque, "Algorithms for computing the sample variance" (1983), for sums
    of products over parts without a loss of digits.

    Attributes:
        n: Number of vectors.
        mean: Mean of the vectors, shape (d,).
        products: Sum over the vectors x of (x - mean)(x - mean)', shape (d, d).
    """

    n: int
    mean: NDArray[np.float64]
    products: NDArray[np.float64]

    @classmethod
    def zero(cls, dimension: int) -> Scatter:
        """Return the scatter of no vectors."""
        return cls(0, np.zeros(dimension), np.zeros((dimension, dimension)))

    @classmethod
    def of(cls, vectors: NDArray[np.float32]) -> Scatter:
        """Return the scatter of at least one vector, shape (n, d)."""
        mean = vectors.mean(axis=0, dtype=np.float64)
        apart = vectors - mean
        return cls(len(vectors), mean, apart.T @ apart)

    def plus(self, other: Scatter) -> Scatter:
        """Return the scatter of the vectors of both; at least one of them must have vectors."""
        n = self.n + other.n
        share = other.n / n
        apart = other.mean - self.mean
        between = np.outer(apart, apart) * (self.n * share)
        return Scatter(n, self.mean + apart * share, self.products + other.products + between)

    def components(self, n_components: int) -> PCA:
        """Return the first principal components; beyond d they are zero."""
        _, vectors = np.linalg.eigh(self.products / self.n)
        components = np.zeros((n_components, len(self.mean)))
        found = vectors[:, ::-1][:, :n_components].T
        largest = np.abs(found).argmax(axis=1)
        signs = np.sign(found[np.arange(len(found)), largest])
        components[: len(found)] = found * signs[:, None]
        return PCA(self.mean, components)
