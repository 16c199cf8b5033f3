"""Sentences that a model copied from its request."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hercules_scale.summarization.grounding import stems_of

# Of a list, from which it is the request's line of key phrases and no sentence of the model's.
COPIED_PHRASES, COPIED_SHARE = 4, 0.6
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_SEPARATOR = re.compile(r"[,;:]\s*(?:and\s+|or\s+)?|\s+and\s+")


def without_copied_phrases(description: str, keyphrases: Sequence[str]) -> str:
    """Return a description without the sentences that list a cluster's key phrases.

    Small models end a description with the line of key phrases that they were shown, so that it
    reads "Topics include EU, European, Dutch, Union, prime minister".
    """
    phrases = [set(stems_of(phrase)) for phrase in keyphrases]
    sentences = _SENTENCE_END.split(description)
    return " ".join(each for each in sentences if not _lists_phrases(each, phrases))


def _lists_phrases(sentence: str, phrases: list[set[str]]) -> bool:
    parts = [list(stems_of(part)) for part in _SEPARATOR.split(sentence)]
    parts = [part for part in parts if part]
    # The first has words before it, such as "topics include".
    n_copied = sum(any(phrase == set(part[-len(phrase) :]) for phrase in phrases) for part in parts)
    return n_copied >= COPIED_PHRASES and n_copied >= COPIED_SHARE * len(parts)
