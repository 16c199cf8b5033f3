"""Runs whose processes are killed at random, again and again, beside runs that nobody disturbs.

    python benchmarks/chaos.py [--kills 200] [--stops 0] [--seconds 600] [--seed 0] [--json OUT]

Each attempt at a run gets some kills with SIGKILL, each when the output holds a drawn number of
files and a drawn moment has passed: of Ray's workers, which the run has to survive, and of the
driver with all of Ray, or of the raylet, after which the run is started again. The next run begins
when an attempt ends before its kill. After each run the files of all tables must be those of the
undisturbed run to the bit, and no commit record that an attempt found may have been written again.

``--stops`` runs have two drivers on one output each. The first is stopped with SIGSTOP, alone or
with all of its Ray, the second takes the output over as one on another machine would, and the first
is woken with SIGCONT while the second is at work or after its end. The tables must be those of the
undisturbed run, no shard may have the commits of both, and the first must end by itself.
``OUT`` gathers the runs of all calls.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from hercules_scale.commands.cli import main as hercules_scale
from hercules_scale.runtime import context
from hercules_scale.stages import vectors
from hercules_scale.storage import layout, lock
from hercules_scale.storage.run_file import read_record
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import vector_column

WORDS = ["river", "stone", "bread", "engine", "violin", "desert", "winter", "market", "orchid"]
GROUPS, DIMENSION, FILES = 12, 12, 3
WORKLOADS = {"vectors": 2_400, "numbers": 2_400, "actors": 67_000}
LONGEST_MOMENT = 0.4
HANGS_AFTER_SECONDS = 400
MOST_ENDED = 3
# Of silence, after which a driver is taken for dead; five minutes by default.
STALE_SECONDS = 6.0
# So that small inputs have several shards.
SHARD_ROWS = 512
Kill = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="in this call, at least")
    parser.add_argument("--stops", type=int, default=0, help="runs with two drivers, first")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no run after")
    parser.add_argument("--seed", type=int, default=0, help="of the kills")
    parser.add_argument("--json", help="where to add the figures")
    options = parser.parse_args()
    until = time.monotonic() + options.seconds
    gathered = Path(options.json) if options.json else None
    runs = json.loads(gathered.read_text()) if gathered and gathered.exists() else []
    here: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wanted: dict[str, dict[str, str]] = {}
        while time.monotonic() < until:
            stops = sum("stop" in run for run in here) < options.stops
            if not stops and sum(len(run["kills"]) for run in here) >= options.kills:
                break
            draw = random.Random(f"{options.seed} {len(runs)}")
            workload = draw.choice(list(WORKLOADS))
            if workload not in wanted:
                write_items(folder / workload, WORKLOADS[workload])
                alone = Attempt(folder, workload, f"undisturbed-{workload}")
                assert alone.go([]), (folder / "log").read_text()
                wanted[workload] = published(alone.output)
                print(f"{workload}: {alone.seconds:.1f} s undisturbed", flush=True)
            n_files = len(list_output(folder / f"undisturbed-{workload}"))
            disturb = taken_over if stops else disturbed
            run = disturb(folder, workload, f"run-{len(runs)}", n_files, draw)
            found = published(folder / f"run-{len(runs)}")
            run["differs"] = sorted(
                path
                for path in wanted[workload].keys() | found
                if wanted[workload].get(path) != found.get(path)
            )
            here.append(run)
            runs.append(run)
            print(json.dumps(run), flush=True)
            if gathered:
                gathered.write_text(json.dumps(runs, indent=1))
    show(runs)


def write_items(folder: Path, n_rows: int) -> None:
    """Vectors in groups in three files, with words of their group and as columns of numbers."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(GROUPS, DIMENSION))
    own = draw.integers(0, GROUPS, n_rows)
    rows = (centres[own] + 0.4 * draw.normal(size=(n_rows, DIMENSION))).astype(np.float32)
    table: dict[str, Any] = {
        "embedding": vector_column(rows),
        "text": [f"{WORDS[group % 9]} {WORDS[group // 9]} {row}" for row, group in enumerate(own)],
        "group": own.astype(str).tolist(),
    }
    table |= {f"number_{column}": rows[:, column] for column in range(4)}
    for part, cut in enumerate(np.array_split(np.arange(n_rows), FILES)):
        pq.write_table(pa.table(table).take(cut), folder / f"{part}.parquet")


class Attempt:
    """One attempt at a run, in a session of its own.

    Args:
        folder: Holds the inputs and the outputs.
        workload: What is run; see ``WORKLOADS``.
        run: Name of the output.
    """

    def __init__(self, folder: Path, workload: str, run: str) -> None:
        self.output, self._log = folder / run, folder / "log"
        given: dict[str, Any] = {"path": str(folder / workload), "label_columns": ["group"]}
        if workload == "numbers":
            given |= {"modality": "numeric", "columns": [f"number_{n}" for n in range(4)]}
        else:
            given |= {"modality": "embedding", "embedding_column": "embedding"}
            given |= {"text_column": "text"}
        values = {
            "input": given,
            "hierarchy": {"levels": [20, 4]},
            "summaries": {"engine": "keyphrases"},
            "output": {"path": str(self.output)},
        }
        self._config = folder / f"{run}.yaml"
        # JSON is YAML too.
        self._config.write_text(json.dumps(values))
        self._with_actors = workload == "actors"
        self.seconds = 0.0
        # What it said when it ended badly without a kill of the driver or the raylet.
        self.ended = ""

    def go(self, kills: list[Kill]) -> bool:
        """Run it under some kills, in the order of their files.

        Returns:
            Whether it ended well.
        """
        started = time.monotonic()
        process = self.start()
        try:
            for kill in kills:
                if not self.wait_for(process, kill):
                    break
                kill["stage"] = last_stage(self.output)
                kill["done"] = do(kill, process.pid)
                if kill["what"] == "driver":
                    break
            process.join(HANGS_AFTER_SECONDS)
            if process.is_alive():
                sys.exit(f"{self.output} hangs, killed {kills}:\n{self._log.read_text()[-3000:]}")
        finally:
            do({"what": "driver"}, process.pid)
            process.join()
        self.seconds = time.monotonic() - started
        whole = any(kill.get("done") and kill["what"] != "worker" for kill in kills)
        if process.exitcode and not whole:
            self.ended = self._log.read_text()[-2000:]
        return bool(process.exitcode == 0)

    def start(self, elsewhere: bool = False) -> Any:
        """Begin it; the caller ends the process.

        Args:
            elsewhere: As on another machine, where nothing is known of processes of this one.
        """
        # Forked from a process that has imported everything, since imports take seconds.
        arguments = (str(self._config), str(self._log), self._with_actors, elsewhere)
        process = multiprocessing.get_context("forkserver").Process(
            target=run_alone, args=arguments
        )
        process.start()
        return process

    def wait_for(self, process: Any, kill: Kill) -> bool:
        """Wait until it is time for a kill; false where the process ends before."""
        while process.is_alive():
            if len(list_output(self.output)) >= kill["files"]:
                process.join(kill["moment"])
                return bool(process.is_alive())
            process.join(0.02)
        return False


def run_alone(config: str, log: str, with_actors: bool, elsewhere: bool) -> None:
    """Run a configuration in a session of its own, by the command line's entry."""
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ["RAY_ADDRESS"] = ""
    # The whole of it may have been made nice already.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    # A machine with other work is slow to answer, and not dead.
    os.environ["RAY_health_check_failure_threshold"] = "8"  # noqa: SIM112
    lock.HEARTBEAT_SECONDS, lock.STALE_SECONDS = STALE_SECONDS / 6, STALE_SECONDS
    if elsewhere:
        lock._machine = lambda: "elsewhere"
    context.MIN_SHARD_ROWS = 16 * SHARD_ROWS if with_actors else SHARD_ROWS
    if with_actors:
        # Defaults of the rows that the driver holds itself, and of GPUs.
        vectors.open_vectors.__wrapped__.__defaults__ = (0, 0)  # type: ignore[attr-defined]
    sys.exit(hercules_scale(["run", config]))


def do(kill: Kill, session: int) -> bool:
    """Kill the driver with all of Ray, its raylet, or one of its workers, at work or not.

    Returns:
        Whether there was one.
    """
    own = processes_of(session)
    if kill["what"] == "worker":
        workers = [process for process in own if is_worker(title(process))]
        own = random.sample(workers, min(1, len(workers)))
        kill["worker"] = [title(process) for process in own]
    elif kill["what"] == "raylet":
        own = [process for process in own if process.info["name"] == "raylet"]
    for process in own:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    return bool(own)


def processes_of(session: int) -> list[psutil.Process]:
    """All processes of a session."""
    own = []
    for process in psutil.process_iter(["name", "cmdline"]):
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getsid(process.pid) == session:
                own.append(process)
    return own


def title(process: psutil.Process) -> str:
    """Return the command line, in which Ray says what a worker does."""
    return " ".join(process.info["cmdline"] or []).partition("(")[0][:60].strip()


def is_worker(name: str) -> bool:
    """Whether this is a worker of Ray, and none of the raylet's agents, with which it would go."""
    return name.startswith("ray::") and not name.endswith("Agent")


def disturbed(
    folder: Path, workload: str, run: str, n_files: int, draw: random.Random
) -> dict[str, Any]:
    """Attempt a run until it ends before its last kill."""
    kills: list[Kill] = []
    again: list[str] = []
    commits: dict[str, int] = {}
    ended: list[str] = []
    finished = False
    while not finished:
        attempt = Attempt(folder, workload, run)
        there = len(list_output(attempt.output))
        drawn = [("worker", draw.uniform(there, n_files)) for _ in range(draw.randint(2, 10))]
        drawn.append((draw.choice(["driver", "driver", "raylet"]), draw.uniform(there, n_files)))
        own = [
            {"what": what, "files": files, "moment": draw.uniform(0, LONGEST_MOMENT)}
            for what, files in sorted(drawn, key=lambda pair: pair[1])
        ]
        finished = attempt.go(own)
        kills += [kill for kill in own if kill.get("done")]
        ended += [attempt.ended] * bool(attempt.ended)
        if len(ended) > MOST_ENDED:
            sys.exit(f"{run}: {kills}\n{ended[-1]}")
        again += written_again(commits, attempt.output)
        commits = commit_times(attempt.output)
    figures = {"commits": len(commits), "again": again, "ended": ended}
    return {"workload": workload, "kills": kills, **figures}


def taken_over(
    folder: Path, workload: str, run: str, n_files: int, draw: random.Random
) -> dict[str, Any]:
    """Run with a second driver, while the first is stopped."""
    attempts = [Attempt(folder, workload, run) for _ in range(2)]
    output = attempts[0].output
    stop: Kill = {"files": draw.uniform(1, n_files - 1), "moment": draw.uniform(0, LONGEST_MOMENT)}
    stop |= {"what": draw.choice(["driver", "all"]), "woken": draw.choice(["beside", "after"])}
    first = attempts[0].start()
    processes = [first]
    try:
        stopped = attempts[0].wait_for(first, stop)
        stop["stage"] = last_stage(output)
        asleep = processes_of(first.pid) if stop["what"] == "all" else [psutil.Process(first.pid)]
        for process in asleep if stopped else []:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        stop["done"] = stopped
        if stopped:
            time.sleep(STALE_SECONDS + 2)
            commits = commit_times(output)
            second = attempts[1].start(elsewhere=True)
            processes.append(second)
            there = len(list_output(output))
            if stop["woken"] == "beside":
                files, moment = draw.uniform(there, n_files), draw.uniform(0, LONGEST_MOMENT)
                attempts[1].wait_for(second, {"files": files, "moment": moment})
            else:
                second.join(HANGS_AFTER_SECONDS)
            stop["beside"] = last_stage(output) if second.is_alive() else ""
            for process in asleep:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()
        for process in processes:
            process.join(HANGS_AFTER_SECONDS)
        codes = [process.exitcode for process in processes]
    finally:
        for process in processes:
            do({"what": "driver"}, process.pid)
            process.join()
    if codes[-1] != 0 or (stopped and codes[0] in (0, None)):
        log = (folder / "log").read_text()[-3000:]
        sys.exit(f"{run}: {stop} ended with {codes}:\n{log}")
    figures = {"stop": stop, "codes": codes, "commits": len(commit_times(output))}
    again = written_again(commits, output) if stopped else []
    return {
        "workload": workload,
        "kills": [],
        "again": again + twice(output),
        "ended": [],
        **figures,
    }


def twice(run: Path) -> list[str]:
    """Shards with commit records by more than one owner."""
    shards = Counter(path.rpartition("-")[0] for path in commit_times(run))
    return [shard for shard, n in shards.items() if n > 1]


def list_output(output: Path) -> list[str]:
    """Files that the output holds but for those still being written."""
    found = [name for _, _, names in os.walk(output) for name in names]
    return [name for name in found if not name.endswith(".tmp")]


def commit_times(run: Path) -> dict[str, int]:
    """When each commit record was written."""
    folder = run / layout.WORK / "commits"
    records = sorted(folder.rglob("*.json"))
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in records}


def written_again(before: dict[str, int], run: Path) -> list[str]:
    """Return records that changed; records of evaluation's sums are deleted when it has
    ended."""
    now = commit_times(run)
    return [path for path, written in before.items() if now.get(path, written) != written]


def last_stage(run: Path) -> str:
    """Return the stage that a run is in."""
    try:
        stages = read_record(Store(str(run))).get("stages", [])
    except FileNotFoundError:
        return "start"
    begun = [stage["name"] for stage in stages if stage["done"] < stage["total"]]
    return str(begun[0]) if begun else "between stages"


def published(run: Path) -> dict[str, str]:
    """Checksum of each file of the manifest."""
    manifest = json.loads((run / layout.MANIFEST).read_text())
    return {file["path"]: file["sha256"] for files in manifest["tables"].values() for file in files}


def show(runs: list[dict[str, Any]]) -> None:
    kills = [kill for run in runs for kill in run["kills"]]
    counts = Counter((kill["stage"], kill["what"]) for kill in kills)
    kinds = ["driver", "raylet", "worker"]
    print(f"\n| stage | {' | '.join(kinds)} |\n|---|{'---|' * len(kinds)}")
    for stage in dict.fromkeys(stage for stage, _ in counts):
        print(f"| {stage} | {' | '.join(str(counts[stage, kind]) for kind in kinds)} |")
    differ = sum(bool(run["differs"]) for run in runs)
    again = sum(len(run["again"]) for run in runs)
    print(
        f"\n{len(kills)} kills in {len(runs)} runs: {differ} runs differ from the undisturbed one, "
        f"{again} committed shards were done again, "
        f"{sum(len(run['ended']) for run in runs)} attempts failed that only lost workers"
    )
    stops = [run["stop"] for run in runs if run.get("stop", {}).get("done")]
    places = Counter((stop["stage"], stop["what"], stop["woken"]) for stop in stops)
    print(f"{len(stops)} of them by two drivers, of which the first was stopped in {dict(places)}")


if __name__ == "__main__":
    multiprocessing.get_context("forkserver").set_forkserver_preload(["__main__"])
    main()
