"""Runs to look at, a real server that shows them, and a real browser."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from benchmarks.made_run import Made, make_run
from hercules_scale.storage import layout
from hercules_scale.storage.store import Store

HOSTILE = "</script><script>hacked=1</script>\"'><img src=x onerror=hacked=1>{{7*7}}\u202e\x1b[31m"
SIZES = (40, 8, 2)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the explorer makes beside itself goes with the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def text_run(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """3,000 short texts in clusters of three levels. Nobody edits it."""
    return make_run(str(tmp_path_factory.mktemp("runs") / "texts"), Made(3_000, SIZES))


@pytest.fixture(scope="session")
def image_run(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_run(str(tmp_path_factory.mktemp("runs") / "images"), Made(600, (12, 3), "image"))


@pytest.fixture(scope="session")
def numeric_run(tmp_path_factory: pytest.TempPathFactory) -> Store:
    made = Made(600, (12, 3), "numeric", components=3)
    return make_run(str(tmp_path_factory.mktemp("runs") / "numbers"), made)


@pytest.fixture(scope="session")
def hostile_run(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Scripts in the name of the output, in titles, ids, texts and what the run says of itself."""

    def texts(rows: NDArray[np.int64], leaves: NDArray[np.int32]) -> pa.Array:
        return pa.array([f"{row} {HOSTILE}" for row in rows.tolist()])

    made = Made(
        200,
        (6, 2),
        title=lambda level, number: f"{HOSTILE} {level}/{number}",
        item_id=lambda rows: pa.array([f"{HOSTILE}{row}" for row in rows.tolist()]),
        text=texts,
    )
    name = HOSTILE.replace("/", "|").replace("\x1b", "")
    store = make_run(str(tmp_path_factory.mktemp("runs") / name), made)
    record = json.loads(store.read_bytes(layout.RUN))
    record["alarms"] = [HOSTILE]
    record["config"]["input"]["path"] = [HOSTILE]
    record["config"]["input"]["metadata"] = {HOSTILE: {"unit": HOSTILE}}
    store.write_bytes(layout.RUN, json.dumps(record).encode())
    return store


@pytest.fixture(scope="session")
def unfinished_run(text_run: Store, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """What a run has written when it is halfway."""
    store = Store(str(tmp_path_factory.mktemp("runs") / "halfway"))
    record = json.loads(text_run.read_bytes(layout.RUN))
    for name in ("rows", "clusters_per_level", "tokens", "summary_status", "summary_source"):
        del record[name]
    record |= {"status": "running", "ended_at": None}
    store.write_bytes(layout.RUN, json.dumps(record).encode())
    stages = record["stages"][:2]
    stages[1]["done"] = 1_200
    progress = {"stages": stages, "alarms": [], "seen_at": record["seen_at"]}
    store.write_bytes(layout.PROGRESS, json.dumps(progress).encode())
    return store


@contextmanager
def explorer(*arguments: str, token: str | None = None) -> Iterator[str]:
    """Address of an explorer in a process of its own."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    environment.pop("HERCULES_EXPLORER_TOKEN", None)
    if token is not None:
        environment["HERCULES_EXPLORER_TOKEN"] = token
    command = [sys.executable, "-m", "hercules_scale", "explore", *arguments, "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        assert line.startswith("explorer: "), line
        yield line.removeprefix("explorer: ").strip()
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def own_run(tmp_path: Path) -> Callable[[], Store]:
    """Makes a run that a test may edit."""
    return lambda: make_run(str(tmp_path / "own"), Made(300, (10, 3)))
