"""Work that finds no room on a Ray cluster says so, and ends after a limit."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray
from rich.console import Console

from hercules_scale.errors import HerculesScaleError, StageError
from hercules_scale.runtime import waiting
from hercules_scale.runtime.context import RunContext
from hercules_scale.runtime.progress import Reporter
from hercules_scale.runtime.resources import Pool
from hercules_scale.runtime.shard_tasks import ShardResult
from hercules_scale.runtime.shards import Stage, run_shards
from hercules_scale.runtime.waiting import Room, await_address
from hercules_scale.stages import ray_vectors
from hercules_scale.stages.vectors import open_vectors
from hercules_scale.storage.store import Store
from tests.conftest import resolved
from tests.s3_server import free_port
from tests.stages.test_vectors import Planted

POOL = Pool("resources.embed", 1, 1, 1)


def context_of(folder: Path, seconds: float) -> tuple[RunContext, io.StringIO]:
    config = resolved(
        {
            "input": {"path": "in.txt"},
            "resources": {"wait_seconds": seconds},
            "output": {"path": str(folder)},
        }
    )
    said = io.StringIO()
    reporter = Reporter(Console(file=said, width=1000))
    return RunContext(config, Store(str(folder)), "f", reporter), said


@contextmanager
def processors_taken() -> Iterator[None]:
    """All processors of the test's Ray are another's."""
    hog = ray.remote(num_cpus=ray.cluster_resources()["CPU"])(_Hog).remote()
    try:
        ray.get(hog.hold.remote())
        yield
    finally:
        ray.kill(hog)


class _Hog:
    def hold(self) -> None:
        """It has its processors once this is answered."""


@dataclass(frozen=True)
class Worker:
    def __call__(self, shard: int) -> ShardResult:
        return ShardResult()


@pytest.mark.ray
@pytest.mark.parametrize("pool", [None, POOL])
def test_a_stage_without_room_says_so_and_ends_after_the_limit(
    pool: Pool | None, tmp_path: Path, local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "SAID_AFTER_SECONDS", 1.0)
    monkeypatch.setattr(waiting, "ALONE_SAID_AFTER_SECONDS", 1.0)
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0.2)
    context, said = context_of(tmp_path, 6)
    stage = Stage("count", "shards", 2, workers=2, pool=pool)
    told = r"stage count: nothing of it could begin for \d+ s: .*free are 0 of 6 CPUs; other jobs"
    with processors_taken(), pytest.raises(StageError, match=told):
        run_shards(context, stage, 2, Worker())
    lines = [line for line in said.getvalue().splitlines() if "not started after" in line]
    assert len(lines) == 1
    assert "1 CPU" in lines[0]
    assert "(resources.wait_seconds)" in lines[0]
    patient, _ = context_of(tmp_path, 120)
    assert len(run_shards(patient, stage, 2, Worker())) == 2


def test_a_job_alone_on_its_ray_that_loads_a_model_is_not_said_to_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "SAID_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(waiting, "describe_taken", lambda: "all is free")
    others: list[str] = []
    monkeypatch.setattr(waiting, "_other_jobs", lambda: others)
    context, said = context_of(tmp_path, 3600)
    room = Room(context, "embed", "2 CPUs")
    room.look(lambda: False)
    assert said.getvalue() == ""
    # Nodes that are still to come hold no model, and another job may hold the room.
    Room(context, "start", "2 CPUs", loads=False).look(lambda: False)
    others.append("01000000")
    room.look(lambda: False)
    lines = said.getvalue().splitlines()
    assert [line.partition(":")[0] for line in lines] == ["start", "Embedding"]


@pytest.mark.ray
def test_actors_that_hold_vectors_wait_no_longer_either(
    tmp_path: Path, local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_vectors, "WAIT_SECONDS", 0.2)
    hasty, patient = (
        Room(context_of(tmp_path, seconds)[0], "cluster", "resources.cluster 2 of 1 CPU")
        for seconds in (1, 120)
    )
    told = (
        r"stage cluster: nothing of it could begin for \d+ s: resources\.cluster 2 of 1 CPU asked"
    )
    with (
        processors_taken(),
        pytest.raises(StageError, match=told),
        open_vectors(Planted(), "squared_l2", 2, local_rows=0, room=hasty),
    ):
        pytest.fail("there was room")
    with open_vectors(Planted(), "squared_l2", 2, local_rows=0, room=patient) as (found, _):
        assert found.n_rows == Planted().n_rows


def test_a_ray_cluster_that_does_not_answer_is_said_and_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waiting, "SAID_AFTER_SECONDS", 0.1)
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0.1)
    address, said = f"127.0.0.1:{free_port()}", list[str]()
    with pytest.raises(HerculesScaleError, match=rf"RAY_ADDRESS {address}: no Ray cluster has an"):
        await_address(address, 0.5, said.append)
    assert len(said) == 1
    assert f"waiting for the Ray cluster at {address} (RAY_ADDRESS; ConnectionRefused" in said[0]
    with socket.socket() as head:
        head.bind(("127.0.0.1", 0))
        timer = threading.Timer(0.3, head.listen)
        timer.start()
        await_address(f"ray://127.0.0.1:{head.getsockname()[1]}", 30, said.append)
        timer.join()
    # Ray finds these itself.
    await_address("auto", 0.1, said.append)
    await_address("local", 0.1, said.append)
