"""Clusters of a run that is going on or was interrupted, once it has clustered its items.

Titles come at the end of a run. Until then numbers take their place, and the map shows principal
components of the centroids.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hercules_scale.reduction.pca import Scatter
from hercules_scale.results.finished_run import Run
from hercules_scale.storage import layout, schemas
from hercules_scale.storage.commits import read_commits
from hercules_scale.storage.run_file import read_record
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import FileRecord, column_vectors, read_table, vector_column

CLUSTERS = layout.stage_file("cluster", "clusters.parquet")
EXEMPLARS = 4
WAITING = "waiting"
"""``summary_status`` of a cluster that has no title yet."""


def unfinished_run(store: Store) -> tuple[Run, pa.Table] | None:
    """Return an unfinished run, and its clusters without vectors; None if it has no clusters yet.

    Raises:
        FileNotFoundError: There is no run.
    """
    fingerprint = read_record(store)["fingerprint"]
    clustered = read_commits(store, "cluster", fingerprint)
    if not clustered:
        return None
    # Items that a model describes are written by the second of these stages.
    items = [
        file
        for stage in ("number", "put_descriptions")
        for commit in read_commits(store, stage, fingerprint).values()
        for file in commit.files
        if file.path.startswith("items/")
    ]
    clusters = read_table(store, CLUSTERS)
    files = {
        "clusters": [FileRecord(CLUSTERS, clusters.num_rows, 0, "")],
        "memberships": clustered[0].files,
        "items": items,
    }
    return Run(store, files), _with_numbers_for_titles(clusters)


def _with_numbers_for_titles(clusters: pa.Table) -> pa.Table:
    centroids = column_vectors(clusters["centroid"])
    places = Scatter.of(centroids).components(2).transform(centroids)
    level, number = (clusters[name].cast(pa.string()) for name in ("level", "cluster_id"))
    schema = schemas.clusters(1, 1, 2)
    made = {
        "title": pc.binary_join_element_wise(
            pc.binary_join_element_wise("Cluster", level, " "), number, "/"
        ),
        "summary_status": pa.array([WAITING] * clusters.num_rows),
        "reduction": vector_column(np.ascontiguousarray(places)),
        "exemplar_rows": pc.list_slice(clusters["exemplar_rows"], 0, EXEMPLARS),
    }
    columns = {
        field.name: made.get(
            field.name,
            clusters[field.name]
            if field.name in clusters.column_names
            else pa.nulls(clusters.num_rows, field.type),
        )
        for field in schema
        if field.name not in ("centroid", "description_embedding")
    }
    kept = pa.schema([field for field in schema if field.name in columns])
    return pa.table(columns).cast(kept)
