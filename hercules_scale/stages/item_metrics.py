"""Internal metrics of the items' vectors under their clusters, in passes over the shards.

A pass reads each vector once for all levels. The Euclidean silhouette compares pairs. It is exact
for few items; for many, a random sample is compared with all items.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hercules_scale.clustering.nearest_centroids import Float32, Int32
from hercules_scale.clustering.stateless_random import uniform
from hercules_scale.evaluation.internal import (
    PAIR_ROWS,
    ClusterSums,
    Distance,
    Figure,
    Float64,
    Spread,
    distance_sums,
    euclidean_silhouettes,
    figures,
    internal_metrics,
    sampled_mean,
)
from hercules_scale.runtime.context import Shards
from hercules_scale.runtime.partial_sums import Gather
from hercules_scale.stages.vectors import read_vectors
from hercules_scale.storage import layout
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import column_matrix, column_vectors, read_table, vector_column

# Up to this many items, all pairs are compared.
EXACT_ROWS = 20_000
SAMPLE_ROWS = 1_000


@dataclass(frozen=True)
class ClusteredItems:
    """Items of a run and the tree of their clusters.

    Attributes:
        store: Output of the run.
        shards: Shards of the run's items.
        dimension: Dimension of the table ``embeddings``.
        ancestors: For each level, finest first, the cluster that holds each finest cluster, shape
            (k_1,).
        distance: Distance that the silhouette uses.
        seed: Seed of the run, for the sample.
    """

    store: Store
    shards: Shards
    dimension: int
    ancestors: tuple[Int32, ...]
    distance: Distance
    seed: int

    @property
    def sizes(self) -> list[int]:
        """Number of clusters at each level, finest first."""
        return [int(held.max()) + 1 for held in self.ancestors]

    def leaves(self, shard: int) -> Int32:
        """Return the finest cluster of each item of a shard, shape (rows,)."""
        members = read_table(self.store, layout.part("memberships", shard), ["level_1"])
        return np.asarray(members["level_1"].to_numpy(), np.int32)

    def read(self, shards: range) -> Iterator[tuple[Float32, Int32]]:
        """Yield the vectors and finest clusters of each shard."""
        for shard in shards:
            yield read_vectors(self.store, shard), self.leaves(shard)


def item_metrics(items: ClusteredItems, gather: Gather) -> list[dict[str, dict[str, Figure]]]:
    """Return the metrics of each level, finest first, by basis.

    Returns:
        For each level, ``items``: the metrics of the items' vectors; and for all levels but the
        finest, ``children``: the metrics of the means of the clusters below. Figures are left out
        if there is only one cluster, or if each cluster holds one item or child.
    """
    sums = _sums(items, gather)
    spreads = _spreads(items, sums, gather)
    silhouettes: list[Figure] | list[None] = [None] * len(sums)
    if items.distance == "euclidean":
        exact = items.shards.n_items <= EXACT_ROWS
        silhouettes = (_exact if exact else _sampled)(items, sums, gather)
    found = [{"items": figures(*level)} for level in zip(sums, spreads, silhouettes, strict=True)]
    for level in range(1, len(sums)):
        # The parent of a cluster is found by its first leaf.
        held = items.ancestors[level - 1]
        parents = items.ancestors[level][np.unique(held, return_index=True)[1]]
        means = sums[level - 1].means
        found[level]["children"] = internal_metrics(means, parents, items.distance)
    return found


@dataclass(frozen=True)
class _SumWork:
    items: ClusteredItems

    def __call__(self, shards: range) -> pa.Table:
        k = self.items.sizes[0]
        sums = ClusterSums.zero(k, self.items.dimension)
        for vectors, leaves in self.items.read(shards):
            sums = sums.plus(ClusterSums.of(vectors, leaves, k))
        columns = {
            "n": sums.counts,
            "sum": vector_column(sums.vectors),
            "units": vector_column(sums.units),
        }
        return pa.table(columns)


def leaf_sums(items: ClusteredItems, gather: Gather) -> ClusterSums:
    """Return the sums of the vectors of each finest cluster, computed once for all callers."""
    total = ClusterSums.zero(items.sizes[0], items.dimension)
    for part in gather("sums", _SumWork(items)):
        vectors, units = column_matrix(part["sum"]), column_matrix(part["units"])
        total = total.plus(ClusterSums(part["n"].to_numpy(), vectors, units))
    return total


def _sums(items: ClusteredItems, gather: Gather) -> list[ClusterSums]:
    """Return the cluster sums of each level, merged from the sums of the finest level."""
    total = leaf_sums(items, gather)
    return [total.merged(held, k) for held, k in zip(items.ancestors, items.sizes, strict=True)]


@dataclass(frozen=True)
class _SpreadWork:
    items: ClusteredItems
    sums: list[ClusterSums]

    def __call__(self, shards: range) -> pa.Table:
        totals = [_no_spread(k) for k in self.items.sizes]
        cosine = self.items.distance == "cosine"
        for vectors, leaves in self.items.read(shards):
            for level, held in enumerate(self.items.ancestors):
                spread = Spread.of(vectors, held[leaves], self.sums[level], cosine)
                totals[level] = totals[level].plus(spread)
        return pa.table(
            {
                "distance": np.concatenate([each.distances for each in totals]),
                "squared": np.concatenate([each.squared for each in totals]),
                "silhouette": np.concatenate([each.silhouettes for each in totals]),
            }
        )


def _spreads(items: ClusteredItems, sums: list[ClusterSums], gather: Gather) -> list[Spread]:
    total = _no_spread(sum(items.sizes))
    for part in gather("spreads", _SpreadWork(items, sums)):
        total = total.plus(Spread(*(column.to_numpy() for column in part.columns)))
    ends = np.cumsum(items.sizes)[:-1]
    by_level = (
        np.split(each, ends) for each in (total.distances, total.squared, total.silhouettes)
    )
    return [Spread(*level) for level in zip(*by_level, strict=True)]


def _no_spread(k: int) -> Spread:
    return Spread(np.zeros(k), np.zeros(k), np.zeros(k))


@dataclass(frozen=True)
class _ExactWork:
    """Compares the items of some shards with all items, if there are few items."""

    items: ClusteredItems
    counts: list[NDArray[np.int64]]

    def __call__(self, shards: range) -> pa.Table:
        everything = list(self.items.read(range(len(self.items.shards))))
        totals = np.zeros(len(self.counts))
        for shard in shards:
            vectors, leaves = everything[shard]
            for start in range(0, len(vectors), PAIR_ROWS):
                part = slice(start, start + PAIR_ROWS)
                apart = np.zeros((len(vectors[part]), len(self.counts[0])))
                for other, other_leaves in everything:
                    apart += distance_sums(vectors[part], other, other_leaves, len(self.counts[0]))
                by_level = _silhouettes(self.items, apart, leaves[part], self.counts)
                totals += [scores.sum() for scores in by_level]
        return pa.table({"silhouette": totals})


def _exact(items: ClusteredItems, sums: list[ClusterSums], gather: Gather) -> list[Figure]:
    total = np.zeros(len(sums))
    for part in gather("silhouettes", _ExactWork(items, [level.counts for level in sums])):
        total += part["silhouette"].to_numpy()
    n = items.shards.n_items
    return [Figure(float(value) / n, n) for value in total]


@dataclass(frozen=True)
class _DrawWork:
    """Draws items at random, about ``SAMPLE_ROWS`` from all shards."""

    items: ClusteredItems

    def __call__(self, shards: range) -> pa.Table:
        drawn = [pa.table({"leaf": pa.array([], pa.int32()), "embedding": self._column([])})]
        share = SAMPLE_ROWS / self.items.shards.n_items
        for shard in shards:
            rows = np.arange(*self.items.shards.bounds(shard))
            chosen = uniform(self.items.seed, 1, "silhouette", 0, rows) < share
            if chosen.any():
                vectors = read_vectors(self.items.store, shard)[chosen]
                leaves = self.items.leaves(shard)[chosen]
                drawn.append(pa.table({"leaf": leaves, "embedding": self._column(vectors)}))
        return pa.concat_tables(drawn)

    def _column(self, vectors: Float32 | list[Float32]) -> pa.FixedSizeListArray:
        return vector_column(np.asarray(vectors, np.float32).reshape(-1, self.items.dimension))


@dataclass(frozen=True)
class _DistanceWork:
    """Sums the distances from each drawn item to the items of each finest cluster."""

    items: ClusteredItems
    drawn: Float32

    def __call__(self, shards: range) -> pa.Table:
        k = self.items.sizes[0]
        apart = np.zeros((len(self.drawn), k))
        for vectors, leaves in self.items.read(shards):
            apart += distance_sums(self.drawn, vectors, leaves, k)
        return pa.table({"distance": vector_column(apart)})


def _sampled(items: ClusteredItems, sums: list[ClusterSums], gather: Gather) -> list[Figure]:
    drawn = pa.concat_tables(gather("draw", _DrawWork(items)))
    vectors, leaves = column_vectors(drawn["embedding"]), drawn["leaf"].to_numpy()
    apart = np.zeros((len(vectors), items.sizes[0]))
    for part in gather("distances", _DistanceWork(items, vectors)):
        apart += column_matrix(part["distance"])
    by_level = _silhouettes(items, apart, leaves, [level.counts for level in sums])
    return [sampled_mean(scores) for scores in by_level]


def _silhouettes(
    items: ClusteredItems, apart: Float64, leaves: Int32, counts: list[NDArray[np.int64]]
) -> list[Float64]:
    """Return Euclidean silhouettes at each level from distances to the finest clusters.

    A level with one cluster gets zeros, which are not read.
    """
    found: list[Float64] = []
    for held, of_level in zip(items.ancestors, counts, strict=True):
        if len(of_level) == 1:
            found.append(np.zeros(len(leaves)))
            continue
        # This order puts the leaves of each cluster side by side.
        order = np.argsort(held, kind="stable")
        starts = np.searchsorted(held[order], np.arange(len(of_level)))
        merged = np.add.reduceat(apart[:, order], starts, axis=1)
        found.append(euclidean_silhouettes(merged, held[leaves], of_level))
    return found
