"""A title and a description out of what a model answered."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
# The end of an answer that is read, the broken JSON objects that are passed over in it, and those
# that are repaired: they bound the work on a hostile answer.
ANSWER_CHARACTERS, BROKEN, REPAIRS = 50_000, 100, 2
_THOUGHTS = re.compile(
    r"<(think|thinking|thought|reasoning)>.*?(?:</\1>|\Z)", re.IGNORECASE | re.DOTALL
)
# Chat templates that open the thoughts themselves leave their end alone in the answer.
_THOUGHTS_BEFORE = re.compile(
    r"\A.*</(?:think|thinking|thought|reasoning)>", re.IGNORECASE | re.DOTALL
)
_MARKDOWN = (
    (re.compile(r"!?\[([^\[\]]*)\]\([^()\s]*\)"), r"\1"),
    (re.compile(r"\*\*([^*]+)\*\*"), r"\1"),
    (re.compile(r"(?<![\w*])\*([^*\s](?:[^*]*[^*\s])?)\*(?![\w*])"), r"\1"),
    (re.compile(r"(?<!\w)__([^_]+)__(?!\w)"), r"\1"),
    (re.compile(r"`+"), ""),
    (re.compile(r"^\s*(?:#{1,6}|[>*-])\s+"), ""),
)
_CANNOT = (
    r"(?:can(?:no|['’])t|can not|could(?:n['’]t| not)|won['’]t|will not"
    r"|(?:am|['’]m) (?:unable|not able))"
)
_REFUSAL = re.compile(
    r"\W*(?:"
    r"(?:i(?:['’]m| am)\s+)?(?:so |very |truly )?sorry\W+(?:but\W+)?(?:i\b|as an ai\b|we\b)"
    r"|(?:i(?:['’]m| am)\s+)(?:so |very |truly )?sorry\W+but\b"
    rf"|(?:unfortunately\W+)?i\s*{_CANNOT}\b"
    r"|i apologi[sz]e\b"
    r"|as an? (?:ai|artificial intelligence|(?:large )?language model)\b"
    r")",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Summary:
    """Title and description of a cluster, and their sources.

    Attributes:
        title: At most seven words.
        description: One or two sentences.
        source: Source of the title: ``model``, ``keyphrases``, or ``withheld`` where privacy
            forbids every text of the cluster.
        description_source: The same of the description.
        error: The reason why one of them is not the model's.
    """

    title: str
    description: str
    source: str = "model"
    description_source: str = "model"
    error: str | None = None

    @property
    def status(self) -> str:
        """``ok`` where title and description are the model's, else ``fallback``."""
        return "ok" if self.source == self.description_source == "model" else "fallback"


def parse_answer(text: str, facts: ClusterFacts) -> Summary:
    """Read a model's JSON answer about one cluster.

    Raises:
        SummaryError: It holds no usable title and description; the message says what is wrong.
    """
    return _to_summary(_one_entry(_read_json(text, _describes_one)), facts)


def parse_joint_answer(text: str, group: list[ClusterFacts]) -> dict[int, Summary | SummaryError]:
    """Read a model's JSON answer about several clusters; a bad entry harms no other.

    Returns:
        By cluster id a summary, or what is wrong with it.

    Raises:
        SummaryError: The answer holds nothing of use.
    """
    entries = _entries(text, group)
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
    entries = _entries(text, group)
    titles = {}
    for facts in group:
        entry = _lower_keys(entries.get(str(facts.cluster_id)))
        entry = entry.get("title") if isinstance(entry, dict) else entry
        if isinstance(entry, str):
            title = clean_title(_plain_words(entry))
            unusable = _repeats_itself(title) or _invents_braces(title, facts) or _refuses(entry)
            if re.search(r"\w\w", title) and not unusable:
                titles[facts.cluster_id] = title
    return titles


def _read_json(text: str, fits: Callable[[Any], bool]) -> Any:
    """Read the JSON value that an answer ends with, out of thoughts, fences and prose.

    Args:
        text: The answer.
        fits: Whether a value has the form that was asked for. Models draft and quote before they
            answer, so the last value that fits is the answer. Where none does, broken JSON is
            repaired, also where it is cut off.

    Raises:
        SummaryError: There is no JSON value.
    """
    answer = _without_thoughts(text)[-ANSWER_CHARACTERS:]
    values: list[Any] = []
    broken: list[int] = []
    for start, value in _json_values(answer):
        if value is None:
            broken.append(start)
        else:
            values.append(value)
    fitting = [value for value in values if fits(value)]
    if fitting:
        return fitting[-1]
    for start in broken[:REPAIRS]:
        try:
            repaired = json_repair.loads(answer[start:], skip_json_loads=True)
        except RecursionError:
            break
        except ValueError:
            continue
        if fits(repaired):
            return repaired
        values.append(repaired)
    lines = _labelled_lines(answer)
    if fits(lines):
        return lines
    if _refuses(answer):
        raise SummaryError(f"the model refused: {plain_text(answer[:300])[:150]}")
    if not values:
        raise SummaryError(
            "the answer is not valid JSON" if broken else "the answer holds no JSON object"
        )
    return values[-1]


def _json_values(text: str) -> Iterator[tuple[int, Any]]:
    """Objects and lists of a text in order, with their places; None for what is no valid JSON."""
    decoder = json.JSONDecoder(strict=False)
    place = 0
    n_broken = 0
    while n_broken < BROKEN and (match := _OPENING.search(text, place)) is not None:
        place = match.start()
        try:
            value, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            yield place, None
            place += 1
            n_broken += 1
        else:
            yield place, value
            place = end


_OPENING = re.compile(r"[\[{]")


def _without_thoughts(text: str) -> str:
    """An answer without the thoughts that some models write before it."""
    return _THOUGHTS_BEFORE.sub("", _THOUGHTS.sub(" ", text))


def _labelled_lines(text: str) -> dict[str, str]:
    """Title and description of an answer without JSON, such as "Title: Ferries"."""
    found = {}
    for name in ("title", "description"):
        match = re.search(rf"^\W{{0,8}}{name}\W{{0,4}}:\W{{0,4}}(\S.*)$", text, re.I | re.M)
        if match:
            found[name] = match[1]
    return found


def _describes_one(value: Any) -> bool:
    entry = _one_entry(value)
    return isinstance(entry, dict) and {"title", "description"} <= entry.keys()


def _one_entry(value: Any) -> Any:
    """The entry of an answer about one cluster, also of a list or an object that holds it alone."""
    if isinstance(value, list) and value:
        value = value[0]
    value = _lower_keys(value)
    if isinstance(value, dict) and "title" not in value and len(value) == 1:
        value = _lower_keys(next(iter(value.values())))
    return value


def _lower_keys(value: Any) -> Any:
    """An object with its keys in lower case; anything else as it is."""
    if not isinstance(value, dict):
        return value
    return {str(key).strip().lower(): entry for key, entry in value.items()}


def _entries(text: str, group: list[ClusterFacts]) -> dict[str, Any]:
    """Entries of an answer about several clusters by id.

    Raises:
        SummaryError: The answer holds nothing of use.
    """
    ids = [facts.cluster_id for facts in group]

    def fits(value: Any) -> bool:
        try:
            return bool(_by_id(value, ids).keys() & {str(each) for each in ids})
        except SummaryError:
            return False

    return _by_id(_read_json(text, fits), ids)


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
    answer = _lower_keys(answer)
    values = {}
    for name in ("title", "description"):
        value = answer.get(name) if isinstance(answer, dict) else None
        if not isinstance(value, str) or not re.search(r"\w\w", value):
            raise SummaryError(f"the JSON holds no {name} in words")
        if _refuses(value):
            raise SummaryError(f"the model refused: {plain_text(value)[:150]}")
        values[name] = _plain_words(value)
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


def _plain_words(text: str) -> str:
    """Words of a model on one line, without markdown."""
    text = plain_text(text)
    for pattern, kept in _MARKDOWN:
        text = pattern.sub(kept, text)
    return text.strip()


def _refuses(text: str) -> bool:
    """Whether a text begins as a model's refusal does."""
    return _REFUSAL.match(text) is not None


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


def summary_from_keyphrases(facts: ClusterFacts, reason: str) -> Summary:
    """A title and description without a model.

    Args:
        facts: The cluster.
        reason: The reason why they are not a model's.
    """
    phrases = facts.keyphrases
    if not phrases:
        exemplar = plain_text(facts.exemplars[0]) if facts.exemplars else ""
        title = clean_title(exemplar[:60]) or f"Cluster {facts.name}"
        description = f"{facts.n_items:,} items such as: {exemplar[:200]}"
        return Summary(title, description, "keyphrases", "keyphrases", reason)
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
        "keyphrases",
        "keyphrases",
        reason,
    )


def withheld_summary(facts: ClusterFacts) -> Summary:
    """Title and description of a cluster of which privacy forbids every text."""
    return Summary(
        "Small cluster",
        f"{facts.n_items:,} items; their texts are withheld.",
        WITHHELD,
        WITHHELD,
        facts.withheld,
    )
