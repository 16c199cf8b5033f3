"""State of each run that the explorer shows."""

from __future__ import annotations

import importlib.util
import os
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hercules_scale.config.resources import StorageConfig
from hercules_scale.errors import InputError
from hercules_scale.explorer.item_pages import Pages
from hercules_scale.explorer.open_run import OpenRun
from hercules_scale.explorer.search import Meaning
from hercules_scale.results.edits import read_edits
from hercules_scale.results.status import stage_reports
from hercules_scale.results.title_provenance import chat_model, describe_sources
from hercules_scale.runtime.progress import words
from hercules_scale.storage import cluster_items, layout
from hercules_scale.storage.cluster_items import Source
from hercules_scale.storage.commits import read_commits
from hercules_scale.storage.manifest import publish, published_files
from hercules_scale.storage.run_file import read_record
from hercules_scale.storage.store import Store


class ShownRun:
    """One run, finished or not.

    Args:
        uri: Output of the run.
        is_starting: Whether it may not have written anything yet.
        models: Models that may be loaded besides aliases.
        storage: Access to the output.
    """

    def __init__(
        self,
        uri: str,
        is_starting: bool = False,
        *,
        models: Sequence[str] = (),
        storage: StorageConfig | None = None,
    ) -> None:
        self.store, self._is_starting, self._models = Store(uri, storage), is_starting, models
        self._lock = threading.Lock()
        self._finished = False
        self._opened: OpenRun | None = None
        self._meaning: Meaning | None = None
        # Share of ``cluster_items`` that is done, where the explorer makes it, and its error.
        self.index_share: float | None = None
        self.index_error: str | None = None

    @property
    def name(self) -> str:
        """Last part of the output's path."""
        return self.store.root.rpartition("/")[2] or "run"

    @property
    def is_finished(self) -> bool:
        """Whether the run is finished."""
        return self._finished or self.store.exists(layout.SUCCESS)

    def opened(self) -> OpenRun:
        """Return the run, once it has clusters.

        Raises:
            InputError: There is no run, or it has no clusters yet.
        """
        with self._lock:
            if not self._finished:
                self._finished = self.store.exists(layout.SUCCESS)
                if self._finished:
                    # A run that was opened earlier had no titles yet.
                    self._opened = self._meaning = None
            if self._opened is None:
                self._opened = OpenRun.of(self.store)
                if not self._opened.items.files:
                    self.index_share = 0.0
                    threading.Thread(target=self._make_index, daemon=True).start()
            return self._opened

    def with_items(self) -> OpenRun:
        """Return the run, once its items can be paged.

        Raises:
            InputError: The index of its items is still being made.
        """
        run = self.opened()
        if not run.items.files:
            if self.index_error is not None:
                raise InputError(self.index_error)
            raise InputError(f"the items are being sorted by cluster ({self.index_share or 0:.0%})")
        return run

    def refresh_edits(self) -> OpenRun:
        """Return the run with the current edits.

        Raises:
            InputError: It has no clusters yet.
        """
        run = self.opened()
        run.edits = read_edits(self.store)
        return run

    @property
    def meaning(self) -> Meaning:
        """Search for clusters and items by meaning."""
        run = self.opened()
        with self._lock:
            if self._meaning is None:
                self._meaning = Meaning(run, self._models)
            return self._meaning

    def state(self) -> dict[str, Any]:
        """Return the state and progress of the run.

        Raises:
            InputError: There is no run.
        """
        try:
            record = read_record(self.store)
        except FileNotFoundError:
            if not self._is_starting:
                raise InputError(
                    f"{self.store.uri}: holds no run; give the output of one"
                ) from None
            record = {"status": "starting"}
        finished = self.is_finished
        return {
            "name": self.name,
            "uri": self.store.uri,
            "finished": finished,
            "has_clusters": finished or self._has_clusters(record),
            "index_share": self.index_share,
            "index_error": self.index_error,
            "titles": _titles(record),
            "has_data_maps": all(map(importlib.util.find_spec, ("datamapplot", "matplotlib"))),
            "stages": [
                asdict(stage) | {"title": words(stage.name)}
                for stage in stage_reports(self.store, record)
            ],
            **{
                key: record.get(key)
                for key in (
                    "status", "error", "started_at", "ended_at", "seen_at", "attempts", "alarms",
                    "config", "versions", "rows", "clusters_per_level", "summary_status", "tokens",
                    "imported", "machine", "clustering", "smoothing",
                )
            },
        }  # fmt: skip

    def _has_clusters(self, record: dict[str, Any]) -> bool:
        return bool(read_commits(self.store, "cluster", record.get("fingerprint", "")))

    def _make_index(self) -> None:
        """Put the items of a run that lacks ``cluster_items`` into the order of the tree."""
        run = self._opened
        assert run is not None
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        target = Store(str(folder / "hercules_scale" / run.finished.record["fingerprint"]))
        try:
            files = make_index(run, target, self._show)
        except Exception as error:
            # An exception in this thread would be lost.
            self.index_error = f"the items cannot be paged: {type(error).__name__}: {error}"[:500]
            return
        run.items = Pages(target, files, run.withheld)
        self.index_share = None

    def _show(self, share: float) -> None:
        self.index_share = share


def make_index(run: OpenRun, target: Store, show: Any = lambda share: None) -> list[Any]:
    """Return the files of the table ``cluster_items``; make it if it is missing.

    Args:
        run: The run.
        target: Store for the table.
        show: Called with the share of the work that is done.
    """
    if target.exists(layout.SUCCESS):
        return published_files(target)[cluster_items.TABLE]
    source = Source.of(run.store, run.finished.files, run.order, target)
    n_parts, n_ranges = len(source.parts()), len(source.ranges()) - 1
    cuts = []
    for part in range(n_parts):
        cuts.append(cluster_items.write_part(source, part)[1])
        show((part + 1) / n_parts / 2)
    files = []
    for number in range(n_ranges):
        files.append(cluster_items.write_range(source, number, cuts))
        show(0.5 + (number + 1) / n_ranges / 2)
    target.delete_files(layout.WORK)
    publish(target, {cluster_items.TABLE: files}, run.finished.record["fingerprint"])
    return files


def _titles(record: dict[str, Any]) -> str | None:
    """Return the titles by source in words; None while the run has not recorded them."""
    sources, statuses = record.get("summary_source"), record.get("summary_status")
    if not sources or not statuses:
        return None
    model = chat_model(record.get("config", {}).get("summaries", {}))
    return describe_sources(Counter(sources).elements(), Counter(statuses).elements(), model)
