"""Items of input files, with ids and labels, and rows that are rejected."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from hercules_scale.config.reading import InputConfig
from hercules_scale.errors import SchemaError
from hercules_scale.reading.columns import Columns, is_text, with_columns
from hercules_scale.reading.file_rows import piece_columns, raw_batches
from hercules_scale.reading.first_rows import named_columns
from hercules_scale.reading.input_pieces import Piece, count_rows, split_into_pieces
from hercules_scale.reading.item_content import as_text, flatten, payload, true_rows, vector_length
from hercules_scale.reading.sources import COMPRESSED, SourceFile
from hercules_scale.reading.survey import Survey, survey
from hercules_scale.reading.text_streams import dialect_of
from hercules_scale.storage.schemas import SCANNED_OWNERS, scanned, scanned_labels

# A whole number with zeros as decimals.
WHOLE = r"^(-?\d+)\.0+$"


@dataclass(frozen=True)
class Batch:
    """Rows of a piece, in order: usable and rejected ones."""

    items: pa.Table
    labels: pa.Table
    owners: pa.Table
    rejected: pa.Table
    n_rows: int


@dataclass(frozen=True)
class Layout:
    """Layout of the items of an input.

    Attributes:
        columns: Columns of the input by role.
        dimension: Length of the input's vectors; 0 for other modalities.
    """

    columns: Columns
    dimension: int = 0

    @classmethod
    def of(cls, taken: Survey) -> Layout:
        """Return the layout of an input that was examined."""
        return cls(taken.columns, taken.dimension)

    @property
    def schema(self) -> pa.Schema:
        """Columns of a scanned piece."""
        columns = self.columns
        with_text = columns.text is not None
        return scanned(columns.modality, columns.numbers, self.dimension, with_text)


def examine(
    config: InputConfig, sources: list[SourceFile], skipped: dict[str, str] | None = None
) -> Survey:
    """Return the interpretation of an input, with its pieces and the length of its vectors.

    Args:
        config: The input section.
        sources: The files.
        skipped: Files that are not read, with the reason.

    Raises:
        InputError: A file cannot be read.
        SchemaError: A column is missing, or the modality is not clear.
    """
    pieces = tuple(split_into_pieces(sources))
    taken = replace(survey(config, sources, count_rows(pieces), skipped), pieces=pieces)
    name = taken.columns.embedding
    if taken.columns.modality != "embedding" or name is None:
        return taken
    for piece in pieces:
        for raw, _ in raw_batches(piece, taken.columns):
            dimension = vector_length(raw.column(name))
            if dimension:
                return replace(taken, dimension=dimension)
    raise SchemaError(
        f"{sources[0].uri}: input.embedding_column {name!r} holds no list of numbers; "
        "name another column"
    )


def read_piece(
    config: InputConfig, layout: Layout, piece: Piece, alarms: list[str] | None = None
) -> Iterator[Batch]:
    """Yield the rows of a piece in order, sorted into usable and rejected.

    Args:
        config: The input section.
        layout: Layout of the input's items.
        piece: The rows to read.
        alarms: List to which alarms are added.

    Raises:
        InputError: The file cannot be read.
        SchemaError: A column is missing or has a type that cannot be used.
    """
    # Columns are checked in every file, since types may differ between files.
    config, source, dialect = with_columns(config, layout.columns), piece.source, None
    columns = piece_columns(config, source)
    if columns is None:
        return
    if source.format in COMPRESSED:
        dialect = dialect_of(source, config.csv, named_columns(config, source))
    marks = dialect.marks if dialect else "."
    position = 0
    for raw, broken in raw_batches(piece, columns, dialect, alarms, config.csv):
        batch = _sort_rows(raw, broken, layout, piece, position, marks)
        position += batch.n_rows
        yield batch


def _sort_rows(
    raw: pa.Table,
    broken: dict[int, str],
    layout: Layout,
    piece: Piece,
    position: int,
    marks: str,
) -> Batch:
    n_rows = raw.num_rows
    columns = layout.columns
    parts, reasons = payload(raw, columns, piece.source, layout.dimension, marks)
    item_id = pa.nulls(n_rows, pa.string())
    if columns.item_id:
        item_id, bad_id = _as_ids(raw.column(columns.item_id), columns.item_id, piece.source)
        for index in true_rows(pc.is_null(item_id)):
            reasons[index] = "the id is missing"
        for index in bad_id:
            reasons[index] = "the id is not valid UTF-8"
    reasons.update(broken)

    positions = pa.array(range(position, position + n_rows), pa.int64())
    table = pa.table({"position": positions, "item_id": item_id, **parts})
    items = table.select(layout.schema.names)
    truth = [_as_classes(raw.column(name), name, piece.source) for name in columns.labels]
    labels = pa.table([positions, *truth], schema=scanned_labels(list(columns.labels)))
    owners = pa.table([positions, _as_owners(raw, columns, piece.source)], schema=SCANNED_OWNERS)
    rejected_rows = sorted(reasons)
    keep = pa.array(sorted(set(range(n_rows)) - reasons.keys()), pa.int64())
    places = [piece.place(position + row) for row in rejected_rows]
    own_ids = item_id.take(pa.array(rejected_rows, pa.int64()))
    rejected = pa.table(
        {
            "position": pa.array([position + row for row in rejected_rows], pa.int64()),
            "item_id": own_ids,
            "source_file": pa.array([uri for uri, _ in places], pa.string()),
            "source_row": pa.array([row for _, row in places], pa.int64()),
            "reason": pa.array([reasons[row] for row in rejected_rows], pa.string()),
        }
    )
    return Batch(
        items.take(keep).cast(layout.schema),
        labels.take(keep),
        owners.take(keep),
        rejected,
        n_rows,
    )


def _as_owners(raw: pa.Table, columns: Columns, source: SourceFile) -> pa.Array:
    """Return the hashes of the owners, null for none; no output holds an owner's name.

    Two owners with the same hash, one pair in 2**64, count as one, so that less is shown, not more.
    """
    if columns.owner is None:
        return pa.nulls(raw.num_rows, pa.uint64())
    names = _as_plain_text(raw.column(columns.owner), columns.owner, source, "input.owner_column")
    hashes = [
        int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
        if name
        else None
        for name in names.to_pylist()
    ]
    return pa.array(hashes, pa.uint64())


def _as_ids(column: pa.ChunkedArray, name: str, source: SourceFile) -> tuple[pa.Array, list[int]]:
    array = flatten(column)
    if pa.types.is_integer(array.type):
        return array.cast(pa.string()), []
    if not is_text(array.type):
        raise SchemaError(
            f"{source.uri}: input.id_column {name!r} must hold text or whole numbers, "
            f"got {array.type}; name another column or leave it out for row numbers"
        )
    text, bad = as_text(pa.chunked_array([array]), name, source)
    ids = _none_for_empty(text.cast(pa.string()))
    return _without_decimals(ids) if source.format == "csv" else ids, bad


def _none_for_empty(texts: pa.Array) -> pa.Array:
    """Return texts with null in place of empty ones, which csv has for missing ones."""
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)


def _as_classes(column: pa.ChunkedArray, name: str, source: SourceFile) -> pa.Array:
    """Return classes as text.

    In csv, 1.0 becomes 1, since programs write whole numbers so in columns with gaps.
    """
    array = flatten(column)
    if is_text(array.type):
        cells = array.cast(pa.large_binary()).to_pylist()
        # A damaged name is a class, too.
        decoded = [None if cell is None else cell.decode("utf-8", "replace") for cell in cells]
        column = pa.chunked_array([pa.array(decoded, pa.string())])
    texts = _as_plain_text(column, name, source, "input.label_columns")
    if source.format != "csv":
        return texts
    return _without_decimals(texts)


def _without_decimals(texts: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(texts, WHOLE, r"\1")


def _as_plain_text(column: pa.ChunkedArray, name: str, source: SourceFile, key: str) -> pa.Array:
    """Return text or numbers as text; null for invalid UTF-8."""
    array = flatten(column)
    if is_text(array.type):
        texts = as_text(pa.chunked_array([array]), name, source)[0].cast(pa.string())
        return _none_for_empty(texts)
    try:
        return array.cast(pa.string())
    except pa.ArrowException:
        raise SchemaError(
            f"{source.uri}: {key} {name!r} must hold text or numbers, "
            f"got {array.type}; name another column"
        ) from None
