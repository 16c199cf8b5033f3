"""Measures the hierarchy level by level: its labels, and its clusters against ground truth.

This is the only stage that reads the table ``labels``.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from hercules_scale import schemas
from hercules_scale.evaluation.external import external_metrics
from hercules_scale.evaluation.summaries import (
    Measured,
    description_metrics,
    held_out_accuracy,
    summary_shares,
)
from hercules_scale.stages.cluster import Clustering
from hercules_scale.stages.context import RunContext, Shards
from hercules_scale.stages.summarize import Summaries, ancestors, siblings
from hercules_scale.storage import layout
from hercules_scale.storage.tables import FileRecord, column_vectors, read_table, write_table


def evaluate_levels(
    context: RunContext, shards: Shards, clustering: Clustering, summaries: Summaries
) -> FileRecord:
    """Write the table ``evaluations``: of titles and descriptions, and beside ground truth."""
    wanted = context.config.evaluation.metrics == "all"
    columns = context.config.input.label_columns if wanted else []
    n_steps = len(columns) + clustering.n_levels if wanted else 0
    rows: list[dict[str, object]] = []
    with context.reporter.stage("evaluate", n_steps, "measurements") as progress:
        if wanted:
            for level in range(1, clustering.n_levels + 1):
                rows += _rows(level, "summaries", _of_summaries(clustering, summaries, level))
                progress.advance(1)
        for column in columns:
            for level in range(1, clustering.n_levels + 1):
                contingency = _contingency(context, shards, column, level)
                n = int(contingency.sum())
                if n == 0:
                    context.reporter.alarm(
                        f"input.label_columns {column!r} holds no value; nothing to measure"
                    )
                    break
                metrics = external_metrics(contingency)
                measured = {metric: (value, n) for metric, value in metrics.items()}
                rows += _rows(level, f"labels:{column}", measured)
            progress.advance(1)
    table = pa.Table.from_pylist(rows, schemas.EVALUATIONS)
    return write_table(context.store, layout.part("evaluations", 0), table)


def _rows(level: int, basis: str, measured: Measured) -> list[dict[str, object]]:
    return [
        {"level": level, "metric": metric, "basis": basis, "value": value, "n": n}
        for metric, (value, n) in measured.items()
    ]


def _of_summaries(clustering: Clustering, summaries: Summaries, level: int) -> Measured:
    """Metrics of one level's titles and descriptions."""
    of_level = summaries.table["level"].to_numpy()
    own = of_level == level
    clusters = clustering.level(level)
    groups = siblings(clustering, level)
    items = summaries.items.of_level(ancestors(clustering, level))
    # Means of items as they were embedded, also where smoothed vectors were clustered.
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
    if summaries.topic_alignment:
        measured["topic_alignment"] = (summaries.topic_alignment[level - 1], len(groups))
    return measured


def _contingency(
    context: RunContext, shards: Shards, column: str, level: int
) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Items of each label in each cluster; items without a label are left out."""
    cluster = f"level_{level}"
    counted = []
    for shard in range(len(shards)):
        labels = read_table(context.store, layout.part("labels", shard), [column])
        members = read_table(context.store, layout.part("memberships", shard), [cluster])
        pairs = pa.table({"label": labels[column], "cluster": members[cluster]}).drop_null()
        counted.append(pairs.group_by(["label", "cluster"]).aggregate([([], "count_all")]))
    pairs = pa.concat_tables(counted)
    pairs = pairs.group_by(["label", "cluster"]).aggregate([("count_all", "sum")])
    names, row = np.unique(np.asarray(pairs["label"].to_pylist(), dtype=str), return_inverse=True)
    clusters, col = np.unique(pairs["cluster"].to_numpy(), return_inverse=True)
    table = np.zeros((len(names), len(clusters)), np.int64)
    np.add.at(table, (row, col), pairs["count_all_sum"].to_numpy())
    return table
