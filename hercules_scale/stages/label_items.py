"""Items for choosing labels, and other items for measuring them; no prompt shows either."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hercules_scale.clustering.nearest_centroids import Int64, to_unit
from hercules_scale.clustering.stateless_random import hash_rows, uniform
from hercules_scale.runtime.context import RunContext, Shards
from hercules_scale.runtime.shard_tasks import ShardResult
from hercules_scale.runtime.shards import Stage, run_shards
from hercules_scale.stages.cluster import Clusters
from hercules_scale.stages.prompt_facts import shown_rows
from hercules_scale.storage import layout
from hercules_scale.storage.commits import Commit, read_commits
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import (
    column_vectors,
    read_table,
    read_tables,
    vector_column,
    write_table,
)
from hercules_scale.summarization.label_choice import Items

STAGE = "label_items"
# Items drawn from each finest cluster: half choose its labels, and half measure them.
PER_CLUSTER, LEAST_PER_CLUSTER = 64, 8
# Most numbers in the vectors of all drawn items; 400 MB.
MOST_NUMBERS = 100_000_000


@dataclass(frozen=True)
class LabelItems:
    """Items of the finest clusters.

    Attributes:
        to_choose: Items that labels are chosen by.
        to_measure: Items that labels are measured on.
    """

    to_choose: Items
    to_measure: Items

    def of_level(self, ancestors: NDArray[np.int32]) -> LabelItems:
        """Return the same items with their clusters at an upper level."""
        return LabelItems(
            *(
                replace(items, labels=ancestors[items.labels].astype(np.int64))
                for items in (self.to_choose, self.to_measure)
            )
        )


@dataclass(frozen=True)
class _Worker:
    """Draws items of one shard, so that all finest clusters get about equally many.

    Attributes:
        store: Output of the run.
        seed: Seed of the run.
        shares: Probability to draw an item, by its finest cluster.
        shown: Rows that prompts may show, sorted; they are not drawn.
    """

    store: Store
    seed: int
    shares: NDArray[np.float64]
    shown: Int64

    def __call__(self, shard: int) -> ShardResult:
        """Write the drawn items' vectors and clusters."""
        members = read_table(self.store, layout.part("memberships", shard), ["row", "level_1"])
        rows, leaves = members["row"].to_numpy(), members["level_1"].to_numpy()
        drawn = uniform(self.seed, 1, "label items", 0, rows) < self.shares[leaves]
        drawn &= ~np.isin(rows, self.shown)
        vectors = read_table(self.store, layout.part("embeddings", shard), ["embedding"])
        table = pa.table(
            {
                "row": rows[drawn],
                "leaf": leaves[drawn],
                "embedding": vector_column(
                    column_vectors(vectors["embedding"].filter(pa.array(drawn)))
                ),
            }
        )
        file = write_table(self.store, layout.work_part(STAGE, shard), table)
        return ShardResult([file], units=members.num_rows)


def draw_label_items(context: RunContext, shards: Shards, clustering: Clusters) -> LabelItems:
    """Draw items of every finest cluster, fewer of each if there are very many clusters.

    Nothing is drawn if labels and items are embedded by different models, since such vectors cannot
    be compared.
    """
    if not context.config.labels_share_space:
        return _nothing()
    clusters = clustering.level(1)
    sizes = clusters["n_items"].to_numpy()
    dimension = clusters["centroid"].type.list_size
    most = MOST_NUMBERS // (dimension * len(sizes))
    wanted = min(max(most, LEAST_PER_CLUSTER), PER_CLUSTER)
    shown = np.unique(
        np.array(
            [row for rows in shown_rows(context, shards, clustering.clusters) for row in rows],
            np.int64,
        )
    )
    worker = _Worker(context.store, context.config.hierarchy.seed, wanted / sizes, shown)
    stage = Stage(STAGE, "items", shards.n_items, context.config.resources.n_tasks)
    commits = run_shards(context, stage, len(shards), worker)
    return _halves(context, sizes, commits)


def read_label_items(
    context: RunContext, shards: Shards, clustering: Clusters
) -> LabelItems | None:
    """Return the items that were drawn for a run; None if its work files are gone."""
    if not context.config.labels_share_space:
        return _nothing()
    commits = read_commits(context.store, STAGE, context.fingerprint)
    drawn = [file.path for commit in commits.values() for file in commit.files]
    if len(commits) != len(shards) or not all(context.store.exists(path) for path in drawn):
        return None
    return _halves(context, clustering.level(1)["n_items"].to_numpy(), commits)


def _nothing() -> LabelItems:
    rows = np.zeros(0, np.int64)
    nothing = Items(np.zeros((0, 1), np.float32), rows, np.zeros(0), rows)
    return LabelItems(nothing, nothing)


def _halves(context: RunContext, sizes: Int64, commits: dict[int, Commit]) -> LabelItems:
    table = read_tables(
        context.store, [file.path for commit in commits.values() for file in commit.files]
    )
    rows, leaves = table["row"].to_numpy(), table["leaf"].to_numpy().astype(np.int64)
    vectors = to_unit(column_vectors(table["embedding"]))
    odd = hash_rows(context.config.hierarchy.seed, 1, "measured", 0, rows) & np.uint64(1) == 1
    halves = []
    for half in (~odd, odd):
        drawn = np.maximum(np.bincount(leaves[half], minlength=len(sizes)), 1)
        halves.append(Items(vectors[half], leaves[half], (sizes / drawn)[leaves[half]], rows[half]))
    return LabelItems(*halves)
