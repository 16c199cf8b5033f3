"""Rows of input files by format, as they are, before any row is rejected."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow as pa

from hercules_scale.config.reading import CsvConfig, InputConfig
from hercules_scale.errors import InputError, SchemaError
from hercules_scale.reading.columns import Columns, choose_columns, shown_name
from hercules_scale.reading.csv_files import csv_batches, csv_first_rows, reason_of
from hercules_scale.reading.dialect import Dialect, count_lines
from hercules_scale.reading.first_rows import (
    BATCH_ROWS,
    LONGEST_LINE_BYTES,
    FirstRows,
    named_columns,
)
from hercules_scale.reading.input_pieces import Piece
from hercules_scale.reading.lines import (
    DOCUMENT_COLUMNS,
    TEXT_COLUMN_OF_LINES,
    document_batches,
    json_batches,
    json_first_rows,
    line_batches,
)
from hercules_scale.reading.parquet import BATCH_BYTES, parquet_batches, parquet_first_rows
from hercules_scale.reading.sources import COMPRESSED, SourceFile, npy_header
from hercules_scale.reading.text_streams import UNPACK, UNPACK_ERRORS, dialect_of, read_head

# Images of a batch, which are decoded and held in memory together.
BATCH_IMAGES = 64
# Bytes at the beginning of a file from which its number of rows is estimated.
ESTIMATED_BYTES = 2**20
# Names of the columns of files that have no named columns.
VECTOR_COLUMN, IMAGE_COLUMN = "embedding", "image"


def read_columns(config: InputConfig, source: SourceFile) -> Columns:
    """Return the columns of one file by role, from the configuration, its schema or its first rows.

    Raises:
        InputError: The file cannot be read.
        SchemaError: A column is missing.
    """
    head = read_first_rows(config, source)
    return choose_columns(config, head.kinds, source.uri, source.format != "csv")


def piece_columns(config: InputConfig, source: SourceFile) -> Columns | None:
    """Return a file's columns by role, given the input's columns; None if the file is empty.

    Raises:
        InputError: The file cannot be read.
        SchemaError: A column is missing (JSON objects may leave some out), or has a wrong type.
    """
    head = read_first_rows(config, source)
    if not head.kinds:
        return None
    if source.format == "jsonl":
        for name in named_columns(config, source):
            head.kinds.setdefault(name, pa.null())
    for name in named_columns(config, source):
        if name not in head.kinds:
            names = ", ".join(map(shown_name, sorted(head.kinds)))
            raise SchemaError(
                f"{source.uri}: has no column {name!r}, which the input's items are made of; "
                f"columns are {names}; leave the file out, such as by a glob, or name a column "
                "that all files have"
            )
    return choose_columns(config, head.kinds, source.uri, source.format != "csv")


def read_first_rows(config: InputConfig, source: SourceFile, cells: bool = False) -> FirstRows:
    """Return the columns of a file, and columns that its folders name, such as ``topic=bikes/``.

    Args:
        config: The input section.
        source: The file.
        cells: Whether to read the first values too.

    Raises:
        InputError: The file cannot be read.
        SchemaError: Two columns have one name.
    """
    with _reading(source):
        head = _read_first_rows(config, source, cells)
    head.kinds.update(dict.fromkeys(source.partitions, pa.string()))
    return head


def _read_first_rows(config: InputConfig, source: SourceFile, cells: bool) -> FirstRows:
    if source.format == "parquet":
        return parquet_first_rows(source, cells)
    if source.format == "csv":
        return csv_first_rows(config, source, cells)
    if source.format == "jsonl":
        return json_first_rows(config, source)
    if source.format == "npy":
        width = npy_header(source).width
        if config.modality == "numeric":
            return FirstRows({f"column_{index}": pa.float64() for index in range(width)})
        return FirstRows({VECTOR_COLUMN: pa.list_(pa.float32(), width)})
    if source.format == "image":
        return FirstRows({IMAGE_COLUMN: pa.binary()})
    names = DOCUMENT_COLUMNS if source.format == "document" else (TEXT_COLUMN_OF_LINES,)
    return FirstRows(dict.fromkeys(names, pa.string()), {}, dialect_of(source, config.csv))


@contextmanager
def _reading(source: SourceFile) -> Iterator[None]:
    """Turn the exceptions of libraries into an ``InputError`` that names the file."""
    try:
        yield
    except (
        pa.ArrowException,
        OSError,
        UnicodeDecodeError,
        KeyError,
        *UNPACK_ERRORS,
    ) as error:
        # pyarrow raises KeyError for a name with a NUL byte.
        raise InputError(
            f"{source.uri}: cannot be read as {source.format} ({reason_of(error)}); "
            "fix the file or leave it out"
        ) from None


def estimate_rows(config: InputConfig, sources: list[SourceFile]) -> int:
    """Return an estimate of the number of rows in text files, from the beginning of the largest."""
    source = max(sources, key=lambda each: each.size_bytes)
    with _reading(source):
        head = read_head(source, ESTIMATED_BYTES)
        dialect = dialect_of(source, config.csv, named_columns(config, source))
    n_rows = count_lines(head, dialect) if source.format == "csv" else head.count(b"\n")
    packed = any(source.name.lower().endswith(ending) for ending in UNPACK)
    n_bytes = len(zlib.compress(head)) if packed else len(head)
    total = sum(each.size_bytes for each in sources)
    return max(total * n_rows // max(n_bytes, 1), 1)


def raw_batches(
    piece: Piece,
    columns: Columns,
    dialect: Dialect | None = None,
    alarms: list[str] | None = None,
    csv: CsvConfig | None = None,
) -> Iterator[tuple[pa.Table, dict[int, str]]]:
    """Yield columns as they are read, and a reason for each row that cannot be read.

    Args:
        piece: The piece.
        columns: Columns by role.
        dialect: Dialect of a text file; by default it is detected.
        alarms: List to which alarms are added.
        csv: Configured dialect, for documents; each document has its own dialect.
    """
    source = piece.source
    own = [name for name in columns.names if name not in source.partitions]
    with _reading(source):
        if dialect is None and source.format in COMPRESSED:
            dialect = dialect_of(source, CsvConfig(), own)
        if source.format == "document":
            batches = document_batches(piece.sources, csv or CsvConfig())
        else:
            batches = _raw_batches(piece, columns, own, dialect, alarms)
        for table, broken in batches:
            for name, value in source.partitions.items():
                if name in columns.names:
                    column = pa.repeat(pa.scalar(value, pa.string()), table.num_rows)
                    table = table.append_column(name, column)
            yield table, broken


def _raw_batches(
    piece: Piece,
    columns: Columns,
    own: list[str],
    dialect: Dialect | None,
    alarms: list[str] | None,
) -> Iterator[tuple[pa.Table, dict[int, str]]]:
    source = piece.source
    if source.format == "parquet":
        size = BATCH_ROWS if columns.image is None else BATCH_IMAGES
        groups = list(piece.row_groups or ())
        # Images have their own limit, in pixels.
        longest = {name: LONGEST_LINE_BYTES for name in own if name != columns.image}
        yield from parquet_batches(source, groups, own, size, longest)
    elif source.format == "npy":
        yield from _npy_batches(piece, columns)
    elif source.format == "image":
        yield from _image_batches(piece)
    elif dialect is not None and source.format == "csv":
        yield from csv_batches(source, dialect, columns, own, [] if alarms is None else alarms)
    elif dialect is not None and source.format == "jsonl":
        yield from json_batches(source, dialect, own, columns.text)
    elif dialect is not None:
        yield from line_batches(source, dialect)


def _npy_batches(piece: Piece, columns: Columns) -> Iterator[tuple[pa.Table, dict[int, str]]]:
    header = npy_header(piece.source)
    store = piece.source.store
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
                # Columns come in the order of their names, which may leave some out.
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
