"""The result that people open: clusters, memberships, the tree."""

from __future__ import annotations

import atexit
import copy
import html
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from hercules_scale.config.file import storage_section
from hercules_scale.config.resources import StorageConfig
from hercules_scale.config.section import names_function
from hercules_scale.errors import InputError
from hercules_scale.results.destination import open_destination
from hercules_scale.results.edits import read_edits, with_edits
from hercules_scale.results.run import Run, read_files, rows_of_items
from hercules_scale.results.title_sources import title_marks
from hercules_scale.runtime.context import NO_FUNCTIONS, Functions
from hercules_scale.runtime.progress import Reporter
from hercules_scale.sanitize import for_stream, printable
from hercules_scale.storage import layout
from hercules_scale.storage.manifest import published_files, read_run
from hercules_scale.storage.scratch import ScratchFolder
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import FileRecord, read_tables

if TYPE_CHECKING:
    import pandas as pd

JSON_LAYOUTS = ("tree", "pyhercules")


class Hierarchy:
    """A finished run, read from its output.

    Open one with ``Hierarchy.open``.

    Args:
        store: The output.
        functions: The user's own that the run was made with, where they are at hand.
        scratch: The temporary folder of the output, where it lies in one.
        models: Models of the run that the caller named.
    """

    def __init__(
        self,
        store: Store,
        functions: Functions = NO_FUNCTIONS,
        scratch: ScratchFolder | None = None,
        models: Sequence[str] = (),
    ) -> None:
        self._store, self._functions, self._scratch = store, functions, scratch
        self._models = tuple(models)
        self._files = published_files(store)
        self._clusters: pd.DataFrame | None = None

    @classmethod
    def open(cls, uri: str, storage: StorageConfig | dict[str, Any] | None = None) -> Hierarchy:
        """Open the output of a run.

        Args:
            uri: A local path, ``s3://``, ``gs://`` or ``az://``.
            storage: The section ``storage``, where the environment does not say how to reach it.

        Raises:
            InputError: There is no run, or it is not finished.
            ConfigError: A key of the section is wrong.
        """
        return cls(Store(uri, storage_section(storage) if isinstance(storage, dict) else storage))

    @classmethod
    def from_pyhercules(
        cls, path: str, output: str, storage: StorageConfig | None = None
    ) -> Hierarchy:
        """Write a model that pyhercules saved as the tables of a finished run, and open it.

        Args:
            path: Path or URI of the model's JSON.
            output: Folder of the tables, a path or URI.
            storage: Access to object stores.

        Raises:
            InputError: The file is no such model, or there is a run at the output.
        """
        from hercules_scale.pyhercules.import_model import import_model

        return cls(import_model(path, output, storage))

    @property
    def uri(self) -> str:
        """URI of the output."""
        return self._store.uri

    @property
    def name(self) -> str:
        """The last part of where the output lies."""
        return self._finished.name

    @property
    def run(self) -> dict[str, Any]:
        """Content of ``run.json``: configuration, versions, seconds, tokens, alarms."""
        return read_run(self._store)

    @property
    def n_levels(self) -> int:
        """Levels of clusters; level 1 is the finest."""
        return int(self.clusters()["level"].max())

    def table(self, name: str, columns: list[str] | None = None) -> pd.DataFrame:
        """Return one table of the output, whole.

        Args:
            name: Such as ``items``, ``clusters`` or ``memberships``.
            columns: Columns to read; by default all.

        Raises:
            InputError: There is no table of this name.
        """
        if not self._files.get(name):
            known = ", ".join(table for table, files in self._files.items() if files)
            raise InputError(f"{self.uri}: holds no table {name!r}; it has {known}")

        def read(files: list[FileRecord]) -> pa.Table:
            return read_tables(self._store, [file.path for file in files], columns)

        frame: pd.DataFrame = read_files(self._finished, name, read).to_pandas()
        return frame

    def clusters(self, level: int | None = None) -> pd.DataFrame:
        """Return the clusters of every level or of one, a row each.

        Titles that people gave in the explorer stand in the place of the output's, and their notes
        in the column ``note``; ``table("clusters")`` has the output's own.

        Raises:
            InputError: There is no such level.
        """
        if self._clusters is None:
            paths = self._finished.cluster_paths
            table = with_edits(read_tables(self._store, paths), read_edits(self._store))
            frame = table.to_pandas()
            frame["parent_cluster_id"] = frame["parent_cluster_id"].astype("Int32")
            self._clusters = frame
        if level is None:
            return self._clusters.copy()
        self._check_level(level)
        return self._clusters[self._clusters["level"] == level].reset_index(drop=True)

    def exemplars(self, level: int, cluster_id: int) -> list[dict[str, Any]]:
        """Return ``item_id``, ``title`` and ``description`` of the items nearest to a centroid.

        Reads no more of the table ``items`` than the row groups that hold them.
        """
        cluster = self.clusters(level).iloc[cluster_id]
        columns = ["item_id", "title", "description"]
        rows = cluster.get("exemplar_rows")
        if rows is not None:
            return rows_of_items(self._finished, list(rows), columns)
        # Of an imported run, which names them alone.
        wanted = list(cluster["exemplar_item_ids"])
        found: dict[str, dict[str, Any]] = {}
        for shard in self._finished.shards({"items": columns}):
            chosen = shard.filter(pc.is_in(shard["item_id"], pa.array(wanted, pa.string())))
            found |= {item["item_id"]: item for item in chosen.to_pylist()}
        return [found[item_id] for item_id in wanted if item_id in found]

    def memberships(self) -> pd.DataFrame:
        """Return the cluster of every item at every level, with distances and margins."""
        return self.table("memberships")

    def evaluations(self) -> pd.DataFrame:
        """Return metrics by level."""
        return self.table("evaluations")

    def evaluate(self, labels: Any = None) -> pd.DataFrame:
        """Measure the hierarchy again in this process, against ground truth of any kind.

        Shards are read one at a time, so it takes memory for one of them and for the clusters'
        sums; a run of many millions of items is measured faster by ``hercules-scale evaluate``, on
        Ray. Nothing is written.

        Args:
            labels: True classes: the name of a column of the table ``labels``; or a list, array or
                Series in the order of the rows; or a dict, or a Series with an index of its own,
                by ``item_id``. None, NaN and items that a dict leaves out have no class. By
                default every column of the table ``labels``.

        Returns:
            ``level``, ``metric``, ``basis`` (``items``, ``children``, ``summaries``,
            ``labels:`` and a name), ``value``, ``n``, and ``low`` and ``high``, the ends of a 95%
            confidence interval where the figure is of a sample.

        Raises:
            InputError: There is no such column, the length is another than that of the items, or
                an id is unknown.

        Source: HERCULES, section 3.7.
        """
        from hercules_scale.jobs.evaluate import evaluate_here

        return evaluate_here(self._store, labels)

    def assign(
        self,
        items: Any,
        output: str | None = None,
        *,
        llm: Callable[[str], Any] | None = None,
        embed: Callable[[list[str]], Any] | None = None,
        redact: str | None = None,
        endpoint: str | Sequence[str] | None = None,
        models: Sequence[str] = (),
        verbose: bool = True,
    ) -> pd.DataFrame:
        """Put items into the clusters, at every level.

        Args:
            items: The path or URI of files with the columns of the run's input; or items in memory
                of any form that ``Hercules.fit`` takes.
            output: Folder of the tables, ``drift`` among them; by default none.
            llm: The function that the run was made with, where it described the items. It need not
                be given to what ``Hercules.fit`` returned in this process.
            embed: The function that embedded the items of the run; the same holds.
            redact: ``privacy.redact`` of the run, where it has one, since it is called.
            endpoint: ``embedding.endpoint`` and ``summaries.endpoint`` of the run, where endpoints
                embedded or described the items.
            models: Models of the run that are folders or hub ids, which are loaded. They need not
                be given to what ``Hercules.fit`` returned in this process.
            verbose: Whether progress is shown.

        Returns:
            A row an item: the columns of ``memberships``, and the title of the cluster at each
            level, ``title_1`` and so on. Whole in memory, so for millions of items take the
            command ``assign``.

        Raises:
            HerculesScaleError: As a run would.
        """
        from hercules_scale.jobs.assign import assign
        from hercules_scale.reading.memory import write_items

        functions = self._known_functions(llm, embed)
        with tempfile.TemporaryDirectory(prefix="hercules_scale_") as scratch:
            place = output or f"{scratch}/output"
            section: dict[str, Any] = {"path": str(items)}
            if not isinstance(items, str | Path):
                asked = self.run["config"]["input"]
                path, found = write_items(
                    items,
                    f"{place}/{layout.INPUT}",
                    asked["modality"],
                    storage=self._store.options,
                )
                # The numeric columns of the run, since a table may have more.
                section = {"id_column": None, **found, "columns": asked["columns"], "path": path}
            reporter = Reporter(None if verbose else Console(quiet=True))
            assigned = assign(
                self.uri,
                section,
                place,
                reporter,
                functions,
                redact=redact,
                endpoints=[endpoint] if isinstance(endpoint, str) else endpoint or (),
                models=(*models, *self._models),
                storage=self._store.options,
            )
            members = Hierarchy(assigned).memberships()
        for level in range(1, self.n_levels + 1):
            titles = self.clusters(level)["title"].to_numpy()
            members[f"title_{level}"] = titles[members[f"level_{level}"]]
        return members

    def _known_functions(
        self, llm: Callable[[str], Any] | None, embed: Callable[[list[str]], Any] | None
    ) -> Functions:
        """Return functions that are given, else those that are remembered.

        Raises:
            InputError: One is given that the run was not made with.
        """
        config = self.run["config"]
        for name, function, section, key in (
            ("llm", llm, "summaries", "engine"),
            ("embed", embed, "embedding", "text_model"),
        ):
            value = config.get(section, {}).get(key)
            if function is not None and not names_function(value):
                raise InputError(
                    f"{self.uri}: the run was made without {name} ({section}.{key} {value}); leave "
                    "it out"
                )
        given = Functions.of(llm, embed)
        return Functions(given.llm or self._functions.llm, given.embed or self._functions.embed)

    def tree(self, depth: int | None = None, level: int | None = None) -> None:
        """Print the hierarchy, coarsest clusters first; in a notebook the whole of it unfolds.

        Args:
            depth: Levels shown; by default all.
            level: Level to begin at; by default the coarsest.

        Raises:
            InputError: There is no such level, or the depth is below 1.
        """
        notebook = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
        if hasattr(notebook, "kernel") and depth is None and level is None:
            from IPython.display import display

            display(self)
        else:
            print(for_stream(self.tree_text(depth, level), sys.stdout))

    def tree_text(self, depth: int | None = None, level: int | None = None) -> str:
        """Return the hierarchy as indented text, coarsest clusters first, larger before smaller.

        Args:
            depth: Levels shown; by default all.
            level: Level to begin at; by default the coarsest.

        Raises:
            InputError: There is no such level, or the depth is below 1.
        """
        top = self.n_levels if level is None else level
        self._check_level(top)
        if depth is not None and depth < 1:
            raise InputError(f"depth must be at least 1, got {depth}")
        clusters = self.clusters()
        clusters["mark"] = title_marks(
            clusters["summary_source"].tolist(), clusters["summary_status"].tolist()
        )
        columns = ["level", "cluster_id", "n_items", "title", "mark"]
        children: dict[tuple[int, int], list[tuple[Any, ...]]] = {}
        roots = []
        ordered = clusters.sort_values(["n_items", "cluster_id"], ascending=[False, True])
        for row, parent in zip(
            ordered[columns].itertuples(index=False, name=None),
            ordered["parent_cluster_id"].tolist(),
            strict=True,
        ):
            if row[0] == top:
                roots.append(row)
            elif row[0] < top:
                children.setdefault((row[0] + 1, int(parent)), []).append(row)
        lines: list[str] = []

        def show(row: tuple[Any, ...], indent: int) -> None:
            number, cluster_id, n_items, title, mark = row
            lines.append(
                f"{'  ' * indent}{printable(title)}{f' [{mark}]' if mark else ''} "
                f"({n_items:,} items, {number}/{cluster_id})"
            )
            if depth is None or indent + 1 < depth:
                for child in children.get((number, cluster_id), []):
                    show(child, indent + 1)

        for root in roots:
            show(root, 0)
        return "\n".join(lines)

    def to_json(
        self, path: str, *, items: bool = False, layout: str = "tree", overwrite: bool = False
    ) -> None:
        """Write the tree as one JSON file, as a stream.

        Args:
            path: Path or URI of the file.
            items: Whether to add every item's clusters and distances.
            layout: ``tree``, or ``pyhercules`` for the model JSON of that package, which holds the
                items, their texts and their vectors in any case.
            overwrite: Whether a file that is there may be replaced.

        Raises:
            InputError: The file exists or cannot be written, or the layout cannot hold the items.
        """
        from hercules_scale.pyhercules.export_model import write_model
        from hercules_scale.results.tree_json import write_tree

        if layout not in JSON_LAYOUTS:
            raise InputError(f"layout must be one of {', '.join(JSON_LAYOUTS)}, got {layout!r}")
        with open_destination(path, overwrite, self._store.options) as stream:
            if layout == "pyhercules":
                write_model(self._finished, stream)
            else:
                write_tree(self._finished, stream, items)

    def to_csv(self, path: str, *, overwrite: bool = False) -> None:
        """Write memberships with titles as CSV, a row an item, as a stream.

        Texts that a spreadsheet would take for a formula get an apostrophe in front.

        Args:
            path: Path or URI of the file.
            overwrite: Whether a file that is there may be replaced.

        Raises:
            InputError: The file exists or cannot be written.
        """
        from hercules_scale.results.rows_csv import write_rows

        with open_destination(path, overwrite) as stream:
            write_rows(self._finished, stream)

    def to_html(self, path: str, *, overwrite: bool = False) -> None:
        """Write the tree as one HTML page that needs no network.

        Args:
            path: Path or URI of the file.
            overwrite: Whether a file that is there may be replaced.

        Raises:
            InputError: The file exists or cannot be written.
        """
        from hercules_scale.results.page import write_page

        with open_destination(path, overwrite) as stream:
            write_page(self._finished, stream)

    def plot(self, level: int | None = None, path: str | None = None) -> Any:
        """Draw the map: the clusters of a level as bubbles, the largest with their titles.

        Args:
            level: Level to draw; by default the coarsest but one.
            path: A local file to write, such as ``map.png`` or ``map.svg``; by default none.

        Returns:
            The matplotlib figure, which a notebook shows.

        Raises:
            InputError: There is no such level, or its clusters have no place on a map.
        """
        from hercules_scale.results.plot import draw_map

        return self._drawn(draw_map, level, path)

    def data_map(self, level: int | None = None, path: str | None = None) -> Any:
        """Draw the items as points, coloured and labelled by their clusters, with DataMapPlot.

        Args:
            level: Level of the labels; by default the coarsest but one.
            path: A local file to write, such as ``map.png``; by default none.

        Returns:
            The matplotlib figure, which a notebook shows.

        Raises:
            InputError: There is no such level or no map of the items, or DataMapPlot is not
                installed.
        """
        from hercules_scale.results.plot import draw_data_map

        return self._drawn(draw_data_map, level, path)

    def _drawn(self, draw: Callable[[Run, int], Any], level: int | None, path: str | None) -> Any:
        level = max(self.n_levels - 1, 1) if level is None else level
        self._check_level(level)
        figure = draw(self._finished, level)
        if path is not None:
            figure.savefig(path, bbox_inches="tight")
        # Notebooks show figures by themselves only where pyplot was imported.
        figure._repr_png_ = lambda: _png(figure)
        return figure

    def explore(self, port: int = 0, models: Sequence[str] = ()) -> Exploration:
        """Open the explorer in a process of its own; ``stop()`` of what is returned ends it.

        Args:
            port: Port on this machine alone; 0 is any.
            models: Model of the run that is a folder or hub id, to search by meaning; see
                ``assign``.

        Raises:
            InputError: It did not start.
        """
        return Exploration(self._store, port, self._scratch, (*models, *self._models))

    def _repr_html_(self) -> str:
        from hercules_scale.results.page import notebook_tree

        return notebook_tree(self._finished)

    @cached_property
    def _finished(self) -> Run:
        return Run(self._store, self._files)

    def _check_level(self, level: int) -> None:
        if not 1 <= level <= self.n_levels:
            raise InputError(
                f"{self.uri}: level must be from 1 (finest) to {self.n_levels}, got {level}"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        options = self._store.options
        if self._scratch is not None:
            return _in_scratch, (self._scratch, options, self._functions, self._models)
        # Whoever reads it may be in another folder.
        uri = self._store.root if self._store.is_local else self.uri
        return Hierarchy, (Store(uri, options), self._functions, None, self._models)

    def __deepcopy__(self, memo: dict[int, Any]) -> Hierarchy:
        return copy.copy(self)

    def __repr__(self) -> str:
        sizes = self.clusters().groupby("level").size().tolist()
        return f"Hierarchy({self.uri!r}, clusters per level {sizes})"


def _in_scratch(
    scratch: ScratchFolder, options: StorageConfig, functions: Functions, models: Sequence[str]
) -> Hierarchy:
    return Hierarchy(Store(scratch.run, options), functions, scratch, models)


def _png(figure: Any) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png", bbox_inches="tight")
    return data.getvalue()


class Exploration:
    """An explorer that runs beside this process, and ends with it.

    Attributes:
        address: Address for a browser.
    """

    def __init__(
        self,
        store: Store,
        port: int,
        scratch: ScratchFolder | None = None,
        models: Sequence[str] = (),
    ) -> None:
        # Its files stay while they are shown.
        self._scratch = scratch
        command = [
            sys.executable,
            "-m",
            "hercules_scale",
            "explore",
            store.uri,
            "--port",
            str(port),
        ]
        options = store.options.model_dump(exclude_defaults=True)
        command += [f"--set=storage.{key}={json.dumps(value)}" for key, value in options.items()]
        command += [f"--model={model}" for model in models]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        atexit.register(self.stop)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise InputError(self._process.communicate()[1].strip())
        self.address = line.split()[1]

    def stop(self) -> None:
        """Stop the explorer."""
        self._process.terminate()
        self._process.wait()
        atexit.unregister(self.stop)

    def __repr__(self) -> str:
        return f"explorer at {self.address}"

    def _repr_html_(self) -> str:
        return (
            f'<a href="{html.escape(self.address)}" target="_blank">{html.escape(repr(self))}</a>'
        )
