"""Names and numbers in a text."""

from __future__ import annotations

import re
from collections.abc import Collection

from hercules_scale.summarization.words import composed, tokens

# Languages that write all nouns with a capital.
CAPITAL_NOUNS = frozenset(("de",))
# Letters that two forms of a name begin with, such as Iran and Iranian; and the most letters of the
# shorter form after them.
COMMON_LETTERS, OTHER_LETTERS = 4, 4
# Longest word with a small letter in titles of which all other words have capitals.
LONGEST_SMALL = 4
# A capital after these marks is no sign of a name.
_START = re.compile(r"[.!?:;…]+[\"'”’)]*\s+")


def names_and_numbers(
    text: str, language: str, of_title: bool = False
) -> tuple[list[str], list[str]]:
    """Return the words of a text with a capital within a sentence, and its words with digits.

    Args:
        text: A text.
        language: Its language; in German a capital is no sign of a name.
        of_title: Whether it is a title. If all longer words of a title have capitals, only words
            with several are names.
    """
    names, numbers = [], []
    words = tokens(composed(text))
    has_sign = language not in CAPITAL_NOUNS
    if of_title:
        has_sign &= any(word[0].islower() and len(word) > LONGEST_SMALL for word in words)
    for sentence in _START.split(composed(text)):
        for place, word in enumerate(tokens(sentence)):
            if any(map(str.isdigit, word)):
                numbers.append(word)
            elif (has_sign and place and word[0].isupper()) or sum(map(str.isupper, word)) > 1:
                names.append(word)
    return names, numbers


def is_form_of(name: str, known: Collection[str]) -> bool:
    """Return whether one of the known stems and a name are forms of one name."""
    return any(
        other[:COMMON_LETTERS] == name[:COMMON_LETTERS]
        and min(len(name), len(other)) - _n_common(name, other) <= OTHER_LETTERS
        for other in known
        if min(len(name), len(other)) >= COMMON_LETTERS
    )


def _n_common(one: str, other: str) -> int:
    """Return the number of letters that two words begin with alike."""
    alike = (a == b for a, b in zip(one, other, strict=False))
    return next((place for place, same in enumerate(alike) if not same), min(len(one), len(other)))
