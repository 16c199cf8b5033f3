"""Items out of input files: texts, ids and labels, and the rows that cannot be used."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from hercules_scale.config import InputConfig
from hercules_scale.errors import InputError, SchemaError
from hercules_scale.reading.sources import Piece, SourceFile, parquet_file
from hercules_scale.schemas import SCANNED_TEXT, scanned_labels
from hercules_scale.storage.store import Store

BATCH_ROWS = 8_192
TEXT_COLUMN_OF_LINES = "text"
# A row of CSV must fit in a block; the longest text that is read is so long.
CSV_BLOCK_BYTES = 16 * 2**20
SNIFFED_LINES = 1_000
# Names of our own columns beside the labels.
RESERVED_LABELS = ("position", "row")


@dataclass(frozen=True)
class Columns:
    """Columns of the input by role."""

    text: str
    item_id: str | None
    labels: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """Every column that is read."""
        names = [self.text, *([self.item_id] if self.item_id else []), *self.labels]
        return list(dict.fromkeys(names))


@dataclass(frozen=True)
class Batch:
    """Rows of a piece, in order: those that can be used and those that cannot."""

    items: pa.Table
    labels: pa.Table
    rejected: pa.Table
    n_rows: int


def choose_columns(config: InputConfig, available: dict[str, pa.DataType], where: str) -> Columns:
    """Columns by role, from the configuration or, for the text, by what there is.

    Args:
        config: The input section.
        available: Columns of the input and their types.
        where: The file, for messages.

    Raises:
        SchemaError: A column is missing, or the text column cannot be told.
    """
    named = [("input.id_column", config.id_column), ("input.text_column", config.text_column)]
    named += [("input.label_columns", label) for label in config.label_columns]
    for key, name in named:
        if name is not None and name not in available:
            raise SchemaError(
                f"{where}: {key} names {name!r}, which is not there; "
                f"columns are {', '.join(sorted(available))}"
            )
    for label in config.label_columns:
        if label in RESERVED_LABELS:
            raise SchemaError(
                f"{where}: input.label_columns must not hold {label!r}, the name of a column of "
                "our own; rename it in the input"
            )
    text = config.text_column or _detect_text(config, available, where)
    if not _is_text(available[text]):
        raise SchemaError(
            f"{where}: input.text_column {text!r} must hold text, got {available[text]}; "
            "name another column or convert it"
        )
    return Columns(text, config.id_column, tuple(config.label_columns))


def _detect_text(config: InputConfig, available: dict[str, pa.DataType], where: str) -> str:
    taken = {config.id_column, *config.label_columns}
    texts = [name for name, kind in available.items() if _is_text(kind) and name not in taken]
    if "text" in texts:
        return "text"
    # A column without values may hold anything.
    texts = [name for name in texts if not pa.types.is_null(available[name])]
    if len(texts) == 1:
        return texts[0]
    raise SchemaError(
        f"{where}: input.text_column must be given, since there is no column 'text' and "
        f"{len(texts)} others hold text ({', '.join(sorted(texts)) or 'none'})"
    )


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_null(kind)
    )


def read_columns(config: InputConfig, source: SourceFile) -> Columns:
    """Columns by role of one file, from its schema or first rows.

    Raises:
        InputError: The file cannot be read.
        SchemaError: A column is missing.
    """
    with _reading(source):
        if source.format == "parquet":
            schema = parquet_file(source).schema_arrow
            available = dict(zip(schema.names, schema.types, strict=True))
        elif source.format == "csv":
            with _open_csv(source, None) as reader:
                available = dict.fromkeys(reader.schema.names, pa.string())
        elif source.format == "jsonl":
            available = _jsonl_columns(source)
        else:
            available = {TEXT_COLUMN_OF_LINES: pa.string()}
    return choose_columns(config, available, source.uri)


@contextmanager
def _reading(source: SourceFile) -> Iterator[None]:
    """Names the file in what its libraries raise."""
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{source.uri}: cannot be read as {source.format} ({reason}); "
            "mend the file or leave it out"
        ) from None


def read_piece(config: InputConfig, piece: Piece) -> Iterator[Batch]:
    """Rows of a piece in order, sorted into usable and rejected.

    Raises:
        InputError: The file cannot be read.
        SchemaError: A column is missing or has a type that cannot be used.
    """
    columns = read_columns(config, piece.source)
    position = 0
    for raw, broken in _raw_batches(piece, columns):
        batch = _sort_rows(raw, broken, columns, piece, position)
        position += batch.n_rows
        yield batch


def _raw_batches(piece: Piece, columns: Columns) -> Iterator[tuple[pa.Table, dict[int, str]]]:
    """Columns as they are read, and a reason for each row that could not even be read."""
    source = piece.source
    with _reading(source):
        if source.format == "parquet":
            batches = parquet_file(source).iter_batches(
                BATCH_ROWS, row_groups=list(piece.row_groups or ()), columns=columns.names
            )
            for batch in batches:
                yield pa.table(batch), {}
        elif source.format == "csv":
            yield from _csv_batches(source, columns)
        elif source.format == "jsonl":
            yield from _jsonl_batches(source, columns)
        else:
            for lines in _lines(source):
                yield pa.table({TEXT_COLUMN_OF_LINES: pa.array(lines, pa.binary())}), {}


def _csv_batches(source: SourceFile, columns: Columns) -> Iterator[tuple[pa.Table, dict[int, str]]]:
    broken: list[str] = []
    with _open_csv(source, columns, broken) as reader:
        for batch in reader:
            for start in range(0, batch.num_rows, BATCH_ROWS):
                yield pa.table(batch.slice(start, BATCH_ROWS)), {}
    # The reader sets malformed rows aside, so they come after the others.
    empty = {name: pa.nulls(len(broken), pa.binary()) for name in columns.names}
    yield pa.table(empty), dict(enumerate(broken))


@contextmanager
def _open_csv(
    source: SourceFile, columns: Columns | None, broken: list[str] | None = None
) -> Iterator[pacsv.CSVStreamingReader]:
    """A reader of chosen columns; reasons for rows of a wrong width go to ``broken``."""

    def set_aside(row: pacsv.InvalidRow) -> str:
        if broken is not None:
            broken.append(
                f"line {row.number} has {row.actual_columns} columns, "
                f"not {row.expected_columns}: {row.text[:100]}"
            )
        return "skip"

    # As bytes, so that one row of invalid UTF-8 is rejected alone, and 007 stays 007.
    convert = pacsv.ConvertOptions()
    if columns is not None:
        convert = pacsv.ConvertOptions(
            column_types=dict.fromkeys(columns.names, pa.binary()),
            include_columns=columns.names,
            strings_can_be_null=True,
            null_values=[""],
            quoted_strings_can_be_null=False,
        )
    parse = pacsv.ParseOptions(newlines_in_values=True, invalid_row_handler=set_aside)
    # Line numbers of malformed rows are known to a single-threaded reader alone.
    read = pacsv.ReadOptions(use_threads=False, block_size=CSV_BLOCK_BYTES)
    with _open_stream(source) as stream:
        try:
            reader = pacsv.open_csv(stream, read, parse, convert)
        except pa.ArrowInvalid as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{source.uri}: cannot be read as csv with a header line ({reason})"
            ) from None
        with reader:
            yield reader


def _open_stream(source: SourceFile) -> Any:
    store = Store(source.folder)
    stream = store.arrow.open_input_stream(store.path(source.name), compression=None)
    return gzip.open(stream) if source.name.lower().endswith(".gz") else stream


def _lines(source: SourceFile) -> Iterator[list[bytes]]:
    lines: list[bytes] = []
    with _open_stream(source) as stream:
        for line in io.BufferedReader(stream, 2**20) if _is_raw(stream) else stream:
            lines.append(line.rstrip(b"\r\n"))
            if len(lines) == BATCH_ROWS:
                yield lines
                lines = []
    if lines:
        yield lines


def _is_raw(stream: Any) -> bool:
    return isinstance(stream, pa.NativeFile)


def _jsonl_columns(source: SourceFile) -> dict[str, pa.DataType]:
    """Columns of the first lines that are objects; one that ever holds text is a text column."""
    for lines in _lines(source):
        found: dict[str, pa.DataType] = {}
        for line in lines[:SNIFFED_LINES]:
            value, _ = _parse_object(line)
            for name, cell in (value or {}).items():
                if isinstance(cell, str):
                    found[name] = pa.string()
                elif cell is not None and found.get(name) != pa.string():
                    found[name] = pa.int64()
                else:
                    found.setdefault(name, pa.null())
        if found:
            return found
        break
    raise InputError(
        f"{source.uri}: the first {SNIFFED_LINES:,} lines hold no JSON object; give one a line, "
        "or leave the file out"
    )


def _jsonl_batches(
    source: SourceFile, columns: Columns
) -> Iterator[tuple[pa.Table, dict[int, str]]]:
    for lines in _lines(source):
        cells: dict[str, list[bytes | None]] = {name: [] for name in columns.names}
        broken: dict[int, str] = {}
        for index, line in enumerate(lines):
            value, reason = _parse_object(line)
            for name in columns.names:
                cell = (value or {}).get(name)
                if name == columns.text and cell is not None and not isinstance(cell, str):
                    reason = reason or f"column {name!r} holds {type(cell).__name__}, not text"
                    cell = None
                cells[name].append(_to_bytes(cell))
            if reason:
                broken[index] = reason
        yield pa.table({name: pa.array(cells[name], pa.binary()) for name in cells}), broken


def _parse_object(line: bytes) -> tuple[dict[str, Any] | None, str]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None, "not valid JSON"
    if not isinstance(value, dict):
        return None, f"the line holds {type(value).__name__}, not a JSON object"
    return value, ""


def _to_bytes(cell: object) -> bytes | None:
    if cell is None:
        return None
    text = cell if isinstance(cell, str) else json.dumps(cell)
    # A lone surrogate has no UTF-8 form; what comes out fails the check for valid UTF-8.
    return text.encode("utf-8", "surrogatepass")


def _sort_rows(
    raw: pa.Table, broken: dict[int, str], columns: Columns, piece: Piece, position: int
) -> Batch:
    n_rows = raw.num_rows
    text, bad_text = _as_text(raw.column(columns.text), columns.text, piece.source)
    reasons: dict[int, str] = {}
    for index in _true_rows(pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(text)), 0)):
        reasons[index] = "the text is empty"
    for index in _true_rows(pc.is_null(text)):
        reasons[index] = "the text is missing"
    for index in bad_text:
        reasons[index] = "the text is not valid UTF-8"
    item_id = pa.nulls(n_rows, pa.string())
    if columns.item_id:
        item_id, bad_id = _as_ids(raw.column(columns.item_id), columns.item_id, piece.source)
        for index in _true_rows(pc.is_null(item_id)):
            reasons[index] = "the id is missing"
        for index in bad_id:
            reasons[index] = "the id is not valid UTF-8"
    reasons.update(broken)

    positions = pa.array(range(position, position + n_rows), pa.int64())
    items = pa.table([positions, item_id, text.cast(pa.large_string())], schema=SCANNED_TEXT)
    truth = [_as_label(raw.column(name), name, piece.source) for name in columns.labels]
    labels = pa.table([positions, *truth], schema=scanned_labels(list(columns.labels)))
    rejected_rows = sorted(reasons)
    keep = pa.array(sorted(set(range(n_rows)) - reasons.keys()), pa.int64())
    rejected = pa.table(
        {
            "item_id": item_id.take(pa.array(rejected_rows, pa.int64())),
            "source_file": pa.repeat(piece.source.uri, len(rejected_rows)),
            "source_row": pa.array(
                [piece.first_row + position + row for row in rejected_rows], pa.int64()
            ),
            "reason": pa.array([reasons[row] for row in rejected_rows], pa.string()),
        }
    )
    return Batch(items.take(keep), labels.take(keep), rejected, n_rows)


def _true_rows(mask: pa.Array) -> list[int]:
    return list(pc.indices_nonzero(pc.fill_null(mask, False)).to_pylist())


def _flatten(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.chunks else pa.array([], column.type)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return array


def _as_text(column: pa.ChunkedArray, name: str, source: SourceFile) -> tuple[pa.Array, list[int]]:
    """A column as strings, and the rows whose bytes are no valid UTF-8 (null in the result)."""
    array = _flatten(column)
    if not _is_text(array.type):
        raise SchemaError(
            f"{source.uri}: column {name!r} must hold text, got {array.type}; convert it"
        )
    raw = array.cast(pa.large_binary())
    try:
        return raw.cast(pa.large_string()), []
    except pa.ArrowInvalid:
        values: list[str | None] = []
        bad = []
        for index, cell in enumerate(raw.to_pylist()):
            try:
                values.append(None if cell is None else cell.decode("utf-8"))
            except UnicodeDecodeError:
                values.append(None)
                bad.append(index)
        return pa.array(values, pa.large_string()), bad


def _as_ids(column: pa.ChunkedArray, name: str, source: SourceFile) -> tuple[pa.Array, list[int]]:
    array = _flatten(column)
    if pa.types.is_integer(array.type):
        return array.cast(pa.string()), []
    if not _is_text(array.type):
        raise SchemaError(
            f"{source.uri}: input.id_column {name!r} must hold text or whole numbers, "
            f"got {array.type}; name another column or leave it out for row numbers"
        )
    text, bad = _as_text(pa.chunked_array([array]), name, source)
    return text.cast(pa.string()), bad


def _as_label(column: pa.ChunkedArray, name: str, source: SourceFile) -> pa.Array:
    array = _flatten(column)
    if _is_text(array.type):
        return _as_text(pa.chunked_array([array]), name, source)[0].cast(pa.string())
    try:
        return array.cast(pa.string())
    except pa.ArrowException:
        raise SchemaError(
            f"{source.uri}: input.label_columns {name!r} must hold text or numbers, "
            f"got {array.type}; name another column"
        ) from None
