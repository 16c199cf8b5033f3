"""Pages of a run's items, in the order of the tree."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import FileRecord

# Footers of Parquet files that are kept, of about a megabyte each at most.
FOOTERS = 32
TELLING = ("title", "description", "text", "image_uri", "thumbnail", "numbers")


class Pages:
    """The table ``cluster_items``, by place in the order of the tree.

    Args:
        store: Store of the table.
        files: Files of the table; empty if it is still to be made.
        withheld: Whether each finest cluster is withheld for privacy.
    """

    def __init__(
        self, store: Store, files: list[FileRecord], withheld: NDArray[np.bool_] | None = None
    ) -> None:
        self.store, self.files = store, files
        self._withheld = np.zeros(0, bool) if withheld is None else withheld
        self._starts = np.cumsum([0, *(file.rows for file in files)])
        self._footers: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        names: list[str] = self._footer(self.files[0].path).schema.to_arrow_schema().names
        return names

    def read(self, start: int, stop: int, columns: list[str]) -> pa.Table:
        """Return the rows from ``start`` to ``stop``; only their row groups are read."""
        tables = [
            table.slice(
                max(start - first, 0), min(stop, first + table.num_rows) - max(start, first)
            )
            for first, table in self.groups(start, stop, columns)
        ]
        if not tables:
            return self._schema(columns).empty_table()
        return pa.concat_tables(tables)

    def sample(self, start: int, stop: int, columns: list[str], most: int) -> pa.Table:
        """Return the rows from ``start`` to ``stop``; if there are more than ``most``, a sample of
        row groups at equal distances."""
        if stop - start <= most:
            return self.read(start, stop, columns)
        n_groups = len(self.places(start, stop))
        every = -(-(stop - start) // most)
        wanted = set(range(0, n_groups, every))
        tables = [
            table.slice(
                max(start - first, 0), min(stop, first + table.num_rows) - max(start, first)
            )
            for first, table in self.groups(start, stop, columns, wanted)
        ]
        return pa.concat_tables(tables)

    def groups(
        self, start: int, stop: int, columns: list[str], wanted: set[int] | None = None
    ) -> Iterator[tuple[int, pa.Table]]:
        """Yield the row groups that hold rows from ``start`` to ``stop``, each with the place of
        its first row.

        If the columns hold ``item_id``, texts, images and numbers of withheld items are null.
        """
        hides = "item_id" in columns and bool(self._withheld.any())
        read = [*columns, "level_1"] if hides and "level_1" not in columns else columns
        opened: tuple[str, Any] | None = None
        for index, (path, group, first, _) in enumerate(self.places(start, stop)):
            if wanted is not None and index not in wanted:
                continue
            if opened is None or opened[0] != path:
                opened = (path, self._open(path))
            table = opened[1].read_row_group(group, columns=read)
            yield (
                first,
                withhold(table, self._withheld, TELLING).select(columns) if hides else table,
            )

    def group(self, path: str, group: int, columns: list[str]) -> pa.Table:
        """Return one row group, withheld items included."""
        return self._open(path).read_row_group(group, columns=columns)

    def _open(self, path: str) -> pq.ParquetFile:
        place, footer = self.store.path(path), self._footer(path)
        return pq.ParquetFile(place, filesystem=self.store.arrow, metadata=footer)

    def places(self, start: int, stop: int) -> list[tuple[str, int, int, int]]:
        """Return the row groups that hold rows from ``start`` to ``stop``.

        Returns:
            Of each: file, number in the file, first row, number of rows.
        """
        found = []
        low = int(np.searchsorted(self._starts, start, side="right")) - 1
        for number in range(max(low, 0), len(self.files)):
            first = int(self._starts[number])
            if first >= stop:
                break
            path = self.files[number].path
            footer = self._footer(path)
            for group in range(footer.num_row_groups):
                rows = footer.row_group(group).num_rows
                if first < stop and first + rows > start:
                    found.append((path, group, first, rows))
                first += rows
        return found

    def _schema(self, columns: list[str]) -> pa.Schema:
        schema = self._footer(self.files[0].path).schema.to_arrow_schema()
        return pa.schema([schema.field(name) for name in columns])

    def _footer(self, path: str) -> Any:
        with self._lock:
            if path in self._footers:
                self._footers.move_to_end(path)
                return self._footers[path]
        footer = pq.read_metadata(self.store.path(path), filesystem=self.store.arrow)
        with self._lock:
            self._footers[path] = footer
            while len(self._footers) > FOOTERS:
                self._footers.popitem(last=False)
        return footer


def withhold(table: pa.Table, withheld: NDArray[np.bool_], columns: Collection[str]) -> pa.Table:
    """Return a table with nulls in some columns of withheld items.

    Args:
        table: Items, with their finest cluster in ``level_1``.
        withheld: Whether each finest cluster is withheld, shape (k_1,).
        columns: Names of the columns; columns that the table lacks are passed over.
    """
    hidden = pa.array(withheld[table["level_1"].to_numpy()])
    for place, name in enumerate(table.column_names):
        if name in columns:
            nothing = pa.nulls(table.num_rows, table[name].type)
            shown = pc.if_else(hidden, nothing, table[name].combine_chunks())
            table = table.set_column(place, name, shown)
    return table
