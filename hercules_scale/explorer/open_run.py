"""A run as the explorer reads it: all clusters at once, items by page.

Clusters are held without their vectors, which are read when neighbours or the map of descriptions
are asked for. Items are read from ``cluster_items``, where the items of a cluster are adjacent
rows; for a run without this table the explorer makes it.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hercules_scale.errors import InputError
from hercules_scale.explorer.item_pages import Pages
from hercules_scale.explorer.unfinished_run import unfinished_run
from hercules_scale.results.edits import ClusterKey, Edits, read_edits, with_edits
from hercules_scale.results.finished_run import VECTORS, Run
from hercules_scale.storage import layout
from hercules_scale.storage.cluster_items import NOT_NUMBERS, TABLE, TreeOrder
from hercules_scale.storage.manifest import published_files
from hercules_scale.storage.schemas import WITHHELD
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import column_vectors, read_rows, read_tables

READERS = 8
# Columns that a withheld item still shows.
NAMING = ("row", "item_id")


class OpenRun:
    """A run that has clusters.

    Args:
        run: Tables of the run.
        clusters: All clusters, without vectors.
    """

    def __init__(self, run: Run, clusters: pa.Table) -> None:
        self.finished = run
        self.clusters = clusters.sort_by([("level", "ascending"), ("cluster_id", "ascending")])
        levels = self.clusters["level"].to_numpy()
        self.n_levels = int(levels.max())
        self._first = np.searchsorted(levels, np.arange(1, self.n_levels + 2)).tolist()
        self.order = TreeOrder.of(self.clusters)
        self.edits: Edits = read_edits(run.store)
        self.withheld = self._withheld()
        self.items = Pages(run.store, run.files.get(TABLE, []), self.withheld)
        self._lock = threading.Lock()
        # Name and values of the column that colours the map.
        self.shades: tuple[str, Any] | None = None
        self.shades_lock = threading.Lock()
        self._columns: dict[str, list[str]] = {}

    @classmethod
    def of(cls, store: Store) -> OpenRun:
        """Return a finished run, or an unfinished one that has clusters already.

        Raises:
            InputError: There is no run, or it has no clusters.
        """
        if not store.exists(layout.SUCCESS) and store.exists(layout.RUN):
            found = unfinished_run(store)
            if found is None:
                raise InputError(f"{store.uri}: the run has no clusters yet")
            return cls(*found)
        run = Run(store, published_files(store))
        if not run.files.get("clusters"):
            raise InputError(
                f"{store.uri}: holds no clusters; give the output of a run, not of assign"
            )
        kept = [name for name in run.columns("clusters") if name not in VECTORS[:2]]
        paths = [file.path for file in run.files["clusters"]]
        return cls(run, read_tables(store, paths, kept))

    @property
    def store(self) -> Store:
        """Store of the output."""
        return self.finished.store

    def _withheld(self) -> NDArray[np.bool_]:
        """Return whether each finest cluster is withheld for privacy.

        Before the run knows which clusters are too small, all are withheld if it has limits.
        """
        table, privacy = self.level(1), self.finished.config("privacy")
        if table["summary_source"].null_count == table.num_rows:
            asked = bool(privacy.get("min_items") or privacy.get("min_owners"))
            return np.full(table.num_rows, asked)
        withheld = pc.fill_null(pc.equal(table["summary_source"], WITHHELD), False)
        return np.asarray(withheld.to_numpy(), bool)

    @property
    def n_items(self) -> int:
        """Number of items."""
        return int(self.order.starts[-1])

    def level(self, level: int) -> pa.Table:
        """Return the clusters of one level in order of id, without edits."""
        first = self._first[level - 1]
        return self.clusters.slice(first, self._first[level] - first)

    def check(self, key: ClusterKey) -> ClusterKey:
        """Check that a cluster exists, and return its key.

        Raises:
            InputError: There is no such cluster.
        """
        level, cluster_id = key
        if not 1 <= level <= self.n_levels or not 0 <= cluster_id < len(self.level(level)):
            raise InputError(f"there is no cluster {level}/{cluster_id}")
        return key

    def check_row(self, row: int) -> int:
        """Check that a row exists, and return it.

        Raises:
            InputError: There is no such row.
        """
        if not 0 <= row < self.n_items:
            raise InputError(f"there is no row {row}; rows are 0 to {self.n_items - 1}")
        return row

    def withholds(self, row: int) -> bool:
        """Return whether the finest cluster of an item is withheld for privacy."""
        if not self.withheld.any():
            return False
        (member,) = self.rows("memberships", [row])
        return bool(self.withheld[member["level_1"]])

    def cluster(self, key: ClusterKey) -> dict[str, Any]:
        """Return one cluster with its edits.

        Raises:
            InputError: There is no such cluster.
        """
        level, cluster_id = self.check(key)
        row = self.level(level).slice(cluster_id, 1)
        values: dict[str, Any] = with_edits(row, self.edits).to_pylist()[0]
        return values | {"own_title": row["title"][0].as_py()}

    def titles(self, level: int) -> list[str]:
        """Return the titles of the clusters of a level, with edits."""
        found: list[str] = self.level(level)["title"].to_pylist()
        for (edited, cluster_id), edit in self.edits.items():
            if edited == level and edit.title is not None and cluster_id < len(found):
                found[cluster_id] = edit.title
        return found

    def span(self, key: ClusterKey | None) -> tuple[int, int]:
        """Return the first place of a cluster's items in the order of the tree, and the place
        after the last; for None those of all items."""
        if key is None:
            return 0, self.n_items
        level, cluster_id = self.check(key)
        start, stop = self.order.spans[level - 1][cluster_id].tolist()
        return start, stop

    def vectors(self, level: int, name: str) -> NDArray[np.float32] | None:
        """Return centroids or description embeddings of a level, shape (k, d); None unless all
        clusters have one.

        Memory: 4 bytes per number; the result for the last level and column is kept.
        """
        with self._lock:
            held = getattr(self, "_vectors", None)
            if held is None or held[0] != (level, name):
                self._vectors = held = ((level, name), self._read_vectors(level, name))
            return held[1]

    def _read_vectors(self, level: int, name: str) -> NDArray[np.float32] | None:
        if name not in self.columns("clusters"):
            return None
        paths = [file.path for file in self.finished.files["clusters"]]
        table = read_tables(self.store, paths, ["level", "cluster_id", name])
        table = table.filter(pc.equal(table["level"], level)).sort_by("cluster_id")
        if table[name].null_count or table[name].type.list_size == 0:
            return None
        return column_vectors(table[name])

    def rows(self, table: str, rows: list[int]) -> list[dict[str, Any]]:
        """Return some rows of a table of items, in the order given, without thumbnails."""
        files = self.finished.files.get(table, [])
        columns = [name for name in self.columns(table) if name != "thumbnail"]
        starts = np.cumsum([0, *(file.rows for file in files)])

        def read(row: int) -> dict[str, Any]:
            shard = int(np.searchsorted(starts, row, side="right")) - 1
            place = row - int(starts[shard])
            found: dict[str, Any] = read_rows(
                self.store, files[shard].path, place, place + 1, columns
            ).to_pylist()[0]
            if table == "items" and self.withholds(row):
                return {name: found[name] if name in NAMING else None for name in found}
            return found

        if not files:
            return []
        with ThreadPoolExecutor(READERS) as readers:
            return list(readers.map(read, rows))

    def columns(self, table: str) -> list[str]:
        """Return the column names of a table; an empty list if it was not published."""
        if table not in self._columns:
            self._columns[table] = self.finished.columns(table)
        return self._columns[table]

    def thumbnail(self, row: int) -> bytes | None:
        """Return the thumbnail of an item; None if it has none or is withheld."""
        self.check_row(row)
        if "thumbnail" not in self.columns("items") or self.withholds(row):
            return None
        files = self.finished.files["items"]
        starts = np.cumsum([0, *(file.rows for file in files)])
        shard = int(np.searchsorted(starts, row, side="right")) - 1
        place = row - int(starts[shard])
        table = read_rows(self.store, files[shard].path, place, place + 1, ["thumbnail"])
        found: bytes | None = table["thumbnail"][0].as_py()
        return found

    @cached_property
    def numbers(self) -> list[str]:
        """Names of the numeric columns, in the order of the column ``numbers``."""
        return [name for name in self.columns("items") if name not in NOT_NUMBERS]
