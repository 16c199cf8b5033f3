"""Shards on a real local Ray."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from rich.console import Console

from hercules_scale.errors import InputError, StageError
from hercules_scale.runtime.context import RunContext, Shards
from hercules_scale.runtime.progress import Reporter
from hercules_scale.runtime.resources import Pool
from hercules_scale.runtime.shard_tasks import ShardResult
from hercules_scale.runtime.shards import Stage, run_shards
from hercules_scale.storage.commits import Commit, read_commits
from hercules_scale.storage.store import Store
from tests.conftest import resolved

pytestmark = pytest.mark.ray
STAGE = Stage("count", "shards", 5, workers=2)


@pytest.fixture
def context(tmp_path: Path, local_ray: None) -> RunContext:
    config = resolved({"input": {"path": "in.txt"}, "output": {"path": "out"}})
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


@dataclass(frozen=True)
class Deadly:
    """Dies at shard 3 each time."""

    shards: Shards

    def __call__(self, shard: int) -> ShardResult:
        if shard == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return ShardResult()


@pytest.mark.parametrize("pool", [None, Pool("embedding_workers", 2, 2, 1, 0, 0.0)])
def test_a_shard_that_ends_each_of_its_workers_ends_the_run_after_the_others(
    context: RunContext, pool: Pool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = replace(STAGE, pool=pool)
    told = r"stage count, shard 3: 5 workers died at it \(items 30 to 39\).*run again, it resumes"
    for _ in range(2):
        with pytest.raises(StageError, match=told):
            run_shards(context, stage, 5, Deadly(Shards(45, 10)))
        assert sorted(read_commits(context.store, "count", "f")) == [0, 1, 2, 4]
    # It may be tried again, and no mark is left once it is done.
    run_shards(context, stage, 5, Worker(context.store.root))
    assert context.store.list_files("_work/attempts") == []


@dataclass(frozen=True)
class Slow:
    """Says when it began and ended each shard, and in which process."""

    def __call__(self, shard: int) -> ShardResult:
        began = time.monotonic()
        time.sleep(0.5)
        return ShardResult(info={"process": os.getpid(), "spell": [began, time.monotonic()]})


@pytest.mark.parametrize("threads", [1, 3])
def test_a_process_works_on_as_many_shards_at_a_time_as_it_has_threads(
    context: RunContext, threads: int
) -> None:
    stage = replace(STAGE, pool=Pool("embedding_workers", 1, 1, 1, 0, 0.0), threads=threads)
    commits = run_shards(context, stage, 6, Slow())
    assert len({commit.info["process"] for commit in commits.values()}) == 1
    spells = [commit.info["spell"] for commit in commits.values()]
    at_once = [sum(began <= moment < ended for began, ended in spells) for moment, _ in spells]
    assert max(at_once) == threads


def test_a_stage_ends_where_a_look_at_its_commits_says_so(context: RunContext) -> None:
    seen: list[int] = []

    def look(commit: Commit) -> None:
        seen.append(commit.shard)
        if len(seen) == 2:
            raise StageError("that is enough", stage="count")

    stage = replace(STAGE, workers=1)
    with pytest.raises(StageError, match="that is enough"):
        run_shards(context, stage, 5, Slow(), look)
    before = len(read_commits(context.store, "count", "f"))
    assert 2 <= before < 5
    # It looks at earlier commits too.
    seen.clear()
    with pytest.raises(StageError, match="that is enough"):
        run_shards(context, stage, 5, Slow(), look)
    assert len(read_commits(context.store, "count", "f")) == before
    run_shards(context, stage, 5, Slow())
    # Once all is done there is nothing to end.
    seen.clear()
    assert len(run_shards(context, stage, 5, Slow(), look)) == 5
    assert seen == []
