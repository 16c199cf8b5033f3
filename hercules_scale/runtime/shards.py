"""Runs a stage's shards on Ray; skips committed shards and names those that fail.

A worker writes its shard's data, then the commit record; only the small record travels through
Ray, never the data.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import ray

from hercules_scale.errors import ERRORS_BY_NAME, StageError
from hercules_scale.runtime.context import RunContext
from hercules_scale.runtime.resources import Pool
from hercules_scale.runtime.shard_tasks import (
    DIED,
    ShardResult,
    ShardTask,
    ShardWorker,
    attempts_folder,
    commit_of,
    peak_bytes,
)
from hercules_scale.runtime.waiting import DEATHS, POLL_SECONDS, Room, polled
from hercules_scale.storage import layout
from hercules_scale.storage.commits import (
    Commit,
    read_commit,
    read_commits,
    whole_commits,
    write_commit,
)

REPORTED = ("shard", "units", "peak_bytes")


@dataclass(frozen=True)
class Stage:
    """Work of a stage that is cut into shards: its name, its units and its resources.

    Attributes:
        name: Name in commits, logs and reports.
        unit: Noun for what is counted, such as ``items``.
        total: Number of units.
        workers: Most shards that are worked on at a time, on one logical CPU each.
        pool: Number and resources of workers that hold something costly, such as a model, from
            shard to shard.
        threads: Shards that one process of the pool works on at a time, so that it reads and writes
            some while it computes another.
        here: Whether shards are worked on in this process, one after another, since the worker
            cannot be sent to others; it then raises its own exceptions.
    """

    name: str
    unit: str
    total: int
    workers: int
    pool: Pool | None = None
    threads: int = 1
    here: bool = False


def run_once(context: RunContext, name: str, work: Callable[[], ShardResult]) -> Commit:
    """Do work once in a run, in the driver, and return its commit.

    Args:
        context: The run.
        name: Name of the work in its commit.
        work: Function that does the work; it is called unless there is a commit.
    """
    commit = done_shards(context, name).get(0)
    if commit is None:
        commit = commit_of(0, context.fingerprint, work())
        write_commit(context.store, name, commit)
    return commit


def done_shards(context: RunContext, stage: str) -> dict[int, Commit]:
    """Return the intact commits of a stage; report and drop the others."""
    store = context.store
    commits = read_commits(store, stage, context.fingerprint)
    whole, lost = whole_commits(store, commits)
    for shard in commits.keys() - whole.keys():
        store.delete_files(layout.commit(stage, shard, commits[shard].owner))
    if lost:
        context.reporter.say(
            f"{stage}: {len(lost):,} files are gone or cut since they were written, such as "
            f"{lost[0]}; {len(commits) - len(whole):,} of {len(commits):,} shards are done again"
        )
    return whole


def run_shards(
    context: RunContext,
    stage: Stage,
    n_shards: int,
    worker: ShardWorker,
    look: Callable[[Commit], None] | None = None,
) -> dict[int, Commit]:
    """Run the shards that have no commit yet, and return the commits of all.

    Args:
        context: The run.
        stage: The stage.
        n_shards: Number of shards.
        worker: Works on one shard.
        look: Called with each commit, also of earlier attempts, while shards are left; its
            exceptions end the stage.

    Raises:
        HerculesScaleError: The first problem with the input that a worker met.
        StageError: A worker failed for another reason.
    """
    done = done_shards(context, stage.name)
    todo = [shard for shard in range(n_shards) if shard not in done]
    n_left = len(todo)
    if look is not None and todo:
        for commit in done.values():
            look(commit)
    before = sum(commit.info["units"] for commit in done.values())
    with context.reporter.stage(stage.name, stage.total, stage.unit, before) as progress:
        died: dict[int, str] = {}
        if todo:
            # Marks of an attempt that was killed as a whole do not count against a shard.
            context.store.delete_files(attempts_folder(stage.name))
            with closing(_map(context, stage, todo, worker)) as rows:
                for row in rows:
                    if row["error_type"] == DIED:
                        died[int(row["shard"])] = str(row["error"])
                        continue
                    _check(stage, row)
                    shard, units, peak = (int(row[name]) for name in REPORTED)
                    progress.advance(units, peak)
                    n_left -= 1
                    if look is not None and n_left:
                        _look(context, stage, shard, look)
                    context.reporter.detail("shard done", shard=shard, units=units, peak_bytes=peak)
        if died:
            shard, place = next(iter(died.items()))
            raise StageError(
                f"{DEATHS} workers died at it ({place}), most likely out of memory; look for very "
                "large rows there, or give each worker more memory in the section resources; the "
                "other shards are done: run again, it resumes",
                stage=stage.name,
                shard=shard,
            )
    return read_commits(context.store, stage.name, context.fingerprint)


def _look(context: RunContext, stage: Stage, shard: int, look: Callable[[Commit], None]) -> None:
    commit = read_commit(context.store, stage.name, shard, context.fingerprint)
    if commit is not None:
        look(commit)


def _check(stage: Stage, row: dict[str, Any]) -> None:
    """Raise the error that a worker reported."""
    if row["error_type"]:
        known = ERRORS_BY_NAME.get(row["error_type"])
        if known is not None:
            raise known(row["error"])
        message = f"{row['error_type']}: {row['error']}; run again, it resumes"
        raise StageError(message, stage=stage.name, shard=int(row["shard"]))


def _map(
    context: RunContext, stage: Stage, todo: list[int], worker: ShardWorker
) -> Generator[dict[str, Any], None, None]:
    if stage.here:
        yield from _in_this_process(context, stage, todo, worker)
        return
    arguments = (worker, context.store, stage.name, context.fingerprint)
    run = _in_tasks if stage.pool is None else _in_actors
    wanted = "tasks of 1 CPU" if stage.pool is None else stage.pool.asked
    room = Room(context, stage.name, wanted)

    def begun() -> bool:
        # A worker leaves a mark when it begins.
        return bool(context.store.list_folder(attempts_folder(stage.name)))

    try:
        for row in run(stage, todo, arguments):
            if row is None:
                room.look(begun)
            else:
                room.is_there()
                yield row
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise StageError(
            f"a worker failed: {reason}; run again, it resumes", stage=stage.name
        ) from error


def _in_this_process(
    context: RunContext, stage: Stage, todo: list[int], worker: ShardWorker
) -> Iterator[dict[str, Any]]:
    for shard in todo:
        commit = commit_of(shard, context.fingerprint, worker(shard))
        write_commit(context.store, stage.name, commit)
        yield {
            "shard": shard,
            "units": commit.info["units"],
            "peak_bytes": peak_bytes(),
            "error_type": "",
        }


def _in_actors(
    stage: Stage, todo: list[int], arguments: tuple[Any, ...]
) -> Iterator[dict[str, Any] | None]:
    """Run shards on Ray Data, in a pool of actors."""
    # Ray Data takes a second to load, and its own actors take another: too long for short stages.
    import ray.data

    # The import of Ray Data sets up its loggers.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    data = ray.data.DataContext.get_current()
    data.enable_progress_bars = False
    data.print_on_execution_start = False
    shards = ray.data.from_items(
        [{"shard": shard} for shard in todo], override_num_blocks=len(todo)
    )
    shards.set_name(f"hercules_{stage.name}")
    assert stage.pool is not None
    least, most = (min(size, len(todo)) for size in (stage.pool.least, stage.pool.most))
    results = shards.map_batches(
        ShardTask,
        fn_constructor_args=arguments,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(
            min_size=least,
            max_size=most,
            max_concurrent_calls_per_actor=stage.threads,
            enable_true_multi_threading=stage.threads > 1,
        ),
        **stage.pool.options,
    )
    yield from polled(results.iter_rows())


def _in_tasks(
    stage: Stage, todo: list[int], arguments: tuple[Any, ...]
) -> Iterator[dict[str, Any] | None]:
    """Run shards in plain tasks, on all nodes; Ray repeats tasks of a lost process or node."""
    name = f"hercules_{stage.name}"
    options = {"name": name, "num_cpus": 1, "max_retries": -1, "scheduling_strategy": "SPREAD"}
    run = ray.remote(**options)(_run_task)
    task = ray.put(ShardTask(*arguments))
    left = iter(todo)
    running = [run.remote(task, shard) for shard in itertools.islice(left, stage.workers)]
    try:
        while running:
            done, running = ray.wait(running, timeout=POLL_SECONDS)
            if not done:
                yield None
                continue
            (ended,) = done
            yield _row(ray.get(ended))
            running += [run.remote(task, shard) for shard in itertools.islice(left, 1)]
    finally:
        for reference in running:
            ray.cancel(reference)


def _run_task(task: ShardTask, shard: int) -> dict[str, Any]:
    return task({"shard": [shard]})


def _row(batch: dict[str, Any]) -> dict[str, Any]:
    """Return the only row of a batch."""
    return {name: column[0] for name, column in batch.items()}
