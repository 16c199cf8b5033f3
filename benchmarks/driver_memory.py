"""Memory of the driver and use of Ray's object store, whole runs over more and more vectors.

    python benchmarks/driver_memory.py [--rows 1000000 4000000] [--dimension 64] [--json OUT]

The input is Parquet files of unit vectors around planted centres (modality embedding), written to
--folder; a run takes it to [1000, 100, 10] with key phrases for titles and smoothing off, each in a
process of its own. Printed are, by stage, seconds and the largest resident memory of the driver
less pages of files, and of all the run the most bytes in the object store at any moment.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from scaling import LOOK_SECONDS, resident_bytes

from hercules_scale.config.file import parse_config
from hercules_scale.jobs.cluster import run
from hercules_scale.runtime.progress import Reporter, repeating
from hercules_scale.storage.tables import vector_column

FILE_ROWS = 250_000
CENTRES = 2_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=[1_000_000, 4_000_000])
    parser.add_argument("--dimension", type=int, default=64)
    parser.add_argument("--levels", type=int, nargs="*", default=[1000, 100, 10])
    parser.add_argument("--folder", help="for input and output; default: a temporary one")
    parser.add_argument("--json", help="where to write the figures")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        watch(Path(options.one), options.levels)
        return
    figures = []
    print(f"{'rows':>12}{'seconds':>9}{'driver MiB':>12}{'object store MiB':>18}")
    for rows in options.rows:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            folder = Path(name)
            write_input(folder / "input", rows, options.dimension)
            levels = [str(level) for level in options.levels]
            command = [sys.executable, __file__, "--one", name, "--levels", *levels]
            subprocess.run(command, check=True)
            found = json.loads((folder / "figures.json").read_text())
        figures.append({"rows": rows, "dimension": options.dimension, **found})
        print(
            f"{rows:>12,}{found['seconds']:>9.0f}{found['driver_bytes'] / 2**20:>12,.0f}"
            f"{found['store_bytes'] / 2**20:>18,.1f}",
            flush=True,
        )
        for stage, (seconds, n_bytes) in found["stages"].items():
            print(f"    {stage:<22}{seconds:>7.1f} s{n_bytes / 2**20:>10,.0f} MiB")
        if options.json:
            Path(options.json).write_text(json.dumps(figures, indent=1))
    first, last = figures[0]["driver_bytes"], figures[-1]["driver_bytes"]
    print(f"driver, last against first: {last / first - 1:+.1%}")


def write_input(folder: Path, rows: int, dimension: int) -> None:
    """Files of unit vectors around planted centres, the same whatever their number."""
    folder.mkdir()
    centres = np.random.default_rng(0).normal(size=(CENTRES, dimension)).astype(np.float32)
    for number, start in enumerate(range(0, rows, FILE_ROWS)):
        draw = np.random.default_rng([1, number])
        own = draw.integers(0, CENTRES, min(FILE_ROWS, rows - start))
        vectors = centres[own] + 0.5 * draw.normal(size=(len(own), dimension)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        table = pa.table({"embedding": vector_column(vectors)})
        pq.write_table(table, folder / f"{number:04d}.parquet")


class Watched(Reporter):
    """Keeps the driver's memory by stage, and the most that lies in the object store."""

    def __init__(self) -> None:
        super().__init__()
        self.driver: dict[str, int] = {}
        self.store_bytes = 0

    def look(self) -> None:
        """Compare with what is held now."""
        stage = next(reversed(self.stages), "start")
        self.driver[stage] = max(self.driver.get(stage, 0), resident_bytes(os.getpid()))
        if ray.is_initialized():
            self.store_bytes = max(self.store_bytes, stored_bytes())


def stored_bytes() -> int:
    """Bytes in the object stores of all nodes now."""
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    try:
        address = ray.get_runtime_context().gcs_address
        reply = get_memory_info_reply(get_state_from_address(address))
    except Exception:
        # It is starting or ending.
        return 0
    return int(reply.store_stats.object_store_bytes_used)


def watch(folder: Path, levels: list[int]) -> None:
    """One run, in this process."""
    config = parse_config(
        {
            "input": {"path": str(folder / "input"), "embedding_column": "embedding"},
            "hierarchy": {"levels": levels, "smoothing": {"neighbours": 0}},
            "summaries": {"engine": "keyphrases"},
            "output": {"path": str(folder / "run")},
        }
    )
    reporter = Watched()
    started = time.perf_counter()
    with repeating(LOOK_SECONDS, reporter.look):
        run(config, reporter)
    seconds = time.perf_counter() - started
    found: dict[str, Any] = {
        "seconds": seconds,
        "driver_bytes": max(reporter.driver.values()),
        "store_bytes": reporter.store_bytes,
        "stages": {
            name: (report.seconds, reporter.driver.get(name, 0))
            for name, report in reporter.stages.items()
        },
    }
    (folder / "figures.json").write_text(json.dumps(found))
    shutil.rmtree(folder / "input")


if __name__ == "__main__":
    main()
