"""Drivers and workers of a run that was taken over while they were at work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from hercules_scale.runtime.context import RunContext, Shards
from hercules_scale.runtime.progress import Reporter
from hercules_scale.runtime.shard_tasks import ShardResult, ShardTask
from hercules_scale.runtime.shards import done_shards
from hercules_scale.stages import summarize
from hercules_scale.stages.label_level import Labels
from hercules_scale.stages.language_model import LABELLING
from hercules_scale.stages.level_choice import Level
from hercules_scale.stages.prompt_facts import labelled_files
from hercules_scale.storage import layout
from hercules_scale.storage.commits import read_commits
from hercules_scale.storage.lock import hold_lock
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import write_table
from hercules_scale.summarization.cluster_facts import ClusterFacts
from hercules_scale.summarization.ledger import Call, Ledger
from hercules_scale.summarization.parsing import Summary
from tests.conftest import resolved
from tests.storage.test_lock import write_lock

TABLE = pa.table({"row": [0]})


def context_of(store: Store, engine: str = "openai") -> RunContext:
    summaries = {"engine": engine, "model": "m", "endpoint": "http://127.0.0.1:9"}
    config = resolved(
        {
            "input": {"path": "in.txt", "modality": "text"},
            "summaries": summaries if engine == "openai" else {"engine": engine},
            "output": {"path": store.uri},
        }
    )
    return RunContext(config, store, "f", Reporter(Console(quiet=True)))


@dataclass(frozen=True)
class Worker:
    """Is interrupted in its work by something, then writes its shard."""

    store: Store
    interrupt: Callable[[], None] = lambda: None

    def __call__(self, shard: int) -> ShardResult:
        self.interrupt()
        return ShardResult([write_table(self.store, layout.part("items", shard), TABLE)])


def test_a_worker_of_a_run_that_was_taken_over_writes_and_commits_nothing(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    left: list[str] = []

    def take_over() -> None:
        write_lock(store, 1)
        with hold_lock(store, print) as lock:
            # The successor is at the same shard when the worker goes on.
            lock.store.write_bytes("_work/attempts/embed/000003.theirs", b"")
        left[:] = store.list_files("")

    with hold_lock(store, print) as lock:
        task = ShardTask(Worker(lock.store, take_over), lock.store, "embed", "f")
        row = task({"shard": [3]})
        again = ShardTask(Worker(lock.store), lock.store, "embed", "f")({"shard": [4]})
    for each in (row, again):
        assert each["error_type"] == ["StorageError"]
        assert "was taken over by another run" in str(each["error"][0])
    assert store.list_files("") == left
    assert read_commits(store, "embed", "f") == {}


def test_the_successor_takes_what_was_committed_and_makes_lost_files_again(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with hold_lock(store, print) as lock:
        for shard in (0, 1):
            row = ShardTask(Worker(lock.store), lock.store, "embed", "f")({"shard": [shard]})
            assert row["error_type"] == [""]
    with hold_lock(store, print) as lock:
        context = context_of(lock.store)
        assert sorted(done_shards(context, "embed")) == [0, 1]
        store.delete_files(layout.part("items", 1))
        assert sorted(done_shards(context, "embed")) == [0]
        ShardTask(Worker(lock.store), lock.store, "embed", "f")({"shard": [1]})
        owners = {shard: each.owner for shard, each in done_shards(context, "embed").items()}
    assert owners == {0: 1, 1: 3}
    assert store.list_files("items") == [layout.part("items", 0), layout.part("items", 1)]


def label(context: RunContext, seconds: float) -> None:
    """Commit a level of one cluster, whose call took so long."""
    ledger = Ledger(context.store, f"of-{seconds}")
    call = Call(1, 0, 1, "hash", "m", 1, 1, seconds, "ok")
    asyncio.run(ledger.add(call, None))
    facts = [ClusterFacts(1, 0, 1)]
    vector = np.zeros((1, 2), np.float32)
    level = Level(facts, [], None, None, None, lambda _: vector, None, 1, True)
    labels = Labels([Summary(f"after {seconds}", "")], vector, np.full((1, 3), np.nan))
    unused: Any = None
    shards = Shards(1, 1)
    work = summarize._Work(context, shards, unused, unused, unused, unused, (0, 0))
    summarize._commit_level(work, 1, level, labels, ledger)


@pytest.mark.parametrize("engine", ["openai", "keyphrases"])
def test_what_a_model_said_has_a_name_of_its_owner_and_what_none_said_has_not(
    engine: str, tmp_path: Path
) -> None:
    store = Store(str(tmp_path))
    with hold_lock(store, print) as lock:
        label(context_of(lock.store, engine), 1.0)
    first = read_commits(store, LABELLING, "f")[1].files
    before = [store.read_bytes(file.path) for file in first]
    with hold_lock(store, print) as lock:
        label(context_of(lock.store, engine), 2.0)
        found = labelled_files(context_of(lock.store, engine))
    second = read_commits(store, LABELLING, "f")[1].files
    assert found == {1: second[0].path}
    if engine == "keyphrases":
        assert [file.path for file in first] == [file.path for file in second]
        assert second[1].path == layout.part("llm_calls", 1)
        return
    # What reads the first owner's files still finds what it said.
    assert [store.read_bytes(file.path) for file in first] == before
    assert second[1].path == "llm_calls/part-000001-000003.parquet"
