"""A finished run as exports read it: all clusters at once, items shard by shard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from hercules_scale.errors import InputError
from hercules_scale.results.edits import read_edits, with_edits
from hercules_scale.storage.manifest import published_files
from hercules_scale.storage.run_file import read_run
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import (
    FileRecord,
    read_rows,
    read_schema,
    read_table,
    read_tables,
)

T = TypeVar("T")
VECTORS = ("centroid", "description_embedding", "reduction")


@dataclass(frozen=True)
class Run:
    """A finished run on disk: its tables and its record.

    Attributes:
        store: Output of the run.
        files: Files of each table, as the manifest lists them.
    """

    store: Store
    files: dict[str, list[FileRecord]]

    @cached_property
    def record(self) -> dict[str, Any]:
        """Content of ``run.json``."""
        return read_run(self.store)

    @property
    def cluster_paths(self) -> list[str]:
        """Paths of the files of the table ``clusters``.

        Raises:
            InputError: There are none, since this is an output of ``assign``.
        """
        if not self.files.get("clusters"):
            raise InputError(
                f"{self.store.uri}: holds items that were put into the clusters of another run, "
                "and no clusters; name that run, and read the tables memberships and drift here"
            )
        return [file.path for file in self.files["clusters"]]

    @cached_property
    def clusters(self) -> pa.Table:
        """All clusters with edits, coarsest level first; some kilobytes each."""
        table = with_edits(read_tables(self.store, self.cluster_paths), read_edits(self.store))
        return table.sort_by([("level", "descending"), ("cluster_id", "ascending")])

    @cached_property
    def cluster_rows(self) -> list[dict[str, Any]]:
        """All clusters without their vectors, in the same order."""
        kept = [name for name in self.clusters.schema.names if name not in VECTORS]
        rows: list[dict[str, Any]] = self.clusters.select(kept).to_pylist()
        return rows

    @property
    def name(self) -> str:
        """Last part of the output's path."""
        return self.store.root.rpartition("/")[2] or "run"

    @property
    def n_levels(self) -> int:
        """Number of levels."""
        return int(pc.max(self.clusters["level"]).as_py())

    @property
    def n_items(self) -> int:
        """Number of items."""
        return sum(file.rows for file in self.files["memberships"])

    def level(self, level: int) -> pa.Table:
        """Return the clusters of one level in order of id."""
        return self.clusters.filter(pc.equal(self.clusters["level"], level))

    def config(self, section: str) -> dict[str, Any]:
        """Return one section of the run's configuration; empty if there is none."""
        values: dict[str, Any] = self.record.get("config", {}).get(section) or {}
        return values

    def columns(self, table: str) -> list[str]:
        """Return the column names of a table; an empty list if it was not published."""
        if not self.files.get(table):
            return []
        names: list[str] = read_schema(self.store, self.files[table][0].path).names
        return names

    def shards(self, tables: dict[str, list[str]]) -> Iterator[pa.Table]:
        """Yield columns of tables of items, side by side, a shard at a time.

        Args:
            tables: Columns to read, by table; tables that were not published are left out.
        """
        files = {name: self.files[name] for name in tables if self.files.get(name)}
        for shard in zip(*files.values(), strict=True):
            columns: dict[str, pa.ChunkedArray] = {}
            for name, file in zip(files, shard, strict=True):
                part = read_table(self.store, file.path, tables[name])
                columns.update(zip(part.column_names, part.columns, strict=True))
            yield pa.table(columns)


def read_files(run: Run, table: str, read: Callable[[list[FileRecord]], T]) -> T:
    """Return the result of ``read`` on the files of a table.

    If the table was replaced since the run was opened, the manifest is read again.
    """
    try:
        return read(run.files.get(table, []))
    except FileNotFoundError:
        run.files.update(published_files(run.store))
        return read(run.files.get(table, []))


def rows_of_items(run: Run, rows: list[int], columns: list[str]) -> list[dict[str, Any]]:
    """Return some items by row; only their row groups are read.

    Args:
        run: The run.
        rows: Rows of the items.
        columns: Columns of the table ``items``.
    """
    found = []
    for row in rows:
        first = 0
        for file in run.files["items"]:
            if row < first + file.rows:
                part = read_rows(run.store, file.path, row - first, row - first + 1, columns)
                found += part.to_pylist()
                break
            first += file.rows
    return found


def json_numbers(values: pa.ChunkedArray | pa.Array) -> list[str]:
    """Return numbers as JSON, each as short as its type allows; ``null`` for values that are
    missing or not finite."""
    finite = pc.fill_null(pc.is_finite(values), False)
    texts: list[str] = pc.if_else(finite, values.cast(pa.string()), "null").to_pylist()
    return texts
