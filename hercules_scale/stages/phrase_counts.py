"""Counts of words and phrases in the items of clusters, made shard by shard."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from hercules_scale.clustering.stateless_random import uniform
from hercules_scale.reading.redact import redacted
from hercules_scale.runtime.context import RunContext, Shards
from hercules_scale.runtime.shard_tasks import ShardResult
from hercules_scale.runtime.shards import Stage, run_shards
from hercules_scale.stages.cluster import Clusters
from hercules_scale.storage import layout
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import (
    gathered,
    iterate_rows,
    read_table,
    read_tables,
    write_table,
)
from hercules_scale.summarization.keyphrases import (
    CHARACTERS_READ,
    COUNTS,
    PhraseCounts,
    add_counts,
    count_phrases,
    most_frequent,
)

# Phrases are counted in about this many items of a finest cluster; more hardly change the best.
SAMPLE_PER_CLUSTER = 500
# Most counts that the driver holds. If there are more, workers leave out rare phrases: each cluster
# keeps an equal share of MOST_COUNTS, but at least LEAST_COUNTS.
MOST_COUNTS, LEAST_COUNTS = 4_000_000, 500
# Tables of all phrase counts, and of counts without rare phrases.
PHRASES, FREQUENT = "phrases", "frequent_phrases"


@dataclass(frozen=True)
class _PhraseWorker:
    """Counts phrases in a sample of one shard's items.

    The sample has about ``SAMPLE_PER_CLUSTER`` items of each finest cluster, or all of a small one.
    """

    store: Store
    seed: int
    sizes: tuple[int, ...]
    words: str
    redact: str | None

    def __call__(self, shard: int) -> ShardResult:
        members = read_table(self.store, layout.part("memberships", shard), ["row", "level_1"])
        clusters = members["level_1"].to_numpy()
        share = SAMPLE_PER_CLUSTER / np.asarray(self.sizes)[clusters]
        chosen = uniform(self.seed, 1, "phrases", 0, members["row"].to_numpy()) < share
        sample: list[str] = []
        first = 0
        for part in gathered(iterate_rows(self.store, layout.part("items", shard), [self.words])):
            own = part[self.words].filter(pa.array(chosen[first : first + part.num_rows]))
            texts = redacted(own.to_pylist(), self.redact)
            sample += [text[:CHARACTERS_READ] for text in texts]
            first += part.num_rows
        counts = count_phrases(sample, clusters[chosen])
        file = write_table(self.store, layout.work_part(PHRASES, shard), counts)
        return ShardResult([file], units=members.num_rows)


@dataclass(frozen=True)
class _FrequentWorker:
    """Adds up the counts of a range of clusters over all shards, and leaves out rare phrases.

    Attributes:
        store: Output of the run.
        paths: Files of counts, sorted by cluster.
        bounds: First cluster of each range, and the number of clusters.
        n_phrases: Most phrases that a cluster keeps.
    """

    store: Store
    paths: tuple[str, ...]
    bounds: tuple[int, ...]
    n_phrases: int

    def __call__(self, part: int) -> ShardResult:
        first, stop = self.bounds[part], self.bounds[part + 1]
        held, n_added = [COUNTS.empty_table()], 0
        for path in self.paths:
            own = [("cluster", ">=", first), ("cluster", "<", stop)]
            held.append(read_table(self.store, path, where=own))
            if sum(table.num_rows for table in held) > max(2 * n_added, MOST_COUNTS):
                held = [add_counts(pa.concat_tables(held))]
                n_added = held[0].num_rows
        counts = most_frequent(add_counts(pa.concat_tables(held)), self.n_phrases)
        file = write_table(self.store, layout.work_part(FREQUENT, part), counts)
        return ShardResult([file], units=stop - first)


def count_run_phrases(context: RunContext, shards: Shards, clustering: Clusters) -> PhraseCounts:
    """Return the counts of phrases in each finest cluster."""
    sizes = tuple(clustering.level(1)["n_items"].to_pylist())
    words, redact = context.config.input.words_column, context.config.privacy.redact
    worker = _PhraseWorker(context.store, context.config.hierarchy.seed, sizes, words, redact)
    stage = Stage(PHRASES, "items", shards.n_items, context.config.resources.n_tasks)
    commits = run_shards(context, stage, len(shards), worker)
    files = [file for commit in commits.values() for file in commit.files]
    n_counts = sum(file.rows for file in files)
    if n_counts > MOST_COUNTS:
        n_parts = min(-(-n_counts // MOST_COUNTS), len(sizes))
        n_phrases = max(MOST_COUNTS // len(sizes), LEAST_COUNTS)
        bounds = np.linspace(0, len(sizes), n_parts + 1).astype(int).tolist()
        paths = tuple(file.path for file in files)
        frequent = _FrequentWorker(context.store, paths, tuple(bounds), n_phrases)
        stage = Stage(FREQUENT, "clusters", len(sizes), context.config.resources.n_tasks)
        commits = run_shards(context, stage, n_parts, frequent)
        files = [file for commit in commits.values() for file in commit.files]
    counts = read_tables(context.store, [file.path for file in files])
    counts = pa.concat_tables([COUNTS.empty_table(), counts])
    return PhraseCounts(counts, len(sizes))
