"""Titles that distinguish siblings."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from hercules_scale.clustering.nearest_centroids import Int64
from hercules_scale.summarization.cluster_facts import ClusterFacts, plain_text
from hercules_scale.summarization.titles import clean_title
from hercules_scale.summarization.words import parts
from hercules_scale.summarization.worked_examples import TITLE_WORDS

_SMALL_WORDS = frozenset(
    ("a", "an", "and", "at", "by", "for", "from", "in", "of", "on", "or", "the", "to", "with")
)


def title_key(title: str) -> str:
    """Return a key that equivalent titles share: their words in any order, singular or plural."""
    words = parts(title)
    kept = {_singular(word) for word in words if word not in _SMALL_WORDS}
    return " ".join(sorted(kept or words)) or title


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def alike_titles(titles: list[str], group: Int64) -> list[list[int]]:
    """Return the groups of siblings that have equivalent titles."""
    by_key: dict[str, list[int]] = {}
    for cluster in group.tolist():
        by_key.setdefault(title_key(titles[cluster]), []).append(cluster)
    return [same for same in by_key.values() if len(same) > 1]


def told_apart(titles: list[str], facts: list[ClusterFacts], groups: list[Int64]) -> list[str]:
    """Return titles that are distinct among siblings.

    The largest of siblings with equivalent titles keeps its title. Each of the others gets a key
    phrase in parentheses, or its number where no phrase makes it distinct.
    """
    found = list(titles)
    for group in groups:
        taken: set[str] = set()
        for cluster in sorted(group.tolist(), key=lambda each: (-facts[each].n_items, each)):
            options = _options(titles[cluster], facts[cluster])
            found[cluster] = next(each for each in options if title_key(each) not in taken)
            taken.add(title_key(found[cluster]))
    return found


def _options(title: str, facts: ClusterFacts) -> Iterator[str]:
    """Yield a title, then without end longer variants of it."""
    yield title
    for phrase in map(plain_text, facts.keyphrases):
        n_words = TITLE_WORDS - len(phrase.split())
        if n_words > 0:
            start = clean_title(" ".join(title.split()[:n_words]))
            yield f"{start} ({phrase})"
    start = " ".join(title.split()[: TITLE_WORDS - 1])
    yield f"{start} ({facts.name})"
    for number in itertools.count(2):
        yield f"{start} ({facts.name}-{number})"
