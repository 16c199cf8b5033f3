"""Shards on a real local Ray."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from hercules_scale.config import parse_config
from hercules_scale.errors import InputError, StageError
from hercules_scale.progress import Reporter
from hercules_scale.stages.context import RunContext
from hercules_scale.stages.shards import ShardResult, Stage, run_shards
from hercules_scale.storage.store import Store

pytestmark = pytest.mark.ray
STAGE = Stage("count", "shards", 5, workers=2)


@pytest.fixture
def context(tmp_path: Path, local_ray: None) -> RunContext:
    config = parse_config({"input": {"path": "in.txt"}, "output": {"path": "out"}})
    return RunContext(config, Store(str(tmp_path)), "f", Reporter(Console(quiet=True)))


@dataclass(frozen=True)
class Worker:
    """Leaves a mark for each time that it was called, and dies or fails at shard 3.

    Attributes:
        folder: Where the marks go.
        fails: With what; without, its process dies at the first call.
    """

    folder: str
    fails: type[Exception] | None = None

    def __call__(self, shard: int) -> ShardResult:
        mark = Path(self.folder) / f"called-{shard}"
        first = not mark.exists()
        with mark.open("a") as file:
            file.write("x")
        if shard == 3 and self.fails is not None:
            raise self.fails("the third is bad")
        if shard == 3 and first:
            os.kill(os.getpid(), signal.SIGKILL)
        return ShardResult(info={"twice": 2 * shard})


def test_a_shard_whose_process_dies_is_begun_again(context: RunContext, tmp_path: Path) -> None:
    commits = run_shards(context, STAGE, 5, Worker(str(tmp_path)))
    assert {shard: commit.info["twice"] for shard, commit in commits.items()} == {
        shard: 2 * shard for shard in range(5)
    }
    assert (tmp_path / "called-3").read_text() == "xx"
    # What is committed is not called again.
    run_shards(context, STAGE, 5, Worker(str(tmp_path), fails=InputError))
    assert (tmp_path / "called-3").read_text() == "xx"


def test_what_a_worker_met_keeps_its_type_or_names_the_shard(
    context: RunContext, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="the third is bad"):
        run_shards(context, STAGE, 5, Worker(str(tmp_path), fails=InputError))
    with pytest.raises(StageError, match="stage count, shard 3: KeyError"):
        run_shards(context, STAGE, 5, Worker(str(tmp_path), fails=KeyError))
