"""Inputs that cannot be used whole end with one line; odd ones that can be used are clustered."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from hercules_scale import Hierarchy
from hercules_scale.commands.cli import main
from hercules_scale.storage.tables import vector_column

pytestmark = pytest.mark.ray
PARQUET = "cannot be read as Parquet ("
REMEDY = "; replace the file or leave it out"


def parquet(**columns: Any) -> bytes:
    stream = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), stream)
    return bytes(stream.getvalue())


def run_over(folder: Path, files: dict[str, bytes], **sections: Any) -> int:
    """The exit code of a run over some files."""
    (folder / "in").mkdir()
    for name, data in files.items():
        (folder / "in" / name).write_bytes(data)
    values = {
        "input": {"path": str(folder / "in")},
        "hierarchy": {"levels": [1]},
        "summaries": {"engine": "keyphrases"},
        "output": {"path": str(folder / "run")},
        **sections,
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(values))
    return main(["run", str(folder / "run.yaml")])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.parquet": parquet(text=["a"])[:-9]}, f"a.parquet: {PARQUET}"),
        ({"a.parquet": b"text\na\n"}, f"a.parquet: {PARQUET}"),
        ({"a.csv": parquet(text=["a"])}, "a.csv: is a Parquet file, and not what its name says"),
        ({"a.npy": b"text\n"}, "a.npy: cannot be read as npy ("),
        ({"a.jsonl": b"text\na\n"}, "a.jsonl: the first 1,000 lines hold no JSON object; give one"),
        ({"a.xlsx": b"text\n"}, "a.xlsx: the format must be one of .parquet, .pq, .csv, .tsv,"),
        ({"a.csv": b""}, "a.csv: the file is empty; replace it or leave it out"),
        ({"a.csv": b"x\n", "b.txt": b"x\n"}, "one format, got csv (a.csv) and txt (b.txt);"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], files: dict[str, bytes], message: str
) -> None:
    assert run_over(tmp_path, files) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    if PARQUET in message:
        assert line.endswith(REMEDY)
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_run_says_what_it_takes_its_input_for(
    tmp_path: Path, local_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = b"7;the ferry, at last;1,5\n9;;2,5\n4;rye bread;3,5\n"
    files = {"a.csv": b"id;text;price\n" + rows, "b.csv": b"", "c.md": b"notes"}
    assert run_over(tmp_path, files) == 0
    lines = capsys.readouterr().err.splitlines()
    said = [line for line in lines if line.startswith(("input: ", "read: ", "rejected: "))]
    folder = tmp_path / "in"
    assert said == [
        "input: 1 csv file, 0.0 MiB, modality text (text); ids: row numbers",
        "input: written in utf-8, delimiter ';', decimal ','",
        "input: left out: 'id' (ids), 'price' (numbers)",
        f"input: not read: '{folder}/c.md' (the format is not known), '{folder}/b.csv' (the file "
        "is empty)",
        "read: 2 items of 3 rows",
        f"rejected: 1 rows, see {tmp_path}/run/rejected: the text is missing (1)",
    ]
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["input"]["left_out"] == {"id": "ids", "price": "numbers"}
    assert record["input"]["skipped"].keys() == {f"{folder}/c.md", f"{folder}/b.csv"}
    assert record["input"]["columns"] == {"text": "text"}
    assert record["rejected"] == {"the text is missing": 1}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"a.parquet": parquet(text=["a"]), "b.parquet": parquet(body=["b"])},
            "b.parquet: has no column 'text', which the input's items are made of; columns are "
            "body; leave the file out, such as by a glob, or name a column that all files have",
        ),
        (
            {"a.parquet": parquet(text=["a"]), "b.parquet": parquet(text=[1])},
            "b.parquet: input.text_column 'text' must hold text, got int64; name another column "
            "or convert it",
        ),
        (
            {"a.csv": b"text,x\na,1\n", "b.csv": b"x\n2\n"},
            "b.csv: has no column 'text', which the input's items are made of; columns are x; "
            "leave the file out, such as by a glob, or name a column that all files have",
        ),
        (
            {"a.parquet": parquet(text=["", " "]), "b.parquet": parquet(text=[None, "\u3000"])},
            "input.path: none of 4 rows can be used: the text is empty (3), the text is missing "
            "(1); check the columns",
        ),
        (
            {"a.txt": b"only one\n"},
            "hierarchy.levels asks for 5 clusters at level 1, but the input has 1 usable items; "
            "give at most that many",
        ),
    ],
)
def test_files_that_do_not_go_together_are_refused_by_name(
    tmp_path: Path,
    local_ray: None,
    capsys: pytest.CaptureFixture[str],
    files: dict[str, bytes],
    message: str,
) -> None:
    levels = [5] if "a.txt" in files else [1]
    assert run_over(tmp_path, files, hierarchy={"levels": levels}) == 2
    lines = capsys.readouterr().err.splitlines()
    (line,) = (line for line in lines if line.startswith("hercules-scale: "))
    assert line.endswith(message)


def test_one_item_is_one_cluster(tmp_path: Path, local_ray: None) -> None:
    assert run_over(tmp_path, {"a.txt": b"the ferry to the harbour\n"}) == 0
    found = Hierarchy.open(str(tmp_path / "run"))
    taken = found.run["input"]
    assert (taken["modality"], taken["columns"], taken["ids"]) == (
        "text",
        {"text": "text"},
        "row numbers",
    )
    (cluster,) = found.clusters().to_dict("records")
    assert (cluster["n_items"], list(cluster["exemplar_item_ids"])) == (1, ["0"])
    assert "ferry" in cluster["title"].lower()


@pytest.mark.slow
def test_a_hundred_thousand_identical_items_are_one_cluster_and_an_alarm(
    tmp_path: Path, local_ray: None
) -> None:
    n_items = 100_000
    vectors = np.tile(np.array([0.1, -0.7, 0.3, 0.2], np.float32), (n_items, 1))
    data = parquet(embedding=vector_column(vectors), text=["the same ferry"] * n_items)
    started = time.monotonic()
    section = {"path": str(tmp_path / "in"), "text_column": "text", "embedding_column": "embedding"}
    levels = {"levels": [20, 5]}
    assert run_over(tmp_path, {"a.parquet": data}, input=section, hierarchy=levels) == 0
    assert time.monotonic() - started < 240
    found = Hierarchy.open(str(tmp_path / "run"))
    assert found.clusters()["n_items"].tolist() == [n_items] * found.n_levels
    assert found.run["alarms"][0] == (
        "levels: [20, 5] clusters were asked for, "
        f"{[1] * found.n_levels} were found, since items or centroids are identical"
    )
