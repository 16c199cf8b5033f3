"""Measuring a finished run again: the command, the method, and the wall around ground truth."""

from __future__ import annotations

import ast
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import (
    adjusted_rand_score,
    calinski_harabasz_score,
    davies_bouldin_score,
    silhouette_score,
)

import hercules_scale
from hercules_scale import Hierarchy
from hercules_scale.commands.cli import main
from hercules_scale.config.file import parse_config
from hercules_scale.errors import InputError
from hercules_scale.jobs.cluster import run
from hercules_scale.storage import layout, schemas
from tests.conftest import small_config

pytestmark = pytest.mark.ray
N_ITEMS = 1100
HOSTILE = 'kind "of" \x1b[31mcode'
# Where the name of the table that holds ground truth may stand; the explorer shows it to people.
BEHIND_THE_WALL = {
    "storage/layout.py",
    "stages/read.py",
    "stages/evaluate.py",
    "stages/read_shards.py",
    "jobs/evaluate.py",
    "explorer/map_items.py",
    "explorer/views.py",
}


@pytest.fixture(scope="module")
def corpus(icd: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Items in two shards; the second classification has few values, and a hostile name."""
    path = tmp_path_factory.mktemp("corpus") / "icd.parquet"
    table = icd.take(np.linspace(0, icd.num_rows - 1, N_ITEMS).astype(int))
    kinds = [code[0] if code[2] in "02468" else None for code in table["code"].to_pylist()]
    pq.write_table(table.append_column(HOSTILE, pa.array(kinds)), path)
    return path


@pytest.fixture(scope="module")
def finished(corpus: Path, tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Path:
    output = tmp_path_factory.mktemp("runs") / "first"
    columns = {"label_columns": ["chapter", HOSTILE]}
    run(parse_config(small_config(corpus, output, input=columns)))
    return output


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """The run at another place, to change."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def of_items(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["basis"] == "items"].reset_index(drop=True)


def test_a_run_measures_its_items_as_scikit_learn_does(finished: Path) -> None:
    hierarchy = Hierarchy.open(str(finished))
    vectors = np.stack(hierarchy.table("embeddings")["embedding"].to_list()).astype(np.float64)
    members = hierarchy.memberships()
    frame = hierarchy.evaluations().set_index(["level", "basis", "metric"])
    for level in (1, 2, 3):
        own = members[f"level_{level}"]
        for name, expected in (
            ("silhouette", silhouette_score(vectors, own, metric="cosine")),
            ("davies_bouldin", davies_bouldin_score(vectors, own)),
            ("calinski_harabasz", calinski_harabasz_score(vectors, own)),
        ):
            assert frame.loc[(level, "items", name), "value"] == pytest.approx(expected, rel=1e-6)
            assert frame.loc[(level, "items", name), "n"] == N_ITEMS
    assert frame.loc[(2, "children", "silhouette"), "n"] == 12
    assert (1, "children", "silhouette") not in frame.index
    assert not (finished / "_work/evaluate").exists()


def test_evaluate_replaces_the_table_with_the_same_figures(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Hierarchy.open(str(copied)).evaluations()
    for _ in range(2):
        assert main(["evaluate", str(copied)]) == 0
        after = Hierarchy.open(str(copied)).evaluations()
        pd.testing.assert_frame_equal(after, before)
    manifest = json.loads((copied / layout.MANIFEST).read_text())["tables"]["evaluations"]
    (file,) = manifest
    assert hashlib.sha256((copied / file["path"]).read_bytes()).hexdigest() == file["sha256"]
    assert [path.name for path in (copied / "evaluations").iterdir()] == [Path(file["path"]).name]
    assert pq.read_table(copied / "evaluations").schema.equals(schemas.EVALUATIONS)
    printed = capsys.readouterr().out
    assert "silhouette  davies_bouldin  calinski_harabasz" in printed
    assert "labels:chapter" in printed
    assert "\x1b" not in printed
    assert not (copied / "_work/evaluate").exists()
    assert not (copied / "_work/commits/evaluate").exists()


def test_evaluate_compares_with_the_columns_named(copied: Path) -> None:
    assert main(["evaluate", str(copied), "--labels", HOSTILE]) == 0
    hierarchy = Hierarchy.open(str(copied))
    frame = hierarchy.evaluations()
    assert set(frame["basis"]) == {"items", "children", "summaries", f"labels:{HOSTILE}"}
    assert hierarchy.run["rows"]["evaluations"] == len(frame)


def test_an_unknown_column_ends_with_2_and_names_those_there_are(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(copied), "--labels", "topic"]) == 2
    assert "no column 'topic'; it has 'chapter', 'kind" in capsys.readouterr().err


def test_evaluate_of_a_folder_without_a_run_ends_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_without_work_files_metrics_of_summaries_are_those_of_the_run(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Hierarchy.open(str(copied)).evaluations()
    shutil.rmtree(copied / "_work")
    assert main(["evaluate", str(copied)]) == 0
    pd.testing.assert_frame_equal(Hierarchy.open(str(copied)).evaluations(), before)
    assert "metrics of summaries are those of the run" in capsys.readouterr().out


def test_a_run_without_metrics_gets_them_from_evaluate(
    icd: pa.Table, tmp_path: Path, local_ray: None
) -> None:
    pq.write_table(icd.slice(0, 80), tmp_path / "icd.parquet")
    values = small_config(
        tmp_path / "icd.parquet",
        tmp_path / "run",
        hierarchy={"levels": [6, 2]},
        evaluation={"metrics": "none"},
    )
    run(parse_config(values))
    hierarchy = Hierarchy.open(str(tmp_path / "run"))
    assert hierarchy.evaluations().empty
    frame = hierarchy.evaluate()
    assert {"items", "children", "summaries", "labels:chapter"} == set(frame["basis"])
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    assert len(Hierarchy.open(str(tmp_path / "run")).evaluations()) == len(frame)


def test_the_method_gives_the_figures_of_the_run_and_writes_nothing(finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    hierarchy = Hierarchy.open(str(finished))
    frame = hierarchy.evaluate()
    pd.testing.assert_frame_equal(
        frame.drop(columns=["low", "high"]),
        hierarchy.evaluations()[["level", "metric", "basis", "value", "n"]],
    )
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_labels_are_taken_in_any_form(finished: Path) -> None:
    hierarchy = Hierarchy.open(str(finished))
    truth = hierarchy.table("labels")["chapter"]
    ids = hierarchy.memberships()["item_id"]
    own = hierarchy.memberships()["level_2"]
    expected = adjusted_rand_score(truth, own)
    by_id = pd.Series(truth.to_numpy(), index=ids.to_numpy()).sample(frac=1, random_state=0)
    forms: dict[str, list[Any]] = {
        "labels:chapter": ["chapter", truth],
        "labels:given": [
            truth.tolist(),
            pd.factorize(truth)[0],
            dict(zip(ids, truth, strict=True)),
            by_id,
        ],
    }
    for basis, each in forms.items():
        for labels in each:
            frame = hierarchy.evaluate(labels).set_index(["level", "basis", "metric"])
            assert frame.loc[(2, basis, "ari"), "value"] == pytest.approx(expected)
            assert frame.loc[(2, basis, "ari"), "n"] == N_ITEMS


def test_items_that_a_dict_leaves_out_are_left_out(finished: Path) -> None:
    hierarchy = Hierarchy.open(str(finished))
    known = hierarchy.memberships()["item_id"][:50]
    labels: dict[str, object] = {item: place % 3 for place, item in enumerate(known)}
    labels[known[7]] = None
    frame = hierarchy.evaluate(labels)
    of_labels = frame[frame["basis"] == "labels:given"]
    assert set(of_labels["n"]) == {49}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", "b"], "one value for each of the 1,100 items.*got 2; or give a dict"),
        ({"no such id": 1}, "1 ids that the run does not have, such as 'no such id'"),
        (pd.Series([1, 2], index=["A00.0", "A00.0"]), "'A00.0' more than once"),
        ([None] * N_ITEMS, "labels hold no value"),
        ([["a"]] * N_ITEMS, "one text or number for each item"),
        (np.zeros((N_ITEMS, 2)), "a list or array of one dimension"),
        (pd.DataFrame({"y": [1]}), "a list or array of one dimension"),
        ({1, 2}, "a list or array of one dimension"),
        ("topic", "no column 'topic'; it has 'chapter'"),
    ],
)
def test_labels_that_do_not_fit_are_refused(finished: Path, labels: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Hierarchy.open(str(finished)).evaluate(labels)


def test_ground_truth_changes_nothing_but_evaluation(
    finished: Path, corpus: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    run(parse_config(small_config(corpus, other, input={"label_columns": []})))
    tables = json.loads((finished / layout.MANIFEST).read_text())["tables"]
    again = json.loads((other / layout.MANIFEST).read_text())["tables"]
    assert tables.keys() - again.keys() <= {"labels"}
    compared = tables.keys() - {"labels", "evaluations"}
    assert {"items", "embeddings", "clusters", "memberships", "reductions"} <= compared
    for table in compared:
        assert [file["sha256"] for file in tables[table]] == [
            file["sha256"] for file in again[table]
        ], table
    pd.testing.assert_frame_equal(
        of_items(Hierarchy.open(str(other)).evaluations()),
        of_items(Hierarchy.open(str(finished)).evaluations()),
    )


def test_no_module_but_reading_and_evaluation_names_the_table_of_ground_truth() -> None:
    root = Path(hercules_scale.__file__).parent
    naming = set()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            # As a table is named: an argument, or an entry of a list.
            values = (
                node.args
                if isinstance(node, ast.Call)
                else node.elts
                if isinstance(node, ast.Tuple | ast.List)
                else []
            )
            if any(isinstance(each, ast.Constant) and each.value == "labels" for each in values):
                naming.add(str(path.relative_to(root)))
    assert naming == BEHIND_THE_WALL
