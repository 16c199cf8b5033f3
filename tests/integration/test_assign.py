"""New items into a finished run, as users do it, with the real embedding model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hercules_scale import Hierarchy
from hercules_scale.commands.cli import main
from hercules_scale.config.file import parse_config
from hercules_scale.jobs.cluster import run
from hercules_scale.storage import schemas
from tests.conftest import small_config

pytestmark = [pytest.mark.ray, pytest.mark.slow]
N_ITEMS = 300


@pytest.fixture(scope="module")
def items(icd: pa.Table) -> pa.Table:
    return icd.take(np.linspace(0, icd.num_rows - 1, 2 * N_ITEMS).astype(int))


@pytest.fixture(scope="module")
def corpus(items: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "icd.parquet"
    pq.write_table(items.take(np.arange(0, 2 * N_ITEMS, 2)), path)
    return path


@pytest.fixture(scope="module")
def finished(corpus: Path, tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Hierarchy:
    output = tmp_path_factory.mktemp("runs") / "run"
    run(parse_config(small_config(corpus, output)))
    return Hierarchy.open(str(output))


def test_the_training_items_get_their_memberships_back_and_a_second_call_does_nothing(
    finished: Hierarchy, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finished.run["smoothing"]["neighbours"] > 0
    output = str(tmp_path / "assigned")
    assert main(["assign", finished.uri, str(corpus), "--output", output]) == 0
    printed = capsys.readouterr().out
    assert "items: 300 assigned, 300 of them already in the run; 0 rejected" in printed
    assert "level 3: mean squared distance 1.00 times the run's" in printed
    assigned = Hierarchy.open(output)
    pd.testing.assert_frame_equal(assigned.memberships(), finished.memberships(), check_exact=True)
    for name in ("items", "labels", "embeddings"):
        pd.testing.assert_frame_equal(assigned.table(name), finished.table(name))
    drift = pq.read_table(f"{output}/drift")
    assert drift.schema.equals(schemas.DRIFT)
    assert drift.num_rows == len(finished.clusters()) + 3

    assert main(["assign", finished.uri, str(corpus), "--output", output]) == 0
    assert "finished before, nothing to do" in capsys.readouterr().err
    # Other items over the same output.
    assert main(["assign", finished.uri, f"{corpus.parent}/*", "--output", output]) == 2
    assert "holds a run of another configuration: input.path was" in capsys.readouterr().err


def test_new_items_land_in_clusters_of_their_chapters_and_bad_rows_are_set_aside(
    finished: Hierarchy, items: pa.Table, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = items.take(np.arange(1, 2 * N_ITEMS, 2)).drop_columns(["chapter"])
    bad = pa.table({"code": ["<b>", "\x1b[31m"], "text": ["", None]})
    path = tmp_path / "new.parquet"
    pq.write_table(pa.concat_tables([new.select(["code", "text"]), bad]), path)
    output = str(tmp_path / "assigned")
    assert main(["assign", finished.uri, str(path), "--output", output]) == 0
    printed = capsys.readouterr()
    assert "300 assigned, 0 of them already in the run; 2 rejected" in printed.out
    assert "the input has no label column chapter: assigned without it" in printed.err
    assigned = Hierarchy.open(output)
    assert assigned.run["rows"]["labels"] == 0
    members = assigned.memberships()
    assert members["item_id"].tolist() == new["code"].to_pylist()
    # Chapters are what most of a cluster's own items are of.
    chapters = finished.table("labels")["chapter"].astype("category")
    of_cluster = chapters.groupby(finished.memberships()["level_1"]).agg(lambda x: x.mode()[0])
    true = items.take(np.arange(1, 2 * N_ITEMS, 2))["chapter"].to_pandas()
    agreement = (of_cluster[members["level_1"]].to_numpy(str) == true.to_numpy(str)).mean()
    own = (of_cluster[finished.memberships()["level_1"]].to_numpy(str) == chapters).mean()
    assert agreement > 0.8 * own > 0.3
    parents = finished.clusters(1)["parent_cluster_id"].to_numpy()
    np.testing.assert_array_equal(parents[members["level_1"]], members["level_2"])


def test_texts_in_memory_come_back_with_titles(finished: Hierarchy, tmp_path: Path) -> None:
    texts = ["Fracture of the femur", "Bacterial pneumonia", None, "Fracture of the tibia"]
    listed = finished.assign(texts)
    assert listed["item_id"].tolist() == ["0", "1", "3"]
    named = finished.assign(
        {"a": texts[0], "b": texts[1], "c": texts[3]},
        output=str(tmp_path / "kept"),
    )
    assert named["item_id"].tolist() == ["a", "b", "c"]
    pd.testing.assert_frame_equal(
        named.drop(columns=["row", "item_id"]), listed.drop(columns=["row", "item_id"])
    )
    for level in (1, 2, 3):
        titles = finished.clusters(level)["title"]
        assert named[f"title_{level}"].tolist() == titles[named[f"level_{level}"]].tolist()
    assert len(Hierarchy.open(str(tmp_path / "kept")).table("drift"))


def test_mistakes_end_with_2_and_one_line(
    finished: Hierarchy, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = {"run": finished.uri, "input": str(corpus), "output": str(tmp_path / "out")}
    (tmp_path / "partial").mkdir()
    (tmp_path / "partial" / "run.json").write_text("{}")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    pq.write_table(pa.table({"code": ["a"], "body": ["b"]}), tmp_path / "body.parquet")
    (tmp_path / "older" / "clusters").mkdir(parents=True)
    for name in ("run.json", "_SUCCESS"):
        (tmp_path / "older" / name).write_bytes((Path(finished.uri) / name).read_bytes())
    manifest = json.loads((Path(finished.uri) / "_manifest.json").read_text())
    del manifest["tables"]["assigner"]
    (tmp_path / "older" / "_manifest.json").write_text(json.dumps(manifest))
    for change, message in (
        ({"run": str(tmp_path / "none")}, "holds no run; give the output path of a finished run"),
        ({"run": str(tmp_path / "partial")}, "fingerprint must be 16 hexadecimal digits"),
        ({"run": str(tmp_path / "older")}, "holds no table 'assigner'"),
        ({"input": "/nowhere/*.parquet"}, "/nowhere/*.parquet: names no file"),
        ({"input": str(tmp_path / "body.parquet")}, "input.text_column names 'text', which is not"),
        (
            {"output": str(tmp_path / "full")},
            "must be a new or empty folder, or hold this run, but it holds 'notes.txt'",
        ),
        ({"output": finished.uri}, "is the run itself; give a new folder"),
    ):
        given = {**good, **change}
        assert main(["assign", given["run"], given["input"], "--output", given["output"]]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert [message in line for line in lines] == [True], lines
        assert not (tmp_path / "out" / "run.json").exists()
