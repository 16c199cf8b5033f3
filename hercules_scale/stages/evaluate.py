"""Measures the hierarchy against ground truth, level by level.

This is the only stage that reads the table ``labels``.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from hercules_scale import schemas
from hercules_scale.evaluation.external import external_metrics
from hercules_scale.stages.context import RunContext, Shards
from hercules_scale.storage import layout
from hercules_scale.storage.tables import FileRecord, read_table, write_table


def evaluate_levels(
    context: RunContext, shards: Shards, n_levels: int
) -> tuple[FileRecord, pa.Table]:
    """Write the table ``evaluations``; empty where there is no ground truth."""
    wanted = context.config.evaluation.metrics == "all"
    columns = context.config.input.label_columns if wanted else []
    rows: list[dict[str, object]] = []
    with context.reporter.stage("evaluate", len(columns), "label columns") as progress:
        for column in columns:
            for level in range(1, n_levels + 1):
                contingency = _contingency(context, shards, column, level)
                n = int(contingency.sum())
                if n == 0:
                    context.reporter.alarm(
                        f"input.label_columns {column!r} holds no value; nothing to measure"
                    )
                    break
                for metric, value in external_metrics(contingency).items():
                    rows.append(
                        {
                            "level": level,
                            "metric": metric,
                            "basis": f"labels:{column}",
                            "value": value,
                            "n": n,
                        }
                    )
            progress.advance(1)
    table = pa.Table.from_pylist(rows, schemas.EVALUATIONS)
    return write_table(context.store, layout.part("evaluations", 0), table), table


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
