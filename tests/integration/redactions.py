"""Functions that tests name in privacy.redact."""

from __future__ import annotations

import re


def mask_words(text: str) -> str:
    """Stars in the place of names that begin with zq."""
    return re.sub(r"zq\w+", "***", text)


def fail(text: str) -> str:
    """Fails as a careless function does, quoting what it was given."""
    raise ValueError(f"cannot redact {text}")


def give_nothing(text: str) -> None:
    """Forgets to return."""


NO_FUNCTION = "text"
