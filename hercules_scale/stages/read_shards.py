"""Workers that scan pieces of the input and write shards of items."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hercules_scale.config.reading import InputConfig
from hercules_scale.reading.column_statistics import Moments
from hercules_scale.reading.images import image_title
from hercules_scale.reading.input_pieces import Piece
from hercules_scale.reading.items import Layout, read_piece
from hercules_scale.reading.numbers_in_words import verbalise_rows
from hercules_scale.reading.redact import redacted
from hercules_scale.runtime.context import Shards
from hercules_scale.runtime.shard_tasks import ShardResult
from hercules_scale.storage import layout, schemas
from hercules_scale.storage.commits import Commit
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import (
    FileRecord,
    column_numbers,
    gathered,
    iterate_batches,
    iterate_rows,
    table_writer,
    write_tables,
)
from hercules_scale.summarization.words import cut, n_letters

TITLE_CHARACTERS = 80
DESCRIPTION_CHARACTERS = 300
# Most alarms of a piece, and most kinds of reasons, that are kept.
ALARMS_OF_PIECE, KINDS_OF_REASONS = 5, 50
# Parts of a reason that differ between rows, and what replaces them.
PARTICULAR = (
    (re.compile(r" holds \S+, too large .*", re.S), " holds a number too large to compute with"),
    (re.compile(r"^line \d+ has .*", re.S), "the row has another width than the header"),
    (re.compile(r"^there is no file .*", re.S), "there is no file of the image's name"),
    (re.compile(r"^\S.* cannot be read \(.*", re.S), "the image cannot be read"),
    (re.compile(r"^the image cannot be decoded .*", re.S), "the image cannot be decoded"),
    (re.compile(r"^the image has .*", re.S), "the image has too many pixels"),
)
SCANNED, SCANNED_LABELS, SCANNED_REJECTED = "scanned", "scanned_labels", "scanned_rejected"
# Items that a model is still to describe, in place of the table ``items``.
UNDESCRIBED = f"{layout.WORK}/undescribed"
# Hashes of the items' owners, by piece and by shard.
SCANNED_OWNERS, OWNERS = "scanned_owners", "owners"


@dataclass(frozen=True)
class ScanWorker:
    """Scans a piece of the input into tables of items, labels, rejected rows and owners."""

    store: Store
    config: InputConfig
    of_items: Layout
    pieces: tuple[Piece, ...]

    def __call__(self, shard: int) -> ShardResult:
        """Scan the piece with this number."""
        numbers = list(self.of_items.columns.numbers)
        moments = Moments.of(np.zeros((0, len(numbers))))
        n_rows = 0
        alarms: list[str] = []
        reasons: Counter[str] = Counter()
        with ExitStack() as stack:
            items, labels, rejected, owners = (
                stack.enter_context(
                    table_writer(self.store, layout.work_part(table, shard), schema)
                )
                for table, schema in (
                    (SCANNED, self.of_items.schema),
                    (SCANNED_LABELS, schemas.scanned_labels(self.config.label_columns)),
                    (SCANNED_REJECTED, schemas.SCANNED_REJECTED),
                    (SCANNED_OWNERS, schemas.SCANNED_OWNERS),
                )
            )
            for batch in read_piece(self.config, self.of_items, self.pieces[shard], alarms):
                items.write(batch.items)
                labels.write(batch.labels)
                rejected.write(batch.rejected)
                owners.write(batch.owners)
                n_rows += batch.n_rows
                reasons.update(map(_kind_of_reason, batch.rejected["reason"].to_pylist()))
                if numbers:
                    moments = moments.add(Moments.of(column_numbers(batch.items, numbers)))
            files = [each.finish() for each in (items, labels, rejected)]
            # This file is deleted once owners are counted, so the commit does not list it.
            owners.finish()
        info = {
            "accepted": files[0].rows,
            "n_rows": n_rows,
            "moments": moments.to_lists(),
            "alarms": alarms[:ALARMS_OF_PIECE],
            "reasons": dict(reasons.most_common(KINDS_OF_REASONS)),
        }
        return ShardResult(files, info)


def _kind_of_reason(reason: str) -> str:
    """Return a reason without the details of its row."""
    if reason.endswith(", not a number"):
        reason = reason.partition(" holds ")[0] + " holds something else than a number"
    for pattern, general in PARTICULAR:
        reason = pattern.sub(general, reason)
    return reason[:200]


@dataclass(frozen=True)
class Starts:
    """First item and first input row of each piece, and the end of the last piece."""

    items: tuple[int, ...]
    rows: tuple[int, ...]

    @classmethod
    def of(cls, accepted: np.ndarray, n_rows: np.ndarray) -> Starts:
        """Return the starts of pieces with these numbers of items and rows, of shape (pieces,)."""
        return cls(
            (0, *(int(n) for n in np.cumsum(accepted))), (0, *(int(n) for n in np.cumsum(n_rows)))
        )


@dataclass(frozen=True)
class NumberWorker:
    """Writes a shard of numbered items, with their labels, owners and given vectors.

    Attributes:
        table: Name of the table of the items.
        with_vectors: Whether the table ``embeddings`` is made of given vectors.
    """

    table: str
    with_vectors: bool
    store: Store
    config: InputConfig
    of_items: Layout
    shards: Shards
    starts: Starts
    redact: str | None

    def __call__(self, shard: int) -> ShardResult:
        """Write the shard with this number."""
        start, stop = self.shards.bounds(shard)
        columns = self.of_items.columns
        schema = schemas.items(columns.modality, columns.numbers, columns.text is not None)
        path = layout.part(self.table, shard)
        files = [self._write(path, SCANNED, schema, shard, self._with_own_words)]
        if self.with_vectors:
            schema = schemas.embeddings(self.of_items.dimension)
            files.append(self._write(layout.part("embeddings", shard), SCANNED, schema, shard))
        if self.config.label_columns:
            schema = schemas.labels(self.config.label_columns)
            files.append(self._write(layout.part("labels", shard), SCANNED_LABELS, schema, shard))
        # Owners are deleted once they are counted.
        if self.config.owner_column and self.store.exists(layout.work_part(SCANNED_OWNERS, 0)):
            path = layout.work_part(OWNERS, shard)
            self._write(path, SCANNED_OWNERS, schemas.SCANNED_OWNERS, shard)
        return ShardResult(files, units=stop - start)

    def _write(
        self,
        path: str,
        scanned: str,
        schema: pa.Schema,
        shard: int,
        made: Callable[[pa.Table], pa.Table] = lambda table: table,
    ) -> FileRecord:
        """Write the rows of a shard from a table of the scan, a part of them at a time.

        Args:
            path: Path of the file.
            scanned: Name of the table of the scan.
            schema: Schema of the file.
            shard: The shard.
            made: Function that adds columns to some rows.
        """
        start, stop = self.shards.bounds(shard)

        def tables() -> Iterator[pa.Table]:
            first = start
            for table in gathered(self._slices(scanned, schema, start, stop)):
                rows = pa.array(np.arange(first, first + table.num_rows))
                first += table.num_rows
                yield made(table).append_column("row", rows)

        return write_tables(self.store, path, schema, tables)

    def _with_own_words(self, items: pa.Table) -> pa.Table:
        titles, descriptions = self._own_words(items)
        for name, words in (("title", titles), ("description", descriptions)):
            items = items.append_column(name, pa.array(words, pa.string()))
        return items

    def _own_words(self, items: pa.Table) -> tuple[pa.Array, pa.Array]:
        """Return a title and a description of each item without a model.

        Source: HERCULES, section 3.1.
        """
        ids = pc.fill_null(items["item_id"], "").to_pylist()
        columns = self.of_items.columns
        if columns.modality == "numeric":
            sentences = verbalise_rows(items, columns.numbers, self.config.metadata)
            return ids, redacted(sentences, self.redact)
        titles, descriptions = ids, ids
        if columns.modality == "image":
            titles = [
                image_title(uri) if uri else own
                for uri, own in zip(items["image_uri"].to_pylist(), ids, strict=True)
            ]
            titles = descriptions = redacted(titles, self.redact)
        if columns.text is None:
            return titles, descriptions
        texts = items["text"].combine_chunks()
        if self.redact is not None:
            texts = pa.array(redacted(texts.to_pylist(), self.redact), pa.large_string())
        snippets = pc.utf8_trim_whitespace(
            pc.replace_substring_regex(
                pc.utf8_slice_codeunits(texts, 0, 4 * DESCRIPTION_CHARACTERS), r"\s+", " "
            )
        ).to_pylist()
        return (
            [_title(text) or own for text, own in zip(snippets, titles, strict=True)],
            [
                text[:DESCRIPTION_CHARACTERS] or own
                for text, own in zip(snippets, descriptions, strict=True)
            ],
        )

    def _slices(self, table: str, schema: pa.Schema, start: int, stop: int) -> Iterator[pa.Table]:
        """Yield the rows of a shard from a table of the scan, with the columns of a schema."""
        starts = self.starts.items
        made = ("row", "title", "description") if table == SCANNED else ("row",)
        names = ["position", *(name for name in schema.names if name not in (*made, "position"))]
        for piece in range(len(starts) - 1):
            first, last = max(start, starts[piece]), min(stop, starts[piece + 1])
            if first < last:
                path = layout.work_part(table, piece)
                begin = starts[piece]
                for rows in iterate_rows(self.store, path, names, first - begin, last - begin):
                    if table == SCANNED and not self.config.id_column:
                        ids = pc.add(rows["position"], self.starts.rows[piece]).cast(pa.string())
                        place = rows.column_names.index("item_id")
                        rows = rows.set_column(place, "item_id", ids)
                    yield rows


def _title(snippet: str) -> str:
    """Return the first sentence, cut to length at a word.

    Source: HERCULES, section 3.1.
    """
    snippet = re.split(r"(?<=[.?!।۔؟])\s|(?<=[。！？])", snippet, maxsplit=1)[0]
    snippet = snippet.removesuffix(".").removesuffix("。")
    if n_letters(snippet) <= TITLE_CHARACTERS:
        return snippet
    return cut(snippet, TITLE_CHARACTERS).rsplit(" ", 1)[0] + "…"


def write_rejected(
    store: Store, config: InputConfig, scanned: dict[int, Commit], starts: Starts
) -> list[FileRecord]:
    """Write the table ``rejected``: a file per piece with rejected rows, and at least one file."""
    files: list[FileRecord] = []
    for shard, commit in scanned.items():
        if commit.info["n_rows"] == commit.info["accepted"] and (shard > 0 or files):
            continue
        with table_writer(store, layout.part("rejected", shard), schemas.REJECTED) as writer:
            for batch in iterate_batches(store, layout.work_part(SCANNED_REJECTED, shard)):
                table = pa.table(batch)
                if not config.id_column:
                    ids = pc.add(table["position"], starts.rows[shard]).cast(pa.string())
                    table = table.set_column(1, "item_id", ids)
                writer.write(table.drop_columns(["position"]))
            files.append(writer.finish())
    return files
