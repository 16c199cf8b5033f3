"""Writes the table ``clusters`` from the results of clustering, summarizing and reducing."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from hercules_scale.runtime.context import RunContext
from hercules_scale.runtime.pipeline import OneTable
from hercules_scale.runtime.shard_tasks import ShardResult
from hercules_scale.runtime.shards import run_once
from hercules_scale.stages.cluster import Clustering
from hercules_scale.stages.describe import Descriptions
from hercules_scale.stages.numeric_statistics import Statistics
from hercules_scale.stages.prompt_facts import cells
from hercules_scale.stages.summarize import Summaries
from hercules_scale.storage import layout, schemas
from hercules_scale.storage.schemas import WITHHELD
from hercules_scale.storage.tables import column_vectors, vector_column, write_table

STAGE = "clusters"


class ClustersTable(OneTable):
    """The table ``clusters``: the clusters with all that is known about them."""

    table = "clusters"


def write_clusters(
    context: RunContext,
    descriptions: Descriptions,
    clustering: Clustering,
    statistics: Statistics,
    summaries: Summaries,
) -> ClustersTable:
    """Write the table ``clusters``."""

    def write() -> ShardResult:
        clusters = clustering.clusters
        centroids = column_vectors(clusters["centroid"])
        reduced = clustering.pca.transform(centroids)
        n_exemplars = context.config.summaries.exemplars
        withheld = pc.equal(summaries.table["summary_source"], WITHHELD).to_pylist()
        rows = [
            [] if hidden else near[:n_exemplars]
            for near, hidden in zip(clusters["exemplar_rows"].to_pylist(), withheld, strict=True)
        ]
        ids = cells(context.store, descriptions.shards, rows, "item_id")
        figures = pa.nulls(clusters.num_rows, schemas.NUMERIC_STATS)
        if statistics.columns:
            figures = pc.if_else(pa.array(withheld), None, statistics.column())
        columns = {name: clusters[name] for name in clusters.column_names}
        columns |= {name: summaries.table[name] for name in schemas.LABEL.names}
        columns |= {
            "exemplar_item_ids": pa.array(
                [[ids[row] for row in exemplars] for exemplars in rows], pa.list_(pa.string())
            ),
            "exemplar_rows": pa.array(rows, pa.list_(pa.int64())),
            "description_embedding": vector_column(summaries.embeddings),
            "reduction": vector_column(reduced),
            "numeric_stats": figures,
        }
        dimensions = centroids.shape[1], summaries.embeddings.shape[1], reduced.shape[1]
        schema = schemas.clusters(*dimensions)
        table = pa.table({name: columns[name] for name in schema.names}).cast(schema)
        return ShardResult([write_table(context.store, layout.part("clusters", 0), table)])

    return ClustersTable(run_once(context, STAGE, write).files)
