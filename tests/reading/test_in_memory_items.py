from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.sparse import csr_array, dok_array

from hercules_scale.config.reading import InputConfig
from hercules_scale.errors import InputError
from hercules_scale.reading.in_memory_items import write_items
from hercules_scale.reading.input_pieces import split_into_pieces
from hercules_scale.reading.items import Layout, examine, read_piece
from hercules_scale.reading.listing import list_sources


def read_back(data: Any, folder: Path, **options: Any) -> tuple[str, list[dict[str, Any]], int]:
    """The modality, the items and how many rows were rejected, as a run would read them."""
    path, section = write_items(data, str(folder), **options)
    config = InputConfig.model_validate({"path": path, **section})
    of_items = Layout.of(examine(config, list_sources([path])))
    rows, n_rejected = [], 0
    for piece in split_into_pieces(list_sources([path])):
        for batch in read_piece(config, of_items, piece):
            rows += batch.items.drop_columns(["position"]).to_pylist()
            n_rejected += batch.rejected.num_rows
    return of_items.columns.modality, rows, n_rejected


@pytest.mark.parametrize(
    "data",
    [
        ["a", "b", None],
        ("a", "b", math.nan),
        pd.Series(["a", "b", None]),
        np.array(["a", "b", ""]),
        np.array(["a", "b", None], dtype=object),
        pd.DataFrame({"text": ["a", "b", None]}),
        pa.table({"text": ["a", "b", None]}),
        pl.DataFrame({"text": ["a", "b", None]}),
        [{"text": "a"}, {"text": "b"}, {}],
        ["a", "b", "\ud800"],
        ["a", "b", pd.NA],
        ["a", "b", np.float32("nan")],
        pd.Series(["a", "b", pd.NA], dtype="string"),
        pd.Series(["a", "b", pd.NaT]),
        pd.DataFrame({"text": ["a", "b", pd.NA]}),
        pd.DataFrame({"text": ["a", "b", math.nan]}),
        pd.concat([pd.DataFrame({"text": ["a", "b"]}), pd.DataFrame({"text": [""]})]),
        pd.concat([pd.Series(["a", "b"]), pd.Series([None])]),
    ],
)
def test_texts_of_every_form_are_read_and_missing_ones_set_aside(data: Any, tmp_path: Path) -> None:
    modality, rows, n_rejected = read_back(data, tmp_path)
    assert modality == "text"
    assert [(row["item_id"], row["text"]) for row in rows] == [(None, "a"), (None, "b")]
    assert n_rejected == 1


@pytest.mark.parametrize(
    "data",
    [
        {"x": "a", "y": "b"},
        pd.Series({"x": "a", "y": "b"}),
        pd.DataFrame({"text": ["a", "b"]}, index=["x", "y"]),
    ],
)
def test_items_by_id_keep_their_ids(data: Any, tmp_path: Path) -> None:
    _, rows, _ = read_back(data, tmp_path)
    assert [(row["item_id"], row["text"]) for row in rows] == [("x", "a"), ("y", "b")]


def test_rows_that_were_picked_keep_their_numbers(tmp_path: Path) -> None:
    _, rows, _ = read_back(pd.DataFrame({"text": ["a", "b", "c"]}).iloc[[0, 2]], tmp_path)
    assert [(row["item_id"], row["text"]) for row in rows] == [("0", "a"), ("2", "c")]


def test_a_missing_id_is_none(tmp_path: Path) -> None:
    _, rows, n_rejected = read_back(pd.Series({"x": "a", None: "b"}), tmp_path)
    assert ([row["item_id"] for row in rows], n_rejected) == (["x"], 1)


def test_images_of_pil_stay_upright_and_of_their_shades(tmp_path: Path) -> None:
    turned = Image.new("RGB", (6, 4), "red")
    turned.getexif()[0x0112] = 6
    grey = Image.fromarray(np.array([[0, 32768, 65535]], np.uint16))
    _, rows, _ = read_back([turned, grey], tmp_path)
    small = [Image.open(io.BytesIO(row["thumbnail"])) for row in rows]
    assert small[0].size == (4, 6)
    assert [small[1].getpixel((place, 0)) for place in range(3)] == [
        (each,) * 3 for each in (0, 128, 255)
    ]


def test_ids_of_any_scalar_type_become_text(tmp_path: Path) -> None:
    for key, text in (
        (7, "7"),
        (1.5, "1.5"),
        (True, "True"),
        (pd.Timestamp(0), "1970-01-01 00:00:00"),
    ):
        _, rows, _ = read_back({key: "a"}, tmp_path)
        assert rows[0]["item_id"] == text


MATRIX = [[1.0, 2.0], [3.0, 4.5]]


@pytest.mark.parametrize(
    "data",
    [
        np.array(MATRIX),
        np.array(MATRIX, np.float32),
        MATRIX,
        [tuple(row) for row in MATRIX],
        [np.array(row) for row in MATRIX],
        {0: MATRIX[0], 1: MATRIX[1]},
        pd.DataFrame(MATRIX),
        pd.DataFrame(MATRIX, columns=["width", "height"]),
        [{"width": 1, "height": 2}, {"width": 3, "height": 4.5}],
    ],
)
def test_numbers_of_every_form_are_numeric(data: Any, tmp_path: Path) -> None:
    modality, rows, n_rejected = read_back(data, tmp_path)
    assert (modality, n_rejected) == ("numeric", 0)
    assert [list(row.values())[1:] for row in rows] == MATRIX


@pytest.mark.parametrize(
    "data",
    [
        [1, 2.5, None],
        [1, 2.5, pd.NA],
        [1, 2.5, pd.NaT],
        np.array([1, 2.5, np.nan]),
        pd.Series([1, 2.5, None]),
    ],
)
def test_single_numbers_are_one_variable(data: Any, tmp_path: Path) -> None:
    modality, rows, n_rejected = read_back(data, tmp_path)
    assert (modality, n_rejected) == ("numeric", 1)
    assert [row["column_0"] for row in rows] == [1.0, 2.5]


def test_a_matrix_may_be_said_to_be_of_embeddings(tmp_path: Path) -> None:
    for data in (np.array(MATRIX), MATRIX):
        modality, rows, _ = read_back(data, tmp_path, modality="embedding")
        assert modality == "embedding"
        assert [row["embedding"] for row in rows] == MATRIX
    _, rows, n_rejected = read_back([[1.0, 2.0], [3.0], None, [4.0, 5.0]], tmp_path)
    assert ([row["embedding"] for row in rows], n_rejected) == ([[1.0, 2.0], [4.0, 5.0]], 2)


def test_images_may_be_paths_bytes_or_pil_images(tmp_path: Path) -> None:
    image = Image.new("CMYK", (6, 5))
    image.convert("RGB").save(tmp_path / "red.png")
    data = io.BytesIO()
    image.convert("L").save(data, "JPEG")
    path = tmp_path / "red.png"
    for items in ([str(path), None], [path, path.with_name("gone.png")], [data.getvalue(), b"x"]):
        modality, rows, n_rejected = read_back(items, tmp_path / "out")
        assert (modality, len(rows), n_rejected) == ("image", 1, 1)
    _, rows, _ = read_back({"a": image, "b": image.convert("L")}, tmp_path / "out")
    assert [row["item_id"] for row in rows] == ["a", "b"]


def test_ground_truth_stands_beside_the_items(tmp_path: Path) -> None:
    path, section = write_items(["a", "b"], str(tmp_path), labels=[1, None])
    assert section["label_columns"] == ["label"]
    assert pq.read_table(path)["label"].to_pylist() == ["1", None]
    truth = pd.DataFrame({"coarse": ["x", "y"], "fine": ["u", "v"]})
    _, section = write_items(["a", "b"], str(tmp_path), labels=truth)
    assert section["label_columns"] == ["coarse", "fine"]


def test_the_same_items_are_the_same_file_and_others_another(tmp_path: Path) -> None:
    first, _ = write_items(["a"], str(tmp_path))
    changed = Path(first).stat().st_mtime_ns
    assert write_items(["a"], str(tmp_path))[0] == first
    assert Path(first).stat().st_mtime_ns == changed
    assert write_items(["b"], str(tmp_path))[0] != first


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (7, {}, "items must be a list, mapping, Series, .* got int"),
        (b"abc", {}, "items must be a list, mapping, Series, .* got bytes"),
        ([], {}, "items must hold at least one item, got none"),
        (["a", 5], {}, "item 1 must be text, got int 5; convert it"),
        ([5, "a"], {}, "item 1 must be a number, got str 'a'; convert it"),
        ([{1}], {}, "item 0 must be text, an image, a number or a list of numbers, got set"),
        ([b"x", 3], {}, "item 1 must be an image's path, bytes or PIL image, got int"),
        ([["a"], ["b"]], {}, "items must be lists of numbers"),
        ({1: "a", "1": "b"}, {}, "ids of items must be of one type, got int and str"),
        (np.zeros((2, 2, 2)), {}, r"array of shape \(items, numbers\), got \(2, 2, 2\)"),
        (np.ones((2, 2), complex), {}, "must be real numbers, got complex128. Complex data not"),
        ([[1, 2j], [3, 4]], {}, "must be real numbers, got complex128"),
        ([np.complex128(1j), 2], {}, "must be real numbers, got complex128"),
        (np.empty((0, 3)), {}, "items must hold at least one item, got none"),
        (
            np.empty((3, 0)),
            {},
            r"items have 0 feature\(s\) \(shape=\(3, 0\)\) while a minimum of 1",
        ),
        (csr_array(np.eye(3)), {}, r"must be dense, got a sparse csr_array; give items\.toarray"),
        (dok_array(np.eye(3)), {}, "must be dense, got a sparse dok_array"),
        (pd.DataFrame({"a": [1, "x"]}), {}, "a column holds values of several types"),
        (
            pd.DataFrame([["a", "b"]], columns=["x", "x"]),
            {},
            "column names must differ, but 'x' occurs more than once; rename",
        ),
        (
            pd.DataFrame({"x": pd.arrays.SparseArray([0, 1])}),
            {},
            "column 'x' is sparse; give frame",
        ),
        (["a"], {"labels": [1, 2]}, r"labels must be as many as the items \(1\), got 2"),
    ],
)
def test_what_is_no_item_is_refused_by_name(
    data: Any, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        write_items(data, str(tmp_path), **options)
    assert not list(tmp_path.iterdir())
