from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hercules_scale import Hierarchy
from hercules_scale.commands.cli import main
from hercules_scale.errors import InputError
from hercules_scale.results import json_stream
from hercules_scale.results.json_stream import read_members

ITEM_IDS = ["a", 'b\nnewline, "quoted"', "=1+1", "-5", "@cell"]
Imported = Callable[[Any], Hierarchy]


def item(model: dict[str, Any], row: int) -> dict[str, Any]:
    found: dict[str, Any] = model["clusters"][row]
    return found


def test_tree_titles_items_and_distances_are_the_models(
    model: dict[str, Any], imported: Imported
) -> None:
    run = imported(model)
    fine, coarse = run.clusters(1), run.clusters(2)
    assert fine["title"].tolist() == [node["title"] for node in model["clusters"][6:9]]
    assert fine["parent_cluster_id"].tolist() == [0, 0, 1]
    assert coarse["n_items"].tolist() == [4, 2]
    assert coarse["n_children"].tolist() == [2, 1]
    members = run.memberships()
    assert members["item_id"].tolist() == [node["original_id"] for node in model["clusters"][:6]]
    assert members["level_1"].tolist() == [0, 0, 1, 1, 2, 2]
    assert members["level_2"].tolist() == [0, 0, 0, 0, 1, 1]
    # Of (1, 0) to the own centroid (0.9, 0.1) and to the nearest other, (0.125, 1).
    assert members["distance_1"][0] == pytest.approx(0.02, abs=1e-6)
    assert members["margin_1"][0] == pytest.approx(0.875**2 + 1 - 0.02, abs=1e-6)
    assert fine["inertia"][0] == pytest.approx(0.04, abs=1e-6)
    assert list(fine["exemplar_item_ids"][2]) == ["-5", "@cell"]
    items = run.table("items")
    assert items["text"].tolist() == [node["_raw_item_data"] for node in model["clusters"][:6]]
    vectors = np.stack(list(run.table("embeddings")["embedding"]))
    expected = [node["representation_vector"] for node in model["clusters"][:6]]
    np.testing.assert_allclose(vectors, expected)
    assert run.table("reductions")["pca_1"][4] == -1.0
    assert run.run["config"]["embedding"]["model"] == "letters"


def test_a_model_without_vectors_has_memberships_without_distances(
    model: dict[str, Any], imported: Imported
) -> None:
    for node in model["clusters"]:
        node["representation_vector"] = None
    run = imported(model)
    assert run.memberships()["level_2"].tolist() == [0, 0, 0, 0, 1, 1]
    assert run.memberships()["distance_1"].isna().all()
    with pytest.raises(InputError, match="holds no table 'embeddings'"):
        run.table("embeddings")


def test_numeric_items_keep_their_columns_and_clusters_their_statistics(
    model: dict[str, Any], imported: Imported
) -> None:
    model["state"] |= {"input_data_type": "numeric", "variable_names": ["width", "height"]}
    for row in range(6):
        item(model, row)["original_numeric_data"] = [[row, 10.0 * row]]
    model["clusters"][6]["original_numeric_data"] = [[0, 0.0], [1, 10.0]]
    run = imported(model)
    assert run.table("items")["height"].tolist() == [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]
    stats = run.clusters(1)["numeric_stats"][0]
    assert stats[1] == {"variable": "height", "mean": 5.0, "min": 0.0, "max": 10.0, "std": 5.0}


@pytest.mark.parametrize(
    ("change", "item_id", "reason"),
    [
        ({"original_id": "a"}, "a", "the id comes a second time"),
        ({"original_id": ["x"]}, None, r"original_id must be text or a number, got \['x'\]"),
        ({"original_id": None}, None, "original_id must be text or a number, got None"),
        ({"parent_id": None}, None, "parent_id must be a cluster of level 1, got None"),
        ({"parent_id": 13}, None, "parent_id must be a cluster of level 1, got 13"),
        ({"_raw_item_data": None}, None, "_raw_item_data must be text, got None"),
        ({"_raw_item_data": "half \ud800"}, None, "_raw_item_data must be text"),
        ({"representation_vector": [1.0]}, None, "representation_vector must be 2 finite numbers"),
        ({"representation_vector": [1e99, 0]}, None, "must be 2 finite numbers"),
        ({"representation_vector": ["x", {}]}, None, "must be 2 finite numbers"),
    ],
)
def test_an_item_that_the_tables_cannot_hold_is_set_aside_with_the_reason(
    model: dict[str, Any],
    imported: Imported,
    change: dict[str, Any],
    item_id: str | None,
    reason: str,
) -> None:
    item(model, 3).update(change)
    run = imported(model)
    assert run.memberships()["item_id"].tolist() == ITEM_IDS
    rejected = run.table("rejected")
    assert rejected["source_row"].tolist() == [3]
    assert rejected["reason"].str.contains(reason).all()
    if item_id:
        assert rejected["item_id"].tolist() == [item_id]
    assert run.clusters(1)["n_items"].tolist() == [2, 1, 2]
    assert run.run["alarms"] == ["1 of 6 items were rejected"]


def test_a_title_that_is_missing_or_failed_is_marked(
    model: dict[str, Any], imported: Imported
) -> None:
    model["clusters"][6]["title"] = None
    model["clusters"][7]["title"] = "Cluster 11 (LLM Failed)"
    clusters = imported(model).clusters(1)
    assert clusters["summary_status"].tolist() == ["failed", "failed", "ok"]
    assert clusters["title"][0] == "Cluster 1/0"
    assert clusters["summary_error"][0] == "the model holds no title"


def change_state(model: dict[str, Any], **values: Any) -> None:
    model["state"] |= values


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda m: m["clusters"].insert(0, 5), r"clusters\[0\]: must be an object .* got 5"),
        (
            lambda m: m["clusters"][8].pop("level"),
            r"clusters\[8\]: .* whole number from 0 for level",
        ),
        (lambda m: m["clusters"][8].update(id="x"), r"clusters\[8\]: .* for id, got 'x'"),
        (lambda m: m["clusters"][8].update(id=10), "id 10 comes a second time in its level"),
        (
            lambda m: m["clusters"][8].update(parent_id=11),
            r"clusters\[8\]: parent_id must be .* 11",
        ),
        (lambda m: m["clusters"][8].update(title=["x"]), r"clusters\[8\]: title must be text"),
        (lambda m: m["clusters"][8].update(title="\udfff"), r"clusters\[8\]: title must be text"),
        (lambda m: m.update(clusters=m["clusters"][:6]), "must hold levels from 1 .* got none"),
        (lambda m: m["clusters"][9].update(level=7), r"without a gap, got \[1, 2, 7\]"),
        (lambda m: change_state(m, input_data_type="sound"), "input_data_type must be text"),
        (lambda m: m.update(state=None), "input_data_type must be text"),
        (lambda m: m.update(config={"x": "\ud800"}), "holds half a character"),
        (
            lambda m: change_state(m, input_data_type="numeric", variable_names=["row"]),
            "be none of row, item_id",
        ),
        (lambda m: change_state(m, input_data_type="numeric"), "must name the numeric columns"),
        (lambda m: [node.update(parent_id=None) for node in m["clusters"][:6]], "none of 6 items"),
    ],
)
def test_a_malformed_model_is_refused_with_its_place(
    model: dict[str, Any],
    imported: Imported,
    tmp_path: Path,
    spoil: Callable[[dict[str, Any]], Any],
    message: str,
) -> None:
    spoil(model)
    with pytest.raises(InputError, match=message):
        imported(model)
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "{ wanted, the end of the file found"),
        (b"[1]", "{ wanted, [ found"),
        (b'{"clusters": 5}', "[ wanted, 5 found"),
        (b'{"clusters": [{"level": 0, "id"', "Expecting ':' delimiter"),
        (b'{"other": 1', ", or } wanted, the end of the file found"),
        (b'{"clusters": [{"level": 0, "id": 1}', ", or ] wanted, the end of the file found"),
        (b'{"a": 1} x', "more after the end of the object"),
        (b'{"a": tru}', "after character 6: Expecting value"),
        (b"{1: 2}", "a member's name must be text"),
        (b'{"a": ' + b"[" * 100_000, "recursion"),
        (b'{"a": ' + b"1" * 5_000 + b"}", "digits"),
        (b'{"a": "\xff"}', "invalid start byte"),
    ],
)
def test_json_that_is_cut_off_or_broken_ends_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes, message: str
) -> None:
    path = tmp_path / "model.json"
    path.write_bytes(data)
    assert main(["import", str(path), "--output", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"hercules-scale: {path}: must be one JSON object")
    assert message in error
    assert error.count("\n") == 1


def test_a_missing_model_and_a_run_that_is_there_are_refused(
    model: dict[str, Any], imported: Imported, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"none.json: cannot be read .*; give a model's JSON"):
        Hierarchy.from_pyhercules(str(tmp_path / "none.json"), str(tmp_path / "other"))
    imported(model)
    with pytest.raises(InputError, match="holds a run already; give another output"):
        imported(model)


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_json_read_in_pieces_is_that_read_whole(
    model: dict[str, Any], monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(json_stream, "CHUNK_BYTES", chunk)
    model["config"] |= {"number": -12345.678e-3, "text": 'é \u2028 \\ " 😀', "none": None}
    for indent in (None, 2):
        data = io.BytesIO(json.dumps(model, indent=indent, ensure_ascii=False).encode())
        read: dict[str, Any] = {"clusters": []}
        for key, value in read_members(data, "model", "clusters"):
            if key == "clusters":
                read[key].append(value)
            else:
                read[key] = value
        assert read == model


def test_what_was_exported_for_pyhercules_comes_back_the_same(
    model: dict[str, Any], imported: Imported, tmp_path: Path
) -> None:
    first = imported(model)
    path = tmp_path / "back.json"
    first.to_json(str(path), layout="pyhercules")
    second = Hierarchy.from_pyhercules(str(path), str(tmp_path / "second"))
    for table in ("clusters", "memberships", "items", "reductions"):
        pd.testing.assert_frame_equal(first.table(table), second.table(table))
    ours, theirs = json.loads(path.read_text()), model
    for mine, their in zip(ours["clusters"][:6], theirs["clusters"][:6], strict=True):
        for key in ("original_id", "title", "_raw_item_data", "representation_vector"):
            assert (
                mine[key] == pytest.approx(their[key]) if key[0] == "r" else mine[key] == their[key]
            )
    children = {node["id"]: node["children_ids"] for node in ours["clusters"]}
    assert children == {
        **{row: [] for row in range(6)}, 6: [0, 1], 7: [2, 3], 8: [4, 5], 9: [6, 7], 10: [8],
    }  # fmt: skip
    assert [node["parent_id"] for node in ours["clusters"]] == [
        6,
        6,
        7,
        7,
        8,
        8,
        9,
        9,
        10,
        None,
        None,
    ]
    assert ours["top_cluster_ids"] == [9, 10]
    assert ours["state"]["_l0_original_ids_ordered"] == theirs["state"]["_l0_original_ids_ordered"]


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252", "utf-8"])
def test_show_writes_to_a_terminal_of_any_encoding(
    encoding: str, model: dict[str, Any], imported: Imported, monkeypatch: pytest.MonkeyPatch
) -> None:
    item(model, 6)["title"] = "Größe und चाय 茶 🙂"
    run = imported(model)
    for command in (["show", run.uri], ["show", run.uri, "--cluster", "1/0"]):
        written = io.BytesIO()
        terminal = io.TextIOWrapper(written, encoding=encoding)
        monkeypatch.setattr("sys.stdout", terminal)
        assert main(command) == 0
        terminal.flush()
        shown = written.getvalue().decode(encoding)
        assert ("Größe" in shown) == (encoding != "ascii")
        assert ("茶" if encoding == "utf-8" else "\\u8336") in shown


@pytest.mark.parametrize("changes", [{"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_show_works_without_a_locale_and_a_home(
    changes: dict[str, str], model: dict[str, Any], imported: Imported
) -> None:
    item(model, 6)["title"] = "चाय"
    run = imported(model)
    # Where nothing can be written, also by root.
    nowhere = {"PYTHONCOERCECLOCALE": "0", "HOME": "/dev/null/home"}
    shown = subprocess.run(
        [sys.executable, "-m", "hercules_scale", "show", run.uri],
        env={**os.environ, **nowhere, **changes},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    assert ("चाय" if "PYTHONUTF8" not in changes else "\\u091a") in shown.stdout


def test_show_reads_an_imported_run(
    model: dict[str, Any], imported: Imported, capsys: pytest.CaptureFixture[str]
) -> None:
    run = imported(model)
    assert main(["show", run.uri]) == 0
    assert "Things \\x1b[31m that move (4 items, 2/0)" in capsys.readouterr().out
    assert main(["show", run.uri, "--cluster", "1/2"]) == 0
    assert "@cell: a crow" in capsys.readouterr().out
