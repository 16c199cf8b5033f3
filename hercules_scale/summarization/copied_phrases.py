"""Removal of sentences that a model copied from its prompt."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hercules_scale.summarization.grounding import stems_of

# Number and share of copied key phrases from which a sentence is the prompt's list of them.
COPIED_PHRASES, COPIED_SHARE = 4, 0.6
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_SEPARATOR = re.compile(r"[,;:]\s*(?:and\s+|or\s+)?|\s+and\s+")


def without_copied_phrases(description: str, keyphrases: Sequence[str]) -> str:
    """Return a description without the sentences that list a cluster's key phrases.

    Small models end a description with the key phrases of their prompt, such as "Topics include
    EU, European, Dutch, Union, prime minister".
    """
    phrases = [set(stems_of(phrase)) for phrase in keyphrases]
    sentences = _SENTENCE_END.split(description)
    return " ".join(each for each in sentences if not _lists_phrases(each, phrases))


def _lists_phrases(sentence: str, phrases: list[set[str]]) -> bool:
    parts = [list(stems_of(part)) for part in _SEPARATOR.split(sentence)]
    parts = [part for part in parts if part]
    # The first part has other words before the phrase, such as "topics include".
    n_copied = sum(any(phrase == set(part[-len(phrase) :]) for phrase in phrases) for part in parts)
    return n_copied >= COPIED_PHRASES and n_copied >= COPIED_SHARE * len(parts)
