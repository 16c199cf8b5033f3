"""Counts of items of each true class in each cluster, shard by shard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from hercules_scale.clustering.nearest_centroids import Int32, Int64
from hercules_scale.evaluation.external import external_metrics
from hercules_scale.evaluation.internal import Figure
from hercules_scale.runtime.partial_sums import Gather
from hercules_scale.stages.item_metrics import ClusteredItems

KEYS = ["column", "level", "label", "cluster"]


class Truth(Protocol):
    """True classes of the items."""

    @property
    def columns(self) -> list[str]:
        """Names of the classifications, one column each."""
        ...

    def read(self, shard: int) -> pa.Table:
        """Return the columns of one shard's items, with null where there is no class."""
        ...


@dataclass(frozen=True)
class GivenTruth:
    """Classes that a caller holds in memory.

    Attributes:
        name: Name of the classification.
        classes: Number of each item's class, by row, shape (n,); -1 for none.
        rows: Number of rows in a shard.
    """

    name: str
    classes: Int64
    rows: int

    @property
    def columns(self) -> list[str]:
        """Name of the classification, in a list."""
        return [self.name]

    def read(self, shard: int) -> pa.Table:
        """Return the classes of one shard."""
        own = self.classes[shard * self.rows : (shard + 1) * self.rows]
        return pa.table({self.name: pa.array(own, mask=own < 0)})


CLASSES = "classes"


@dataclass(frozen=True)
class _CountWork:
    items: ClusteredItems
    truth: Truth

    def __call__(self, shards: range) -> pa.Table:
        counted = []
        for shard in shards:
            truth, leaves = self.truth.read(shard), self.items.leaves(shard)
            for column, name in enumerate(self.truth.columns):
                for level, held in enumerate(self.items.ancestors):
                    counted.append(_count(column, level, truth[name], held[leaves]))
        return _add(counted)


def _count(column: int, level: int, labels: pa.ChunkedArray, clusters: Int32) -> pa.Table:
    """Count the items of each class in each cluster of a level; skip items without a class."""
    n = len(clusters)
    table = pa.table(
        {
            "column": np.full(n, column, np.int32),
            "level": np.full(n, level, np.int32),
            "label": labels,
            "cluster": clusters,
            "n": np.ones(n, np.int64),
        }
    )
    return _add([table.filter(pc.is_valid(table["label"]))])


def _add(tables: list[pa.Table]) -> pa.Table:
    counted = pa.concat_tables(tables).group_by(KEYS).aggregate([("n", "sum")])
    return counted.rename_columns([*KEYS, "n"])


def external_figures(
    items: ClusteredItems, truth: Truth, gather: Gather
) -> dict[str, list[dict[str, Figure]]]:
    """Return the agreement of each level, finest first, with each classification.

    A classification without any class has no levels.
    """
    if not truth.columns:
        return {}
    counted = _add(list(gather(CLASSES, _CountWork(items, truth))))
    found: dict[str, list[dict[str, Figure]]] = {}
    for column, name in enumerate(truth.columns):
        own = counted.filter(pc.equal(counted["column"], column))
        found[name] = []
        for level in range(len(items.ancestors) if own.num_rows else 0):
            cells = own.filter(pc.equal(own["level"], level))
            n = int(pc.sum(cells["n"]).as_py())
            metrics = external_metrics(_contingency(cells))
            found[name].append({metric: Figure(value, n) for metric, value in metrics.items()})
    return found


def _contingency(cells: pa.Table) -> sparse.coo_array:
    # The table is sparse, since with many small classes a dense one would not fit in memory. Its
    # cells are sorted, since the last bits of metrics depend on the order of additions.
    cells = cells.sort_by([("label", "ascending"), ("cluster", "ascending")])
    classes = cells["label"].combine_chunks().dictionary_encode().indices.to_numpy()
    clusters = np.unique(cells["cluster"].to_numpy(), return_inverse=True)[1]
    return sparse.coo_array((cells["n"].to_numpy(), (classes, clusters)))
