"""Tables of a finished run that later assign new items to its clusters.

``assigner`` holds the function from an embedding to its clusters, ``reference`` the distances of
the run's own items from their centroids, and ``item_keys`` the keys of these items. If smoothed
vectors were clustered, which new items do not have, the function takes the nearest of the clusters'
mean embeddings.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hercules_scale.clustering.assigner import Assigner
from hercules_scale.clustering.levels import Level
from hercules_scale.clustering.nearest_centroids import Float32, Int32
from hercules_scale.clustering.stateless_random import uniform
from hercules_scale.evaluation.drift import SAMPLE_ITEMS, Distances, reference_table
from hercules_scale.runtime.context import RunContext, Shards
from hercules_scale.runtime.partial_sums import GatherOnRay
from hercules_scale.runtime.shard_tasks import ShardResult
from hercules_scale.runtime.shards import Stage, run_once, run_shards
from hercules_scale.stages.item_metrics import ClusteredItems, leaf_sums
from hercules_scale.stages.vectors import read_vectors
from hercules_scale.storage import layout, schemas
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import (
    FileRecord,
    column_vectors,
    iterate_rows,
    read_schema,
    read_table,
    vector_column,
    write_table,
)

# Columns of items that do not come from their source: the row, and texts that a model may write.
NOT_IN_KEY = ("row", "title", "description")
KEY_BYTES = 16
CLUSTERED = layout.stage_file("cluster", "assigner.parquet")


def write_assigner(store: Store, path: str, assigner: Assigner) -> FileRecord:
    """Write an assigner as a Parquet file; see ``schemas.assigner``."""
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


def keep_assigner(
    context: RunContext, shards: Shards, smoothed: bool
) -> dict[str, list[FileRecord]]:
    """Write the tables ``assigner``, ``reference`` and ``item_keys`` of a clustered run.

    Args:
        context: The run.
        shards: Shards of the run's items.
        smoothed: Whether smoothed vectors were clustered.
    """
    store, metric = context.store, context.config.hierarchy.metric
    path = layout.part("assigner", 0)

    def write() -> ShardResult:
        assigner = read_assigner(store, CLUSTERED, metric)
        if smoothed:
            assigner = _assigner_of_means(context, shards, assigner)
        return ShardResult([write_assigner(store, path, assigner)])

    files = {"assigner": run_once(context, "assigner", write).files}
    assigner = read_assigner(store, path, metric)
    stage = Stage("reference", "items", shards.n_items, context.config.resources.n_tasks)
    seed = context.config.hierarchy.seed
    of_vectors = context.config.input.modality == "embedding"
    measured_by = metric if smoothed else None
    worker = _ReferenceWorker(store, shards, assigner.sizes, seed, measured_by, of_vectors)
    commits = run_shards(context, stage, len(shards), worker)
    files["item_keys"] = [file for commit in commits.values() for file in commit.files]
    parts = (Distances.from_bytes(store.read_bytes(_reference(shard))) for shard in commits)
    table = reference_table(Distances.merge(parts))
    files["reference"] = [write_table(store, layout.part("reference", 0), table)]
    return files


def _reference(shard: int) -> str:
    return layout.stage_file("reference", f"{shard:06d}.npz")


def columns_of_levels(memberships: pa.Table, name: str) -> NDArray[Any]:
    """Return columns such as ``level_1`` to ``level_L``, shape (n, L); NaN where one holds null."""
    columns = [each for each in memberships.column_names if each.rpartition("_")[0] == name]
    return np.stack([memberships[each].to_numpy() for each in columns], axis=1)


def sampled_rows(seed: int, shards: Shards, shard: int) -> NDArray[np.bool_]:
    """Return whether each row of a shard is in the sample for quantiles, shape (rows,)."""
    rows = np.arange(*shards.bounds(shard))
    return uniform(seed, 0, "drift", 0, rows) < SAMPLE_ITEMS / shards.n_items


@dataclass(frozen=True)
class _ReferenceWorker:
    """Writes the keys and distances of one shard of the run's own items.

    Attributes:
        metric: Metric of the embeddings if smoothed vectors were clustered, else None.
        of_vectors: Whether the items are vectors that the user gave.
    """

    store: Store
    shards: Shards
    sizes: list[int]
    seed: int
    metric: str | None
    of_vectors: bool

    def __call__(self, shard: int) -> ShardResult:
        levels = range(1, len(self.sizes) + 1)
        columns = [f"{name}_{level}" for name in ("level", "distance") for level in levels]
        table = read_table(self.store, layout.part("memberships", shard), columns)
        labels = columns_of_levels(table, "level")
        distances = columns_of_levels(table, "distance")
        if self.metric is not None:
            assigner = read_assigner(self.store, layout.part("assigner", 0), self.metric)
            vectors = assigner.to_space(read_vectors(self.store, shard))
            distances = assigner.memberships(vectors, labels[:, 0]).distances
        in_sample = sampled_rows(self.seed, self.shards, shard)
        found = Distances.of(labels, distances, self.sizes, in_sample)
        self.store.write_bytes(_reference(shard), found.to_bytes())
        keys = write_keys(self.store, shard, layout.part("item_keys", shard), self.of_vectors)
        return ShardResult([keys], units=len(labels))


def write_keys(store: Store, shard: int, path: str, of_vectors: bool) -> FileRecord:
    """Write a key of 16 bytes for each item of a shard: a hash of its id and content."""
    items = layout.part("items", shard)
    # The key of a vector leaves out the words beside it, which do not affect the clusters.
    names = ["item_id"] if of_vectors else read_schema(store, items).names
    names = [name for name in names if name not in NOT_IN_KEY]
    vectors = read_vectors(store, shard) if of_vectors else None
    keys: list[bytes] = []
    for part in iterate_rows(store, items, names):
        columns = [part[name].to_pylist() for name in names]
        if vectors is not None:
            own = vectors[len(keys) : len(keys) + part.num_rows]
            columns.append([row.tobytes() for row in own])
        keys += [
            hashlib.blake2b(
                json.dumps(values, default=bytes.hex).encode(), digest_size=KEY_BYTES
            ).digest()
            for values in zip(*columns, strict=True)
        ]
    return write_table(store, path, pa.table([keys], schemas.ITEM_KEYS))


def _assigner_of_means(context: RunContext, shards: Shards, clustered: Assigner) -> Assigner:
    """Return an assigner to the means of the embeddings in each cluster of level 1."""
    leaves = np.arange(clustered.sizes[0], dtype=np.int32)
    seed = context.config.hierarchy.seed
    items = ClusteredItems(context.store, shards, clustered.dimension, (leaves,), "euclidean", seed)
    sums = leaf_sums(items, GatherOnRay(context, shards))
    totals = sums.units if clustered.metric == "cosine" else sums.vectors
    parents = [level.parents for level in clustered.levels if level.parents is not None]
    return Assigner.of_means(sums.counts, totals, parents, clustered.metric)
