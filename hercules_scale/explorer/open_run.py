"""A run as the explorer reads it: clusters whole, items by page.

Clusters are held without their vectors, which are read where somebody asks for neighbours or for
the map of descriptions. Items come out of ``cluster_items``, where those of a cluster lie side by
side; a run that was made without it has it made beside the explorer.
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
from hercules_scale.explorer.pages import Pages
from hercules_scale.explorer.unfinished_run import unfinished_run
from hercules_scale.results.edits import ClusterKey, Edits, read_edits, with_edits
from hercules_scale.results.run import VECTORS, Run
from hercules_scale.storage import layout
from hercules_scale.storage.cluster_items import NOT_NUMBERS, TABLE, TreeOrder
from hercules_scale.storage.manifest import published_files
from hercules_scale.storage.schemas import WITHHELD
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import column_vectors, read_rows, read_tables

READERS = 8
# Columns of items that name them, and those that say what they are.
NAMING = ("row", "item_id")


class OpenRun:
    """A run that has clusters.

    Args:
        run: Its tables.
        clusters: Every cluster, without vectors.
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
        self._columns: dict[str, list[str]] = {}

    @classmethod
    def of(cls, store: Store) -> OpenRun:
        """Return a finished run, or one that has come as far as its clusters.

        Raises:
            InputError: There is none, or it has no clusters of its own.
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
        """The output."""
        return self.finished.store

    def _withheld(self) -> NDArray[np.bool_]:
        """Return whether each finest cluster is too small to show what its items are.

        All are, where privacy is asked for and it is not known yet which are.
        """
        table, privacy = self.level(1), self.finished.config("privacy")
        if table["summary_source"].null_count == table.num_rows:
            asked = bool(privacy.get("min_items") or privacy.get("min_owners"))
            return np.full(table.num_rows, asked)
        withheld = pc.fill_null(pc.equal(table["summary_source"], WITHHELD), False)
        return np.asarray(withheld.to_numpy(), bool)

    @property
    def n_items(self) -> int:
        """Items in all."""
        return int(self.order.starts[-1])

    def level(self, level: int) -> pa.Table:
        """Return the clusters of one level by id, as the output has them."""
        first = self._first[level - 1]
        return self.clusters.slice(first, self._first[level] - first)

    def check(self, key: ClusterKey) -> ClusterKey:
        """Return the same cluster, if there is such a one.

        Raises:
            InputError: There is none.
        """
        level, cluster_id = key
        if not 1 <= level <= self.n_levels or not 0 <= cluster_id < len(self.level(level)):
            raise InputError(f"there is no cluster {level}/{cluster_id}")
        return key

    def check_row(self, row: int) -> int:
        """Return the same row, if there is such a one.

        Raises:
            InputError: There is none.
        """
        if not 0 <= row < self.n_items:
            raise InputError(f"there is no row {row}; rows are 0 to {self.n_items - 1}")
        return row

    def withholds(self, row: int) -> bool:
        """Return whether the cluster of an item is too small to show what the item is."""
        if not self.withheld.any():
            return False
        (member,) = self.rows("memberships", [row])
        return bool(self.withheld[member["level_1"]])

    def cluster(self, key: ClusterKey) -> dict[str, Any]:
        """Return one cluster with its edits.

        Raises:
            InputError: There is none.
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
        """Return first and last place of a cluster's items among all, in the order of the tree."""
        if key is None:
            return 0, self.n_items
        level, cluster_id = self.check(key)
        start, stop = self.order.spans[level - 1][cluster_id].tolist()
        return start, stop

    def vectors(self, level: int, name: str) -> NDArray[np.float32] | None:
        """Return centroids or embeddings of the descriptions of a level, shape (k, d), where all
        have one.

        Memory: 4 bytes a number, kept for the level that was asked for last.
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
        """Return the rows of a table with a row an item, in the order given, without thumbnails."""
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
        """Return the names of the columns of a table; none where it was not published."""
        if table not in self._columns:
            self._columns[table] = self.finished.columns(table)
        return self._columns[table]

    def thumbnail(self, row: int) -> bytes | None:
        """Return the picture of an item, where it has one."""
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
        """Numeric columns of the items, in the order of ``numbers``."""
        return [name for name in self.columns("items") if name not in NOT_NUMBERS]
