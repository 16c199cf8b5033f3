"""The user's own function as an encoder of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hercules_scale.errors import ConfigError, StageError
from hercules_scale.sanitize import without_secrets

# Largest number of texts that the function gets at a time.
BATCH_TEXTS = 1024


class FunctionEncoder:
    """Encoder that calls a function from a list of texts to an array of shape (n, d).

    Attributes:
        name: Name of the function, for messages.
        dimension: Length d of a vector; None until the first call.
    """

    def __init__(self, name: str, function: Callable[[list[str]], Any]) -> None:
        self.name, self._function = name, function
        self.dimension: int | None = None

    def encode(self, texts: Sequence[str], stage: str) -> NDArray[np.float32]:
        """Return vectors as the function gives them, shape (n, d), in the order of the texts.

        Args:
            texts: Texts to embed; without any, the function is not called.
            stage: Name of the stage that asks.

        Raises:
            StageError: The function raised an exception, which is its cause.
            ConfigError: It returned something other than finite vectors of one length.
        """
        if not texts:
            return np.zeros((0, self.dimension or 0), np.float32)
        starts = range(0, len(texts), BATCH_TEXTS)
        return np.concatenate(
            [self._vectors(list(texts[start : start + BATCH_TEXTS]), stage) for start in starts]
        )

    def _vectors(self, texts: list[str], stage: str) -> NDArray[np.float32]:
        n_texts = len(texts)
        try:
            result = self._function(texts)
        except Exception as error:
            reason = without_secrets(f"{type(error).__name__}: {error}")[:300]
            raise StageError(
                f"embed ({self.name}) failed: {reason}; run again, it resumes", stage=stage
            ) from error
        vectors, problem = _read(result, n_texts)
        if not problem and self.dimension not in (None, vectors.shape[1]):
            problem = f"{vectors.shape[1]:,} numbers a text, and {self.dimension:,} before"
        if problem:
            raise ConfigError(
                f"embed ({self.name}) must return an array of shape (n, d) of finite numbers for "
                f"n texts, with the same d each time; for {n_texts:,} texts it returned {problem}"
            )
        self.dimension = vectors.shape[1]
        return vectors


def _read(result: Any, n_texts: int) -> tuple[NDArray[np.float32], str]:
    """Return the vectors of a result, and the problem with it (empty if there is none)."""
    nothing = np.zeros((0, 0), np.float32)
    try:
        array = np.asarray(result)
    except Exception as error:
        # Arrays of other libraries may raise any exception.
        reason = without_secrets(" ".join(str(error).split()))[:200]
        return nothing, f"a {type(result).__name__} that is no array ({reason})"
    if array.ndim == 0:
        shown = " ".join(str(result).split())[:50]
        return nothing, f"{shown} ({type(result).__name__})"
    if array.dtype.kind not in "fiu":
        return nothing, f"an array of {array.dtype}"
    if array.ndim != 2 or array.shape[0] != n_texts or array.shape[1] == 0:
        return nothing, f"an array of shape {array.shape}"
    with np.errstate(over="ignore"):
        vectors = np.ascontiguousarray(array, np.float32)
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        row = int(np.flatnonzero(~finite)[0])
        return vectors, f"a vector in row {row} that is not finite in float32"
    return vectors, ""
