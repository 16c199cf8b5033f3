"""Reads the input into a table of items, in three passes over shards.

1. scan: every piece of the input becomes a file of usable items, one of labels and one of
   rejected rows;
2. check_ids: ids that occur twice are searched for, see ``duplicate_ids``;
3. number: usable items are numbered in input order and cut into shards of equal rows. They are the
   table ``items``, or the work table that it is made from if a model describes them.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from hercules_scale.errors import InputError
from hercules_scale.reading.column_statistics import Moments
from hercules_scale.reading.input_pieces import Piece
from hercules_scale.reading.items import Layout
from hercules_scale.reading.sources import SourceFile, check_unchanged
from hercules_scale.reading.survey import Survey
from hercules_scale.runtime.context import RunContext, Shards
from hercules_scale.runtime.pipeline import Product
from hercules_scale.runtime.shards import Stage, run_shards
from hercules_scale.stages.duplicate_ids import find_repeated_ids
from hercules_scale.stages.read_shards import (
    SCANNED,
    UNDESCRIBED,
    NumberWorker,
    ScanWorker,
    Starts,
    write_rejected,
)
from hercules_scale.stages.robust_statistics import known_near_moments, near_moments
from hercules_scale.storage import layout
from hercules_scale.storage.commits import Commit, read_commits
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import FileRecord, read_table

ALARMS_SHOWN = 20
SCAN = "scan"


@dataclass(frozen=True)
class Sources:
    """The input of a run.

    Attributes:
        files: The input files.
        survey: Findings about them; see ``examine``.
        moments: Moments of numeric columns, if they come from other items.
    """

    files: list[SourceFile]
    survey: Survey
    moments: Moments | None = None


@dataclass(frozen=True)
class Items(Product):
    """Result of reading the input.

    Attributes:
        shards: Shards of the items.
        table: Name of the table of the items, which is published as ``items`` once each has a title
            and a description.
        files: Files of this table and of ``labels`` and ``rejected``, and of ``embeddings`` if
            given vectors are clustered.
        layout: Layout of the items.
        moments: Moments of numeric items by column; None for other items.
        reasons: Reasons why rows could not be used, with their number.
    """

    shards: Shards
    table: str
    files: dict[str, list[FileRecord]]
    layout: Layout
    moments: Moments | None
    reasons: dict[str, int]

    @property
    def tables(self) -> dict[str, list[FileRecord]]:
        """Files of the tables ``labels`` and ``rejected``."""
        return {table: self.files[table] for table in ("labels", "rejected")}

    @property
    def record(self) -> dict[str, Any]:
        """Reasons why rows could not be used."""
        return {"rejected": self.reasons}


def read_items(context: RunContext, sources: Sources) -> Items:
    """Write the items and the tables ``labels`` and ``rejected``.

    Raises:
        InputError: A file cannot be read or changes, an id occurs twice, or no row can be used.
        SchemaError: A column is missing.
    """
    config, store, hierarchy = context.config.input, context.store, context.config.hierarchy
    workers = context.config.resources.n_tasks
    pieces, of_items = sources.survey.pieces, Layout.of(sources.survey)
    scan = Stage(SCAN, "pieces", len(pieces), workers)
    worker = ScanWorker(store, config, of_items, pieces)
    scanned = run_shards(context, scan, len(pieces), worker)
    check_unchanged(sources.files)
    accepted = np.array([commit.info["accepted"] for commit in scanned.values()], np.int64)
    n_rows = np.array([commit.info["n_rows"] for commit in scanned.values()], np.int64)
    n_items, n_rejected = int(accepted.sum()), int(n_rows.sum() - accepted.sum())
    reasons: Counter[str] = Counter()
    for commit in scanned.values():
        reasons.update(commit.info.get("reasons", {}))
    alarms = [each for commit in scanned.values() for each in commit.info.get("alarms", [])]
    for alarm in alarms[:ALARMS_SHOWN]:
        context.reporter.alarm(alarm)
    if len(alarms) > ALARMS_SHOWN:
        context.reporter.alarm(f"{len(alarms) - ALARMS_SHOWN:,} more alarms of this kind")
    if n_items == 0:
        raise InputError(_nothing_usable(reasons, n_rejected))
    if config.id_column:
        _check_ids(context, pieces, n_items)
    moments = sources.moments or _check_numbers(of_items, scanned)

    shards = Shards.of(n_items, context.config.encodes_items)
    starts = Starts.of(accepted, n_rows)
    stage = Stage("number", "items", n_items, workers)
    items = UNDESCRIBED if context.config.describes_items else "items"
    # Embeddings of descriptions take the place of given vectors.
    with_vectors = of_items.dimension > 0 and hierarchy.representation == "direct"
    redact = context.config.privacy.redact
    number = NumberWorker(items, with_vectors, store, config, of_items, shards, starts, redact)
    numbered = run_shards(context, stage, len(shards), number)
    files = {
        table: [
            file
            for commit in numbered.values()
            for file in commit.files
            if file.path.startswith(f"{table}/")
        ]
        for table in (items, "labels", "embeddings")
    }
    files["rejected"] = store.patiently(lambda: write_rejected(store, config, scanned, starts))
    if moments is not None and sources.moments is None:
        moments = near_moments(context, shards, items, of_items.columns.numbers, moments)
    context.reporter.say(f"read: {n_items:,} items of {n_items + n_rejected:,} rows")
    if n_rejected:
        context.reporter.say(
            f"rejected: {n_rejected:,} rows, see {store.uri}/rejected: {listed_reasons(reasons)}"
        )
    context.reporter.measure("hercules_rejected_rows", n_rejected, SCAN)
    return Items(shards, items, files, of_items, moments, dict(reasons))


def run_moments(context: RunContext) -> Moments | None:
    """Return the moments of all items of a run that was read; None if they are not numeric."""
    if context.config.input.modality != "numeric":
        return None
    scanned = read_commits(context.store, SCAN, context.fingerprint)
    return known_near_moments(context, _all_moments(scanned))


def _all_moments(scanned: dict[int, Commit]) -> Moments:
    parts = [Moments.from_lists(commit.info["moments"]) for commit in scanned.values()]
    return functools.reduce(Moments.add, parts)


def _check_numbers(of_items: Layout, scanned: dict[int, Commit]) -> Moments | None:
    """Return the moments of every numeric column; refuse columns with a single value."""
    numbers = of_items.columns.numbers
    if not numbers:
        return None
    moments = _all_moments(scanned)
    constant = [
        f"{name!r} (always {low:g})"
        for name, low, high in zip(numbers, moments.low[0], moments.high[0], strict=True)
        if low == high
    ]
    if constant:
        raise InputError(
            f"input.columns must vary, but {', '.join(constant[:5])} is the same in all "
            f"{moments.n[0]:,} usable rows; name the other columns in input.columns"
        )
    return moments


def _nothing_usable(reasons: Counter[str], n_rejected: int) -> str:
    if n_rejected == 0:
        return "input.path: the input is empty; give files with at least one row"
    listed = listed_reasons(reasons)
    return f"input.path: none of {n_rejected:,} rows can be used: {listed}; check the columns"


def listed_reasons(reasons: Counter[str], n_most: int = 20) -> str:
    """Return the most frequent reasons with their counts, on one line."""
    shown = reasons.most_common(n_most)
    listed = [f"{reason} ({count:,})" for reason, count in shown]
    n_others = reasons.total() - sum(count for _, count in shown)
    return ", ".join([*listed, f"others ({n_others:,})"] if n_others else listed)


def _check_ids(context: RunContext, pieces: Sequence[Piece], n_items: int) -> None:
    """Refuse ids that occur twice: two items of one id cannot be distinguished."""
    n_twice, examples = find_repeated_ids(context, SCANNED, len(pieces), n_items)
    if n_twice:
        places = "; ".join(
            f"{item_id!r} at {_places(context.store, pieces, item_id)}" for item_id in examples
        )
        raise InputError(
            f"input.id_column {context.config.input.id_column!r} must name each item once, but "
            f"{n_twice:,} ids occur more than once: {places}; remove the repeated rows, name "
            "another column, or leave id_column out for row numbers"
        )


def _places(store: Store, pieces: Sequence[Piece], item_id: str) -> str:
    """Return the first two rows of the input that have an id."""
    places: list[str] = []
    for shard, piece in enumerate(pieces):
        table = read_table(store, layout.work_part(SCANNED, shard), ["position", "item_id"])
        found = table.filter(pc.equal(table["item_id"], item_id))["position"].to_pylist()
        places += [_place(piece, row) for row in found]
        if len(places) >= 2:
            break
    return " and ".join(places[:2])


def _place(piece: Piece, position: int) -> str:
    uri, row = piece.place(position)
    return f"{uri.rpartition('/')[2]} row {row}"
