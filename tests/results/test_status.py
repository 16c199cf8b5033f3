"""How far a run is, by what it wrote."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from hercules_scale.commands.cli import main
from hercules_scale.storage import layout
from hercules_scale.storage.commits import Commit, write_commit
from hercules_scale.storage.json_records import to_json
from hercules_scale.storage.lock import hold_lock
from hercules_scale.storage.store import Store

STAGES = [
    {"name": "scan", "unit": "pieces", "total": 3, "done": 3, "seconds": 1.5},
    {"name": "embed", "unit": "items", "total": 5000, "done": 1024, "seconds": 0.0},
]


def write_run(folder: Path, **values: Any) -> Store:
    store = Store(str(folder))
    record = {
        "fingerprint": "1" * 16,
        "config": {"input": {}},
        "versions": {},
        "inputs": [],
        "status": "running",
        "attempts": 2,
        "started_at": "2026-01-01T10:00:00Z",
        "seen_at": "2026-01-01T11:00:00Z",
        "ended_at": None,
        "alarms": ["levels: \x1b[31mthree were found"],
        "stages": STAGES,
    }
    store.write_bytes(layout.RUN, to_json(record | values))
    return store


def status(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["status", str(folder)]) == 0
    return capsys.readouterr().out


def test_what_was_committed_since_the_record_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = write_run(tmp_path)
    assert "embed                 1,024 of 5,000 items" in status(tmp_path, capsys)
    further = [STAGES[0], STAGES[1] | {"done": 2048}]
    store.write_bytes(layout.PROGRESS, to_json({"stages": further}))
    assert "embed                 2,048 of 5,000 items" in status(tmp_path, capsys)
    for shard, run in enumerate(["1" * 16, "1" * 16, "1" * 16, "another"]):
        write_commit(store, "embed", Commit(shard, run, [], {"units": 1000}))
    shown = status(tmp_path, capsys)
    told = "interrupted, attempt 2, started 2026-01-01T10:00:00Z, last heard of 2026-01-01T11"
    assert told in shown
    with hold_lock(store, print):
        shown = status(tmp_path, capsys)
    assert (
        f"running, attempt 2, started 2026-01-01T10:00:00Z, by host {os.uname().nodename}" in shown
    )
    assert "scan                  3 of 3 pieces                         1.5 s" in shown
    assert "embed                 3,000 of 5,000 items" in shown
    assert "! levels: \\x1b[31mthree" in shown


def test_a_failure_is_told_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = "2026-01-01T12:00:00Z"
    write_run(tmp_path, status="failed", ended_at=ended, error="StageError: no\x1b answer")
    first = status(tmp_path, capsys).splitlines()[0]
    assert f"failed, attempt 2, started 2026-01-01T10:00:00Z, ended {ended}: " in first
    assert "StageError: no\\x1b answer; run it again" in first


def test_published_or_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended = "2026-01-01T12:00:00Z"
    store = write_run(tmp_path, status="finished", ended_at=ended, attempts=1)
    assert "done but not published, started" in status(tmp_path, capsys)
    store.create(layout.SUCCESS, b"")
    assert f": finished, started 2026-01-01T10:00:00Z, ended {ended}\n" in status(tmp_path, capsys)


def test_where_there_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path / "none")]) == 2
    assert "holds no run; give the output path of a run" in capsys.readouterr().err
