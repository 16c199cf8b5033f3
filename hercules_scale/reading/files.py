"""Rows of input files as they are, by format, before anybody judges them."""

from __future__ import annotations

import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from hercules_scale.config import InputConfig
from hercules_scale.errors import InputError
from hercules_scale.reading.columns import Columns, choose_columns
from hercules_scale.reading.parquet import BATCH_BYTES, parquet_batches
from hercules_scale.reading.sources import Piece, SourceFile, npy_header, parquet_file
from hercules_scale.storage.store import Store

BATCH_ROWS = 8_192
# Decoded images of a batch are held together.
BATCH_IMAGES = 64
TEXT_COLUMN_OF_LINES = "text"
# Columns of files that have none.
VECTOR_COLUMN, IMAGE_COLUMN = "embedding", "image"
# A row of CSV must fit in a block; the longest text that is read is so long.
CSV_BLOCK_BYTES = 16 * 2**20
# The reader takes some kilobytes for each, which its name alone does not.
MOST_COLUMNS = 65_536
# Rows of a wrong width that a block may have: of a block of two bytes a row, the reasons would fill
# the memory.
MOST_MALFORMED = 100_000
SNIFFED_LINES = 1_000
# A line of a text or JSON Lines file, so that a small .gz cannot fill the memory with one.
LONGEST_LINE_BYTES = CSV_BLOCK_BYTES
TOO_LONG = f"the line is longer than {LONGEST_LINE_BYTES >> 20} MiB"


def read_columns(config: InputConfig, source: SourceFile) -> Columns:
    """Columns by role of one file, from its schema or first rows.

    Raises:
        InputError: The file cannot be read.
        SchemaError: A column is missing.
    """
    with _reading(source):
        return choose_columns(
            config, _available(config, source), source.uri, source.format != "csv"
        )


def _available(config: InputConfig, source: SourceFile) -> dict[str, pa.DataType]:
    """Columns of a file and their types."""
    if source.format == "parquet":
        schema = parquet_file(source).schema_arrow
        return dict(zip(schema.names, schema.types, strict=True))
    if source.format == "csv":
        _check_width(source)
        with _open_csv(source, None) as reader:
            return dict(zip(reader.schema.names, reader.schema.types, strict=True))
    if source.format == "jsonl":
        return _jsonl_columns(source)
    if source.format == "npy":
        width = npy_header(source).width
        if config.modality == "numeric":
            return {f"column_{index}": pa.float64() for index in range(width)}
        return {VECTOR_COLUMN: pa.list_(pa.float32(), width)}
    if source.format == "image":
        return {IMAGE_COLUMN: pa.binary()}
    return {TEXT_COLUMN_OF_LINES: pa.string()}


@contextmanager
def _reading(source: SourceFile) -> Iterator[None]:
    """Names the file in what its libraries raise."""
    try:
        yield
    except (
        pa.ArrowException,
        OSError,
        EOFError,
        UnicodeDecodeError,
        KeyError,
        zlib.error,
    ) as error:
        # pyarrow raises KeyError for a name with a NUL byte.
        raise InputError(
            f"{source.uri}: cannot be read as {source.format} ({_reason(error)}); "
            "mend the file or leave it out"
        ) from None


def _reason(error: Exception) -> str:
    reason = " ".join(str(error).split())[:200]
    # What pyarrow says of a row that does not end within a block names none of our options.
    straddles = "straddling object" in reason
    return f"a row is longer than {CSV_BLOCK_BYTES >> 20} MiB" if straddles else reason


def raw_batches(piece: Piece, columns: Columns) -> Iterator[tuple[pa.Table, dict[int, str]]]:
    """Columns as they are read, and a reason for each row that could not even be read."""
    source = piece.source
    with _reading(source):
        if source.format == "parquet":
            size = BATCH_ROWS if columns.image is None else BATCH_IMAGES
            groups = list(piece.row_groups or ())
            # Images have a limit of their own, of pixels.
            longest = {name: LONGEST_LINE_BYTES for name in columns.names if name != columns.image}
            yield from parquet_batches(source, groups, columns.names, size, longest)
        elif source.format == "csv":
            yield from _csv_batches(source, columns)
        elif source.format == "jsonl":
            yield from _jsonl_batches(source, columns)
        elif source.format == "npy":
            yield from _npy_batches(piece, columns)
        elif source.format == "image":
            yield from _image_batches(piece)
        else:
            for lines in _lines(source):
                broken = {index: TOO_LONG for index, line in enumerate(lines) if line is None}
                yield pa.table({TEXT_COLUMN_OF_LINES: pa.array(lines, pa.binary())}), broken


def _csv_batches(source: SourceFile, columns: Columns) -> Iterator[tuple[pa.Table, dict[int, str]]]:
    broken: list[str] = []
    with _open_csv(source, columns, broken) as reader:
        for batch in reader:
            for start in range(0, batch.num_rows, BATCH_ROWS):
                yield pa.table(batch.slice(start, BATCH_ROWS)), {}
            # The reader sets malformed rows aside, so they come after others.
            if len(broken) >= BATCH_ROWS:
                yield _malformed(broken, columns)
                broken.clear()
    yield _malformed(broken, columns)


def _malformed(reasons: list[str], columns: Columns) -> tuple[pa.Table, dict[int, str]]:
    empty = {name: pa.nulls(len(reasons), pa.binary()) for name in columns.names}
    return pa.table(empty), dict(enumerate(reasons))


def _check_width(source: SourceFile) -> None:
    with _buffered(source) as stream:
        n_columns = stream.readline(CSV_BLOCK_BYTES).count(b",") + 1
    if n_columns > MOST_COLUMNS:
        raise InputError(
            f"{source.uri}: must have at most {MOST_COLUMNS:,} columns, got {n_columns:,}; leave "
            "columns out, or give the file as Parquet"
        )


@contextmanager
def _open_csv(
    source: SourceFile, columns: Columns | None, broken: list[str] | None = None
) -> Iterator[pacsv.CSVStreamingReader]:
    """A reader of chosen columns; reasons for rows of a wrong width go to ``broken``."""

    def set_aside(row: pacsv.InvalidRow) -> str:
        if broken is not None:
            if len(broken) >= MOST_MALFORMED:
                return "error"
            # A row that names an owner is not quoted.
            text = "" if columns is None or columns.owner else f": {row.text[:100]}"
            broken.append(
                f"line {row.number} has {row.actual_columns} columns, "
                f"not {row.expected_columns}{text}"
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
    with _open_stream(source) as stream, _without_traces_of_undecodable_rows():
        try:
            reader = pacsv.open_csv(stream, read, parse, convert)
        except pa.ArrowInvalid as error:
            raise InputError(
                f"{source.uri}: cannot be read as csv with a header line ({_reason(error)}); mend "
                "the file or leave it out"
            ) from None
        with reader:
            yield reader


@contextmanager
def _without_traces_of_undecodable_rows() -> Iterator[None]:
    """Hold back the trace that pyarrow prints of a malformed row that is no UTF-8.

    It refuses such a row by itself, by its number.
    """
    before = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs, /) -> None:
        if not isinstance(unraisable.exc_value, UnicodeDecodeError):
            before(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


def _open_stream(source: SourceFile) -> Any:
    store = Store(source.folder)
    stream = store.arrow.open_input_stream(store.path(source.name), compression=None)
    return gzip.open(stream) if source.name.lower().endswith(".gz") else stream


def _lines(source: SourceFile) -> Iterator[list[bytes | None]]:
    """Lines some thousand at a time; None for one that is too long."""
    lines: list[bytes | None] = []
    with _buffered(source) as stream:
        n_bytes = 0
        while line := stream.readline(LONGEST_LINE_BYTES + 1):
            whole = line.endswith(b"\n") or len(line) <= LONGEST_LINE_BYTES
            lines.append(line.rstrip(b"\r\n") if whole else None)
            while not whole:
                rest = stream.readline(LONGEST_LINE_BYTES)
                whole = not rest or rest.endswith(b"\n")
            n_bytes += len(line)
            if len(lines) == BATCH_ROWS or n_bytes > LONGEST_LINE_BYTES:
                yield lines
                lines, n_bytes = [], 0
    if lines:
        yield lines


@contextmanager
def _buffered(source: SourceFile) -> Iterator[Any]:
    with _open_stream(source) as opened:
        is_raw = isinstance(opened, pa.NativeFile)
        yield io.BufferedReader(opened, 2**20) if is_raw else opened


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
                    found[name] = _json_type(cell)
                else:
                    found.setdefault(name, pa.null())
            # Not held beside the next, which may be as large.
            value = None
        if found:
            return found
        break
    raise InputError(
        f"{source.uri}: the first {SNIFFED_LINES:,} lines hold no JSON object; give one a line, "
        "or leave the file out"
    )


def _json_type(cell: object) -> pa.DataType:
    if isinstance(cell, list) and all(isinstance(each, int | float) for each in cell):
        return pa.list_(pa.float64())
    number = isinstance(cell, int | float) and not isinstance(cell, bool)
    return pa.float64() if number else pa.bool_()


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
            value = cell = None
        yield pa.table({name: pa.array(cells[name], pa.binary()) for name in cells}), broken


def _parse_object(line: bytes | None) -> tuple[dict[str, Any] | None, str]:
    if line is None:
        return None, TOO_LONG
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


def _npy_batches(piece: Piece, columns: Columns) -> Iterator[tuple[pa.Table, dict[int, str]]]:
    header = npy_header(piece.source)
    store = Store(piece.source.folder)
    row_bytes = header.width * header.dtype.itemsize
    with store.open_input(piece.source.name) as file:
        file.seek(header.offset + piece.first_row * row_bytes)
        left = piece.n_rows
        while left:
            n_rows = min(left, BATCH_ROWS, max(BATCH_BYTES // row_bytes, 1))
            data = file.read(n_rows * row_bytes)
            if len(data) < n_rows * row_bytes:
                raise EOFError("the file is shorter than its header says")
            values = np.frombuffer(data, header.dtype).reshape(n_rows, header.width)
            if columns.numbers:
                # In the names' order, which may leave columns out.
                places = [int(name.removeprefix("column_")) for name in columns.numbers]
                arrays = [pa.array(values[:, place].astype(np.float64)) for place in places]
                yield pa.table(arrays, names=list(columns.numbers)), {}
            else:
                flat = pa.array(values.astype(np.float32).reshape(-1))
                vectors = pa.FixedSizeListArray.from_arrays(flat, header.width)
                yield pa.table({VECTOR_COLUMN: vectors}), {}
            left -= n_rows


def _image_batches(piece: Piece) -> Iterator[tuple[pa.Table, dict[int, str]]]:
    for start in range(0, len(piece.sources), BATCH_IMAGES):
        uris = [source.uri for source in piece.sources[start : start + BATCH_IMAGES]]
        yield pa.table({IMAGE_COLUMN: pa.array(uris, pa.binary())}), {}
