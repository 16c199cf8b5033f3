"""Tokenisation of texts, in windows where a text is longer than an encoder reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Largest number of windows that are read of a text; one of 10 MB would cost as much as thousands of
# others.
WINDOWS = 64
# Few tokens have more characters than this.
CHARACTERS_PER_TOKEN = 16


@dataclass(frozen=True)
class Windows:
    """Tokens of some texts, in one or more windows per text.

    Attributes:
        ids: Tokens of each window.
        owners: Position of each window's text, ascending, shape (n windows,).
        n_texts: Number of texts.
    """

    ids: list[list[int]]
    owners: NDArray[np.int64]
    n_texts: int

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of tokens of each window, shape (n windows,)."""
        return np.array([len(ids) for ids in self.ids], np.int64)

    def tokens(self) -> NDArray[np.int64]:
        """Return the number of tokens of each text, shape (n,)."""
        return np.bincount(self.owners, self.lengths, self.n_texts).astype(np.int64)

    def averaged(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return unit-length vectors of texts, means of their windows by tokens, shape (n, d).

        Args:
            vectors: Vectors of the windows, of unit length, shape (n windows, d).
        """
        if len(self.ids) == self.n_texts:
            return vectors
        starts = np.searchsorted(self.owners, np.arange(self.n_texts))
        sums = np.add.reduceat(vectors * self.lengths[:, None], starts, axis=0)
        return np.asarray(sums / np.linalg.norm(sums, axis=1, keepdims=True), np.float32)


def tokenize(
    tokenizer: Any, texts: Sequence[str], prompt: str, max_tokens: int, in_windows: bool
) -> Windows:
    """Return the tokens of texts, cut after the first window unless windows are wanted.

    Args:
        tokenizer: Tokenizer of the transformers package.
        texts: Texts, n of them.
        prompt: Text that goes before every text.
        max_tokens: Largest number of tokens of a window.
        in_windows: Whether the text after the first window is read too, up to 64 windows.
    """
    if not texts:
        return Windows([], np.zeros(0, np.int64), 0)
    limit = WINDOWS * max_tokens * CHARACTERS_PER_TOKEN
    found = tokenizer(
        [prompt + text[:limit] for text in texts],
        truncation=True,
        max_length=max_tokens,
        padding=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        return_overflowing_tokens=in_windows,
    )
    owners = found.get("overflow_to_sample_mapping", range(len(texts)))
    counts = np.zeros(len(texts), np.int64)
    kept = []
    for place, owner in enumerate(owners):
        counts[owner] += 1
        if counts[owner] <= WINDOWS:
            kept.append(place)
    ids = [list(found["input_ids"][place]) for place in kept]
    return Windows(ids, np.array([owners[place] for place in kept], np.int64), len(texts))
