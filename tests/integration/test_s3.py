"""Input and output on a real S3 server."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.made_run import Made, make_run
from hercules_scale import Hierarchy
from hercules_scale.commands.cli import main
from hercules_scale.config.file import parse_config
from hercules_scale.jobs.cluster import run
from hercules_scale.storage.store import Store
from tests.conftest import small_config

pytestmark = [pytest.mark.ray, pytest.mark.s3, pytest.mark.slow]


def test_a_run_on_s3_equals_a_run_on_local_files(
    s3: str, icd: pa.Table, tmp_path: Path, local_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    table = icd.take(np.arange(0, icd.num_rows, 30))
    half = table.num_rows // 2
    store = Store(f"{s3}/input")
    (tmp_path / "input").mkdir()
    for name, part in (("a", table.slice(0, half)), ("b", table.slice(half))):
        pq.write_table(part, tmp_path / "input" / f"{name}.parquet")
        pq.write_table(part, store.path(f"{name}.parquet"), filesystem=store.arrow)
    run(parse_config(small_config(tmp_path / "input", tmp_path / "run")))
    run(parse_config(small_config(f"{s3}/input/*.parquet", f"{s3}/runs/icd")))
    local, remote = Hierarchy.open(str(tmp_path / "run")), Hierarchy.open(f"{s3}/runs/icd")
    pd.testing.assert_frame_equal(remote.memberships(), local.memberships())
    pd.testing.assert_frame_equal(remote.clusters(), local.clusters())
    assert main(["show", f"{s3}/runs/icd", "--depth", "1"]) == 0
    assert capsys.readouterr().out.strip() == local.tree_text(depth=1)
    new = [f"{s3}/runs/icd", f"{s3}/input/*.parquet", "--output", f"{s3}/runs/assigned"]
    assert main(["assign", *new]) == 0
    assigned = Hierarchy.open(f"{s3}/runs/assigned")
    pd.testing.assert_frame_equal(assigned.memberships(), local.memberships(), check_exact=True)
    # The run says nothing of the server, and neither does the environment.
    new[-1] = f"{s3}/runs/again"
    for command in (["assign", *new], ["evaluate", new[0]]):
        done = by_endpoint(*command)
        assert done.returncode == 0, done.stderr
    again = Hierarchy.open(f"{s3}/runs/again")
    pd.testing.assert_frame_equal(again.memberships(), local.memberships(), check_exact=True)


def by_endpoint(*command: str, setting: str | None = None) -> subprocess.CompletedProcess[str]:
    """A command in a process that is told of the server by ``--set`` alone."""
    setting = setting or f"storage.endpoint={os.environ['AWS_ENDPOINT_URL']}"
    here = {name: value for name, value in os.environ.items() if name != "AWS_ENDPOINT_URL"}
    line = [sys.executable, "-m", "hercules_scale", *command, "--set", setting]
    return subprocess.run(line, env=here, capture_output=True, text=True)


def test_a_missing_bucket_is_one_clear_line(
    s3: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(
        "input: {path: 's3://no-such-bucket/x/'}\noutput: {path: 's3://bucket/never'}\n"
    )
    assert main(["run", str(config)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "input.path s3://no-such-bucket/x/: names no file" in line


def test_an_output_that_cannot_be_written_is_refused_before_anything_runs(
    s3: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "items.txt").write_text("one\ntwo\n")
    config = tmp_path / "run.yaml"
    config.write_text(
        f"input: {{path: '{tmp_path}/items.txt'}}\nhierarchy: {{levels: [1]}}\n"
        "summaries: {engine: keyphrases}\noutput: {path: 's3://bucket/denied'}\n"
    )
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    Store("s3://bucket").fsspec.clear_instance_cache()
    assert main(["run", str(config)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "output.path s3://bucket/denied: cannot be written" in line
    assert "credentials" in line
    assert "wrong" not in line
    Store("s3://bucket").fsspec.clear_instance_cache()


def test_creating_a_file_twice_succeeds_once(s3: str) -> None:
    store = Store(f"{s3}/create-{time.time_ns()}")
    assert store.create("mark", b"first")
    assert not store.create("mark", b"second")
    assert store.read_bytes("mark") == b"first"


def test_a_run_on_another_server_is_shown_by_the_endpoint_alone(s3: str) -> None:
    store = make_run(f"{s3}/shown", Made(300, (6, 2)))
    for command, expected in (("show", " items, 2/0)"), ("status", "finished")):
        done = by_endpoint(command, store.uri)
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout
    done = by_endpoint("status", store.uri, setting="hierarchy.seed=1")
    assert done.returncode == 2
    assert "--set hierarchy.seed=1: must be of the section storage" in done.stderr
