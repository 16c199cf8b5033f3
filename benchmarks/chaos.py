"""Runs that are killed at random times, again and again, beside one that nobody disturbs.

    python benchmarks/chaos.py [--kills 200] [--rows 20000] [--seed 0] [--json OUT]

A run is killed with SIGKILL, with all of Ray's processes, at a time drawn uniformly over what the
undisturbed run took, and started again, until an attempt ends before its time; then the next run
begins. After each, the files of all tables must be those of the undisturbed run to the bit, and no
commit record that was there at a kill may have been written again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hercules_scale.storage import layout
from hercules_scale.storage.manifest import read_record
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import vector_column

WORDS = ["river", "stone", "bread", "engine", "violin", "desert", "winter", "market", "orchid"]
GROUPS, DIMENSION = 40, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0, help="of the times")
    parser.add_argument("--json", help="where to write the figures")
    options = parser.parse_args()
    times = random.Random(options.seed)
    figures: dict[str, Any] = {"options": vars(options), "runs": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_items(folder / "items.parquet", options.rows)
        started = time.monotonic()
        attempt(folder, "undisturbed", None)
        seconds = time.monotonic() - started
        wanted = published(folder / "undisturbed")
        print(f"undisturbed: {seconds:.1f} s, {len(wanted)} files", flush=True)
        n_kills = 0
        while n_kills < options.kills:
            run = f"run-{len(figures['runs'])}"
            result = disturbed(folder, run, seconds, times)
            found = published(folder / run)
            result["differs"] = sorted(
                path for path in wanted.keys() | found if wanted.get(path) != found.get(path)
            )
            figures["runs"].append(result)
            n_kills += len(result["killed_in"])
            print(f"{run}: {result}", flush=True)
            if options.json:
                Path(options.json).write_text(json.dumps(figures, indent=1))
    show(figures["runs"])


def write_items(path: Path, n_rows: int) -> None:
    """Vectors in groups, with words of their group beside them."""
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(GROUPS, DIMENSION))
    own = draw.integers(0, GROUPS, n_rows)
    vectors = (centres[own] + 0.4 * draw.normal(size=(n_rows, DIMENSION))).astype(np.float32)
    texts = [
        f"{WORDS[group % 9]} {WORDS[group // 9]} of row {row}" for row, group in enumerate(own)
    ]
    table = {"embedding": vector_column(vectors), "text": texts, "group": own.astype(str).tolist()}
    pq.write_table(pa.table(table), path, row_group_size=4096)


def attempt(folder: Path, run: str, kill_after: float | None) -> bool:
    """Start a run, or take it up, and kill it after a time.

    Returns:
        Whether it ended before.
    """
    config = {
        "input": {
            "path": str(folder / "items.parquet"),
            "modality": "embedding",
            "embedding_column": "embedding",
            "text_column": "text",
            "label_columns": ["group"],
        },
        "hierarchy": {"levels": [80, 20, 5]},
        "summaries": {"engine": "keyphrases"},
        "output": {"path": str(folder / run)},
    }
    # JSON is YAML too.
    (folder / "config.yaml").write_text(json.dumps(config))
    command = [sys.executable, "-m", "hercules_scale", "run", str(folder / "config.yaml")]
    log = folder / "log"
    with log.open("ab") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)
        try:
            code = process.wait(kill_after)
        except subprocess.TimeoutExpired:
            return False
        finally:
            # Ray's processes of the run are of its session.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if code:
        sys.exit(f"{run} ended with {code}:\n{log.read_text()[-3000:]}")
    return True


def disturbed(folder: Path, run: str, seconds: float, times: random.Random) -> dict[str, Any]:
    """Kill a run until an attempt ends before its time."""
    killed_in: list[str] = []
    again: list[str] = []
    commits: dict[str, int] = {}
    while not attempt(folder, run, times.uniform(0.1, 1.1) * seconds):
        killed_in.append(last_stage(folder / run))
        again += written_again(commits, folder / run)
        commits = commit_times(folder / run)
    again += written_again(commits, folder / run)
    return {"killed_in": killed_in, "commits": len(commit_times(folder / run)), "again": again}


def commit_times(run: Path) -> dict[str, int]:
    """When each commit record was written."""
    folder = run / layout.WORK / "commits"
    records = sorted(folder.rglob("*.json"))
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in records}


def written_again(before: dict[str, int], run: Path) -> list[str]:
    """Records that are not those of before; those of evaluation's sums go when it has ended."""
    now = commit_times(run)
    return [path for path, written in before.items() if now.get(path, written) != written]


def last_stage(run: Path) -> str:
    """The stage that a killed run was in."""
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
    stages = Counter(stage for run in runs for stage in run["killed_in"])
    print("\n| stage | kills |\n|---|---|")
    for stage, count in stages.most_common():
        print(f"| {stage} | {count} |")
    differ = sum(bool(run["differs"]) for run in runs)
    again = sum(len(run["again"]) for run in runs)
    print(
        f"\n{sum(stages.values())} kills in {len(runs)} runs: {differ} runs differ from the "
        f"undisturbed one, {again} committed shards were done again"
    )


if __name__ == "__main__":
    main()
