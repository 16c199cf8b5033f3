from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hercules_scale.errors import InputError
from hercules_scale.reading import parquet
from hercules_scale.reading.listing import list_sources
from hercules_scale.reading.parquet import BATCH_BYTES, parquet_batches
from hercules_scale.storage import tables

ROWS = 8_192
LONG = "a" * (64 * 2**10)


@pytest.fixture
def pool() -> Iterator[pa.MemoryPool]:
    """Arrow's memory, counted from here."""
    before = pa.default_memory_pool()
    counted = pa.proxy_memory_pool(before)
    pa.set_memory_pool(counted)
    try:
        yield counted
    finally:
        pa.set_memory_pool(before)


def repeated(value: Any, kind: pa.DataType) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array([0] * ROWS, pa.int32()), pa.array([value], kind))


def written(folder: Path, column: pa.Array, **options: Any) -> Path:
    path = folder / "t.parquet"
    pq.write_table(pa.table({"text": column}), path, compression="zstd", **options)
    assert path.stat().st_size < 100_000
    return path


def batches(path: Path, rows: int = ROWS, **longest: int) -> Iterator[tuple[pa.Table, Any]]:
    (source,) = list_sources([str(path)])
    groups = list(range(pq.ParquetFile(path).metadata.num_row_groups))
    return parquet_batches(source, groups, ["text"], rows, longest)


def check_bounded(path: Path, pool: pa.MemoryPool, n_rows: int) -> None:
    found = 0
    for table, broken in batches(path):
        assert not broken
        assert table.nbytes <= BATCH_BYTES + 2 * len(LONG)
        found += table.num_rows
    assert found == n_rows
    assert pool.max_memory() < 3 * BATCH_BYTES


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary()])
@pytest.mark.parametrize("says_so", [True, False])
def test_a_text_that_a_dictionary_repeats_is_decoded_some_rows_at_a_time(
    kind: pa.DataType, says_so: bool, tmp_path: Path, pool: pa.MemoryPool
) -> None:
    value = LONG if kind != pa.binary() else LONG.encode()
    path = written(tmp_path, repeated(value, kind), store_schema=says_so)
    check_bounded(path, pool, ROWS)


def test_bytes_in_a_record_are_not_repeated(tmp_path: Path, pool: pa.MemoryPool) -> None:
    column = repeated(LONG.encode(), pa.binary())
    record = pa.StructArray.from_arrays([column], ["bytes"])
    n_rows = 0
    for table, _ in batches(written(tmp_path, record)):
        n_rows += table.num_rows
        assert table.num_rows * len(LONG) <= BATCH_BYTES + len(LONG)
        assert table["text"][0].as_py() == {"bytes": LONG.encode()}
    assert n_rows == ROWS
    assert pool.max_memory() < BATCH_BYTES


def test_a_text_that_repeats_the_one_before_is_decoded_some_rows_at_a_time(
    tmp_path: Path, pool: pa.MemoryPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "BATCH_BYTES", 2**22)
    monkeypatch.setattr(tables, "PART_BYTES", 2**22)
    column = pa.array([LONG] * 1_024)
    options = {"use_dictionary": False, "column_encoding": "DELTA_BYTE_ARRAY"}
    path = written(tmp_path, column, **options)
    del column
    assert pool.bytes_allocated() < 2**22
    peaks = []
    n_rows = 0
    for table, _ in batches(path):
        n_rows += table.num_rows
        peaks.append(pool.bytes_allocated())
    assert n_rows == 1_024
    # Text, and what is gathered of it.
    assert max(peaks) < 4 * 2**22


def test_pages_that_unpack_to_very_much_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "MOST_BYTES", 2**20)
    texts = written(tmp_path, pa.array([LONG] * 1_000), use_dictionary=False)
    with pytest.raises(InputError, match=r"t\.parquet: column 'text' must not unpack to more than"):
        next(batches(texts))
    numbers = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(10**6)), 10**5)
    with pytest.raises(InputError, match=r"'text\.list\.element' must not unpack .* 8,000,000 of"):
        next(batches(written(tmp_path, numbers)))


def test_a_cell_that_is_too_long_is_set_aside_alone(tmp_path: Path) -> None:
    values = pa.array(["a", LONG, "b", None])
    for column in (values, values.dictionary_encode()):
        ((table, broken),) = batches(written(tmp_path, column), text=2**10)
        assert table["text"].to_pylist() == ["a", None, "b", None]
        assert broken == {1: "column 'text' has more than 0 MiB"}


def test_reasons_keep_their_rows_where_a_batch_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "BATCH_BYTES", 25)
    column = pa.array(["a" * 10, "b" * 10, "c" * 10, "d" * 99, "e" * 10]).dictionary_encode()
    monkeypatch.setattr(parquet, "MOST_BYTES", 10**6)
    monkeypatch.setattr(parquet._Chunk, "decoded_bytes", 1)
    found = list(batches(written(tmp_path, column), text=50))
    assert [table["text"].to_pylist() for table, _ in found] == [
        ["a" * 10, "b" * 10],
        ["c" * 10, None, "e" * 10],
    ]
    assert [list(broken) for _, broken in found] == [[], [1]]
