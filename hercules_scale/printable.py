"""Text of strangers, made safe to look at."""

from __future__ import annotations


def printable(text: str) -> str:
    """Text whose control characters, such as a terminal's escapes, are shown and not obeyed."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
