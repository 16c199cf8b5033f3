"""Facts about clusters before they have titles: phrases, figures, examples, children.

Source: HERCULES, section 3.4.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hercules_scale.clustering.nearest_centroids import Float32, nearest, to_unit
from hercules_scale.clustering.stateless_random import uniform
from hercules_scale.reading.redact import redacted
from hercules_scale.runtime.context import RunContext, Shards
from hercules_scale.stages.cluster import Clusters
from hercules_scale.stages.language_model import LABELLING
from hercules_scale.stages.numeric_statistics import Statistics
from hercules_scale.stages.phrase_counts import SAMPLE_PER_CLUSTER, count_run_phrases
from hercules_scale.stages.vocabulary import Vocabulary, load_vocabulary
from hercules_scale.stages.withheld_clusters import withheld_reasons
from hercules_scale.storage import layout
from hercules_scale.storage.commits import read_commits
from hercules_scale.storage.schemas import WITHHELD
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import column_vectors, read_table, take_rows
from hercules_scale.summarization.cluster_facts import Child, ClusterFacts
from hercules_scale.summarization.grounding import SaidWords
from hercules_scale.summarization.keyphrases import CHARACTERS_READ, PhraseCounts
from hercules_scale.summarization.label_choice import sibling_groups
from hercules_scale.summarization.tokens import CHARACTERS_PER_TOKEN

KEYPHRASES = 8
# Prompts show this many items of a small cluster, even if few are left to choose its label by.
LEAST_SHOWN = 4
# An exemplar with this cosine to an earlier one, or a larger one, adds nothing.
NEAR_DUPLICATE = 0.9


@dataclass(frozen=True)
class FactsSource:
    """Source of facts that distinguish clusters: words of items, a vocabulary, or statistics.

    Attributes:
        withheld: Reasons why clusters are withheld, by level and id; "" if they are not.
    """

    withheld: list[list[str]]
    statistics: Statistics
    phrases: PhraseCounts | None = None
    vocabulary: Vocabulary | None = None

    def keyphrases(self, clustering: Clusters, level: int) -> list[list[str]]:
        """Return the phrases of each cluster, most distinctive first; none if it is withheld."""
        return [
            [] if withheld else own
            for own, withheld in zip(
                self._keyphrases(clustering, level), self.withheld[level - 1], strict=True
            )
        ]

    def sentences(self, level: int) -> list[list[str]]:
        """Return sentences about the variables of each cluster; none if it is withheld."""
        withheld = self.withheld[level - 1]
        if not self.statistics.columns:
            return [[] for _ in withheld]
        sentences = self.statistics.sentences(level)
        return [[] if reason else own for own, reason in zip(sentences, withheld, strict=True)]

    def said_words(self, clustering: Clusters, level: int) -> SaidWords | None:
        """Return the words of the items of each cluster of a level; None if not counted."""
        if self.phrases is None:
            return None
        sizes = clustering.level(1)["n_items"].to_numpy()
        sampled = np.minimum(sizes, SAMPLE_PER_CLUSTER).astype(np.float64)
        return self.phrases.words_of_level(ancestors(clustering, level), sampled)

    def _keyphrases(self, clustering: Clusters, level: int) -> list[list[str]]:
        if self.statistics.columns:
            return self.statistics.phrases(level, KEYPHRASES)
        if self.vocabulary is not None:
            return self.vocabulary.of_level(clustering.level(level), KEYPHRASES)
        if self.phrases is not None:
            return self.phrases.of_level(ancestors(clustering, level), KEYPHRASES)
        return [[] for _ in range(clustering.level(level).num_rows)]


def facts_source(
    context: RunContext, shards: Shards, clustering: Clusters, statistics: Statistics
) -> FactsSource:
    """Return the source of facts that distinguish clusters; it is empty for wordless vectors."""
    asked = context.config.input
    withheld = withheld_reasons(context, shards, clustering)
    wordless = asked.modality == "embedding" and asked.text_column is None
    if statistics.columns or wordless:
        return FactsSource(withheld, statistics)
    vocabulary = load_vocabulary(context)
    if vocabulary is not None:
        return FactsSource(withheld, statistics, vocabulary=vocabulary)
    return FactsSource(withheld, statistics, count_run_phrases(context, shards, clustering))


def cluster_facts(
    context: RunContext,
    shards: Shards,
    clustering: Clusters,
    source: FactsSource,
    level: int,
) -> list[ClusterFacts]:
    """Return facts about each cluster of a level, by id."""
    clusters = clustering.level(level)
    config = context.config.summaries
    keyphrases, withheld = source.keyphrases(clustering, level), source.withheld[level - 1]
    exemplars = [
        [] if reason else rows
        for rows, reason in zip(shown_rows(context, shards, clusters), withheld, strict=True)
    ]
    store = context.store
    texts = cells(store, shards, exemplars, context.config.input.words_column)
    shown = redacted(list(texts.values()), context.config.privacy.redact)
    # Texts are cut, since a text of megabytes would be read again for every answer.
    read = max(CHARACTERS_READ, CHARACTERS_PER_TOKEN * config.exemplar_tokens)
    texts = {row: text[:read] for row, text in zip(texts, shown, strict=True)}
    pictures = cells(store, shards, exemplars, "thumbnail") if config.show_images else {}
    statistics = source.sentences(level)
    children = _children(context, clustering, level)
    outside = nearest_outside(column_vectors(clusters["centroid"]), config.contrast)
    return [
        ClusterFacts(
            level,
            row["cluster_id"],
            row["n_items"],
            keyphrases[row["cluster_id"]],
            [texts[item] for item in exemplars[row["cluster_id"]]],
            children.get(row["cluster_id"], []),
            [keyphrases[other] for other in outside[row["cluster_id"]]],
            statistics[row["cluster_id"]],
            [pictures[item] for item in exemplars[row["cluster_id"]] if item in pictures],
            withheld[row["cluster_id"]],
        )
        for row in clusters.select(["cluster_id", "n_items"]).to_pylist()
    ]


def nearest_outside(centroids: Float32, n_nearest: int) -> list[list[int]]:
    """Return the ids of the other clusters nearest to each cluster."""
    n_nearest = min(n_nearest, len(centroids) - 1)
    # The common mean is subtracted, since it would take up digits of float32.
    centred = (centroids - centroids.mean(axis=0, dtype=np.float64)).astype(np.float32)
    _, ids = nearest(centred, centred, n_nearest + 1)
    return [
        [other for other in own.tolist() if other != cluster][:n_nearest]
        for cluster, own in enumerate(ids)
    ]


def shown_rows(context: RunContext, shards: Shards, clusters: pa.Table) -> list[list[int]]:
    """Return the rows of the items that a prompt shows, for each of some clusters.

    About half of a small cluster is shown, so that some items are left to choose its label by.
    """
    config = context.config.summaries
    near: list[list[int]] = clusters["exemplar_rows"].to_pylist()
    drawn: list[list[int]] = clusters["random_rows"].to_pylist()
    numbers = [
        min(config.exemplars, max(n_items // 2, LEAST_SHOWN))
        for n_items in clusters["n_items"].to_pylist()
    ]
    if config.exemplar_strategy == "diverse":
        vectors = _vectors(context.store, shards, near)
        return [
            [rows[at] for at in diverse(np.stack([vectors[row] for row in rows]), n_shown)]
            for rows, n_shown in zip(near, numbers, strict=True)
        ]
    shares = {"nearest": 1.0, "mixed": 0.5, "random": 0.0}
    share = shares[config.exemplar_strategy]
    found = []
    for rows, others, n_shown in zip(near, drawn, numbers, strict=True):
        first = rows[: math.ceil(share * n_shown)]
        rest = [row for row in others if row not in first]
        found.append([*first, *rest[: n_shown - len(first)]])
    return found


def diverse(vectors: Float32, n_wanted: int) -> list[int]:
    """Choose diverse vectors: near duplicates of earlier ones are taken last.

    Args:
        vectors: Unit vectors, nearest to the centroid first, shape (n, d).
        n_wanted: Number of vectors to choose.

    Returns:
        Positions of the chosen vectors.
    """
    chosen: list[int] = []
    for place in range(len(vectors)):
        if not chosen or float((vectors[chosen] @ vectors[place]).max()) < NEAR_DUPLICATE:
            chosen.append(place)
    others = [place for place in range(len(vectors)) if place not in chosen]
    return (chosen + others)[:n_wanted]


def ancestors(clustering: Clusters, level: int) -> NDArray[np.int32]:
    """Return the cluster of a level that holds each finest cluster, shape (k_1,)."""
    held = np.arange(clustering.level(1).num_rows, dtype=np.int32)
    for below in range(1, level):
        held = clustering.level(below)["parent_cluster_id"].to_numpy().astype(np.int32)[held]
    return held


def cells(
    store: Store, shards: Shards, rows: list[list[int]], column: str, table: str = "items"
) -> dict[int, Any]:
    """Return the values of some rows in one column of a table, by row."""
    found: dict[int, Any] = {}
    for here, part in _columns(store, shards, rows, table, column):
        found.update(zip(here, part.to_pylist(), strict=True))
    return found


def _vectors(store: Store, shards: Shards, rows: list[list[int]]) -> dict[int, Float32]:
    """Return the vectors of some items by row, of unit length."""
    vectors: dict[int, Float32] = {}
    for here, column in _columns(store, shards, rows, "embeddings", "embedding"):
        vectors.update(zip(here, to_unit(column_vectors(column)), strict=True))
    return vectors


def _columns(
    store: Store, shards: Shards, rows: list[list[int]], table: str, column: str
) -> Iterator[tuple[list[int], Any]]:
    """Yield wanted rows and their values in one column of a table, shard by shard."""
    wanted = np.unique(np.concatenate([np.array(each, np.int64) for each in rows]))
    for shard in np.unique(wanted // shards.rows).tolist():
        start, stop = shards.bounds(shard)
        here = wanted[(wanted >= start) & (wanted < stop)]
        yield here.tolist(), take_rows(store, layout.part(table, shard), here - start, column)


def labelled_files(context: RunContext) -> dict[int, str]:
    """Return the file of titles of each labelled level, by level."""
    commits = read_commits(context.store, LABELLING, context.fingerprint)
    return {level: commit.files[0].path for level, commit in commits.items()}


def _children(context: RunContext, clustering: Clusters, level: int) -> dict[int, list[Child]]:
    """Return the children that a prompt shows of each cluster; none at the finest level.

    Withheld children are left out.
    """
    if level == 1:
        return {}
    config, below = context.config.summaries, clustering.level(level - 1)
    summaries = read_table(context.store, labelled_files(context)[level - 1])
    children: dict[int, list[tuple[float, Child]]] = {}
    for parent, order, n_items, title, description, source, error in zip(
        below["parent_cluster_id"].to_pylist(),
        _order_of_children(context, clustering, level),
        below["n_items"].to_pylist(),
        summaries["title"].to_pylist(),
        summaries["description"].to_pylist(),
        summaries["summary_source"].to_pylist(),
        summaries["summary_error"].to_pylist(),
        strict=True,
    ):
        if source == WITHHELD:
            continue
        child = Child(title, description, n_items, source, error)
        children.setdefault(parent, []).append((order, child))
    return {
        parent: [child for _, child in sorted(own, key=lambda each: each[0])[: config.children]]
        for parent, own in children.items()
    }


def _order_of_children(context: RunContext, clustering: Clusters, level: int) -> list[float]:
    """Return a sort key for each cluster of the level below; prompts show the first ones."""
    below, strategy = clustering.level(level - 1), context.config.summaries.children_strategy
    if strategy == "nearest":
        centroids = column_vectors(clustering.level(level)["centroid"])
        parents = below["parent_cluster_id"].to_numpy()
        distances = column_vectors(below["centroid"]) - centroids[parents]
        return list((distances**2).sum(axis=1).tolist())
    if strategy == "random":
        seed, ids = context.config.hierarchy.seed, below["cluster_id"].to_numpy()
        return list(uniform(seed, level, "children", 0, ids.astype(np.int64)).tolist())
    return list((-below["n_items"].to_numpy()).tolist())


def siblings(clustering: Clusters, level: int) -> list[NDArray[np.int64]]:
    """Return the groups of siblings among the clusters of a level."""
    clusters = clustering.level(level)
    top = level == clustering.n_levels
    parents = None if top else clusters["parent_cluster_id"].to_numpy()
    return sibling_groups(parents, clusters.num_rows)
