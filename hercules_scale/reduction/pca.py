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
        """Coordinates of vectors, shape (n, c)."""
        return ((vectors - self.mean) @ self.components.T).astype(np.float32)


class PCAFit:
    """Adds up what a PCA needs; memory is d x d, whatever the number of vectors."""

    def __init__(self, dimension: int) -> None:
        self._n = 0
        self._sum = np.zeros(dimension)
        self._products = np.zeros((dimension, dimension))
        self._shift: NDArray[np.float64] | None = None

    def add(self, vectors: NDArray[np.float32]) -> None:
        """Count a block of vectors, shape (n, d)."""
        if self._shift is None:
            # A shift close to the mean keeps the digits that the covariance needs.
            self._shift = vectors.mean(axis=0, dtype=np.float64)
        shifted = vectors - self._shift
        self._n += len(vectors)
        self._sum += shifted.sum(axis=0)
        self._products += shifted.T @ shifted

    def finish(self, n_components: int) -> PCA:
        """The first components; fewer dimensions than components give components of zero."""
        assert self._shift is not None
        offset = self._sum / self._n
        covariance = self._products / self._n - np.outer(offset, offset)
        _, vectors = np.linalg.eigh(covariance)
        components = np.zeros((n_components, len(offset)))
        found = vectors[:, ::-1][:, :n_components].T
        largest = np.abs(found).argmax(axis=1)
        signs = np.sign(found[np.arange(len(found)), largest])
        components[: len(found)] = found * signs[:, None]
        return PCA(self._shift + offset, components)
