"""Projection of vectors onto the subspace that words of a criterion span.

Words that answer a criterion, such as lung, skin and eye for the organ of a disease, differ from
one another in the directions that the criterion is about. Items are compared in these directions
alone.

Source: Yao et al., "Multi-Sub: customized multiple clustering via multi-modal subspace proxy
learning" (2024), without its training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from hercules_scale.embedding.encoder import TextEncoder

Float32 = NDArray[np.float32]
# Part of the mean squared length of the words below which a direction counts as noise.
NOISE = 1e-3


class CriterionSpace:
    """Subspace of the differences between words, in which vectors keep their length d.

    Vectors are projected without a choice of axes, so that the last bits of words change the last
    bits of vectors alone.

    Args:
        words: Vectors of the words, shape (m, d).
    """

    def __init__(self, words: Float32) -> None:
        apart = words.astype(np.float64) - words.mean(axis=0, dtype=np.float64)
        products = apart @ apart.T
        noise = max(NOISE * np.trace(products) / len(products), np.finfo(np.float32).tiny)
        solved = np.linalg.solve(products + noise * np.eye(len(products)), apart)
        self._projection = apart.T @ solved

    @classmethod
    def of(
        cls, encode: Callable[[Sequence[str]], Float32], words: tuple[str, ...]
    ) -> CriterionSpace:
        """Return the subspace of some words.

        Args:
            encode: Function that embeds texts into the space of the items.
            words: The words.
        """
        return cls(encode(list(words)))

    def project(self, vectors: Float32) -> Float32:
        """Return the projections, of unit length, shape (n, d); vectors apart from it become 0."""
        inside = vectors.astype(np.float64) @ self._projection
        lengths = np.linalg.norm(inside, axis=1, keepdims=True)
        least = np.finfo(np.float32).eps
        return np.asarray(inside / np.maximum(lengths, least), np.float32)


class CriterionEncoder:
    """Text encoder with vectors in the subspace of a criterion.

    Args:
        encoder: Encoder of texts.
        words: Words that span the subspace.
    """

    def __init__(self, encoder: TextEncoder, words: tuple[str, ...]) -> None:
        self._encoder, self._space = encoder, CriterionSpace.of(encoder.encode, words)

    @property
    def dimension(self) -> int:
        """Length d of a vector."""
        return self._encoder.dimension

    def count_tokens(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Return the number of tokens of each text, after truncation, shape (n,)."""
        return self._encoder.count_tokens(texts)

    def encode(self, texts: Sequence[str]) -> Float32:
        """Return the vectors of unit length, shape (n, d), in the order of the texts."""
        return self._space.project(self._encoder.encode(texts))
