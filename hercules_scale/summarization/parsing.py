"""Titles and descriptions from a model's answers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hercules_scale.errors import SummaryError
from hercules_scale.summarization.answer_json import (
    answer_values,
    entry_in,
    lower_keys,
    without_thoughts,
)
from hercules_scale.summarization.cluster_facts import ClusterFacts, plain_text
from hercules_scale.summarization.copied_phrases import without_copied_phrases
from hercules_scale.summarization.prompts import DESCRIPTION_CHARACTERS
from hercules_scale.summarization.refusals import refuses
from hercules_scale.summarization.titles import ARTICLES, QUOTES, clean_title
from hercules_scale.summarization.unusable_answers import (
    ENDS,
    content_words,
    invents_braces,
    is_blank,
    is_no_heading,
    own_words,
    repeats_itself,
    repeats_prompt,
)
from hercules_scale.summarization.words import has_words

# Words of the prompt about siblings that models copy into titles.
_SIBLINGS_WORDS = frozenset(("draft", "drafts", "final", "group", "groups", "title", "titles"))
_MARKDOWN = (
    (re.compile(r"!?\[([^\[\]]*)\]\((?:https?:|[/#.])[^()\s]*\)"), r"\1"),
    (re.compile(r"\*\*([^*]+)\*\*"), r"\1"),
    (re.compile(r"(?<![\w*])\*([^*\s](?:[^*]*[^*\s])?)\*(?![\w*])"), r"\1"),
    (re.compile(r"(?<!\w)__([^_]*\s[^_]*)__(?!\w)"), r"\1"),
    (re.compile(r"`+"), ""),
    (re.compile(r"^\s*(?:#{1,6}|[>*-](?!\s*\d))\s+"), ""),
)


@dataclass(frozen=True)
class Summary:
    """Title and description of a cluster, and their sources.

    Attributes:
        title: Title of at most seven words.
        description: Description of one or two sentences.
        source: Source of the title: ``model``, ``keyphrases``, ``parts`` where it lists the
            largest children, or ``withheld`` where privacy withholds every text of the cluster.
        description_source: Source of the description.
        error: Reason why one of them is not the model's.
        topics: Topics that the description lists, where the model gave topics.
    """

    title: str
    description: str
    source: str = "model"
    description_source: str = "model"
    error: str | None = None
    topics: tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """``ok`` where both title and description are the model's, else ``fallback``."""
        return "ok" if self.source == self.description_source == "model" else "fallback"


def parse_answer(text: str, facts: ClusterFacts) -> Summary:
    """Read a model's JSON answer about one cluster.

    Models may draft before the answer, so the last usable object is taken.

    Raises:
        SummaryError: There is no usable title and description; the message has the reason.
    """
    problem: SummaryError | None = None
    for value in answer_values(text):
        try:
            return _to_summary(entry_in(value), facts)
        except SummaryError as error:
            problem = problem or error
    raise problem or _nothing_in(text)


def parse_joint_answer(text: str, group: list[ClusterFacts]) -> dict[int, Summary | SummaryError]:
    """Read a model's JSON answer about several clusters, each entry independently.

    Returns:
        By cluster id a summary, or the reason why its entry is unusable.

    Raises:
        SummaryError: The answer holds no entries.
    """
    found: dict[int, Summary | SummaryError] = {}
    for entries in _entries(text, group):
        for facts in group:
            if isinstance(found.get(facts.cluster_id), Summary):
                continue
            try:
                entry = entry_in(entries.get(str(facts.cluster_id)))
                found[facts.cluster_id] = _to_summary(entry, facts)
            except SummaryError as error:
                found.setdefault(facts.cluster_id, error)
        if all(isinstance(each, Summary) for each in found.values()):
            break
    return found


def parse_titles(text: str, group: list[ClusterFacts]) -> dict[int, str]:
    """Read a model's titles for siblings, by cluster id; unusable titles are left out.

    Raises:
        SummaryError: The answer holds no entries.
    """
    titles: dict[int, str] = {}
    for entries in _entries(text, group):
        for facts in group:
            entry = lower_keys(entries.get(str(facts.cluster_id)))
            entry = entry.get("title") if isinstance(entry, dict) else entry
            if facts.cluster_id in titles or not isinstance(entry, str):
                continue
            title = _usable_title(entry, facts)
            if title:
                titles[facts.cluster_id] = title
        if len(titles) == len(group):
            break
    return titles


def parse_title(text: str, facts: ClusterFacts) -> str:
    """Read a model's title of one cluster.

    Raises:
        SummaryError: There is no usable title.
    """
    for value in answer_values(text):
        entry = lower_keys(value)
        entry = entry.get("title") if isinstance(entry, dict) else entry
        title = _usable_title(entry, facts) if isinstance(entry, str) else ""
        if title:
            return title
    raise SummaryError("the answer holds no usable title")


def _usable_title(text: str, facts: ClusterFacts) -> str:
    """Return a title of an answer that has titles alone; empty where it is unusable."""
    words = _plain_words(text)
    title = clean_title(words)
    unusable = (
        is_no_heading(words)
        or bool((content_words(title) & _SIBLINGS_WORDS) - own_words(facts))
        or repeats_itself(title)
        or invents_braces(title, facts)
        or refuses(text)
        or is_blank(title)
    )
    return title if has_words(title) and not unusable else ""


def _nothing_in(text: str) -> SummaryError:
    """Return the error about an answer without a JSON value."""
    answer = without_thoughts(text)
    if refuses(answer):
        return SummaryError(f"the model refused: {plain_text(answer[:300])[:150]}")
    if any(mark in answer for mark in "[{"):
        return SummaryError("the answer is not valid JSON")
    return SummaryError("the answer holds no JSON object")


def _entries(text: str, group: list[ClusterFacts]) -> Iterator[dict[str, Any]]:
    """Yield the entries by cluster id in each JSON value of an answer, the likeliest first.

    Raises:
        SummaryError: The answer holds no entries.
    """
    ids = [facts.cluster_id for facts in group]
    names = {str(each) for each in ids}
    partial, found, problem = [], False, None
    for value in answer_values(text):
        try:
            entries = _by_id(value, ids)
        except SummaryError as error:
            problem = problem or error
        else:
            found = True
            if names <= entries.keys():
                yield entries
            else:
                partial.append(entries)
    yield from sorted(partial, key=lambda entries: -len(names & entries.keys()))
    if not found:
        raise problem or _nothing_in(text)


def _by_id(answer: Any, ids: list[int]) -> dict[str, Any]:
    """Return the entries of an answer by cluster id."""
    names = [str(each) for each in ids]
    if isinstance(answer, dict) and len(answer) == 1 and not answer.keys() & set(names):
        # An answer such as {"groups": {...}}.
        answer = next(iter(answer.values()))
    if isinstance(answer, dict):
        # A key such as "Group 7" means 7.
        numbers = {key: re.findall(r"\d+", str(key)) for key in answer}
        return {found[-1]: answer[key] for key, found in numbers.items() if found}
    if not isinstance(answer, list):
        raise SummaryError("the answer holds no JSON object by group")
    with_ids = {
        number: entry
        for entry in map(lower_keys, answer)
        if isinstance(entry, dict)
        for key in ("id", "group")
        if key in entry
        # A value such as "Group 7" means 7.
        for number in re.findall(r"\d+", str(entry[key]))[-1:]
    }
    if with_ids or len(answer) != len(ids):
        return with_ids
    if not all(isinstance(entry, dict | str) for entry in answer):
        raise SummaryError("the answer holds no JSON object by group")
    return dict(zip(names, answer, strict=True))


def _to_summary(answer: Any, facts: ClusterFacts) -> Summary:
    answer = lower_keys(answer)
    topics = _topics(answer, facts)
    if topics:
        answer |= {"description": listed(topics)}
    values = {}
    for name in ("title", "description"):
        value = _words(answer.get(name)) if isinstance(answer, dict) else ""
        if not has_words(value) or is_blank(value):
            raise SummaryError(f"the JSON holds no {name} in words")
        if refuses(value):
            raise SummaryError(f"the model refused: {plain_text(value)[:150]}")
        values[name] = _plain_words(value)
        if not has_words(values[name]):
            raise SummaryError(f"the JSON holds no {name} in words")
    title = clean_title(values["title"])
    if not title:
        raise SummaryError("the title says nothing")
    if invents_braces(title + values["description"], facts):
        raise SummaryError("the title or description holds braces, which the items do not")
    if any(repeats_itself(text) for text in (title, values["description"])):
        raise SummaryError("the answer repeats itself")
    if repeats_prompt(title, facts):
        raise SummaryError("the title repeats the instructions, not what the items are about")
    description = _whole_sentences(values["description"])
    if not topics:
        description = without_copied_phrases(description, facts.keyphrases)
    if not description:
        raise SummaryError("the description is the list of key phrases of the request")
    return Summary(title, description, topics=tuple(topics))


def _topics(answer: Any, facts: ClusterFacts) -> list[str]:
    """Return the distinct topics of an answer that has topics instead of a description."""
    found = answer.get("topics") if isinstance(answer, dict) and "description" not in answer else []
    topics: dict[str, str] = {}
    spellings = _spellings(facts) if found else {}
    for each in found if isinstance(found, list) else []:
        words = _plain_words(each).strip(QUOTES).split() if isinstance(each, str) else []
        while words and words[0].lower() in ARTICLES:
            words = words[1:]
        while words and words[-1].lower() in ARTICLES:
            words = words[:-1]
        topic = " ".join(spellings.get(word, word) for word in words)
        if has_words(topic):
            topics.setdefault(topic.casefold(), topic)
    return list(topics.values())


def _spellings(facts: ClusterFacts) -> dict[str, str]:
    """Return the spelling of each word that all exemplars spell alike, by its lower case."""
    seen: dict[str, set[str]] = {}
    for text in facts.exemplars:
        # The first word of a text has a capital for its place alone.
        for word in text.split()[1:]:
            plain = word.strip(QUOTES)
            seen.setdefault(plain.lower(), set()).add(plain)
    return {word: found.pop() for word, found in seen.items() if len(found) == 1}


def listed(topics: Sequence[str]) -> str:
    """Return a description that lists topics."""
    text = ", ".join(topics)
    return f"{text[:1].upper()}{text[1:]}."


def _words(value: Any) -> str:
    """Return a value as text, also the only value of an object, or the texts of a list joined."""
    if isinstance(value, dict) and len(value) == 1:
        value = next(iter(value.values()))
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        value = " ".join(value)
    return value if isinstance(value, str) else ""


def _plain_words(text: str) -> str:
    """Return a model's text on one line, without Markdown."""
    text = plain_text(text)
    for pattern, kept in _MARKDOWN:
        text = pattern.sub(kept, text)
    return text.strip()


def _whole_sentences(description: str) -> str:
    """Return the description cut to length, at the end of a sentence if there is one."""
    text = description[:DESCRIPTION_CHARACTERS].strip()
    if text.endswith(ENDS) and len(description) <= DESCRIPTION_CHARACTERS:
        return text
    end = max(text.rfind(mark if mark > "\x7f" else f"{mark} ") for mark in ENDS)
    if end >= 20:
        return text[: end + 1]
    return text.rstrip(" ,;:") + ("" if len(description) < DESCRIPTION_CHARACTERS - 5 else "…")
