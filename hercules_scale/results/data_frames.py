"""Tables of a finished run as DataFrames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from hercules_scale.errors import InputError
from hercules_scale.results.cut import find_cut
from hercules_scale.results.edits import read_edits, with_edits
from hercules_scale.results.finished_run import Run, read_files, rows_of_items
from hercules_scale.results.tree_text import format_tree
from hercules_scale.storage.run_file import read_run
from hercules_scale.storage.tables import FileRecord, read_tables

if TYPE_CHECKING:
    import pandas as pd


class RunFrames:
    """Tables of a finished run as DataFrames, and its record.

    Args:
        source: The run.
    """

    def __init__(self, source: Run) -> None:
        self._source = source
        self._clusters: pd.DataFrame | None = None

    @property
    def uri(self) -> str:
        """URI of the output."""
        return self._source.store.uri

    @property
    def name(self) -> str:
        """Last part of the output's path."""
        return self._source.name

    @property
    def run(self) -> dict[str, Any]:
        """Content of ``run.json``: configuration, versions, seconds, tokens, alarms."""
        return read_run(self._source.store)

    @property
    def n_levels(self) -> int:
        """Number of levels; level 1 is the finest."""
        return int(self.clusters()["level"].max())

    def table(self, name: str, columns: list[str] | None = None) -> pd.DataFrame:
        """Return one whole table of the output.

        Args:
            name: Name of the table, such as ``items``, ``clusters`` or ``memberships``.
            columns: Columns to read; by default all.

        Raises:
            InputError: There is no table of this name.
        """
        if not self._source.files.get(name):
            known = ", ".join(table for table, files in self._source.files.items() if files)
            raise InputError(f"{self.uri}: holds no table {name!r}; it has {known}")

        def read(files: list[FileRecord]) -> pa.Table:
            return read_tables(self._source.store, [file.path for file in files], columns)

        frame: pd.DataFrame = read_files(self._source, name, read).to_pandas()
        return frame

    def clusters(self, level: int | None = None) -> pd.DataFrame:
        """Return the clusters of every level or of one, a row each.

        Titles that people gave in the explorer replace those of the output, and notes are in the
        column ``note``; ``table("clusters")`` has the output's own titles.

        Raises:
            InputError: There is no such level.
        """
        if self._clusters is None:
            paths = self._source.cluster_paths
            table = with_edits(
                read_tables(self._source.store, paths), read_edits(self._source.store)
            )
            frame = table.to_pandas()
            frame["parent_cluster_id"] = frame["parent_cluster_id"].astype("Int32")
            self._clusters = frame
        if level is None:
            return self._clusters.copy()
        check_level(self.uri, self.n_levels, level)
        return self._clusters[self._clusters["level"] == level].reset_index(drop=True)

    def exemplars(self, level: int, cluster_id: int) -> list[dict[str, Any]]:
        """Return ``item_id``, ``title`` and ``description`` of the exemplars of a cluster.

        Of the table ``items`` only the row groups with the exemplars are read, if the run knows
        their rows.
        """
        cluster = self.clusters(level).iloc[cluster_id]
        columns = ["item_id", "title", "description"]
        rows = cluster.get("exemplar_rows")
        if rows is not None:
            return rows_of_items(self._source, list(rows), columns)
        # An imported run has the ids of exemplars, but not their rows.
        wanted = list(cluster["exemplar_item_ids"])
        found: dict[str, dict[str, Any]] = {}
        for shard in self._source.shards({"items": columns}):
            chosen = shard.filter(pc.is_in(shard["item_id"], pa.array(wanted, pa.string())))
            found |= {item["item_id"]: item for item in chosen.to_pylist()}
        return [found[item_id] for item_id in wanted if item_id in found]

    def tree_text(self, depth: int | None = None, level: int | None = None) -> str:
        """Return the tree as indented text, children below their parent, the largest first.

        Args:
            depth: Number of levels shown; by default all.
            level: Level to begin at; by default the coarsest.

        Raises:
            InputError: There is no such level, or the depth is below 1.
        """
        top = self.n_levels if level is None else level
        check_level(self.uri, self.n_levels, top)
        if depth is not None and depth < 1:
            raise InputError(f"depth must be at least 1, got {depth}")
        return format_tree(self.clusters(), top, depth)

    def cut(self, about: int | None = None, fine: str | Sequence[str] = ()) -> pd.DataFrame:
        """Return about ``about`` clusters of any levels that hold every item exactly once.

        The cut begins with the coarsest level; the cluster that gains most by it is divided first,
        by its size and by how well the labels of its children hold.

        Args:
            about: Wanted number of clusters; by default the coarsest level, divided as
                ``fine`` says.
            fine: Clusters to divide down to the finest level: ``LEVEL/ID``, or a part of a title
                that no other cluster has; one or several.

        Returns:
            Columns ``level``, ``cluster_id``, ``title``, ``description``, ``n_items`` and
            ``share`` of all items; rows are in the order of the printed tree.

        Raises:
            InputError: No cut has that number of clusters within 10%, or a name is unknown or
                ambiguous.
        """
        names = [fine] if isinstance(fine, str) else fine
        frame: pd.DataFrame = find_cut(self._source, about, names).clusters.to_pandas()
        return frame

    def memberships(self) -> pd.DataFrame:
        """Return the cluster of every item at every level, with distances and margins."""
        return self.table("memberships")

    def evaluations(self) -> pd.DataFrame:
        """Return the table ``evaluations``: metrics by level."""
        return self.table("evaluations")


def check_level(uri: str, n_levels: int, level: int) -> None:
    """Check that a run has a level.

    Raises:
        InputError: There is no such level.
    """
    if not 1 <= level <= n_levels:
        raise InputError(f"{uri}: level must be from 1 (finest) to {n_levels}, got {level}")
