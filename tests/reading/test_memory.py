from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from hercules_scale.errors import InputError
from hercules_scale.reading.memory import write_items


@pytest.mark.parametrize(
    "data", [["a", "b", None], ("a", "b", None), pd.Series(["a", "b", None], index=[7, 7, 7])]
)
def test_texts_in_a_row_get_no_ids(data: Any, tmp_path: Path) -> None:
    path, columns = write_items(data, str(tmp_path))
    assert columns == {"id_column": None, "text_column": "text"}
    assert pq.read_table(path).to_pydict() == {"text": ["a", "b", None]}


def test_a_dict_keeps_its_ids_text_or_numbers(tmp_path: Path) -> None:
    for data, ids in (({"x": "a", "007": "b"}, ["x", "007"]), ({7: "a", 8: "b"}, ["7", "8"])):
        path, columns = write_items(data, str(tmp_path))
        assert columns == {"id_column": "item_id", "text_column": "text"}
        assert pq.read_table(path)["item_id"].to_pylist() == ids


def test_the_same_items_are_the_same_file_and_others_another(tmp_path: Path) -> None:
    first, _ = write_items(["a"], str(tmp_path))
    changed = Path(first).stat().st_mtime_ns
    assert write_items(["a"], str(tmp_path))[0] == first
    assert Path(first).stat().st_mtime_ns == changed
    assert write_items(["b"], str(tmp_path))[0] != first


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("a text", "items must be a list or Series of texts, or a dict of id to text"),
        (7, "items must be a list or Series of texts"),
        ([], "items must hold at least one item, got none"),
        (["a", 5], "item 1 must be text, got int 5; convert it"),
        ({1: "a", "1": "b"}, "must be all text or all whole numbers, got int and str"),
        ({1.5: "a"}, "must be all text or all whole numbers, got float"),
        ({True: "a"}, "must be all text or all whole numbers, got bool"),
        (["\ud800"], "must be valid Unicode"),
    ],
)
def test_what_is_no_item_is_refused_by_name(data: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        write_items(data, str(tmp_path))
    assert not list(tmp_path.iterdir())
