"""Titles and descriptions that may be chosen for a cluster, and their sources."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from hercules_scale.summarization.candidates import Candidates
from hercules_scale.summarization.cluster_facts import Child, ClusterFacts
from hercules_scale.summarization.distinct_titles import title_key
from hercules_scale.summarization.fallback import summary_from_keyphrases, withheld_summary
from hercules_scale.summarization.parsing import Summary

# Reasons why no answer of a model was used.
NO_MODEL = "no model was asked (summaries.engine keyphrases)"
WORDLESS = (
    "their items have no words; name input.text_column, a descriptive input.id_column, or "
    "for images summaries.show_images"
)
TITLE_LOST = "the title is from key phrases: the model's titles fit the items far worse"
DESCRIPTION_LOST = (
    "the description is from key phrases: the model's descriptions fit the items far worse"
)


@dataclass(frozen=True)
class Words:
    """A title or a description that may be chosen."""

    text: str
    source: str
    error: str = ""


def unasked_reason(facts: ClusterFacts) -> str:
    """Return the reason why the model may not be asked about a cluster; empty if it may."""
    return facts.withheld or (WORDLESS if facts.wordless else "")


def is_asked_about(facts: ClusterFacts) -> bool:
    """Return whether the model is asked; not if a cluster below with the same items has a label."""
    return not unasked_reason(facts) and facts.same_below is None


def is_decorated(title: str, known: Collection[str]) -> bool:
    """Return whether a title is a known one with more words before or after a colon."""
    halves = {title_key(half) for half in title.split(":")}
    return ":" in title and any(title_key(each) in halves for each in known)


def title_options(
    found: Candidates, facts: ClusterFacts, several: bool, with_phrases: bool
) -> list[Words]:
    """Return the titles of a cluster that may be chosen.

    Args:
        found: Answers of the model.
        facts: The cluster.
        several: Whether there is a choice; else the first answer is taken.
        with_phrases: Whether key phrases may be chosen if there are answers.
    """
    if (same := _label_below(facts)) is not None:
        return [Words(same.title, same.source, same.error or "")]
    fallback = _fallback(facts, found.problem)
    phrases = Words(fallback.title, fallback.source, TITLE_LOST)
    return _options(found.titles, phrases, found.problem, several, with_phrases)


def description_options(
    found: Candidates, facts: ClusterFacts, several: bool, with_phrases: bool
) -> list[Words]:
    """Return the descriptions of a cluster that may be chosen; see ``title_options``."""
    if (same := _label_below(facts)) is not None:
        source = "keyphrases" if same.error else "model"
        return [Words(same.description, source, same.error or "")]
    fallback = _fallback(facts, found.problem)
    phrases = Words(fallback.description, fallback.description_source, DESCRIPTION_LOST)
    return _options(found.descriptions, phrases, found.problem, several, with_phrases)


def _options(
    texts: list[str], phrases: Words, problem: str, several: bool, with_phrases: bool
) -> list[Words]:
    if not texts:
        return [replace(phrases, error=problem)]
    own = [Words(text, "model") for text in texts]
    if not several:
        return own[:1]
    return [*own, phrases] if with_phrases else own


def _label_below(facts: ClusterFacts) -> Child | None:
    """Return the cluster below with the same items, if any; its label is reused."""
    return None if unasked_reason(facts) else facts.same_below


def _fallback(facts: ClusterFacts, problem: str) -> Summary:
    return withheld_summary(facts) if facts.withheld else summary_from_keyphrases(facts, problem)
