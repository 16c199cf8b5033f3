"""Whole runs whose driver, workers or nodes are killed: they end with the same bits."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from hercules_scale.results.status import describe_status
from tests.integration.processes import Forks, open_forks

pytestmark = [pytest.mark.ray, pytest.mark.slow]
# Two tiles, so that the clustering has two actors.
N_ROWS, N_SHARDS = 67_000, 9
N_ASSIGNED = 20_000
KILLED = -signal.SIGKILL
# Where the driver is killed in turn, in the order of the stages: in the midst of the shards of a
# stage, or when data is there and its record is not.
POINTS: list[list[Any]] = [
    ["advance", "scan", 1],
    ["advance", "check_ids", 1],
    ["advance", "number", 2],
    ["advance", "embed", 2],
    ["write", "commits/smooth_index", 1],
    ["write", "commits/smooth_gather", 1],
    ["write", "commits/smooth_round_2", 1],
    ["write", "commits/smooth/", 1],
    ["assign", 3],
    ["write", "commits/fit_pca/", 1],
    ["file", "_work/commits/memberships/*.json", 3],
    ["write", "commits/cluster/", 1],
    ["advance", "statistics", 2],
    ["write", "commits/summarize/000001", 1],
    ["write", "commits/summarize/000002", 1],
    ["write", "commits/clusters", 1],
    ["advance", "evaluate/sums", 2],
    ["write", "commits/assigner", 1],
    ["advance", "reference", 2],
    ["advance", "evaluate/spreads", 2],
    ["advance", "evaluate/draw", 2],
    ["advance", "evaluate/distances", 2],
    ["advance", "evaluate/classes", 2],
    ["write", "commits/evaluations", 1],
    ["advance", "order/parts", 1],
    ["advance", "order/ranges", 1],
    ["write", "_manifest.json", 1],
    ["write", "_SUCCESS", 1],
]
ASSIGN_POINTS: list[list[Any]] = [
    ["advance", "keys", 2],
    ["advance", "known", 1],
    ["advance", "assign", 2],
    ["write", "_SUCCESS", 1],
]


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    with open_forks(tmp_path_factory.mktemp("forks") / "log") as forks:
        yield forks


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> Path:
    draw = np.random.default_rng(0)
    own = draw.integers(0, 30, N_ROWS)
    numbers = draw.normal(size=(30, 4))[own] + 0.2 * draw.normal(size=(N_ROWS, 4))
    folder = tmp_path_factory.mktemp("items")
    table = pa.table({f"x{column}": numbers[:, column] for column in range(4)})
    table = table.append_column("id", [np.arange(N_ROWS).astype(str)])
    table = table.append_column("group", [own.astype(str)])
    cuts = [0, N_ASSIGNED, 40_000, N_ROWS]
    for part, (start, stop) in enumerate(pairwise(cuts)):
        pq.write_table(table.slice(start, stop - start), folder / f"{part}.parquet")
    return folder


def write_config(items: Path, output: Path) -> str:
    values = {
        "input": {
            "path": str(items),
            "id_column": "id",
            "columns": ["x0", "x1", "x2", "x3"],
            "label_columns": ["group"],
        },
        "hierarchy": {"levels": [30, 5], "smoothing": {"neighbours": 4, "rounds": 2}},
        "summaries": {"engine": "keyphrases"},
        "resources": {"workers": 2},
        "output": {"path": str(output)},
    }
    path = output.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(values))
    return str(path)


def published(folder: Path) -> dict[str, str]:
    manifest = json.loads((folder / "_manifest.json").read_text())
    return {file["path"]: file["sha256"] for files in manifest["tables"].values() for file in files}


def committed(folder: Path) -> dict[str, int]:
    """When each commit record, and each published file that one lists, was written.

    Records of the sums of the evaluation go when it ends, and so do files of the work.
    """
    records = [
        path
        for path in folder.glob("_work/commits/**/*.json")
        if path.parents[1].name != "evaluate"
    ]
    listed = [
        folder / file["path"]
        for record in records
        for file in json.loads(record.read_text())["files"]
        if not file["path"].startswith("_work/")
    ]
    paths = [path for path in [*records, *listed] if path.exists()]
    return {str(path): path.stat().st_mtime_ns for path in paths}


def assert_kept(before: dict[str, int], folder: Path) -> None:
    now = committed(folder)
    assert [path for path, written in before.items() if now.get(path) != written] == []


@pytest.fixture(scope="module")
def undisturbed(items: Path, forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert forks.run("run", write_config(items, folder)) == 0, forks.log.read_text()
    return folder


# Some thirty runs, of some seconds each on a quiet machine.
@pytest.mark.timeout(1800)
def test_a_driver_killed_in_every_stage_resumes_and_does_no_committed_shard_again(
    items: Path, forks: Forks, undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    config = write_config(items, folder)
    for number, point in enumerate(POINTS, start=1):
        before = committed(folder)
        if point[0] == "file":
            point = [point[0], f"{folder}/{point[1]}", point[2]]
        # Every tenth time its Ray, the start of which takes most of a kill, is killed with it.
        code = forks.run("run", config, points=[["driver", *point]], lasting=number % 10 > 0)
        assert code == KILLED, (point, forks.log.read_text())
        assert_kept(before, folder)
        status = describe_status(str(folder))
        assert ("done but not published" in status) == (point[1] in ("_manifest.json", "_SUCCESS"))
        assert f"attempt {number}" in status or number == 1
    before = committed(folder)
    assert forks.run("run", config, lasting=True) == 0, forks.log.read_text()
    assert_kept(before, folder)
    assert published(folder) == published(undisturbed)
    # A stage that is new needs a point of its own.
    stages = {stage["name"] for stage in json.loads((folder / "run.json").read_text())["stages"]}
    struck = {str(point[1]).removeprefix("commits/").split("/0")[0].rstrip("/") for point in POINTS}
    assert stages - struck == set()


def test_workers_killed_in_embedding_and_clustering_cost_the_run_nothing(
    items: Path, forks: Forks, undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    points = [
        ["worker", "advance", "number", 1],
        ["worker", "advance", "embed", 2],
        ["worker", "assign", 3],
        ["worker", "assign", 5],
        ["worker", "file", f"{folder}/_work/commits/memberships/*.json", 2],
        ["worker", "advance", "reference", 1],
    ]
    code = forks.run("run", write_config(items, folder), points=points)
    assert code == 0, forks.log.read_text()
    assert len(re.findall(r"^killed \d+$", forks.log.read_text(), re.M)) == len(points)
    assert published(folder) == published(undisturbed)


def test_nodes_lost_in_embedding_and_clustering_cost_the_run_nothing(
    items: Path, forks: Forks, undisturbed: Path, tmp_path: Path
) -> None:
    points = [["node", "advance", "embed", 1], ["node", "assign", 4]]
    folder = tmp_path / "run"
    code = forks.run("run", write_config(items, folder), points=points, nodes=[2, 2, 2])
    assert code == 0, forks.log.read_text()
    assert len(re.findall(r"^lost \w+$", forks.log.read_text(), re.M)) == len(points)
    assert published(folder) == published(undisturbed)


def test_a_cluster_too_small_after_a_loss_is_said_and_the_run_resumes_with_fewer_workers(
    items: Path, forks: Forks, undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    config = write_config(items, folder)
    points = [["node", "assign", 4]]
    assert forks.run("run", config, points=points, nodes=[1, 1]) == 1, forks.log.read_text()
    last = forks.log.read_text().strip().splitlines()[-1]
    assert last == (
        "hercules-scale: stage cluster: a node of the Ray cluster was lost: 2 CPUs are needed, and "
        "1 are left; run again, it resumes with fewer workers"
    )
    assert ", ended " in describe_status(str(folder)).splitlines()[0]
    before = committed(folder)
    assert forks.run("run", config, nodes=[1]) == 0, forks.log.read_text()
    assert_kept(before, folder)
    assert published(folder) == published(undisturbed)


def test_assign_killed_in_every_stage_resumes_to_the_same_bits(
    items: Path, forks: Forks, undisturbed: Path, tmp_path: Path
) -> None:
    arguments = ["assign", str(undisturbed), str(items / "0.parquet"), "--output"]
    assert forks.run(*arguments, str(tmp_path / "wanted"), lasting=True) == 0, forks.log.read_text()
    folder = tmp_path / "assigned"
    for point in ASSIGN_POINTS:
        before = committed(folder)
        code = forks.run(*arguments, str(folder), points=[["driver", *point]], lasting=True)
        assert code == KILLED, (point, forks.log.read_text())
        assert_kept(before, folder)
    assert forks.run(*arguments, str(folder)) == 0, forks.log.read_text()
    assert published(folder) == published(tmp_path / "wanted")
    status = describe_status(str(folder)).splitlines()
    assert "finished, attempt 5" in status[0]
    assert any(line.startswith("  assign                20,000 of 20,000 items") for line in status)


def test_evaluate_killed_takes_up_its_sums_and_ends_with_the_same_bits(
    forks: Forks, undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    arguments = ["evaluate", str(folder)]
    points = [["driver", "advance", "evaluate/distances", 2]]
    assert forks.run(*arguments, points=points, lasting=True) == KILLED, forks.log.read_text()
    # Readers still see the whole of the run.
    assert published(folder) == published(undisturbed)
    sums = {path: path.stat().st_mtime_ns for path in folder.glob("_work/evaluate/sums/*")}
    assert len(sums) == N_SHARDS
    points = [["driver", "write", "_manifest.json", 1]]
    assert forks.run(*arguments, points=points, lasting=True) == KILLED, forks.log.read_text()
    assert sums == {path: path.stat().st_mtime_ns for path in sums}
    assert forks.run(*arguments, lasting=True) == 0, forks.log.read_text()
    assert not (folder / "_work/evaluate").exists()
    wanted, found = published(undisturbed), published(folder)
    assert wanted.pop("evaluations/part-000000.parquet") == found.pop(
        # The run had the first lock and left the second, and two calls were killed.
        "evaluations/part-000002-000005.parquet"
    )
    assert found == wanted
