"""Tables of a finished run that later assign new items to its clusters.

``assigner`` holds the function from an embedding to its clusters, ``reference`` the distances of
the run's own items from their centroids, and ``item_keys`` the keys of these items. If smoothed
vectors were clustered, which new items do not have, the function takes the nearest of the clusters'
mean embeddings.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hercules_scale.clustering.assigner import Assigner
from hercules_scale.clustering.stateless_random import uniform
from hercules_scale.evaluation.drift import SAMPLE_ITEMS, Distances, reference_table
from hercules_scale.runtime.context import RunContext, Shards
from hercules_scale.runtime.partial_sums import GatherOnRay
from hercules_scale.runtime.pipeline import Product
from hercules_scale.runtime.shard_tasks import ShardResult
from hercules_scale.runtime.shards import Stage, run_once, run_shards
from hercules_scale.stages.cluster import Clustering
from hercules_scale.stages.item_metrics import ClusteredItems, leaf_sums
from hercules_scale.stages.smooth import Smoothing
from hercules_scale.stages.stored_assigner import CLUSTERED, read_assigner, write_assigner
from hercules_scale.stages.vectors import read_vectors
from hercules_scale.storage import layout, schemas
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import (
    FileRecord,
    iterate_rows,
    read_schema,
    read_table,
    write_table,
)

# Columns of items that do not come from their source: the row, and texts that a model may write.
NOT_IN_KEY = ("row", "title", "description")
KEY_BYTES = 16


@dataclass(frozen=True)
class AssignerTables(Product):
    """Tables that new items are assigned by.

    Attributes:
        files: Files of the tables ``assigner``, ``reference`` and ``item_keys``.
        gather: Sums over items, some of which are there for later stages.
    """

    files: dict[str, list[FileRecord]]
    gather: GatherOnRay

    @property
    def tables(self) -> dict[str, list[FileRecord]]:
        """Files of the tables."""
        return self.files


def keep_assigner(
    context: RunContext, smoothing: Smoothing, clustering: Clustering
) -> AssignerTables:
    """Write the tables ``assigner``, ``reference`` and ``item_keys``.

    Args:
        context: The run.
        smoothing: Vectors that were clustered.
        clustering: Clusters of the vectors; their assigner and memberships are read.
    """
    store, metric = context.store, context.config.hierarchy.metric
    path, shards = layout.part("assigner", 0), smoothing.vectors.shards
    gather = GatherOnRay(context, shards)

    def write() -> ShardResult:
        assigner = read_assigner(store, CLUSTERED, metric)
        if smoothing.smoothed:
            assigner = _assigner_of_means(context, shards, assigner, gather)
        return ShardResult([write_assigner(store, path, assigner)])

    files = {"assigner": run_once(context, "assigner", write).files}
    assigner = read_assigner(store, path, metric)
    stage = Stage("reference", "items", shards.n_items, context.config.resources.n_tasks)
    seed = context.config.hierarchy.seed
    of_vectors = context.config.input.modality == "embedding"
    measured_by = metric if smoothing.smoothed else None
    worker = _ReferenceWorker(store, shards, assigner.sizes, seed, measured_by, of_vectors)
    commits = run_shards(context, stage, len(shards), worker)
    files["item_keys"] = [file for commit in commits.values() for file in commit.files]
    parts = (Distances.from_bytes(store.read_bytes(_reference(shard))) for shard in commits)
    table = reference_table(Distances.merge(parts))
    files["reference"] = [write_table(store, layout.part("reference", 0), table)]
    return AssignerTables(files, gather)


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


def _assigner_of_means(
    context: RunContext, shards: Shards, clustered: Assigner, gather: GatherOnRay
) -> Assigner:
    """Return an assigner to the means of the embeddings in each cluster of level 1."""
    leaves = np.arange(clustered.sizes[0], dtype=np.int32)
    seed = context.config.hierarchy.seed
    items = ClusteredItems(context.store, shards, clustered.dimension, (leaves,), "euclidean", seed)
    sums = leaf_sums(items, gather)
    totals = sums.units if clustered.metric == "cosine" else sums.vectors
    parents = [level.parents for level in clustered.levels if level.parents is not None]
    return Assigner.of_means(sums.counts, totals, parents, clustered.metric)
