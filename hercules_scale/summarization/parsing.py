"""A title and a description out of what a model answered."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass, replace
from typing import Any

import json_repair

from hercules_scale.errors import SummaryError
from hercules_scale.schemas import WITHHELD
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
# No title ends with one of these, even where the model ended it.
_ARTICLES = frozenset(("a", "an", "and", "of", "or", "the", "to", "with"))


@dataclass(frozen=True)
class Summary:
    """What a cluster is called.

    Attributes:
        title: At most seven words.
        description: One or two sentences.
        status: ``ok``, or ``fallback`` where the key phrases stand in for the model.
        error: Why the model's answer could not be used.
        source: ``model``, ``keyphrases``, or ``withheld`` where nothing may be told.
    """

    title: str
    description: str
    status: str = "ok"
    error: str | None = None
    source: str = "model"


def parse_answer(text: str, facts: ClusterFacts) -> Summary:
    """Read a model's JSON answer about one cluster.

    Raises:
        SummaryError: It holds no usable title and description; the message says what is wrong.
    """
    answer = _read_json(text)
    if isinstance(answer, list) and answer:
        answer = answer[0]
    if isinstance(answer, dict) and "title" not in answer and len(answer) == 1:
        # As in an answer about several clusters.
        answer = next(iter(answer.values()))
    return _to_summary(answer, facts)


def parse_joint_answer(text: str, group: list[ClusterFacts]) -> dict[int, Summary | SummaryError]:
    """Read a model's JSON answer about several clusters; a bad entry harms no other.

    Returns:
        By cluster id a summary, or what is wrong with it.

    Raises:
        SummaryError: The answer holds nothing of use.
    """
    entries = _by_id(_read_json(text), [facts.cluster_id for facts in group])
    found: dict[int, Summary | SummaryError] = {}
    for facts in group:
        try:
            found[facts.cluster_id] = _to_summary(entries.get(str(facts.cluster_id)), facts)
        except SummaryError as error:
            found[facts.cluster_id] = error
    return found


def parse_titles(text: str, group: list[ClusterFacts]) -> dict[int, str]:
    """Read a model's new titles by cluster; those of no use are left out.

    Raises:
        SummaryError: The answer holds nothing of use.
    """
    entries = _by_id(_read_json(text), [facts.cluster_id for facts in group])
    titles = {}
    for facts in group:
        entry = entries.get(str(facts.cluster_id))
        entry = entry.get("title") if isinstance(entry, dict) else entry
        if isinstance(entry, str):
            title = clean_title(plain_text(entry))
            unusable = _repeats_itself(title) or _invents_braces(title, facts)
            if re.search(r"\w\w", title) and not unusable:
                titles[facts.cluster_id] = title
    return titles


def _read_json(text: str) -> Any:
    """The JSON in an answer: within fences or prose, with slips that can be mended, or cut off.

    Raises:
        SummaryError: There is none.
    """
    start = min((at for at in (text.find("{"), text.find("[")) if at >= 0), default=-1)
    if start < 0:
        raise SummaryError("the answer holds no JSON object")
    try:
        return json.JSONDecoder(strict=False).raw_decode(text, start)[0]
    except (ValueError, RecursionError):
        pass
    try:
        return json_repair.loads(text[start:], skip_json_loads=True)
    except (ValueError, RecursionError) as error:
        raise SummaryError(f"the answer is not valid JSON: {error}") from None


def _by_id(answer: Any, ids: list[int]) -> dict[str, Any]:
    """Entries of an answer by the id that was asked for."""
    names = [str(each) for each in ids]
    if isinstance(answer, dict) and len(answer) == 1 and not answer.keys() & set(names):
        # Such as {"groups": {...}}.
        answer = next(iter(answer.values()))
    if isinstance(answer, dict):
        # Such as "Group 7" for 7.
        numbers = {key: re.findall(r"\d+", str(key)) for key in answer}
        return {found[-1]: answer[key] for key, found in numbers.items() if found}
    if not isinstance(answer, list):
        raise SummaryError("the answer holds no JSON object by group")
    with_ids = {
        str(entry[key]): entry
        for entry in answer
        if isinstance(entry, dict)
        for key in ("id", "ID", "group")
        if key in entry
    }
    if with_ids or len(answer) != len(ids):
        return with_ids
    return dict(zip(names, answer, strict=True))


def _to_summary(answer: Any, facts: ClusterFacts) -> Summary:
    values = {}
    for name in ("title", "description"):
        value = answer.get(name) if isinstance(answer, dict) else None
        if not isinstance(value, str) or not re.search(r"\w\w", value):
            raise SummaryError(f"the JSON holds no {name} in words")
        values[name] = plain_text(value)
    title = clean_title(values["title"])
    if not title:
        raise SummaryError("the title says nothing")
    if _invents_braces(title + values["description"], facts):
        raise SummaryError("the title or description holds braces, which the items do not")
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


def _invents_braces(text: str, facts: ClusterFacts) -> bool:
    """Whether a text has braces and the cluster none, as when a model quotes its JSON or schema."""
    return bool(set("{}") & set(text) - set("".join(facts.own_texts)))


def _repeats_prompt(title: str, facts: ClusterFacts) -> bool:
    """Whether a title has words of the worked examples or of other clusters and none of its own.

    Small models copy the worked examples where they do not know what to say.
    """
    of_cluster = content_words(" ".join(facts.own_texts))
    of_others = content_words(" ".join(phrase for other in facts.contrast for phrase in other))
    words = content_words(title)
    return not words & of_cluster and bool(words & (_FIXED_WORDS | of_others))


def content_words(text: str) -> set[str]:
    """Words of three letters or more that say something by themselves."""
    return set(re.findall(r"\w{3,}", text.lower())) - _DANGLING


_FIXED_WORDS = content_words(" ".join(message["content"] for message in fixed_messages(None)))


def clean_title(title: str) -> str:
    """A title of at most seven words that does not end in the middle of a phrase."""
    words = title.strip(" \"'.,:;-–—").split()
    cut = len(words) > TITLE_WORDS
    if len(title) >= TITLE_CHARACTERS and len(words) > 1:
        # The schema ends a long title in the middle of a word.
        words.pop()
        cut = True
    words = words[:TITLE_WORDS]
    while words and words[-1].lower().strip(",:;") in (_DANGLING if cut else _ARTICLES):
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
        description = f"{facts.n_items:,} items such as: {exemplar[:200]}"
        return Summary(title, description, status, error, "keyphrases")
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
        f"{facts.n_items:,} items {'with' if facts.statistics else 'about'} {listed}.",
        status,
        error,
        "keyphrases",
    )


def withheld_summary(facts: ClusterFacts) -> Summary:
    """What a cluster is called of which nothing may be told."""
    return Summary(
        "Small cluster",
        f"{facts.n_items:,} items, of which nothing is told.",
        "fallback",
        facts.withheld,
        WITHHELD,
    )


def with_keyphrases(summary: Summary, facts: ClusterFacts) -> Summary:
    """A model's description with the key phrases after it, which ground it in the items."""
    if not facts.keyphrases:
        return summary
    listed = ", ".join(plain_text(phrase) for phrase in facts.keyphrases)
    return replace(summary, description=f"{summary.description} Key phrases: {listed}.")
