"""Labels of the clusters of one level: requested, chosen and made distinct.

The title is chosen first, then a description that matches it, among the model's answers. Key
phrases replace either only if the model's answers are missing, wrong, or fit the items far worse.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hercules_scale.clustering.nearest_centroids import Float32
from hercules_scale.summarization.candidates import Candidates
from hercules_scale.summarization.cluster_facts import Child, ClusterFacts
from hercules_scale.summarization.distinct_titles import (
    alike_titles,
    names_a_part,
    title_key,
    told_apart,
)
from hercules_scale.summarization.fallback import summary_from_keyphrases, withheld_summary
from hercules_scale.summarization.grounding import LEAST_OF_TITLE, Grounding
from hercules_scale.summarization.label_choice import (
    TYPICAL_DESCRIPTION,
    TYPICAL_TITLE,
    Items,
    choose_labels,
    list_penalty,
    reading_penalty,
)
from hercules_scale.summarization.labeller import Labeller
from hercules_scale.summarization.parsing import Summary

Float64 = NDArray[np.float64]
Encode = Callable[[list[str]], Float32]

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
# A label is compared with this many of the most distinctive statistics of its cluster.
STATISTICS_COMPARED = 8
# Bonus in nats for a cosine of one to the topic.
TOPIC_WEIGHT = 2.0
# Penalty in nats for the title of a child that has few of the items.
PART_PENALTY = 1.0


@dataclass(frozen=True)
class Level:
    """Clusters of one level, and the data for choosing their labels.

    Attributes:
        facts: The facts of each cluster, by id.
        groups: Groups of clusters that are siblings.
        items: Items to choose by; None if labels are embedded in another space than items.
        grounding: Comparison of labels with the items' words; None if items have no words, or
            labels are in another language.
        encode: Function that embeds labels.
        topic: Vector of the paper's topic seed, shape (d,); None without a topic.
        n_answers: Answers per question; a single one is taken as it is.
        names_siblings: Whether all siblings are titled in one request, and not only those with
            similar titles.
    """

    facts: list[ClusterFacts]
    groups: list[NDArray[np.int64]]
    items: Items | None
    grounding: Grounding | None
    encode: Encode
    topic: Float32 | None
    n_answers: int
    names_siblings: bool

    @functools.cached_property
    def compared(self) -> Items:
        """Items that labels are compared with, or texts about each cluster instead.

        Numbers, images and user-supplied vectors are in another space than labels; their
        statistics, captions and texts are not.
        """
        if self.items is not None:
            return self.items
        texts = [
            [*each.own_texts, *each.statistics[:STATISTICS_COMPARED]] if not each.withheld else []
            for each in self.facts
        ]
        flat = [text for own in texts for text in own]
        labels = np.repeat(np.arange(len(texts)), [len(own) for own in texts])
        # Without any text no cluster has a choice, and nothing is compared.
        vectors = self.encode(flat) if flat else np.zeros((0, 1), np.float32)
        return Items(vectors, labels, np.ones(len(flat)), np.arange(len(flat)))

    @property
    def choice(self) -> tuple[bool, bool]:
        """Whether answers compete, and whether key phrases compete with them.

        Key phrases do not compete if labels are compared with texts about the clusters: they repeat
        the words of these texts, so they would always win.
        """
        several = self.n_answers > 1
        return several, several and self.items is not None


@dataclass(frozen=True)
class Labels:
    """Labels of a level, by cluster.

    Attributes:
        summaries: Titles and descriptions.
        vectors: Vectors of "title. description", shape (k, d).
        groundedness: Share of the content words of the title, the description and both that occur
            in the items, shape (k, 3); NaN where it is unknown.
    """

    summaries: list[Summary]
    vectors: Float32
    groundedness: Float64


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


async def label_level(level: Level, labeller: Labeller | None) -> Labels:
    """Return titles and descriptions of the clusters of a level.

    Args:
        level: The level.
        labeller: Asks the model; None for key phrases alone.

    Raises:
        StageError: The model does not answer at all, or the budget is spent.
    """
    facts = level.facts
    if labeller is None:
        found = {each.cluster_id: Candidates(problem=each.withheld or NO_MODEL) for each in facts}
    else:
        found = {each.cluster_id: Candidates(problem=unasked_reason(each)) for each in facts}
        asked = [each for each in facts if is_asked_about(each)]
        found |= await labeller.label(asked, level.grounding)
    titles = await _titles(level, [found[each.cluster_id] for each in facts], labeller)
    heads = [f"{title.text}. " for title in titles]
    options = [description_options(found[each.cluster_id], each, *level.choice) for each in facts]
    descriptions, vectors = _choose(level, options, heads)
    summaries = [
        _joined(title, description) for title, description in zip(titles, descriptions, strict=True)
    ]
    return Labels(summaries, vectors, _groundedness(level, summaries))


async def _titles(level: Level, found: list[Candidates], labeller: Labeller | None) -> list[Words]:
    """Return a title for each cluster, distinct among siblings."""
    facts = level.facts
    options = [
        title_options(own, each, *level.choice) for own, each in zip(found, facts, strict=True)
    ]
    chosen, _ = _choose(level, options)
    if labeller is not None:
        groups = _to_name(level, [each.text for each in chosen])
        asked = [[(facts[each], chosen[each].text) for each in group] for group in groups]
        new: set[int] = set()
        for answer in await labeller.name_siblings(asked):
            for cluster, title in answer.items():
                known = {each.text for each in options[cluster]}
                usable = title not in known and not is_decorated(title, known)
                if usable and not _problem_of(level, cluster, title):
                    options[cluster].append(Words(title, "model"))
                    new.add(cluster)
        if new:
            chosen, _ = _choose(level, options)
    titles = told_apart([each.text for each in chosen], facts, level.groups)
    return [
        Words(title, each.source, each.error) for title, each in zip(titles, chosen, strict=True)
    ]


def _to_name(level: Level, titles: list[str]) -> list[list[int]]:
    """Return groups of siblings that the model names together."""
    shown = np.array([is_asked_about(each) for each in level.facts])
    groups = [group[shown[group]] for group in level.groups]
    if not level.names_siblings:
        return [same for group in groups for same in alike_titles(titles, group)]
    # Sorted, so that similar titles share a request.
    return [
        sorted(group.tolist(), key=lambda each: titles[each]) for group in groups if len(group) > 1
    ]


def _problem_of(level: Level, cluster: int, title: str) -> str:
    if level.grounding is None:
        return ""
    return level.grounding.problem(cluster, "title", title, LEAST_OF_TITLE)


def _choose(
    level: Level, options: list[list[Words]], heads: list[str] | None = None
) -> tuple[list[Words], Float32]:
    """Choose a title or a description for each cluster.

    Args:
        level: The level.
        options: Options of each cluster.
        heads: Titles that go before descriptions.

    Returns:
        The chosen options and their vectors.
    """
    heads = heads if heads is not None else [""] * len(options)
    vectors = level.encode(
        [head + each.text for head, own in zip(heads, options, strict=True) for each in own]
    )
    by_cluster = np.split(vectors, np.cumsum([len(own) for own in options])[:-1])
    penalties = []
    for cluster, (own, own_vectors) in enumerate(zip(options, by_cluster, strict=True)):
        penalty = np.array([_penalty(level, cluster, each, not heads[cluster]) for each in own])
        if level.topic is not None:
            penalty -= TOPIC_WEIGHT * (own_vectors @ level.topic)
        penalties.append(penalty)
    chosen = choose_labels(by_cluster, penalties, level.compared, level.groups)
    return (
        [own[index] for own, index in zip(options, chosen, strict=True)],
        np.stack([own[index] for own, index in zip(by_cluster, chosen, strict=True)]),
    )


def _penalty(level: Level, cluster: int, words: Words, of_title: bool) -> float:
    """Return the penalty, in nats, for words that read badly or are untypical of the items."""
    penalty = reading_penalty(words.text) if of_title else 0.0
    if of_title and names_a_part(level.facts[cluster], words.text):
        penalty += PART_PENALTY
    if words.source != "model":
        return penalty + list_penalty(of_title)
    if level.grounding is not None:
        share = level.grounding.typicality(cluster, words.text)
        weight = TYPICAL_TITLE if of_title else TYPICAL_DESCRIPTION
        penalty += 0.0 if np.isnan(share) else weight * (1 - share)
    return penalty


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


def _joined(title: Words, description: Words) -> Summary:
    errors = dict.fromkeys(each.error for each in (title, description) if each.error)
    return Summary(
        title.text, description.text, title.source, description.source, "; ".join(errors) or None
    )


def _groundedness(level: Level, summaries: list[Summary]) -> Float64:
    """Return the groundedness of each title, each description, and both."""
    shares = np.full((len(summaries), 3), np.nan)
    if level.grounding is not None:
        for cluster, summary in enumerate(summaries):
            texts = (summary.title, summary.description, label_text(summary))
            shares[cluster] = [level.grounding.share(cluster, text) for text in texts]
    return shares


def label_text(summary: Summary) -> str:
    """Return the text that a label is embedded as."""
    return f"{summary.title}. {summary.description}"
