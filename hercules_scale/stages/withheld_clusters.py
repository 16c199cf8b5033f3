"""Clusters that are too small to show texts of their items.

Distinct owners are counted exactly up to ``min_owners``, although no process holds them all. Each
shard keeps the ``min_owners`` smallest hashes of owners in each cluster. The smallest hashes over
all shards are among these, and a cluster with ``min_owners`` distinct ones has enough owners.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hercules_scale.clustering.nearest_centroids import Int32, Int64
from hercules_scale.clustering.tiles import first_of_each
from hercules_scale.runtime.context import RunContext, Shards
from hercules_scale.runtime.shard_tasks import ShardResult
from hercules_scale.runtime.shards import Stage, run_once, run_shards
from hercules_scale.stages.cluster import Clusters
from hercules_scale.stages.read_shards import OWNERS, SCANNED_OWNERS
from hercules_scale.storage import layout
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import read_table, write_table

STAGE, COUNTED = "owners", "owners_counted"
LEAST_OWNERS = "least_owners"
COUNTS_FILE = layout.stage_file(COUNTED, "counts.parquet")


def withheld_reasons(context: RunContext, shards: Shards, clustering: Clusters) -> list[list[str]]:
    """Return the reasons why clusters may show no texts, by level and id; "" if they may."""
    privacy = context.config.privacy
    sizes = [
        clustering.level(level)["n_items"].to_numpy() for level in range(1, clustering.n_levels + 1)
    ]
    reasons = [[""] * len(level) for level in sizes]
    owners = sizes
    if privacy.min_owners:
        counts = count_owners(context, shards, [len(level) for level in sizes])
        owners = np.split(counts, np.cumsum([len(level) for level in sizes])[:-1])
    for level, (n_items, n_owners) in enumerate(zip(sizes, owners, strict=True)):
        for cluster in np.flatnonzero(n_items < privacy.min_items).tolist():
            reasons[level][cluster] = f"fewer than privacy.min_items {privacy.min_items:,} items"
        for cluster in np.flatnonzero(n_owners < privacy.min_owners).tolist():
            reasons[level][cluster] = f"fewer than privacy.min_owners {privacy.min_owners:,} owners"
    return reasons


def count_owners(context: RunContext, shards: Shards, sizes: list[int]) -> Int64:
    """Return the numbers of distinct owners of clusters, counted up to ``min_owners``.

    Clusters are in the order of levels and ids. Files about owners are deleted after the count.

    Args:
        context: The run.
        shards: Shards of the run's items.
        sizes: Number of clusters at each level, finest first.
    """
    store, enough = context.store, context.config.privacy.min_owners

    def count() -> ShardResult:
        worker = _OwnerWorker(store, tuple(sizes), enough)
        stage = Stage(STAGE, "items", shards.n_items, context.config.resources.n_tasks)
        commits = run_shards(context, stage, len(shards), worker)
        clusters, owners = np.zeros(0, np.int32), np.zeros(0, np.uint64)
        for commit in commits.values():
            part = read_table(store, commit.files[0].path)
            clusters, owners = least_owners(
                np.concatenate([clusters, part["cluster"].to_numpy()]),
                np.concatenate([owners, part["owner"].to_numpy()]),
                enough,
            )
        counts = np.bincount(clusters, minlength=sum(sizes)).astype(np.int64)
        return ShardResult([write_table(store, COUNTS_FILE, pa.table({"n_owners": counts}))])

    run_once(context, COUNTED, count)
    for table in (SCANNED_OWNERS, OWNERS, LEAST_OWNERS):
        store.delete_files(f"{layout.WORK}/{table}")
    counted: Int64 = read_table(store, COUNTS_FILE)["n_owners"].to_numpy()
    return counted


@dataclass(frozen=True)
class _OwnerWorker:
    """Keeps the smallest hashes of owners of each cluster in one shard."""

    store: Store
    sizes: tuple[int, ...]
    enough: int

    def __call__(self, shard: int) -> ShardResult:
        owners = read_table(self.store, layout.work_part(OWNERS, shard), ["owner"])["owner"]
        known = owners.is_valid().to_numpy()
        own = owners.drop_null().to_numpy()
        members = read_table(self.store, layout.part("memberships", shard))
        starts = np.cumsum([0, *self.sizes[:-1]]).tolist()
        clusters = [
            np.int32(start) + members[f"level_{level}"].to_numpy()[known]
            for level, start in enumerate(starts, start=1)
        ]
        least = least_owners(np.concatenate(clusters), np.tile(own, len(clusters)), self.enough)
        table = pa.table(dict(zip(("cluster", "owner"), least, strict=True)))
        file = write_table(self.store, layout.work_part(LEAST_OWNERS, shard), table)
        return ShardResult([file], units=members.num_rows)


def least_owners(
    clusters: Int32, owners: NDArray[np.uint64], n_least: int
) -> tuple[Int32, NDArray[np.uint64]]:
    """Return the ``n_least`` smallest distinct hashes of owners of each cluster."""
    order = np.lexsort((owners, clusters))
    clusters, owners = clusters[order], owners[order]
    new = np.ones(len(order), bool)
    new[1:] = (clusters[1:] != clusters[:-1]) | (owners[1:] != owners[:-1])
    clusters, owners = clusters[new], owners[new]
    kept = first_of_each(clusters, owners, np.arange(len(owners)), n_least)
    return clusters[kept], owners[kept]
