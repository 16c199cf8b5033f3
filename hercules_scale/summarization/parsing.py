"""A title and a description out of what a model answered."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hercules_scale.errors import SummaryError
from hercules_scale.summarization.answers import (
    answer_values,
    entry_in,
    lower_keys,
    without_thoughts,
)
from hercules_scale.summarization.cluster_facts import ClusterFacts, plain_text
from hercules_scale.summarization.copied import without_copied_phrases
from hercules_scale.summarization.prompts import (
    DESCRIPTION_CHARACTERS,
    TITLE_CHARACTERS,
    PromptStyle,
    fixed_messages,
)
from hercules_scale.summarization.refusals import refuses
from hercules_scale.summarization.titles import ARTICLES, DANGLING, QUOTES, clean_title
from hercules_scale.summarization.tokens import EstimatedTokens
from hercules_scale.summarization.words import has_words, parts
from hercules_scale.summarization.worked_examples import TITLE_WORDS

# Words of the request that names siblings, which models copy into titles.
_SIBLINGS_WORDS = frozenset(("draft", "drafts", "final", "group", "groups", "title", "titles"))
_CONJUNCTIONS = frozenset(("and", "but", "or", "so", "yet"))
_MARKDOWN = (
    (re.compile(r"!?\[([^\[\]]*)\]\((?:https?:|[/#.])[^()\s]*\)"), r"\1"),
    (re.compile(r"\*\*([^*]+)\*\*"), r"\1"),
    (re.compile(r"(?<![\w*])\*([^*\s](?:[^*]*[^*\s])?)\*(?![\w*])"), r"\1"),
    (re.compile(r"(?<!\w)__([^_]*\s[^_]*)__(?!\w)"), r"\1"),
    (re.compile(r"`+"), ""),
    (re.compile(r"^\s*(?:#{1,6}|[>*-](?!\s*\d))\s+"), ""),
)
# Ends of sentences; in some scripts no space follows them.
_ENDS = (".", "!", "?", "。", "！", "？", "।", "۔", "؟", "።")
# Titles and descriptions of a form that was not filled in.
_BLANK = re.compile(
    r"[^\w{}]*(?:n/?a|none|null|unknown|untitled|string|text|title|description"
    r"|your (?:title|description)|<[^<>]*>|\.{2,})[^\w{}]*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Summary:
    """Title and description of a cluster, and their sources.

    Attributes:
        title: Title of at most seven words.
        description: One or two sentences.
        source: Source of the title: ``model``, ``keyphrases``, or ``withheld`` where privacy
            forbids every text of the cluster.
        description_source: The same of the description.
        error: The reason why one of them is not the model's.
        topics: Phrases that the description lists, where the model gave it so.
    """

    title: str
    description: str
    source: str = "model"
    description_source: str = "model"
    error: str | None = None
    topics: tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """``ok`` where title and description are the model's, else ``fallback``."""
        return "ok" if self.source == self.description_source == "model" else "fallback"


def parse_answer(text: str, facts: ClusterFacts) -> Summary:
    """Read a model's JSON answer about one cluster.

    Models draft and quote before they answer, and explain after it: of the objects of an answer the
    last that can be used is taken.

    Raises:
        SummaryError: It holds no usable title and description; the message says what is wrong.
    """
    problem: SummaryError | None = None
    for value in answer_values(text):
        try:
            return _to_summary(entry_in(value), facts)
        except SummaryError as error:
            problem = problem or error
    raise problem or _nothing_in(text)


def parse_joint_answer(text: str, group: list[ClusterFacts]) -> dict[int, Summary | SummaryError]:
    """Read a model's JSON answer about several clusters; a bad entry harms no other.

    Returns:
        By cluster id a summary, or what is wrong with it.

    Raises:
        SummaryError: The answer holds nothing of use.
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
    """Read a model's new titles by cluster; unusable ones are left out.

    Raises:
        SummaryError: The answer holds nothing of use.
    """
    titles: dict[int, str] = {}
    for entries in _entries(text, group):
        for facts in group:
            entry = lower_keys(entries.get(str(facts.cluster_id)))
            entry = entry.get("title") if isinstance(entry, dict) else entry
            if facts.cluster_id in titles or not isinstance(entry, str):
                continue
            words = _plain_words(entry)
            title = clean_title(words)
            unusable = (
                _is_no_heading(words)
                or bool((content_words(title) & _SIBLINGS_WORDS) - _own_words(facts))
                or _repeats_itself(title)
                or _invents_braces(title, facts)
                or refuses(entry)
                or _BLANK.fullmatch(title)
            )
            if has_words(title) and not unusable:
                titles[facts.cluster_id] = title
        if len(titles) == len(group):
            break
    return titles


def _is_no_heading(title: str) -> bool:
    """Return whether a title among siblings' is a sentence or longer than titles are.

    Models that name several groups at once write headlines of news. The draft is the better title
    than the beginning of one.
    """
    words = title.split()
    begins = bool(words) and words[0].lower() in _CONJUNCTIONS
    is_long = len(words) > TITLE_WORDS or len(title) >= TITLE_CHARACTERS
    is_sentence = len(words) > 3 and title.endswith((*_ENDS, ",", ":"))
    return begins or is_long or is_sentence


def _nothing_in(text: str) -> SummaryError:
    """Return the error of an answer without any JSON value."""
    answer = without_thoughts(text)
    if refuses(answer):
        return SummaryError(f"the model refused: {plain_text(answer[:300])[:150]}")
    if any(mark in answer for mark in "[{"):
        return SummaryError("the answer is not valid JSON")
    return SummaryError("the answer holds no JSON object")


def _entries(text: str, group: list[ClusterFacts]) -> Iterator[dict[str, Any]]:
    """Yield the entries of an answer about several clusters by id, of its likeliest value first.

    Raises:
        SummaryError: The answer holds nothing of use.
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
    """Return the entries of an answer by the id that was asked for."""
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
        number: entry
        for entry in map(lower_keys, answer)
        if isinstance(entry, dict)
        for key in ("id", "group")
        if key in entry
        # Such as "Group 7" for 7.
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
        if not has_words(value) or _BLANK.fullmatch(value):
            raise SummaryError(f"the JSON holds no {name} in words")
        if refuses(value):
            raise SummaryError(f"the model refused: {plain_text(value)[:150]}")
        values[name] = _plain_words(value)
        if not has_words(values[name]):
            raise SummaryError(f"the JSON holds no {name} in words")
    title = clean_title(values["title"])
    if not title:
        raise SummaryError("the title says nothing")
    if _invents_braces(title + values["description"], facts):
        raise SummaryError("the title or description holds braces, which the items do not")
    if any(_repeats_itself(text) for text in (title, values["description"])):
        raise SummaryError("the answer repeats itself")
    if _repeats_prompt(title, facts):
        raise SummaryError("the title repeats the instructions, not what the items are about")
    description = _whole_sentences(values["description"])
    if not topics:
        description = without_copied_phrases(description, facts.keyphrases)
    if not description:
        raise SummaryError("the description is the list of key phrases of the request")
    return Summary(title, description, topics=tuple(topics))


def _topics(answer: Any, facts: ClusterFacts) -> list[str]:
    """Return the topics of an answer that describes a cluster by them, each once."""
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
    """Return the spelling of each word, by its small letters, that the items give only one."""
    seen: dict[str, set[str]] = {}
    for text in facts.exemplars:
        # The first word of a text has a capital for its place.
        for word in text.split()[1:]:
            plain = word.strip(QUOTES)
            seen.setdefault(plain.lower(), set()).add(plain)
    return {word: found.pop() for word, found in seen.items() if len(found) == 1}


def listed(topics: Sequence[str]) -> str:
    """Return topics as one line of a description."""
    text = ", ".join(topics)
    return f"{text[:1].upper()}{text[1:]}."


def _words(value: Any) -> str:
    """Return a text, also where it is alone in an object, or sentences of a list."""
    if isinstance(value, dict) and len(value) == 1:
        value = next(iter(value.values()))
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        value = " ".join(value)
    return value if isinstance(value, str) else ""


def _plain_words(text: str) -> str:
    """Return the words of a model on one line, without markdown."""
    text = plain_text(text)
    for pattern, kept in _MARKDOWN:
        text = pattern.sub(kept, text)
    return text.strip()


def _repeats_itself(text: str) -> bool:
    """Return whether fewer than six in ten pairs of neighbouring words are new, as when a model
    loops."""
    words = parts(text)
    pairs = list(itertools.pairwise(words))
    return len(pairs) >= 5 and len(set(pairs)) < 0.6 * len(pairs)


def _invents_braces(text: str, facts: ClusterFacts) -> bool:
    """Return whether a text has braces and the cluster none, as when a model quotes its JSON or
    schema."""
    return bool(set("{}") & set(text) - set("".join(facts.own_texts)))


def _repeats_prompt(title: str, facts: ClusterFacts) -> bool:
    """Return whether a title has words of the worked examples or of other clusters and none of its
    own.

    Small models copy the worked examples where they do not know what to say.
    """
    of_cluster = _own_words(facts)
    of_others = content_words(" ".join(phrase for other in facts.contrast for phrase in other))
    words = content_words(title)
    return not words & of_cluster and bool(words & (_FIXED_WORDS | of_others))


def _own_words(facts: ClusterFacts) -> set[str]:
    return content_words(" ".join(facts.own_texts))


def content_words(text: str) -> set[str]:
    """Return the words of three letters or more, in other scripts of any number, that say
    something."""
    return {word for word in parts(text) if len(word) > 2 or not word.isascii()} - DANGLING


_STYLE = PromptStyle(EstimatedTokens(), 4000, 96, size="medium")
_FIXED_WORDS = content_words(
    " ".join(
        message["content"]
        for of_item in (False, True)
        for message in fixed_messages(_STYLE, of_item)
    )
)


def _whole_sentences(description: str) -> str:
    """Return the description cut to length, at the end of a sentence where there is one."""
    text = description[:DESCRIPTION_CHARACTERS].strip()
    if text.endswith(_ENDS) and len(description) <= DESCRIPTION_CHARACTERS:
        return text
    end = max(text.rfind(mark if mark > "\x7f" else f"{mark} ") for mark in _ENDS)
    if end >= 20:
        return text[: end + 1]
    return text.rstrip(" ,;:") + ("" if len(description) < DESCRIPTION_CHARACTERS - 5 else "…")
