"""Principal components of the clustered vectors, for maps."""

from __future__ import annotations

import math

import numpy as np

from hercules_scale.clustering.tiles import VectorSet
from hercules_scale.reduction.pca import PCA
from hercules_scale.reduction.scatter import scatter_of_tiles
from hercules_scale.runtime.context import RunContext
from hercules_scale.runtime.shard_tasks import ShardResult
from hercules_scale.runtime.shards import run_once
from hercules_scale.stages.tile_actors import Space

STAGE = "fit_pca"


def fit_pca(context: RunContext, vectors: VectorSet, space: Space) -> PCA:
    """Fit a PCA to the clustered vectors where they are, once in a run.

    Far vectors (see ``open_vectors``) are left out, since they would dominate the map.
    """

    def fit() -> ShardResult:
        limit = space.limit if context.config.hierarchy.metric == "squared_l2" else math.inf
        scatter = scatter_of_tiles(vectors, limit)
        pca = scatter.components(context.config.reduction.components)
        return ShardResult(info=pca.moved(space.mean.astype(np.float32)).record())

    return PCA.of_record(run_once(context, STAGE, fit).info)
