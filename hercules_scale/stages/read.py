"""Reads the input into the ``items`` table, in three passes over shards.

1. scan: every piece of the input becomes a file of usable items, one of labels and one of
   rejected rows;
2. check_ids: ids that occur twice are looked for, a bucket of hashes at a time;
3. number: usable items are numbered in input order and cut into shards of equal rows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from hercules_scale import schemas
from hercules_scale.config import InputConfig
from hercules_scale.errors import InputError
from hercules_scale.reading.items import read_piece
from hercules_scale.reading.sources import Piece, SourceFile, split_into_pieces
from hercules_scale.stages.context import RunContext, Shards
from hercules_scale.stages.shards import ShardResult, Stage, run_shards
from hercules_scale.storage import layout
from hercules_scale.storage.manifest import Commit
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import (
    FileRecord,
    iterate_batches,
    read_rows,
    read_table,
    table_writer,
    write_table,
)

IDS_PER_BUCKET = 4_000_000
TITLE_CHARACTERS = 80
DESCRIPTION_CHARACTERS = 300
SCANNED, SCANNED_LABELS, SCANNED_REJECTED = "scanned", "scanned_labels", "scanned_rejected"


@dataclass(frozen=True)
class Items:
    """What reading the input came to.

    Attributes:
        shards: How the items are cut.
        files: Files of the tables ``items``, ``labels`` and ``rejected``.
        n_rejected: Rows of the input that could not be used.
    """

    shards: Shards
    files: dict[str, list[FileRecord]]
    n_rejected: int


def read_items(context: RunContext, sources: list[SourceFile]) -> Items:
    """Write the tables ``items``, ``labels`` and ``rejected``.

    Raises:
        InputError: A file cannot be read, an id occurs twice, or no row can be used.
        SchemaError: A column is missing.
    """
    config, store = context.config.input, context.store
    workers = context.config.resources.workers
    pieces = [piece for source in sources for piece in split_into_pieces(source)]
    scan = Stage("scan", "pieces", len(pieces), workers)
    scanned = run_shards(context, scan, len(pieces), _ScanWorker(store, config, tuple(pieces)))
    accepted = np.array([commit.info["accepted"] for commit in scanned.values()], np.int64)
    n_rows = np.array([commit.info["n_rows"] for commit in scanned.values()], np.int64)
    n_items, n_rejected = int(accepted.sum()), int(n_rows.sum() - accepted.sum())
    if n_items == 0:
        raise InputError(_nothing_usable(context, scanned, n_rejected))
    if config.id_column:
        _check_ids(context, pieces, n_items)

    shards = Shards.of(n_items)
    starts = _Starts.of(accepted, n_rows)
    stage = Stage("number", "items", n_items, workers)
    numbered = run_shards(context, stage, len(shards), _NumberWorker(store, config, shards, starts))
    files = {
        table: [file for commit in numbered.values() for file in commit.files if table in file.path]
        for table in ("items", "labels")
    }
    files["rejected"] = _write_rejected(store, config, pieces, scanned, starts)
    if n_rejected:
        context.reporter.say(f"rejected: {n_rejected:,} rows, see {store.uri}/rejected")
    return Items(shards, files, n_rejected)


@dataclass(frozen=True)
class _ScanWorker:
    store: Store
    config: InputConfig
    pieces: tuple[Piece, ...]

    def __call__(self, shard: int) -> ShardResult:
        labels_schema = schemas.scanned_labels(self.config.label_columns)
        n_rows = 0
        with (
            table_writer(
                self.store, layout.work_part(SCANNED, shard), schemas.SCANNED_TEXT
            ) as items,
            table_writer(
                self.store, layout.work_part(SCANNED_LABELS, shard), labels_schema
            ) as labels,
            table_writer(
                self.store, layout.work_part(SCANNED_REJECTED, shard), schemas.REJECTED
            ) as rejected,
        ):
            for batch in read_piece(self.config, self.pieces[shard]):
                items.write(batch.items)
                labels.write(batch.labels)
                rejected.write(batch.rejected)
                n_rows += batch.n_rows
            files = [items.finish(), labels.finish(), rejected.finish()]
        return ShardResult(files, {"accepted": files[0].rows, "n_rows": n_rows})


def _nothing_usable(context: RunContext, scanned: dict[int, Commit], n_rejected: int) -> str:
    if n_rejected == 0:
        return "input.path: the input is empty; give files with at least one row"
    reasons: dict[str, int] = {}
    for shard in scanned:
        path = layout.work_part(SCANNED_REJECTED, shard)
        for reason in read_table(context.store, path, ["reason"])["reason"].to_pylist():
            reasons[reason] = reasons.get(reason, 0) + 1
    listed = ", ".join(f"{reason} ({count:,})" for reason, count in reasons.items())
    return f"input.path: none of {n_rejected:,} rows can be used: {listed}; check the columns"


@dataclass(frozen=True)
class _CheckIdsWorker:
    store: Store
    n_pieces: int
    n_buckets: int

    def __call__(self, shard: int) -> ShardResult:
        seen = [self._ids(piece, shard) for piece in range(self.n_pieces)]
        ids = pa.concat_arrays(seen)
        counts = pc.value_counts(ids)
        twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
        return ShardResult([], {"twice": len(twice), "first": twice.slice(0, 3).to_pylist()})

    def _ids(self, piece: int, bucket: int) -> pa.Array:
        table = read_table(self.store, layout.work_part(SCANNED, piece), ["item_id"])
        ids = pa.concat_arrays([pa.array([], pa.string()), *table["item_id"].chunks])
        if self.n_buckets == 1:
            return ids
        hashes = pd.util.hash_array(ids.to_numpy(zero_copy_only=False))
        return ids.filter(pa.array(hashes % self.n_buckets == bucket))


def _check_ids(context: RunContext, pieces: list[Piece], n_items: int) -> None:
    """Refuse ids that occur twice: two items of one id cannot be told apart."""
    n_buckets = -(-n_items // IDS_PER_BUCKET)
    stage = Stage("check_ids", "buckets", n_buckets, context.config.resources.workers)
    worker = _CheckIdsWorker(context.store, len(pieces), n_buckets)
    commits = run_shards(context, stage, n_buckets, worker).values()
    n_twice = sum(commit.info["twice"] for commit in commits)
    if n_twice:
        examples = [item_id for commit in commits for item_id in commit.info["first"]][:3]
        places = "; ".join(
            f"{item_id!r} at {_places(context.store, pieces, item_id)}" for item_id in examples
        )
        raise InputError(
            f"input.id_column {context.config.input.id_column!r} must name each item once, but "
            f"{n_twice:,} ids occur more than once: {places}; remove the repeated rows, name "
            "another column, or leave id_column out for row numbers"
        )


def _places(store: Store, pieces: list[Piece], item_id: str) -> str:
    """The first two rows of the input that have an id."""
    places: list[str] = []
    for shard, piece in enumerate(pieces):
        table = read_table(store, layout.work_part(SCANNED, shard), ["position", "item_id"])
        found = table.filter(pc.equal(table["item_id"], item_id))["position"].to_pylist()
        places += [f"{piece.source.name} row {piece.first_row + row}" for row in found]
        if len(places) >= 2:
            break
    return " and ".join(places[:2])


@dataclass(frozen=True)
class _Starts:
    """Where each piece begins, among usable items and among all input rows; one more at the end."""

    items: tuple[int, ...]
    rows: tuple[int, ...]

    @classmethod
    def of(cls, accepted: np.ndarray, n_rows: np.ndarray) -> _Starts:
        return cls(
            (0, *(int(n) for n in np.cumsum(accepted))), (0, *(int(n) for n in np.cumsum(n_rows)))
        )


@dataclass(frozen=True)
class _NumberWorker:
    store: Store
    config: InputConfig
    shards: Shards
    starts: _Starts

    def __call__(self, shard: int) -> ShardResult:
        start, stop = self.shards.bounds(shard)
        rows = pa.array(np.arange(start, stop))
        items = self._slices(SCANNED, start, stop)
        text = items["text"].combine_chunks()
        snippet = pc.utf8_trim_whitespace(
            pc.replace_substring_regex(
                pc.utf8_slice_codeunits(text, 0, 4 * DESCRIPTION_CHARACTERS), r"\s+", " "
            )
        )
        columns = {
            "row": rows,
            "item_id": items["item_id"],
            "title": pa.array([_title(value) for value in snippet.to_pylist()], pa.string()),
            "description": pc.utf8_slice_codeunits(snippet, 0, DESCRIPTION_CHARACTERS),
            "text": text,
        }
        table = pa.table(columns).cast(schemas.TEXT_ITEMS)
        files = [write_table(self.store, layout.part("items", shard), table)]
        if self.config.label_columns:
            truth = self._slices(SCANNED_LABELS, start, stop)
            truth = truth.drop_columns(["position"]).add_column(0, "row", rows)
            truth = truth.cast(schemas.labels(self.config.label_columns))
            files.append(write_table(self.store, layout.part("labels", shard), truth))
        return ShardResult(files, units=stop - start)

    def _slices(self, table: str, start: int, stop: int) -> pa.Table:
        starts = self.starts.items
        slices = []
        for piece in range(len(starts) - 1):
            first, last = max(start, starts[piece]), min(stop, starts[piece + 1])
            if first < last:
                path = layout.work_part(table, piece)
                begin = starts[piece]
                rows = read_rows(self.store, path, first - begin, last - begin)
                if table == SCANNED and not self.config.id_column:
                    ids = pc.add(rows["position"], self.starts.rows[piece]).cast(pa.string())
                    rows = rows.set_column(1, "item_id", ids)
                slices.append(rows)
        return pa.concat_tables(slices)


def _title(snippet: str) -> str:
    """The first sentence, cut to length at a word.

    Source: HERCULES, section 3.1.
    """
    snippet = re.split(r"(?<=[.?!])\s", snippet, maxsplit=1)[0].removesuffix(".")
    if len(snippet) <= TITLE_CHARACTERS:
        return snippet
    return snippet[:TITLE_CHARACTERS].rsplit(" ", 1)[0] + "…"


def _write_rejected(
    store: Store,
    config: InputConfig,
    pieces: list[Piece],
    scanned: dict[int, Commit],
    starts: _Starts,
) -> list[FileRecord]:
    """The table ``rejected``, a file for each piece that has any; always at least one file."""
    files: list[FileRecord] = []
    for shard, commit in scanned.items():
        if commit.info["n_rows"] == commit.info["accepted"] and (shard > 0 or files):
            continue
        with table_writer(store, layout.part("rejected", shard), schemas.REJECTED) as writer:
            for batch in iterate_batches(store, layout.work_part(SCANNED_REJECTED, shard)):
                table = pa.table(batch)
                if not config.id_column:
                    offset = starts.rows[shard] - pieces[shard].first_row
                    ids = pc.add(table["source_row"], offset).cast(pa.string())
                    table = table.set_column(0, "item_id", ids)
                writer.write(table)
            files.append(writer.finish())
    return files
