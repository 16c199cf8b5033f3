import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hercules_scale.storage import tables
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import (
    gathered,
    iterate_batches,
    iterate_rows,
    read_rows,
    read_table,
    read_tables,
    table_writer,
    take_rows,
    write_table,
)

SCHEMA = pa.schema([("row", pa.int64()), ("name", pa.string())])


def numbers(start: int, stop: int) -> pa.Table:
    rows = list(range(start, stop))
    return pa.table({"row": rows, "name": [str(row) for row in rows]}, schema=SCHEMA)


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A table of 20 rows in row groups of 7, 7 and 6."""
    store = Store(str(tmp_path_factory.mktemp("grouped")))
    pq.write_table(numbers(0, 20), store.path("t.parquet"), row_group_size=7)
    return store


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    write_table(store, "a/t.parquet", numbers(0, 5))
    assert read_table(store, "a/t.parquet").equals(numbers(0, 5))
    assert read_table(store, "a/t.parquet", ["name"]).column_names == ["name"]


def test_the_record_vouches_for_the_bytes(tmp_path: Path) -> None:
    record = write_table(Store(str(tmp_path)), "t.parquet", numbers(0, 5))
    data = (tmp_path / "t.parquet").read_bytes()
    assert (record.path, record.rows) == ("t.parquet", 5)
    assert record.size_bytes == len(data)
    assert record.sha256 == hashlib.sha256(data).hexdigest()


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    first = write_table(store, "a.parquet", numbers(0, 5))
    assert write_table(store, "b.parquet", numbers(0, 5)).sha256 == first.sha256


def test_appended_tables_take_the_order_and_types_of_the_schema(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with table_writer(store, "t.parquet", SCHEMA) as writer:
        writer.write(numbers(0, 2))
        other = {"more": [0.5], "name": pa.array(["2"], pa.large_string()), "row": [2]}
        writer.write(pa.table(other))
        assert writer.finish().rows == 3
    assert read_table(store, "t.parquet").equals(numbers(0, 3))


def test_a_table_without_rows_keeps_its_schema(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    assert write_table(store, "t.parquet", SCHEMA.empty_table()).rows == 0
    assert read_table(store, "t.parquet").schema == SCHEMA


def test_large_tables_are_cut_into_row_groups(tmp_path: Path) -> None:
    write_table(Store(str(tmp_path)), "t.parquet", numbers(0, 10), group_rows=4)
    assert pq.ParquetFile(tmp_path / "t.parquet").metadata.num_row_groups == 3


@given(start=st.integers(0, 20), stop=st.integers(0, 25))
@settings(deadline=None)
def test_any_range_of_rows_is_that_of_the_whole_table(
    grouped: Store, start: int, stop: int
) -> None:
    stop = max(start, stop)
    found = read_rows(grouped, "t.parquet", start, stop, ["row"])
    assert found["row"].to_pylist() == list(range(20))[start:stop]


@given(start=st.integers(0, 20), stop=st.integers(0, 25))
@settings(deadline=None)
def test_any_range_of_rows_is_read_a_row_group_at_a_time(
    grouped: Store, start: int, stop: int
) -> None:
    parts = [
        part["row"].to_pylist() for part in iterate_rows(grouped, "t.parquet", None, start, stop)
    ]
    assert max([0, *map(len, parts)]) <= 7
    assert [row for part in parts for row in part] == list(range(20))[start:stop]


@given(rows=st.sets(st.integers(0, 19), min_size=1))
@settings(deadline=None)
def test_rows_are_taken_by_their_places(grouped: Store, rows: set[int]) -> None:
    taken = take_rows(grouped, "t.parquet", np.array(sorted(rows)), "name")
    assert taken.to_pylist() == [str(row) for row in sorted(rows)]


def test_tables_are_gathered_up_to_a_number_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "PART_BYTES", 2 * numbers(0, 2).nbytes)
    parts = gathered([numbers(0, 2), numbers(2, 4), numbers(4, 6), numbers(6, 16)])
    assert [part["row"].to_pylist() for part in parts] == [
        list(range(4)),
        [4, 5],
        list(range(6, 16)),
    ]


def test_files_are_joined_in_the_order_given(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    write_table(store, "a.parquet", numbers(0, 2))
    write_table(store, "b.parquet", numbers(2, 5))
    joined = read_tables(store, ["b.parquet", "a.parquet"], ["row"])
    assert joined["row"].to_pylist() == [2, 3, 4, 0, 1]


def test_batches_cover_the_file_in_order(grouped: Store) -> None:
    batches = list(iterate_batches(grouped, "t.parquet", ["row"], rows=6))
    assert max(batch.num_rows for batch in batches) <= 6
    assert pa.Table.from_batches(batches)["row"].to_pylist() == list(range(20))
