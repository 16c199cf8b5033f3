"""Principal components of items and clusters, for maps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from hercules_scale.clustering.nearest_centroids import Float32
from hercules_scale.clustering.vector_lengths import vector_lengths
from hercules_scale.reduction.pca import PCA, Scatter
from hercules_scale.runtime.context import RunContext
from hercules_scale.runtime.partial_sums import GatherOnRay
from hercules_scale.runtime.shard_tasks import ShardResult
from hercules_scale.runtime.shards import Stage, run_once, run_shards
from hercules_scale.stages.assigner_tables import CLUSTERED, read_assigner
from hercules_scale.stages.vectors import ShardTiles, read_vectors
from hercules_scale.storage import layout, schemas
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import (
    FileRecord,
    column_matrix,
    read_table,
    vector_column,
    write_table,
)

FIT_STAGE = "fit_pca"
# Stage of the sums. It is not named below FIT_STAGE, since commits there are read as its shards.
SUMS_STAGE = "pca"


def fit_pca(context: RunContext, source: ShardTiles) -> PCA:
    """Fit a PCA to the clustered vectors, from sums that workers compute.

    Far vectors (see ``open_vectors``) are left out, since they would dominate the map.
    """
    gather = GatherOnRay(context, source.shards, SUMS_STAGE)
    fitted = run_once(context, FIT_STAGE, lambda: _fit_pca(context, source, gather)).info
    # The partial sums are deleted only now, since a killed run resumes with them.
    gather.forget()
    return PCA(np.array(fitted["mean"]), np.array(fitted["components"]))


def _fit_pca(context: RunContext, source: ShardTiles, gather: GatherOnRay) -> ShardResult:
    scatter = Scatter.zero(source.dimension)
    metric = context.config.hierarchy.metric
    assigner = read_assigner(context.store, CLUSTERED, metric)
    limit = assigner.limit if metric == "squared_l2" else math.inf
    for part in gather("sums", _ScatterWork(source, assigner.mean, limit)):
        (n,), (mean,) = part["n"].to_pylist(), column_matrix(part["mean"])
        if not n:
            continue
        scatter = scatter.plus(
            Scatter(n, mean, column_matrix(part["products"]).reshape(len(mean), -1))
        )
    pca = scatter.components(context.config.reduction.components)
    info = {"mean": pca.mean.tolist(), "components": pca.components.tolist()}
    return ShardResult(info=info, units=source.shards.n_items)


@dataclass(frozen=True)
class _ScatterWork:
    source: ShardTiles
    mean: Float32
    limit: float

    def __call__(self, shards: range) -> pa.Table:
        scatter = Scatter.zero(self.source.dimension)
        for shard in shards:
            vectors = read_vectors(self.source.store, shard, self.source.table)
            near = vector_lengths(vectors - self.mean) <= self.limit
            if near.any():
                scatter = scatter.plus(Scatter.of(vectors if near.all() else vectors[near]))
        columns = {
            "n": [scatter.n],
            "mean": vector_column(scatter.mean[None]),
            "products": vector_column(scatter.products.reshape(1, -1)),
        }
        return pa.table(columns)


@dataclass(frozen=True)
class _ReduceWorker:
    store: Store
    pca: PCA
    table: str

    def __call__(self, shard: int) -> ShardResult:
        items = read_table(self.store, layout.part("embeddings", shard), ["row", "item_id"])
        reduced = self.pca.transform(read_vectors(self.store, shard, self.table))
        n_components = reduced.shape[1]
        for index in range(n_components):
            items = items.append_column(f"pca_{index + 1}", pa.array(reduced[:, index]))
        table = items.cast(schemas.reductions(n_components))
        file = write_table(self.store, layout.part("reductions", shard), table)
        return ShardResult([file], units=items.num_rows)


def reduce_items(context: RunContext, source: ShardTiles, pca: PCA) -> list[FileRecord]:
    """Write the table ``reductions``."""
    shards = source.shards
    stage = Stage("reduce", "items", shards.n_items, context.config.resources.n_tasks)
    commits = run_shards(
        context, stage, len(shards), _ReduceWorker(context.store, pca, source.table)
    )
    return [file for commit in commits.values() for file in commit.files]
