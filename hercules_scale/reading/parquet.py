"""Rows of a Parquet file in batches of bounded size in memory, even if they are small in the
file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hercules_scale.errors import InputError
from hercules_scale.reading.columns import is_number, is_text, is_vector, plain_type
from hercules_scale.reading.first_rows import (
    LONGEST_LINE_BYTES,
    SNIFFED_ROWS,
    FirstRows,
    check_names,
    plain_cells,
)
from hercules_scale.reading.item_content import flatten
from hercules_scale.reading.sources import SourceFile, parquet_file
from hercules_scale.storage.tables import gathered

# Bytes of decoded cells in memory at a time.
BATCH_BYTES = 64 * 2**20
# Number of small batches that are decoded at once, since the dictionary is decoded each time.
BATCHES_DECODED = 8
# Largest number of unpacked bytes of a column of a row group, or largest ratio of these to its
# bytes in the file. Pages, which may be as large as the column, are unpacked whole.
MOST_BYTES, MOST_UNPACKED = 512 * 2**20, 200
# Encoding in which a value may repeat the value before, so that few bytes make many long values.
PREFIXED = "DELTA_BYTE_ARRAY"

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class _Chunk:
    """A column without subfields, in one row group."""

    metadata: pq.ColumnChunkMetaData
    schema: pq.ColumnSchema

    @cached_property
    def is_bytes(self) -> bool:
        """Whether each value has its own length."""
        return bool(self.metadata.physical_type == "BYTE_ARRAY")

    @cached_property
    def decoded_bytes(self) -> int:
        """Bytes of all values, where repeated values count once."""
        width = 4 if self.is_bytes else max(self.schema.length or 0, 8)
        return int(max(self.metadata.total_uncompressed_size, self.metadata.num_values * width))

    @cached_property
    def is_expanded(self) -> bool:
        """Whether its values may be longer than ``decoded_bytes``, and no dictionary gives their
        lengths."""
        in_lists = self.schema.max_repetition_level > 0
        return self.is_bytes and (in_lists or PREFIXED in self.metadata.encodings)


def parquet_batches(
    source: SourceFile,
    row_groups: list[int],
    names: list[str],
    rows: int,
    longest: dict[str, int],
    metadata: pq.FileMetaData | None = None,
) -> Iterator[tuple[pa.Table, dict[int, str]]]:
    """Yield the rows in order, and a reason for each row with a cell that is too long (then null).

    Args:
        source: The file.
        row_groups: Row groups that are read.
        names: Columns that are read.
        rows: Largest number of rows of a batch.
        longest: Most bytes of a cell, by column; others have no limit.
        metadata: Its footer, where it has been read.

    Raises:
        InputError: The file is not Parquet, or unpacks to very many times its length.
    """
    metadata = metadata or parquet_file(source).metadata
    texts: set[str] = set()
    expanded = 0
    decoded_rows = rows * BATCHES_DECODED
    for index in row_groups:
        chunks = _chunks(metadata, index, names)
        for chunk in chunks:
            _check(source, index, chunk)
        row_bytes = sum(chunk.decoded_bytes for chunk in chunks) / max(
            metadata.row_group(index).num_rows, 1
        )
        decoded_rows = min(decoded_rows, max(int(BATCH_BYTES / max(row_bytes, 1)), 1))
        in_bytes = [chunk for chunk in chunks if chunk.is_bytes]
        texts |= {chunk.metadata.path_in_schema for chunk in in_bytes}
        if any(chunk.is_expanded for chunk in chunks):
            expanded = max([expanded, *(chunk.decoded_bytes for chunk in in_bytes)])
    if expanded:
        # No value is longer than its whole unpacked column.
        decoded_rows, texts = min(decoded_rows, max(BATCH_BYTES // expanded, 1)), set()
    # Repeated values are held once, until their lengths in all rows are known.
    file = parquet_file(source, metadata, sorted(texts))
    batches = file.iter_batches(decoded_rows, row_groups=row_groups, columns=names)
    tables: Iterator[pa.Table] = map(pa.table, batches)
    for table in gathered(tables) if expanded else tables:
        yield from _bounded(table, rows, longest)


def _chunks(metadata: pq.FileMetaData, row_group: int, names: list[str]) -> list[_Chunk]:
    group = metadata.row_group(row_group)
    chunks = [
        _Chunk(group.column(place), metadata.schema.column(place))
        for place in range(group.num_columns)
    ]
    return [
        chunk
        for chunk in chunks
        for path in [chunk.metadata.path_in_schema]
        if any(path == name or path.startswith(f"{name}.") for name in names)
    ]


def _check(source: SourceFile, row_group: int, chunk: _Chunk) -> None:
    packed, unpacked = chunk.metadata.total_compressed_size, chunk.decoded_bytes
    if unpacked > max(MOST_BYTES, MOST_UNPACKED * packed):
        raise InputError(
            f"{source.uri}: column {chunk.metadata.path_in_schema!r} must not unpack to more than "
            f"{MOST_UNPACKED} times its bytes where it has more than {MOST_BYTES >> 20} MiB in a "
            f"row group, got {unpacked:,} of {packed:,} in row group {row_group}; write the file "
            "in row groups of fewer rows, or leave it out"
        )


def _bounded(
    table: pa.Table, rows: int, longest: dict[str, int]
) -> Iterator[tuple[pa.Table, dict[int, str]]]:
    """Yield a table in parts of bounded size, without dictionaries and cells that are too long."""
    reasons: dict[int, str] = {}
    columns: dict[str, pa.Array] = {}
    sizes = np.zeros(table.num_rows, np.int64)
    for name, column in zip(table.column_names, table.columns, strict=True):
        array = column.combine_chunks()
        lengths = _row_bytes(array)
        too_long = lengths > longest.get(name, np.iinfo(np.int64).max)
        if too_long.any():
            limit = f"{longest[name] >> 20} MiB"
            reason = f"column {name!r} has more than {limit}"
            reasons.update(dict.fromkeys(np.flatnonzero(too_long).tolist(), reason))
            array = array.take(pa.array(np.arange(len(array)), mask=too_long))
            lengths = np.where(too_long, 0, lengths)
        columns[name] = array
        sizes += lengths
    full = np.flatnonzero(np.diff(np.cumsum(sizes) // BATCH_BYTES)) + 1
    ends = np.union1d(full, np.arange(rows, table.num_rows, rows)).tolist()
    for start, stop in zip([0, *ends], [*ends, table.num_rows], strict=True):
        part = {name: _plain(array.slice(start, stop - start)) for name, array in columns.items()}
        broken = {row - start: reason for row, reason in reasons.items() if start <= row < stop}
        yield pa.table(part), broken


def _row_bytes(array: pa.Array) -> Int64:
    """Return the bytes of each row's texts, shape (n,); other values are small or decoded
    already."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        lengths = pa.array(_row_bytes(array.dictionary)).take(array.indices)
    elif pa.types.is_struct(kind):
        fields = [_row_bytes(array.field(place)) for place in range(kind.num_fields)]
        return np.asarray(np.sum([np.zeros(len(array)), *fields], axis=0), np.int64)
    elif _is_bytes(kind):
        lengths = pc.binary_length(array)
    else:
        return np.zeros(len(array), np.int64)
    return np.asarray(pc.fill_null(lengths, 0).to_numpy(zero_copy_only=False), np.int64)


def _is_bytes(kind: pa.DataType) -> bool:
    tests = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_binary,
        pa.types.is_large_binary,
    )
    return any(test(kind) for test in tests)


def _plain(array: pa.Array) -> pa.Array:
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def parquet_first_rows(source: SourceFile, cells: bool) -> FirstRows:
    """Return columns from the schema and, if ``cells``, the first values of texts and numbers."""
    file = parquet_file(source)
    schema = file.schema_arrow
    check_names(schema.names, source)
    kinds = {name: plain_type(kind) for name, kind in zip(schema.names, schema.types, strict=True)}
    # pandas writes a column without values as numbers, whatever it holds elsewhere.
    kinds |= dict.fromkeys(kinds.keys() & _empty_columns(file.metadata), pa.null())
    found = FirstRows(kinds, indices=tuple(_pandas_indices(schema)))
    wanted = [name for name, kind in kinds.items() if is_text(kind) or is_number(kind)]
    lists = [name for name, kind in kinds.items() if is_vector(kind)]
    if cells and (wanted or lists) and file.metadata.num_row_groups:
        names = [*wanted, *lists]
        longest = dict.fromkeys(names, LONGEST_LINE_BYTES)
        batches = parquet_batches(source, [0], names, SNIFFED_ROWS, longest, file.metadata)
        for table, _ in batches:
            found.cells.update({name: plain_cells(table[name]) for name in wanted})
            for name in lists:
                counts = pc.list_value_length(flatten(table[name])).drop_null()
                found.lengths[name] = counts.to_pylist()
            break
    return found


def _empty_columns(metadata: pq.FileMetaData) -> set[str]:
    """Return the columns without a value in any row, by the statistics of the file."""
    groups = [metadata.row_group(place) for place in range(metadata.num_row_groups)]
    found: set[str] = set()
    for place in range(metadata.num_columns if groups else 0):
        chunks = [group.column(place) for group in groups]
        if all(
            chunk.statistics is not None
            and chunk.statistics.has_null_count
            and chunk.statistics.null_count == chunk.num_values
            for chunk in chunks
        ):
            found.add(chunks[0].path_in_schema)
    return found


def _pandas_indices(schema: pa.Schema) -> list[str]:
    """Return the columns that hold the index of a frame, by the metadata of pandas in the file."""
    of_pandas = (schema.metadata or {}).get(b"pandas")
    try:
        columns = json.loads(of_pandas).get("index_columns", []) if of_pandas else []
    except (ValueError, AttributeError):
        return []
    return [name for name in columns if isinstance(name, str)]
