"""Principal components of vectors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

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

    @classmethod
    def of_record(cls, record: dict[str, Any]) -> PCA:
        """Return the projection of a record from ``record``."""
        return cls(np.array(record["mean"]), np.array(record["components"]))

    def record(self) -> dict[str, Any]:
        """Return mean and components as lists, for JSON."""
        return {"mean": self.mean.tolist(), "components": self.components.tolist()}

    def moved(self, by: NDArray[np.floating[Any]]) -> PCA:
        """Return the projection for vectors to which ``by``, shape (d,), was added."""
        return PCA(self.mean + by, self.components)

    def transform(self, vectors: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Return coordinates of vectors, shape (n, c).

        The bits of a row depend on its vector alone: a matrix product's would depend on threads.
        """
        project = partial(np.einsum, "ij,kj->ik", dtype=np.float64)
        origin = project(self.mean[None], self.components)
        return np.asarray(project(vectors, self.components) - origin, np.float32)


@dataclass(frozen=True)
class Scatter:
    """Scatter of vectors about their mean; d x d numbers, whatever the number of vectors.

    Attributes:
        n: Number of vectors.
        mean: Mean of the vectors, shape (d,).
        products: Sum over the vectors x of (x - mean)(x - mean)', shape (d, d).
    """

    n: int
    mean: NDArray[np.float64]
    products: NDArray[np.float64]

    @classmethod
    def of(cls, vectors: NDArray[np.float32]) -> Scatter:
        """Return the scatter of at least one vector, shape (n, d)."""
        mean = vectors.mean(axis=0, dtype=np.float64)
        apart = vectors - mean
        return cls(len(vectors), mean, apart.T @ apart)

    def components(self, n_components: int) -> PCA:
        """Return the first principal components; beyond d they are zero."""
        _, vectors = np.linalg.eigh(self.products / self.n)
        components = np.zeros((n_components, len(self.mean)))
        found = vectors[:, ::-1][:, :n_components].T
        largest = np.abs(found).argmax(axis=1)
        signs = np.sign(found[np.arange(len(found)), largest])
        components[: len(found)] = found * signs[:, None]
        return PCA(self.mean, components)
