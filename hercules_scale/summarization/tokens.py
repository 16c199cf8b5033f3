"""Token counts of texts."""

from __future__ import annotations

from typing import Protocol

# Few tokens are longer. So only the beginning of a long text is tokenised to cut it.
CHARACTERS_PER_TOKEN = 16


class Tokens(Protocol):
    """Counter of a model's tokens, which also cuts texts."""

    def count(self, text: str) -> int:
        """Return the number of tokens of a text."""
        ...

    def cut(self, text: str, n_tokens: int) -> str:
        """Return the beginning of a text, of at most ``n_tokens`` tokens."""
        ...


class ModelTokens:
    """Tokens by a tokenizer of the package transformers.

    Args:
        source: Folder or hub id of the model.
    """

    def __init__(self, source: str) -> None:
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(source)

    def count(self, text: str) -> int:
        """Return the number of tokens of a text."""
        return len(self._tokenizer.encode(text, add_special_tokens=False))

    def cut(self, text: str, n_tokens: int) -> str:
        """Return the beginning of a text, of at most ``n_tokens`` tokens."""
        start = text[: CHARACTERS_PER_TOKEN * n_tokens]
        ids = self._tokenizer.encode(start, add_special_tokens=False)
        if len(ids) <= n_tokens and len(start) == len(text):
            return text
        return str(self._tokenizer.decode(ids[: n_tokens - 1])).rstrip("\ufffd ") + "…"


class EstimatedTokens:
    """Tokens estimated at three characters each, for endpoints with an unknown tokenizer."""

    def count(self, text: str) -> int:
        """Return the number of tokens of a text."""
        return -(-len(text) // 3)

    def cut(self, text: str, n_tokens: int) -> str:
        """Return the beginning of a text, of at most ``n_tokens`` tokens."""
        return text if len(text) <= 3 * n_tokens else text[: 3 * n_tokens - 1] + "…"
