"""Principal components of items and clusters, for maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from hercules_scale import schemas
from hercules_scale.reduction.pca import PCA, PCAFit
from hercules_scale.stages.context import RunContext
from hercules_scale.stages.shards import ShardResult, Stage, run_once, run_shards
from hercules_scale.stages.vectors import ShardTiles, read_vectors
from hercules_scale.storage import layout
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import FileRecord, read_table, write_table

FIT_STAGE = "fit_pca"


def fit_pca(context: RunContext, source: ShardTiles) -> PCA:
    """A PCA of the vectors that were clustered, one shard in memory at a time."""
    fitted = run_once(context, FIT_STAGE, lambda: _fit_pca(context, source)).info
    return PCA(np.array(fitted["mean"]), np.array(fitted["components"]))


def _fit_pca(context: RunContext, source: ShardTiles) -> ShardResult:
    shards = source.shards
    fit = PCAFit(source.dimension)
    with context.reporter.stage(FIT_STAGE, shards.n_items, "items") as progress:
        for shard in range(len(shards)):
            vectors = read_vectors(context.store, shard, source.table)
            fit.add(vectors)
            progress.advance(len(vectors))
    pca = fit.finish(context.config.reduction.components)
    info = {"mean": pca.mean.tolist(), "components": pca.components.tolist()}
    return ShardResult(info=info, units=shards.n_items)


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
    stage = Stage("reduce", "items", shards.n_items, context.config.resources.workers)
    commits = run_shards(
        context, stage, len(shards), _ReduceWorker(context.store, pca, source.table)
    )
    return [file for commit in commits.values() for file in commit.files]
