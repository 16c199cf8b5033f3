"""A title and a description out of what a model answered."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass

from hercules_scale.errors import SummaryError
from hercules_scale.summarization.prompts import (
    DESCRIPTION_CHARACTERS,
    TITLE_CHARACTERS,
    TITLE_WORDS,
    ClusterFacts,
    fixed_messages,
    plain_text,
)

# fmt: off
_DANGLING = frozenset((
    "a", "an", "and", "are", "as", "at", "by", "for", "from", "how", "in", "into", "is", "its",
    "of", "on", "or", "that", "the", "their", "to", "was", "were", "which", "with",
))
# fmt: on


@dataclass(frozen=True)
class Summary:
    """What a cluster is called.

    Attributes:
        title: At most seven words.
        description: One or two sentences.
        status: ``ok``, or ``fallback`` where the key phrases stand in for the model.
        error: Why the model's answer could not be used.
    """

    title: str
    description: str
    status: str = "ok"
    error: str | None = None


def parse_answer(text: str, facts: ClusterFacts) -> Summary:
    """Read a model's JSON answer about a cluster.

    Raises:
        SummaryError: It holds no usable title and description; the message says what is wrong.
    """
    start, end = text.find("{"), text.rfind("}")
    if start < 0:
        raise SummaryError("the answer holds no JSON object")
    if end < start:
        raise SummaryError("the JSON is cut off; answer shorter")
    try:
        answer = json.loads(text[start : end + 1], strict=False)
    except (ValueError, RecursionError) as error:
        raise SummaryError(f"the answer is not valid JSON: {error}") from None
    values = {}
    for name in ("title", "description"):
        value = answer.get(name) if isinstance(answer, dict) else None
        if not isinstance(value, str) or not re.search(r"\w\w", value):
            raise SummaryError(f"the JSON holds no {name} in words")
        values[name] = plain_text(value)
    title = clean_title(values["title"])
    if not title:
        raise SummaryError("the title says nothing")
    if any(_repeats_itself(text) for text in (title, values["description"])):
        raise SummaryError("the answer repeats itself")
    if _repeats_prompt(title, facts):
        raise SummaryError("the title repeats the instructions, not what the items are about")
    return Summary(title, _whole_sentences(values["description"]))


def _repeats_itself(text: str) -> bool:
    """Whether fewer than six in ten pairs of neighbouring words are new, as when a model loops."""
    words = re.findall(r"\w+", text.lower())
    pairs = list(itertools.pairwise(words))
    return len(pairs) >= 5 and len(set(pairs)) < 0.6 * len(pairs)


def _repeats_prompt(title: str, facts: ClusterFacts) -> bool:
    """Whether a title takes its words from the fixed part of the prompt and none from the facts.

    Small models copy the worked examples where they do not know what to say.
    """
    children = [text for child in facts.children for text in (child.title, child.description)]
    of_cluster = _content_words(" ".join([*facts.keyphrases, *facts.exemplars, *children]))
    words = _content_words(title)
    return not words & of_cluster and bool(words & _FIXED_WORDS)


def _content_words(text: str) -> set[str]:
    return set(re.findall(r"\w{3,}", text.lower())) - _DANGLING


_FIXED_WORDS = _content_words(" ".join(message["content"] for message in fixed_messages(None)))


def clean_title(title: str) -> str:
    """A title of at most seven words that does not end in the middle of a phrase."""
    words = title.strip(" \"'.,:;-–—").split()
    cut = len(words) > TITLE_WORDS
    if len(title) >= TITLE_CHARACTERS and len(words) > 1:
        # The schema ends a long title in the middle of a word.
        words.pop()
        cut = True
    words = words[:TITLE_WORDS]
    while cut and words and words[-1].lower().strip(",:;") in _DANGLING:
        words.pop()
    return " ".join(words).strip(" \"'.,:;-–—")


def _whole_sentences(description: str) -> str:
    """The description cut to length, at the end of a sentence where there is one."""
    text = description[:DESCRIPTION_CHARACTERS].strip()
    if text.endswith((".", "!", "?")) and len(description) <= DESCRIPTION_CHARACTERS:
        return text
    end = max(text.rfind(mark) for mark in (". ", "! ", "? "))
    if end >= 20:
        return text[: end + 1]
    return text.rstrip(" ,;:") + ("" if len(description) < DESCRIPTION_CHARACTERS - 5 else "…")


def summary_from_keyphrases(facts: ClusterFacts, error: str | None = None) -> Summary:
    """A title and description without a model.

    Args:
        facts: The cluster.
        error: Why there is no answer of a model; None where none was asked.
    """
    status = "ok" if error is None else "fallback"
    phrases = facts.keyphrases
    if not phrases:
        exemplar = plain_text(facts.exemplars[0]) if facts.exemplars else ""
        title = clean_title(exemplar[:60]) or f"Cluster {facts.name}"
        return Summary(title, f"{facts.n_items:,} items such as: {exemplar[:200]}", status, error)
    words = 0
    names: list[str] = []
    for phrase in phrases[:4]:
        words += len(phrase.split())
        if words <= TITLE_WORDS:
            names.append(phrase)
    listed = ", ".join(phrases[:-1]) + " and " + phrases[-1] if len(phrases) > 1 else phrases[0]
    heading = ", ".join(names)
    return Summary(
        heading[:1].upper() + heading[1:],
        f"{facts.n_items:,} items about {listed}.",
        status,
        error,
    )
