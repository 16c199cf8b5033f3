"""The result of a run: clusters, memberships, the tree, exports and plots."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

from hercules_scale.config.file import storage_section
from hercules_scale.config.resources import StorageConfig
from hercules_scale.errors import InputError
from hercules_scale.pyhercules.export_model import write_model
from hercules_scale.results.cut import find_cut
from hercules_scale.results.explorer_process import Exploration
from hercules_scale.results.export_file import open_destination
from hercules_scale.results.finished_run import Run
from hercules_scale.results.html_page import notebook_tree, write_page
from hercules_scale.results.plot import RunPlots
from hercules_scale.results.rows_csv import write_cut_rows, write_rows
from hercules_scale.results.tree_json import write_tree
from hercules_scale.runtime.context import NO_FUNCTIONS, Functions
from hercules_scale.runtime.progress import Reporter
from hercules_scale.sanitize import for_stream
from hercules_scale.storage.manifest import published_files
from hercules_scale.storage.scratch import ScratchFolder
from hercules_scale.storage.store import Store

if TYPE_CHECKING:
    import pandas as pd

JSON_LAYOUTS = ("tree", "pyhercules")


class Hierarchy(RunPlots):
    """A finished run, read from its output.

    Open one with ``Hierarchy.open``.

    Args:
        store: Store of the output.
        functions: The user's functions that made the run, if they are known.
        scratch: Temporary folder of the output, if it lies in one.
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
        self._finished = Run(store, published_files(store))
        super().__init__(self._finished)

    @classmethod
    def open(cls, uri: str, storage: StorageConfig | dict[str, Any] | None = None) -> Hierarchy:
        """Open the output of a run.

        Args:
            uri: A local path, ``s3://``, ``gs://`` or ``az://``.
            storage: Section ``storage``, for access that the environment does not set.

        Raises:
            InputError: There is no run, or it is not finished.
            ConfigError: A key of the section is wrong.
        """
        return cls(Store(uri, storage_section(storage)))

    @classmethod
    def from_pyhercules(
        cls, path: str, output: str, storage: StorageConfig | dict[str, Any] | None = None
    ) -> Hierarchy:
        """Import a model that pyhercules saved as a finished run, and open it.

        Args:
            path: Path or URI of the model's JSON.
            output: Output folder, a path or URI.
            storage: Access to object stores.

        Raises:
            InputError: The file is not such a model, or the output holds a run already.
        """
        # The import needs FAISS, which is slow to load.
        from hercules_scale.pyhercules.import_model import import_model

        return cls(import_model(path, output, storage_section(storage)))

    def evaluate(self, labels: Any = None) -> pd.DataFrame:
        """Evaluate the hierarchy again in this process, also against new ground truth.

        Memory is that of one shard and of sums by cluster. Nothing is written. For many millions
        of items ``hercules-scale evaluate``, on Ray, is faster.

        Args:
            labels: True classes: the name of a column of the table ``labels``; or a list, array or
                Series in row order; or by ``item_id`` a dict, or a Series with an index other than
                0, 1, 2 … Items with None or NaN, and items that a dict leaves out, have no class.
                By default every column of the table ``labels``.

        Returns:
            Columns ``level``, ``metric``, ``basis`` (``items``, ``children``, ``summaries``, or
            ``labels:`` and a name), ``value``, ``n``, and for metrics of a sample ``low`` and
            ``high``, the ends of a 95% confidence interval.

        Raises:
            InputError: There is no such column, the number of labels is not that of the items, or
                an id is unknown.

        Source: HERCULES, section 3.7.
        """
        # Ray takes seconds to load.
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
        """Assign new items to the clusters of every level.

        A hierarchy that ``Hercules.fit`` returned in this process knows its functions and models.

        Args:
            items: Path or URI of files with the columns of the run's input; or items in memory, in
                any form that ``Hercules.fit`` takes.
            output: Folder for the tables, with ``drift``; by default none are kept.
            llm: Function that described the items of the run, if one did.
            embed: Function that embedded the items of the run, if one did.
            redact: ``privacy.redact`` of the run, if it has one, to confirm that it is trusted.
            endpoint: ``embedding.endpoint`` and ``summaries.endpoint`` of the run, if endpoints
                embedded or described the items, to confirm that they are trusted.
            models: Models of the run that are folders or hub ids, to confirm that they are trusted.
            verbose: Whether progress is shown.

        Returns:
            A row per item: the columns of ``memberships``, and the title of its cluster at each
            level, ``title_1`` and so on. The frame is in memory; for millions of items take the
            command ``assign``.

        Raises:
            HerculesScaleError: The items cannot be read, embedded or assigned.
        """
        # Ray takes seconds to load.
        from hercules_scale.jobs.assign_to_frame import assign_to_frame

        members = assign_to_frame(
            self._store,
            items,
            output,
            llm,
            embed,
            known=self._functions,
            redact=redact,
            endpoints=[endpoint] if isinstance(endpoint, str) else endpoint or (),
            models=(*models, *self._models),
            verbose=verbose,
        )
        for level in range(1, self.n_levels + 1):
            titles = self.clusters(level)["title"].to_numpy()
            members[f"title_{level}"] = titles[members[f"level_{level}"]]
        return members

    def flags(self, *, cosine: float | None = None, share: float | None = None) -> pd.DataFrame:
        """Flag outliers, ambiguous items and near-duplicates within the finest clusters.

        The table ``flags`` is written into the run, where it replaces an earlier one;
        ``table("flags")`` reads it again. Memory is that of the cluster sizes, of some 256 MiB of
        vectors and of the flags.

        Args:
            cosine: Least cosine of near-duplicates, above 0 and at most 1; by default 0.95.
            share: Share of a cluster's items that are outliers, and that are ambiguous, at most
                0.5; by default 0.01.

        Returns:
            Columns ``row``, ``item_id``, ``level``, ``cluster_id``, ``kind``, ``score`` and
            ``duplicate_of``, cluster by cluster.

        Raises:
            InputError: A number is out of bounds, or ``cosine`` is given and the items have no
                vectors that it compares.
            StorageError: Another command is writing into the run.
        """
        from hercules_scale.jobs.flags import flag_run

        flag_run(self._store, cosine, share, Reporter(Console(quiet=True)))
        self._finished.files.update(published_files(self._store))
        found = self.table("flags")
        return found.assign(duplicate_of=found["duplicate_of"].astype("Int64"))

    def align(self, earlier: Hierarchy | str) -> pd.DataFrame:
        """Compare this run with an earlier one, and write its tables ``topics`` and ``crosswalk``.

        Args:
            earlier: The earlier run, or its path or URI.

        Returns:
            The table ``topics``: a row for each cluster of both runs, with its ``status`` (kept,
            grown, shrunk, split, merged, born or died), and the ``topic_id`` and title that it
            keeps from run to run.

        Raises:
            InputError: Nothing links the runs, or one of them has no clusters.
            StorageError: Another command is writing into the run.
        """
        from hercules_scale.jobs.align import align_runs

        if isinstance(earlier, str):
            earlier = Hierarchy(Store(earlier, self._store.options))
        align_runs(earlier._store, self._store)
        self._finished.files.update(published_files(self._store))
        found = self.table("topics")
        return found.assign(partner_id=found["partner_id"].astype("Int32"))

    def tree(self, depth: int | None = None, level: int | None = None) -> None:
        """Print the tree; in a notebook, without arguments, show it as HTML that unfolds.

        Args:
            depth: Number of levels shown; by default all.
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

    def to_json(
        self, path: str, *, items: bool = False, layout: str = "tree", overwrite: bool = False
    ) -> None:
        """Write the tree as one JSON file, as a stream.

        Args:
            path: Path or URI of the file.
            items: Whether to add every item's clusters and distances.
            layout: ``tree``, or ``pyhercules`` for the model JSON of that package, which always
                holds the items with texts and vectors.
            overwrite: Whether an existing file may be replaced.

        Raises:
            InputError: The file exists or cannot be written, or the layout cannot hold the items.
        """
        if layout not in JSON_LAYOUTS:
            raise InputError(f"layout must be one of {', '.join(JSON_LAYOUTS)}, got {layout!r}")
        with open_destination(path, overwrite, self._store.options) as stream:
            if layout == "pyhercules":
                write_model(self._finished, stream)
            else:
                write_tree(self._finished, stream, items)

    def to_csv(
        self,
        path: str,
        *,
        about: int | None = None,
        fine: str | Sequence[str] = (),
        overwrite: bool = False,
    ) -> None:
        """Write memberships with titles as CSV, a row per item, as a stream.

        Texts that a spreadsheet would read as formulas get an apostrophe in front.

        Args:
            path: Path or URI of the file.
            about: With it or ``fine``, an item has its cluster in ``cut(about, fine)`` alone.
            fine: See ``cut``.
            overwrite: Whether an existing file may be replaced.

        Raises:
            InputError: The file exists or cannot be written, or there is no such cut.
        """
        cut = None
        if about is not None or fine:
            cut = find_cut(self._finished, about, [fine] if isinstance(fine, str) else fine)
        with open_destination(path, overwrite, self._store.options) as stream:
            if cut is None:
                write_rows(self._finished, stream)
            else:
                write_cut_rows(self._finished, cut, stream)

    def to_html(self, path: str, *, overwrite: bool = False) -> None:
        """Write the tree as one HTML page that needs no network.

        Args:
            path: Path or URI of the file.
            overwrite: Whether an existing file may be replaced.

        Raises:
            InputError: The file exists or cannot be written.
        """
        with open_destination(path, overwrite, self._store.options) as stream:
            write_page(self._finished, stream)

    def explore(self, port: int = 0, models: Sequence[str] = ()) -> Exploration:
        """Start the explorer in another process; ``stop()`` of the result ends it.

        Args:
            port: Port on this machine; 0 takes any free one.
            models: Models of the run that are folders or hub ids, for search by meaning; see
                ``assign``.

        Raises:
            InputError: The explorer did not start.
        """
        return Exploration(self._store, port, self._scratch, (*models, *self._models))

    def _repr_html_(self) -> str:
        return notebook_tree(self._finished)

    def __reduce__(self) -> tuple[Any, ...]:
        options = self._store.options
        if self._scratch is not None:
            return _in_scratch, (self._scratch, options, self._functions, self._models)
        # The pickle may be read in another working folder.
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
