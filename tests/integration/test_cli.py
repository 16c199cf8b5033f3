"""The command line as users meet it: exit codes and messages."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from hercules_scale.commands.cli import main
from tests.conftest import small_config

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def corpus(icd: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "icd.parquet"
    pq.write_table(icd.slice(0, 60), path)
    return path


def write(tmp_path: Path, values: object) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    lines = [
        line
        for line in capsys.readouterr().err.strip().splitlines()
        if line.startswith("hercules-scale: ")
    ]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": {"text_column": "body"}}, "input.text_column names 'body', which is not there"),
        ({"input": {"id_column": "key"}}, "input.id_column names 'key', which is not there"),
        ({"input": {"label_columns": ["x"]}}, "input.label_columns names 'x', which is not there"),
        ({"input": {"path": "/nowhere/*.parquet"}}, "/nowhere/*.parquet: names no file"),
        ({"hierarchy": {"levels": [5, 20]}}, "hierarchy.levels must fall strictly"),
        ({"hierarchy": {"levls": [5]}}, "hierarchy.levls is not a known key; did you mean levels?"),
        ({"embedding": {"model": "/nowhere"}}, "embedding.model must be an alias (minilm, mpnet)"),
        ({"resources": {"workers": 0}}, "resources.workers"),
        ({"output": {"path": "/proc/none"}}, "output.path /proc/none: cannot be written"),
    ],
)
def test_a_wrong_key_or_path_ends_with_2_and_one_line(
    corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, dict[str, object]],
    message: str,
) -> None:
    config = write(tmp_path, small_config(corpus, tmp_path / "run", **change))
    assert main(["run", config]) == 2
    assert message in one_line(capsys)
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"code": ["a", "b", "a"], "text": ["x y", "y z", "z w"]}, "'a' at items.parquet row 0"),
        ({"code": ["a", "b"], "text": ["", None]}, "none of 2 rows can be used: the text is empty"),
        (
            {"code": ["a"], "text": ["one two"]},
            "asks for 12 clusters at level 1, but the input has",
        ),
        ({"code": ["a"], "text": [1]}, "input.text_column 'text' must hold text, got int64"),
        ({"code": [1.5], "text": ["x"]}, "input.id_column 'code' must hold text or whole numbers"),
    ],
)
def test_wrong_items_end_with_2_and_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    local_ray: None,
    rows: dict[str, list[object]],
    message: str,
) -> None:
    pq.write_table(pa.table(rows), tmp_path / "items.parquet")
    values = small_config(tmp_path / "items.parquet", tmp_path / "run")
    values["input"]["label_columns"] = []
    assert main(["run", write(tmp_path, values)]) == 2
    assert message in one_line(capsys)


def test_an_empty_input_ends_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], local_ray: None
) -> None:
    empty = pa.table({"code": pa.array([], pa.string()), "text": pa.array([], pa.string())})
    pq.write_table(empty, tmp_path / "items.parquet")
    values = small_config(tmp_path / "items.parquet", tmp_path / "run")
    values["input"]["label_columns"] = []
    assert main(["run", write(tmp_path, values)]) == 2
    assert "the input is empty" in one_line(capsys)


def test_run_show_and_plan_from_the_command_line(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], local_ray: None
) -> None:
    config = write(tmp_path, small_config(corpus, tmp_path / "unused"))
    output = str(tmp_path / "run")
    assert main(["plan", config, "--output", output]) == 0
    plan = capsys.readouterr().out
    assert "60 rows" in plan
    assert "clusters per level: [12, 4, 2]" in plan
    assert not (tmp_path / "run" / "run.json").exists()

    overrides = ["--set", "hierarchy.levels=[6, 2]", "--set", "hierarchy.seed=3"]
    assert main(["run", config, "--output", output, *overrides]) == 0
    printed = capsys.readouterr()
    tree, _, end = printed.out.strip().partition("\n\n")
    assert len(tree.splitlines()) == 8
    place, explore, titles, *_ = end.splitlines()
    assert place == f"output: {output}"
    assert explore == f"explore: hercules-scale explore {output}"
    assert titles.startswith("titles: ")
    assert "match their own label better than any sibling's" in titles
    assert "Ray" not in printed.err
    # Again there is nothing to do, and all that was measured is told where it is asked for.
    assert main(["run", config, "--output", output, *overrides, "--verbose"]) == 0
    details = capsys.readouterr().out
    assert "clusters per level: [6, 2]" in details
    assert "labels:chapter" in details

    assert main(["show", output, "--depth", "1"]) == 0
    assert len(capsys.readouterr().out.strip().splitlines()) == 2
    assert main(["show", output, "--cluster", "2/0"]) == 0
    cluster = capsys.readouterr().out
    assert "children:" in cluster
    assert "items nearest to the centroid:" in cluster
    assert main(["show", output, "--cluster", "2/9"]) == 2
    assert "level 2 has clusters 0 to 1, got 9" in one_line(capsys)


def test_help_of_every_command_names_its_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("run", "plan", "show", "evaluate", "assign", "export", "import", "demo"):
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
        assert f"hercules-scale {command}" in capsys.readouterr().out


def test_show_of_a_folder_without_a_run_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(tmp_path)]) == 2
    assert "holds no run; give the output path of a finished run" in one_line(capsys)
