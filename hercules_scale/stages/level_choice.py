"""The clusters of a level, and the choice among their titles or descriptions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hercules_scale.clustering.nearest_centroids import Float32
from hercules_scale.stages.label_options import Words
from hercules_scale.summarization.cluster_facts import ClusterFacts
from hercules_scale.summarization.grounding import Grounding
from hercules_scale.summarization.label_choice import (
    TYPICAL_DESCRIPTION,
    TYPICAL_TITLE,
    Items,
    choose_labels,
    list_penalty,
    reading_penalty,
)
from hercules_scale.summarization.parent_titles import Parts

Encode = Callable[[list[str]], Float32]

# A label is compared with this many of the most distinctive statistics of its cluster.
STATISTICS_COMPARED = 8
# Bonus in nats for a cosine of one to the criterion.
CRITERION_WEIGHT = 2.0


@dataclass(frozen=True)
class Level:
    """Clusters of one level, and the data for choosing their labels.

    Attributes:
        facts: The facts of each cluster, by id.
        groups: Groups of clusters that are siblings.
        items: Items to choose by; None if labels are embedded in another space than items.
        parts: The clusters of the level below; None at level 1 and without ``items``.
        grounding: Comparison of labels with the items' words; None if items have no words, or
            labels are in another language.
        encode: Function that embeds labels.
        criterion: Vector of the criterion or topic, shape (d,); None without one.
        n_answers: Answers per question; a single one is taken as it is.
        names_siblings: Whether all siblings are titled in one request, and not only those with
            similar titles.
    """

    facts: list[ClusterFacts]
    groups: list[NDArray[np.int64]]
    items: Items | None
    parts: Parts | None
    grounding: Grounding | None
    encode: Encode
    criterion: Float32 | None
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


def choose(
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
        if level.criterion is not None:
            penalty -= CRITERION_WEIGHT * (own_vectors @ level.criterion)
        penalties.append(penalty)
    chosen = choose_labels(by_cluster, penalties, level.compared, level.groups)
    return (
        [own[index] for own, index in zip(options, chosen, strict=True)],
        np.stack([own[index] for own, index in zip(by_cluster, chosen, strict=True)]),
    )


def _penalty(level: Level, cluster: int, words: Words, of_title: bool) -> float:
    """Return the penalty, in nats, for words that read badly or are untypical of the items."""
    penalty = reading_penalty(words.text) if of_title else 0.0
    if words.source != "model":
        return penalty + list_penalty(of_title)
    if level.grounding is not None:
        share = level.grounding.typicality(cluster, words.text)
        weight = TYPICAL_TITLE if of_title else TYPICAL_DESCRIPTION
        penalty += 0.0 if np.isnan(share) else weight * (1 - share)
    return penalty
