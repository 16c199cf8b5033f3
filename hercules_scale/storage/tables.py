"""Parquet files written as a stream, with the record that vouches for them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hercules_scale.storage import schemas
from hercules_scale.storage.store import Store

ROW_GROUP_ROWS = 16_384
# Rows with long texts are worked on in parts of at most this many bytes.
PART_BYTES = 64 * 2**20


def vector_column(vectors: NDArray[np.floating[Any]]) -> pa.FixedSizeListArray:
    """Return the vectors of shape (n, d) as an Arrow column of their type."""
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])


def column_vectors(column: pa.ChunkedArray) -> NDArray[np.float32]:
    """Return the vectors of an Arrow column as float32, shape (n, d)."""
    return np.asarray(column_matrix(column), np.float32)


def column_matrix(column: pa.ChunkedArray) -> NDArray[Any]:
    """Return the vectors of an Arrow column in their own type, shape (n, d)."""
    array = column.combine_chunks()
    flat = array.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat.reshape(len(array), array.type.list_size))


def column_numbers(table: pa.Table, names: list[str]) -> NDArray[np.float64]:
    """Return numeric columns side by side, shape (n, p)."""
    columns = [table[name].to_numpy() for name in names]
    return np.stack(columns, axis=1) if columns else np.zeros((table.num_rows, 0))


def memberships_table(
    rows: NDArray[np.int64],
    ids: pa.Array | pa.ChunkedArray,
    labels: NDArray[np.int32],
    distances: NDArray[np.float32],
    margins: NDArray[np.float32],
) -> pa.Table:
    """Return the rows of the table ``memberships``.

    Args:
        rows: Row ids, shape (n,).
        ids: Their ``item_id``.
        labels: Cluster at each level, finest first, shape (n, L).
        distances: Distances to the own centroids, shape (n, L); NaN, which becomes null, if
            unknown.
        margins: Margins to the best others, shape (n, L); NaN, which becomes null, if there is no
            other.
    """
    columns = {"row": pa.array(rows), "item_id": ids}
    for name, values in (("level", labels), ("distance", distances), ("margin", margins)):
        for level, column in enumerate(values.T, start=1):
            # from_pandas turns NaN into null.
            columns[f"{name}_{level}"] = pa.array(np.ascontiguousarray(column), from_pandas=True)
    return pa.table(columns).cast(schemas.memberships(labels.shape[1]))


def reductions_table(
    rows: NDArray[np.int64], ids: pa.ChunkedArray, places: NDArray[np.float32]
) -> pa.Table:
    """Return the table ``reductions`` of some items, with places of shape (n, c)."""
    columns = [pa.array(rows), ids, *map(pa.array, np.ascontiguousarray(places.T))]
    return pa.table(columns, schema=schemas.reductions(places.shape[1]))


@dataclass(frozen=True)
class FileRecord:
    """Record of a data file that was written completely.

    Attributes:
        path: Name under the output.
        rows: Number of rows.
        size_bytes: Length of the file.
        sha256: Checksum of the bytes, in hexadecimal.
        schema: Short checksum of the columns' names and types.
    """

    path: str
    rows: int
    size_bytes: int
    sha256: str
    schema: str = ""


class _CheckedStream:
    """A write-only stream that counts and hashes what passes."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.hash = hashlib.sha256()
        self.size_bytes = 0
        self.dropped = False

    closed = False

    def write(self, data: Any) -> int:
        view = memoryview(data)
        self.hash.update(view)
        self.size_bytes += view.nbytes
        if not self.dropped:
            self._stream.write(view)
        return view.nbytes

    def tell(self) -> int:
        return self.size_bytes

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


class TableWriter:
    """Appends tables of one schema to a Parquet file."""

    def __init__(
        self, stream: _CheckedStream, path: str, schema: pa.Schema, group_rows: int
    ) -> None:
        self._stream, self._path, self._schema = stream, path, schema
        self._group_rows = group_rows
        # Values of vectors and pictures do not repeat and are never compared, so dictionaries and
        # statistics would be useless; they would take most of the time of writing.
        plain = [field for field in schema if not pa.types.is_nested(field.type)]
        self._writer = pq.ParquetWriter(
            stream,
            schema,
            compression="zstd",
            use_dictionary=[field.name for field in plain if pa.types.is_string(field.type)],
            write_statistics=[field.name for field in plain if not _is_bytes(field.type)],
        )
        self.rows = 0

    def write(self, table: pa.Table) -> None:
        """Append rows; columns are put into the schema's order and types."""
        self._writer.write_table(
            table.select(self._schema.names).cast(self._schema), row_group_size=self._group_rows
        )
        self.rows += table.num_rows

    def finish(self) -> FileRecord:
        """Close the file and return its record."""
        self._writer.close()
        schema = hashlib.sha256(self._schema.serialize()).hexdigest()[:16]
        stream = self._stream
        return FileRecord(self._path, self.rows, stream.size_bytes, stream.hash.hexdigest(), schema)


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind))


@contextmanager
def table_writer(
    store: Store, path: str, schema: pa.Schema, group_rows: int = ROW_GROUP_ROWS
) -> Iterator[TableWriter]:
    """Open a Parquet file to write; call ``finish`` inside for its record.

    A half-written file has no record, so it is never read.
    """
    with store.open_output(path) as stream:
        checked = _CheckedStream(stream)
        try:
            yield TableWriter(checked, path, schema, group_rows)
        except BaseException:
            # pyarrow writes the end of the file when it frees the writer, after the stream's end.
            checked.dropped = True
            raise


def write_table(
    store: Store, path: str, table: pa.Table, group_rows: int = ROW_GROUP_ROWS
) -> FileRecord:
    """Write one table as one Parquet file."""

    def write() -> FileRecord:
        with table_writer(store, path, table.schema, group_rows) as writer:
            writer.write(table)
            return writer.finish()

    return store.patiently(write)


def write_tables(
    store: Store, path: str, schema: pa.Schema, tables: Callable[[], Iterable[pa.Table]]
) -> FileRecord:
    """Write tables one after another as one Parquet file.

    ``tables`` is called again if the file is written again after a transient error of the storage.
    """

    def write() -> FileRecord:
        with table_writer(store, path, schema) as writer:
            for table in tables():
                writer.write(table)
            return writer.finish()

    return store.patiently(write)


def read_table(
    store: Store,
    path: str,
    columns: list[str] | None = None,
    where: list[tuple[str, str, int]] | None = None,
) -> pa.Table:
    """Return a whole Parquet file, or the rows that satisfy all comparisons in ``where``.

    Row groups that cannot satisfy a comparison, by their statistics, are not read.
    """

    def read() -> pa.Table:
        place = store.path(path)
        return pq.read_table(place, filesystem=store.arrow, columns=columns, filters=where)

    return store.patiently(read)


def read_schema(store: Store, path: str) -> pa.Schema:
    """Return the schema of one Parquet file; only its footer is read."""
    return store.patiently(lambda: pq.read_schema(store.path(path), filesystem=store.arrow))


def read_tables(store: Store, paths: Iterable[str], columns: list[str] | None = None) -> pa.Table:
    """Read several Parquet files of one schema as one table, in the order given."""
    return pa.concat_tables([read_table(store, path, columns) for path in paths])


def read_rows(
    store: Store, path: str, start: int, stop: int, columns: list[str] | None = None
) -> pa.Table:
    """Return rows ``start`` to ``stop`` of a Parquet file; other row groups are not read."""
    with store.open_input(path) as stream:
        file = pq.ParquetFile(stream)
        groups = [
            (index, first)
            for index, first, end in _row_groups(file)
            if end > start and first < stop
        ]
        skipped = groups[0][1] if groups else start
        table = file.read_row_groups([index for index, _ in groups], columns)
        return table.slice(start - skipped, stop - start)


def _row_groups(file: pq.ParquetFile) -> Iterator[tuple[int, int, int]]:
    """Yield the index of each row group, its first row and the row after its last."""
    first = 0
    for index in range(file.metadata.num_row_groups):
        end = first + file.metadata.row_group(index).num_rows
        yield index, first, end
        first = end


def iterate_rows(
    store: Store,
    path: str,
    columns: list[str] | None = None,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[pa.Table]:
    """Yield rows ``start`` to ``stop`` of a Parquet file, a row group at a time."""
    with store.open_input(path) as stream:
        file = pq.ParquetFile(stream)
        for index, first, end in _row_groups(file):
            begin, until = max(start, first), end if stop is None else min(stop, end)
            if begin < until:
                yield file.read_row_group(index, columns).slice(begin - first, until - begin)


def gathered(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Join consecutive tables into fewer ones of at most 64 MiB; larger ones stay alone."""
    held: list[pa.Table] = []
    n_bytes = 0
    for table in tables:
        if held and n_bytes + table.nbytes > PART_BYTES:
            yield pa.concat_tables(held)
            held, n_bytes = [], 0
        held.append(table)
        n_bytes += table.nbytes
    if held:
        yield pa.concat_tables(held)


def take_rows(store: Store, path: str, rows: NDArray[np.int64], column: str) -> pa.ChunkedArray:
    """Return a column of some rows of a Parquet file; one row group is held at a time.

    Args:
        store: The output.
        path: The file.
        rows: Places in the file, ascending, shape (n,).
        column: Name of the column.
    """
    found: list[pa.ChunkedArray] = []
    with store.open_input(path) as stream:
        file = pq.ParquetFile(stream)
        for index, first, end in _row_groups(file):
            here = rows[np.searchsorted(rows, first) : np.searchsorted(rows, end)]
            if len(here):
                found.append(file.read_row_group(index, [column])[column].take(here - first))
    return pa.chunked_array([chunk for each in found for chunk in each.chunks])


def iterate_batches(
    store: Store, path: str, columns: list[str] | None = None, rows: int = ROW_GROUP_ROWS
) -> Iterator[pa.RecordBatch]:
    """Yield a Parquet file in pieces of at most ``rows`` rows."""
    with store.open_input(path) as stream:
        yield from pq.ParquetFile(stream).iter_batches(batch_size=rows, columns=columns)
