"""Measures the hierarchy level by level: clusters, labels, and agreement with ground truth.

This is the only stage that reads the table ``labels``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from hercules_scale.config.resolved import ResolvedConfig
from hercules_scale.evaluation.internal import Figure
from hercules_scale.evaluation.label_quality import (
    Measured,
    description_metrics,
    held_out_accuracy,
    summary_shares,
)
from hercules_scale.runtime.context import RunContext, Shards
from hercules_scale.runtime.partial_sums import Gather, GatherOnRay
from hercules_scale.runtime.pipeline import OneTable
from hercules_scale.runtime.shard_tasks import ShardResult
from hercules_scale.runtime.shards import run_once
from hercules_scale.stages.assigner_tables import AssignerTables
from hercules_scale.stages.cluster import Clustering, Clusters
from hercules_scale.stages.ground_truth import Truth, external_figures
from hercules_scale.stages.item_metrics import ClusteredItems, item_metrics
from hercules_scale.stages.prompt_facts import ancestors, siblings
from hercules_scale.stages.summarize import Summaries
from hercules_scale.storage import layout, schemas
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import FileRecord, column_vectors, read_table, write_table

STAGE = "evaluations"
Row = dict[str, object]


class Evaluations(OneTable):
    """The table ``evaluations``: metrics of the clusters."""

    table = "evaluations"


def evaluate_levels(
    context: RunContext, clustering: Clustering, summaries: Summaries, assigning: AssignerTables
) -> Evaluations:
    """Write the table ``evaluations``; it is empty if the configuration asks for no metrics.

    Args:
        context: The run.
        clustering: Clusters of the run.
        summaries: Their titles and descriptions.
        assigning: Tables that new items are assigned by; the sums made for them are used again.
    """
    gather = assigning.gather
    commit = run_once(context, STAGE, lambda: _evaluate(context, clustering, summaries, gather))
    for column in commit.info["without_labels"]:
        context.reporter.alarm(f"input.label_columns {column!r} holds no value; nothing to measure")
    # The partial sums are deleted only now, since a killed run resumes with them.
    gather.forget()
    return Evaluations(commit.files)


def _evaluate(
    context: RunContext, clustering: Clustering, summaries: Summaries, gather: GatherOnRay
) -> ShardResult:
    rows: list[Row] = []
    without: list[str] = []
    if context.config.evaluation.metrics == "all":
        items = clustered_items(context.store, context.config, gather.shards, clustering)
        truth = StoredTruth(context.store, tuple(context.config.input.label_columns))
        rows += measure_items(items, gather)
        rows += measure_summaries(clustering, summaries)
        for_truth, without = measure_truth(items, truth, gather)
        rows += for_truth
    file = write_evaluations(context.store, rows, 0)
    return ShardResult([file], {"without_labels": without})


def write_evaluations(
    store: Store, rows: list[Row], part: int, owner: int | None = None
) -> FileRecord:
    """Write rows as one file of the table ``evaluations``; ``layout.part`` names it."""
    table = pa.Table.from_pylist(rows, schemas.EVALUATIONS)
    return write_table(store, layout.part("evaluations", part, owner), table)


@dataclass(frozen=True)
class StoredTruth:
    """Ground truth that came with the items.

    Attributes:
        store: Output of the run.
        names: Columns of the table ``labels``.
    """

    store: Store
    names: tuple[str, ...]

    @property
    def columns(self) -> list[str]:
        """Names of the classifications."""
        return list(self.names)

    def read(self, shard: int) -> pa.Table:
        """Return the columns of one shard's items."""
        return read_table(self.store, layout.part("labels", shard), self.columns)


def clustered_items(
    store: Store, config: ResolvedConfig, shards: Shards, clustering: Clusters
) -> ClusteredItems:
    """Return the items and clusters that the metrics of items are computed from."""
    levels = range(1, clustering.n_levels + 1)
    return ClusteredItems(
        store,
        shards,
        clustering.clusters["centroid"].type.list_size,
        tuple(ancestors(clustering, level) for level in levels),
        "euclidean" if config.input.modality == "numeric" else "cosine",
        config.hierarchy.seed,
    )


def measure_items(items: ClusteredItems, gather: Gather) -> list[Row]:
    """Return the rows on items and on children."""
    rows: list[Row] = []
    for level, by_basis in enumerate(item_metrics(items, gather), start=1):
        for basis, measured in by_basis.items():
            rows += rows_of(level, basis, measured)
    return rows


def measure_summaries(clustering: Clusters, summaries: Summaries) -> list[Row]:
    """Return rows on titles and descriptions."""
    rows: list[Row] = []
    for level in range(1, clustering.n_levels + 1):
        measured = _of_summaries(clustering, summaries, level)
        rows += rows_of(
            level, "summaries", {name: Figure(*pair) for name, pair in measured.items()}
        )
    return rows


def measure_truth(
    items: ClusteredItems, truth: Truth, gather: Gather
) -> tuple[list[Row], list[str]]:
    """Return rows on each classification, and the classifications without any class."""
    found = external_figures(items, truth, gather)
    rows = [
        row
        for column, levels in found.items()
        for level, measured in enumerate(levels, start=1)
        for row in rows_of(level, f"labels:{column}", measured)
    ]
    return rows, [column for column, levels in found.items() if not levels]


def rows_of(level: int, basis: str, measured: Mapping[str, Figure]) -> list[Row]:
    """Return the rows of one level and basis."""
    return [
        {"level": level, "metric": metric, "basis": basis, **figure._asdict()}
        for metric, figure in measured.items()
    ]


def _of_summaries(clustering: Clusters, summaries: Summaries, level: int) -> Measured:
    """Return the metrics of one level's titles and descriptions."""
    of_level = summaries.table["level"].to_numpy()
    own = of_level == level
    clusters = clustering.level(level)
    groups = siblings(clustering, level)
    items = summaries.items.of_level(ancestors(clustering, level))
    # Centroids become means of the items' embeddings, even if smoothed vectors were clustered.
    centroids = column_vectors(clusters["centroid"]).copy()
    for cluster, rows in enumerate(items.to_choose.rows_of(len(centroids))):
        if len(rows):
            centroids[cluster] = items.to_choose.vectors[rows].mean(axis=0)
    measured = held_out_accuracy(
        summaries.embeddings[own],
        centroids,
        items.to_measure,
        clusters["n_items"].to_numpy(),
        groups,
    )
    measured |= summary_shares(summaries.table.filter(pa.array(own)), groups)
    if level > 1:
        parents = clustering.level(level - 1)["parent_cluster_id"].to_numpy().astype(np.int32)
        measured |= description_metrics(summaries.embeddings[of_level == level - 1], parents)
    return measured | (summaries.measured[level - 1] if summaries.measured else {})
