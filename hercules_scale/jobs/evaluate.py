"""Measures a finished run again: on Ray into its table ``evaluations``, or in this process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from rich.console import Console

from hercules_scale.clustering.nearest_centroids import Int64
from hercules_scale.config.file import parse_config
from hercules_scale.config.resources import ResourcesConfig, StorageConfig
from hercules_scale.config.trust import check_models, check_trusted
from hercules_scale.errors import InputError
from hercules_scale.evaluation.judge import CRITERION
from hercules_scale.jobs.preflight import check_language_model
from hercules_scale.runtime.context import RunContext, Shards
from hercules_scale.runtime.machines import find_machines
from hercules_scale.runtime.partial_sums import Gather, GatherHere, GatherOnRay
from hercules_scale.runtime.progress import Reporter
from hercules_scale.runtime.ray_session import local_or_cluster_ray
from hercules_scale.runtime.resources import fill
from hercules_scale.stages.cluster import Clusters
from hercules_scale.stages.evaluate import (
    Row,
    StoredTruth,
    clustered_items,
    measure_items,
    measure_summaries,
    measure_truth,
    rows_of,
    write_evaluations,
)
from hercules_scale.stages.ground_truth import CLASSES, GivenTruth, Truth
from hercules_scale.stages.judge import CALLS_FROM, Judgement, check_judgement, judge_clusters
from hercules_scale.stages.label_items import read_label_items
from hercules_scale.stages.summarize import Summaries, measured_labels
from hercules_scale.storage import layout, schemas
from hercules_scale.storage.json_records import to_json
from hercules_scale.storage.lock import hold_lock
from hercules_scale.storage.manifest import next_part, number_of, published_files, replace_table
from hercules_scale.storage.run_file import read_run, run_config
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import FileRecord, column_vectors, read_table, read_tables

if TYPE_CHECKING:
    import pandas as pd

# Name in ``basis`` of classes that the caller gives without a name.
GIVEN = "given"
# Name in ``basis`` of rows by a language model.
JUDGE = "judge"


def evaluate_run(
    uri: str,
    columns: list[str] | None = None,
    judge: dict[str, Any] | None = None,
    redact: str | None = None,
    storage: StorageConfig | None = None,
) -> list[str]:
    """Measure a finished run on Ray and replace its table ``evaluations``.

    Args:
        uri: Output of the run.
        columns: Columns of the table ``labels`` to compare with; by default every column.
        judge: Keys of ``summaries`` for a language model that judges the run, and ``criterion``;
            by default the run's own engine, model, endpoint and criterion or topic. None for no
            judge: rows of an earlier judge stay.
        redact: ``privacy.redact`` of the run, if it has one and a judge is asked.
        storage: Access to the run.

    Returns:
        Notes for the user, such as reasons for missing figures.

    Raises:
        InputError: There is no finished run, no such column, or the judge would have the run call
            a function, ask a server or load a model that the caller does not name.
        StageError: A worker failed.
    """
    store, reporter = Store(uri, storage), Reporter()
    run = EvaluatedRun.open(store, reporter)
    truth = run.stored_truth(columns)
    judgement = None if judge is None else run.judgement(judge, redact)
    notes: list[str] = []
    with hold_lock(store, notes.append) as lock:
        # Another call may have finished in the meantime.
        run = EvaluatedRun.open(lock.store, reporter)
        context = run.context
        with local_or_cluster_ray(context.config):
            # The run may have had other machines.
            here = context.config.model_copy(update={"resources": ResourcesConfig()})
            here = fill(here, find_machines())
            gather = GatherOnRay(replace(context, config=here), run.shards)
            # An interrupted call may have counted other columns; its other sums are reused.
            gather.forget(CLASSES)
            rows, missing = run.measure(truth, gather)
            rows += run.rows_before(JUDGE) if judgement is None else run.judge(judgement, notes)
        part = next_part(store, "evaluations")
        # The owner is in the name, since another call may ask for other columns or another judge.
        file = write_evaluations(lock.store, rows, part, lock.store.owner)
        replace_table(context.store, "evaluations", [file])
        run.record.setdefault("rows", {})["evaluations"] = len(rows)
        context.store.write_bytes(layout.RUN, to_json(run.record))
        gather.forget()
    return notes + missing


def evaluate_here(store: Store, labels: Any = None) -> pd.DataFrame:
    """Measure a finished run in this process, one shard in memory at a time; nothing is written.

    Args:
        store: Output of the run.
        labels: See ``Hierarchy.evaluate``.

    Raises:
        InputError: The labels do not fit the items.
    """
    run = EvaluatedRun.open(store, Reporter(Console(quiet=True)))
    truth: Truth
    if labels is None or isinstance(labels, str):
        truth = run.stored_truth(None if labels is None else [labels])
    else:
        truth = _given_truth(run, labels)
    rows, _ = run.measure(truth, GatherHere(run.shards))
    frame: pd.DataFrame = pa.Table.from_pylist(rows, schemas.EVALUATIONS).to_pandas()
    return frame[["level", "metric", "basis", "value", "n", "low", "high"]]


@dataclass(frozen=True)
class EvaluatedRun:
    """A finished run with its published tables.

    Attributes:
        context: Configuration of the run, with its present location.
        record: Content of ``run.json``.
        files: Files of each table.
        shards: Shards of the run's items.
        clustering: Clusters of the run, with titles.
    """

    context: RunContext
    record: dict[str, Any]
    files: dict[str, list[FileRecord]]
    shards: Shards
    clustering: Clusters

    @classmethod
    def open(cls, store: Store, reporter: Reporter) -> EvaluatedRun:
        """Read a finished run.

        Raises:
            InputError: There is no finished run.
        """
        files = published_files(store)
        members = files["memberships"]
        record = read_run(store)
        # The caller says how storage is reached, since a run may be a stranger's.
        config = run_config(store, record).model_copy(update={"storage": store.options})
        context = RunContext(config, store, record["fingerprint"], reporter)
        clusters = read_tables(store, [file.path for file in files["clusters"]])
        n_levels = pa.compute.max(clusters["level"]).as_py()
        clustering = Clusters(clusters, n_levels)
        shards = Shards(sum(file.rows for file in members), members[0].rows)
        return cls(context, record, files, shards, clustering)

    def paths(self, table: str) -> list[str]:
        """Return the paths of the files of a table."""
        return [file.path for file in self.files.get(table, [])]

    def stored_truth(self, columns: list[str] | None) -> StoredTruth:
        """Return the given columns of the table ``labels``, or all of them."""
        known: list[str] = []
        if paths := self.paths("labels"):
            known = [name for name in self._schema(paths[0]) if name != "row"]
        unknown = [name for name in columns or [] if name not in known]
        if unknown:
            raise InputError(
                f"{self.context.store.uri}: the table labels has no column {unknown[0]!r}; "
                + (
                    f"it has {', '.join(map(repr, known))}"
                    if known
                    else "the run has no ground truth, which input.label_columns would name"
                )
            )
        return StoredTruth(self.context.store, tuple(dict.fromkeys(columns or known)))

    def _schema(self, path: str) -> list[str]:
        names: list[str] = read_table(self.context.store, path).column_names
        return names

    def measure(self, truth: Truth, gather: Gather) -> tuple[list[Row], list[str]]:
        """Return the rows of the table ``evaluations``, and reasons for missing rows."""
        context, notes = self.context, []
        items = clustered_items(context.store, context.config, self.shards, self.clustering)
        rows = measure_items(items, gather)
        summaries = self._summaries()
        if summaries is not None:
            rows += measure_summaries(self.clustering, summaries)
        else:
            kept = self.rows_before("summaries")
            what = "are those of the run" if kept else "are left out"
            notes.append(
                f"metrics of summaries {what}: its folder {layout.WORK} is gone, and with it which "
                "items no prompt showed"
            )
            rows += kept
        for_truth, without = measure_truth(items, truth, gather)
        notes += [f"labels {name!r} hold no value; nothing to measure" for name in without]
        return rows + for_truth, notes

    def judgement(self, values: dict[str, Any], redact: str | None) -> Judgement:
        """Return the questions to a judge, checked before anything is measured."""
        own, uri = self.context.config.summaries, self.context.store.uri
        named = self.context.config.privacy.redact
        check_trusted(uri, "privacy.redact", named, redact, "--redact ")
        asked = {"engine": own.engine, "model": own.model, "endpoint": own.endpoint} | values
        criterion = asked.pop("criterion", None) or self.context.config.criterion or CRITERION
        if asked["engine"] == "openai" and "endpoint" not in values:
            check_trusted(uri, "summaries.endpoint", own.endpoint, None, "--endpoint ")
        if asked["engine"] == "vllm" and "model" not in values:
            check_models(uri, {"summaries.model": own.model}, (), "--judge-model ")
        config = parse_config({"input": {"path": "-"}, "output": {"path": "-"}, "summaries": asked})
        judgement = Judgement(config.summaries, criterion)
        check_judgement(self.context.config.input, judgement)
        privacy = {"privacy": self.context.config.privacy}
        check_language_model(config.model_copy(update=privacy))
        return judgement

    def judge(self, judgement: Judgement, notes: list[str]) -> list[Row]:
        """Return a language model's rows; its calls replace an earlier judge's in ``llm_calls``."""
        store, files = self.context.store, self.files.get("llm_calls", [])
        part = next_part(store, "llm_calls", CALLS_FROM)
        judged = judge_clusters(self.context, self.shards, self.clustering, judgement, part)
        kept = [file for file in files if number_of(file.path) < CALLS_FROM]
        kept.append(judged.calls)
        replace_table(self.context.store, "llm_calls", kept)
        self.record.setdefault("rows", {})["llm_calls"] = sum(file.rows for file in kept)
        notes += judged.notes
        return [
            row
            for level, figures in enumerate(judged.figures, start=1)
            for row in rows_of(level, JUDGE, figures)
        ]

    def _summaries(self) -> Summaries | None:
        items = read_label_items(self.context, self.shards, self.clustering)
        if items is None:
            return None
        clusters = self.clustering.clusters
        vectors = column_vectors(clusters["description_embedding"])
        return Summaries(clusters, vectors, [], items, measured_labels(self.context))

    def rows_before(self, basis: str) -> list[Row]:
        """Return the rows of a basis in the present table ``evaluations``."""
        table = read_tables(self.context.store, self.paths("evaluations"))
        rows: list[Row] = table.filter(pa.compute.equal(table["basis"], basis)).to_pylist()
        return rows


def _given_truth(run: EvaluatedRun, labels: Any) -> GivenTruth:
    """Return classes by row, from labels in row order or by item id.

    Raises:
        InputError: Labels have another length than the items, name unknown items, or hold no value.
    """
    import pandas as pd

    if isinstance(labels, Mapping):
        labels = pd.Series(list(labels.values()), index=list(labels), dtype=object)
    series = labels if isinstance(labels, pd.Series) else _series(labels)
    try:
        codes = pd.factorize(series)[0].astype(np.int64)
    except TypeError as error:
        raise InputError(f"labels must hold one text or number for each item: {error}") from None
    n_items = run.shards.n_items
    if not isinstance(series.index, pd.RangeIndex):
        codes = _by_id(run, series.index.map(str), codes)
    elif len(series) != n_items:
        raise InputError(
            f"labels must have one value for each of the {n_items:,} items, in the order of the "
            f"table memberships, got {len(series):,}; or give a dict of item_id to label"
        )
    if not (codes >= 0).any():
        raise InputError("labels hold no value; give a class for some of the items at least")
    return GivenTruth(str(series.name or GIVEN), codes, run.shards.rows)


def _series(labels: Any) -> pd.Series[Any]:
    import pandas as pd

    try:
        return pd.Series(labels)
    except (TypeError, ValueError) as error:
        raise InputError(f"labels must be a list or array of one dimension: {error}") from None


def _by_id(run: EvaluatedRun, ids: pd.Index[Any], codes: Int64) -> Int64:
    """Return classes by row, from classes by item id; -1 for items without a class."""
    twice = ids[ids.duplicated()]
    if len(twice):
        raise InputError(f"labels name the item {twice[0]!r} more than once; give it one label")
    by_row = np.full(run.shards.n_items, -1, np.int64)
    known = np.zeros(len(ids), bool)
    for shard in range(len(run.shards)):
        start, stop = run.shards.bounds(shard)
        path = layout.part("memberships", shard)
        items = read_table(run.context.store, path, ["item_id"])["item_id"].to_pylist()
        place = ids.get_indexer(items)
        by_row[start:stop] = np.where(place >= 0, codes[place], -1)
        known[place[place >= 0]] = True
    if not known.all():
        unknown = ids[~known]
        raise InputError(
            f"labels name {len(unknown):,} ids that the run does not have, such as {unknown[0]!r}; "
            "give ids as the column item_id has them, or a list or array in the order of the rows"
        )
    return by_row
