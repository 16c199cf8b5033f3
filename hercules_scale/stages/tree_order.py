"""Writes ``cluster_items``, the items in the order of the tree, on Ray."""

from __future__ import annotations

from dataclasses import dataclass

from hercules_scale.runtime.context import RunContext
from hercules_scale.runtime.pipeline import OneTable
from hercules_scale.runtime.shard_tasks import ShardResult
from hercules_scale.runtime.shards import Stage, done_shards, run_shards
from hercules_scale.stages.cluster import Clustering
from hercules_scale.stages.describe import Descriptions
from hercules_scale.stages.embed import Embeddings
from hercules_scale.storage import cluster_items, layout
from hercules_scale.storage.cluster_items import Source, TreeOrder

RANGES = "order/ranges"


class OrderedItems(OneTable):
    """The table ``cluster_items``: items in the order of the tree."""

    table = cluster_items.TABLE


@dataclass(frozen=True)
class _PartWorker:
    source: Source

    def __call__(self, part: int) -> ShardResult:
        file, cuts = cluster_items.write_part(self.source, part)
        return ShardResult([file], {"cuts": cuts}, file.rows)


@dataclass(frozen=True)
class _RangeWorker:
    source: Source
    cuts: list[list[int]]

    def __call__(self, number: int) -> ShardResult:
        file = cluster_items.write_range(self.source, number, self.cuts)
        return ShardResult([file], units=file.rows)


def order_items(
    context: RunContext,
    descriptions: Descriptions,
    embeddings: Embeddings,
    clustering: Clustering,
) -> OrderedItems:
    """Write the table ``cluster_items``."""
    tables = descriptions.tables | embeddings.tables | clustering.tables
    order = TreeOrder.of(clustering.clusters)
    source = Source.of(context.store, tables, order, context.store)
    n_items, workers = sum(source.rows), context.config.resources.n_tasks
    n_ranges = len(source.ranges()) - 1
    merged = done_shards(context, RANGES)
    # The sorted parts are deleted once the ranges are whole.
    if len(merged) < n_ranges:
        stage = Stage("order/parts", "items", n_items, workers)
        sorted_ = run_shards(context, stage, len(source.parts()), _PartWorker(source))
        cuts = [commit.info["cuts"] for commit in sorted_.values()]
        stage = Stage(RANGES, "items", n_items, workers)
        merged = run_shards(context, stage, n_ranges, _RangeWorker(source, cuts))
    context.store.delete_files(f"{layout.WORK}/{cluster_items.TABLE}")
    return OrderedItems([file for commit in merged.values() for file in commit.files])
