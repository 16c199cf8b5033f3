"""Functions from embeddings to clusters as Parquet files; see ``schemas.assigner``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hercules_scale.clustering.assigner import Assigner
from hercules_scale.clustering.levels import Level
from hercules_scale.clustering.nearest_centroids import Float32, Int32
from hercules_scale.storage import layout, schemas
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import (
    FileRecord,
    column_vectors,
    read_table,
    vector_column,
    write_table,
)

# The assigner to the clustered vectors, as the clustering leaves it to later stages.
CLUSTERED = layout.stage_file("cluster", "assigner.parquet")


def write_assigner(store: Store, path: str, assigner: Assigner) -> FileRecord:
    """Write an assigner as a Parquet file."""
    limit = np.array([assigner.limit], np.float64)
    roles = [_rows("mean", assigner.mean[None], offset=limit)]
    roles.append(_rows("cell", assigner.cells, cluster_id=assigner.leaves, offset=assigner.offsets))
    for number, level in enumerate(assigner.levels, start=1):
        ids = np.arange(len(level.centroids), dtype=np.int32)
        roles.append(
            _rows("cluster", level.centroids, number, cluster_id=ids, parent=level.parents)
        )
    return write_table(store, path, pa.concat_tables(roles))


def _rows(
    role: str,
    vectors: Float32,
    level: int | None = None,
    cluster_id: Int32 | None = None,
    parent: Int32 | None = None,
    offset: NDArray[np.floating[Any]] | None = None,
) -> pa.Table:
    n = len(vectors)
    columns = {
        "role": pa.repeat(role, n),
        "level": pa.nulls(n) if level is None else pa.repeat(level, n),
        "cluster_id": pa.nulls(n) if cluster_id is None else pa.array(cluster_id),
        "parent_cluster_id": pa.nulls(n) if parent is None else pa.array(parent),
        "offset": pa.nulls(n) if offset is None else pa.array(offset),
        "vector": vector_column(np.ascontiguousarray(vectors)),
    }
    return pa.table(columns).cast(schemas.assigner(vectors.shape[1]))


def read_assigner(store: Store, path: str, metric: str) -> Assigner:
    """Read the output of ``write_assigner``."""
    table = read_table(store, path)
    roles = {
        role: table.filter(pa.compute.equal(table["role"], role))
        for role in ("mean", "cell", "cluster")
    }
    cells, clusters = roles["cell"], roles["cluster"]
    levels = []
    for number in range(1, pa.compute.max(clusters["level"]).as_py() + 1):
        own = clusters.filter(pa.compute.equal(clusters["level"], number))
        parents = own["parent_cluster_id"]
        top = parents.null_count > 0
        levels.append(Level(column_vectors(own["vector"]), None if top else parents.to_numpy()))
    return Assigner(
        metric,
        column_vectors(roles["mean"]["vector"])[0],
        # Earlier versions stored no limit.
        roles["mean"]["offset"][0].as_py() or math.inf,
        column_vectors(cells["vector"]),
        cells["offset"].to_numpy(),
        cells["cluster_id"].to_numpy(),
        levels,
    )
