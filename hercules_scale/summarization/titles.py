"""Titles cut to length at the end of a phrase."""

from __future__ import annotations

from hercules_scale.summarization.prompts import TITLE_CHARACTERS
from hercules_scale.summarization.words import cut, n_letters
from hercules_scale.summarization.worked_examples import TITLE_WORDS

# Function words; a title that was cut does not end with one.
# fmt: off
DANGLING = frozenset((
    "a", "an", "and", "are", "as", "at", "by", "for", "from", "how", "in", "into", "is", "its",
    "of", "on", "or", "that", "the", "their", "to", "was", "were", "which", "with",
))
# fmt: on
# No title ends with one of these words, even where the model ended it so.
ARTICLES = frozenset(
    ("a", "an", "and", "are", "but", "is", "not", "of", "or", "the", "their", "to", "was", "with")
)
# Marks that a title neither begins nor ends with.
QUOTES = " \"'“”‘’.,:;-–—*_。，、：；،؛۔।"


def clean_title(title: str) -> str:
    """Return a title of at most seven words and sixty letters that ends with a whole phrase."""
    words = title.strip(QUOTES).split()
    is_cut = len(words) > TITLE_WORDS
    if len(title) >= TITLE_CHARACTERS and len(words) > 1:
        # The schema's limit may cut the last word of a long title.
        words.pop()
        is_cut = True
    words = words[:TITLE_WORDS]
    while len(words) > 1 and n_letters(" ".join(words)) > TITLE_CHARACTERS:
        words.pop()
        is_cut = True
    if is_cut:
        words = _without_half_name(words, title.strip(QUOTES).split()[len(words) :])
        words = words[: _end_of_list(words)]
    while words and words[-1].lower().strip(",:;") in (DANGLING if is_cut else ARTICLES):
        words.pop()
    return cut(" ".join(words), TITLE_CHARACTERS).strip(QUOTES)


def _without_half_name(words: list[str], left_out: list[str]) -> list[str]:
    """Return the words of a cut title without a name at their end that the cut divided, such as
    "the Middle East"."""
    names = [word[:1].isupper() for word in words]
    if not left_out or not left_out[0][:1].isupper() or all(names):
        return words
    end = len(words)
    while end and names[end - 1]:
        end -= 1
    return words[:end] if end > 2 else words


def _end_of_list(words: list[str]) -> int:
    """Return the number of words of a cut title to keep.

    A few words after the last comma or "and" are likely half a phrase, and are dropped.
    """
    ends = [
        place + (word[-1] in ",;")
        for place, word in enumerate(words)
        if word[-1] in ",;" or word.lower() in ("and", "or", "&")
    ]
    end = ends[-1] if ends else len(words)
    is_half = len(words) - end <= 3 and {word.lower() for word in words[:end]} - DANGLING
    return end if end > 1 and is_half else len(words)
