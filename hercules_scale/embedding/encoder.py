"""Interface of embedding models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class TextEncoder(Protocol):
    """Turns texts into vectors.

    Equal texts in the same call give equal vectors, and a call's result depends on its texts
    alone, so that a shard is the same whoever computes it.
    """

    @property
    def dimension(self) -> int:
        """Length d of a vector."""
        ...

    def count_tokens(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Return the tokens that the model reads of each text, shape (n,), after truncation."""
        ...

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of unit length, shape (n, d), in the order of the texts."""
        ...


class ImageEncoder(Protocol):
    """Turns images into vectors, each whatever else is in the call."""

    @property
    def dimension(self) -> int:
        """Length d of a vector."""
        ...

    def encode(self, images: Sequence[bytes]) -> NDArray[np.float32]:
        """Return the vectors of unit length of RGB images, as PNG or JPEG, shape (n, d)."""
        ...
