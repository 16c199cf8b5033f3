from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hercules_scale.config.reading import InputConfig
from hercules_scale.errors import InputError
from hercules_scale.reading import parquet
from hercules_scale.reading.input_pieces import split_into_pieces
from hercules_scale.reading.items import Layout, examine
from hercules_scale.reading.listing import list_sources
from hercules_scale.runtime.context import RunContext, Shards
from hercules_scale.runtime.progress import Reporter
from hercules_scale.stages import read, read_shards
from hercules_scale.storage import layout, tables
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import iterate_rows
from tests.conftest import resolved

ROWS = 4_096
LONG = "word " * 6_000


def test_texts_that_take_few_bytes_of_the_input_are_numbered_some_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_bytes = 4 * 2**20
    monkeypatch.setattr(parquet, "BATCH_BYTES", n_bytes)
    monkeypatch.setattr(tables, "PART_BYTES", n_bytes)
    column = pa.DictionaryArray.from_arrays(pa.array([0] * ROWS, pa.int32()), pa.array([LONG]))
    pq.write_table(pa.table({"text": column}), tmp_path / "t.parquet")
    config = InputConfig(path=str(tmp_path / "t.parquet"))
    sources = list_sources(config.paths)
    of_items, pieces = Layout.of(examine(config, sources)), tuple(split_into_pieces(sources))
    store = Store(str(tmp_path / "out"))
    before = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(before)
    pa.set_memory_pool(pool)
    try:
        read_shards.ScanWorker(store, config, of_items, pieces)(0)
        shards = Shards.of(ROWS, encoded=False)
        starts = read_shards.Starts.of(np.array([ROWS]), np.array([ROWS]))
        read_shards.NumberWorker("items", False, store, config, of_items, shards, starts, None)(0)
    finally:
        pa.set_memory_pool(before)
    assert pool.max_memory() < ROWS * len(LONG) // 2
    rows: list[int] = []
    for part in iterate_rows(store, layout.part("items", 0)):
        assert part.nbytes < 2 * n_bytes
        assert set(part["text"].to_pylist()) == {LONG}
        rows += part["row"].to_pylist()
    assert rows == list(range(ROWS))


@pytest.mark.ray
def test_a_file_that_is_overwritten_after_it_was_listed_is_noticed(
    tmp_path: Path, local_ray: None
) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text\na\nb\n")
    config = resolved({"input": {"path": str(path)}, "output": {"path": str(tmp_path / "run")}})
    sources = list_sources([str(path)])
    taken = examine(config.input, sources)
    path.write_text("text\nc\nd\n")
    context = RunContext(config, Store(config.output.path), "1" * 16, Reporter())
    told = r"must not change while it is read, but the input file \S+t\.csv has changed \(ctime_ns"
    with pytest.raises(InputError, match=told):
        read.read_items(context, read.Sources(sources, taken))
    assert not context.store.exists("items")


def test_reasons_are_counted_without_what_is_particular_to_a_row() -> None:
    for reason, general in (
        (
            "column 'a' holds 'x, not a number', not a number",
            "column 'a' holds something else than",
        ),
        ("line 7 has 3 columns, not 2: a secret", "the row has another width than the header"),
        ("there is no file /home/me/a.png", "there is no file of the image's name"),
        ("https://h/a.png cannot be read (no host)", "the image cannot be read"),
        ("the text is empty", "the text is empty"),
    ):
        assert read_shards._kind_of_reason(reason).startswith(general)
