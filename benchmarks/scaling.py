"""The engine from 10^5 to 10^7 rows, and from 1 to 4 workers, on generated vectors.

    python benchmarks/scaling.py [--rows 100000 1000000 10000000] [--workers 2] [--json OUT]

Each run clusters unit vectors of 384 dimensions around planted centres, made tile by tile in the
actors, to [1000, 100, 10] with tree refinement. Printed: seconds to make and map the vectors,
seconds to cluster, microseconds a row, and the largest resident memory of any process without the
page cache of its memory map (RssAnon and RssShmem of /proc).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
from kmeans import Planted

from hercules_scale.clustering.levels import build_levels
from hercules_scale.config.hierarchy import HierarchyConfig
from hercules_scale.runtime.progress import repeating
from hercules_scale.stages.vectors import open_vectors

LOOK_SECONDS = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--workers", type=int, nargs="*", default=[2])
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--levels", type=int, nargs="*", default=[1000, 100, 10])
    parser.add_argument("--json", help="where to write the figures")
    options = parser.parse_args()
    figures = []
    print(
        f"{'rows':>12}{'workers':>9}{'map s':>8}{'cluster s':>11}{'us/row':>8}{'rounds':>8}"
        f"{'inertia/row':>13}{'GiB driver':>12}{'GiB worker':>12}"
    )
    for workers in options.workers:
        ray.init(address="local", num_cpus=workers, include_dashboard=False, log_to_driver=False)
        for rows in options.rows:
            found = run(Planted(rows, options.dimension), options.levels, workers)
            figures.append(found)
            print(
                f"{rows:>12,}{workers:>9}{found['map_seconds']:>8.1f}"
                f"{found['cluster_seconds']:>11.1f}{found['cluster_seconds'] / rows * 1e6:>8.1f}"
                f"{found['rounds']:>8}{found['inertia'] / rows:>13.5f}"
                f"{found['driver_bytes'] / 2**30:>12.2f}{found['worker_bytes'] / 2**30:>12.2f}",
                flush=True,
            )
            if options.json:
                Path(options.json).write_text(json.dumps(figures, indent=1))
        ray.shutdown()


def run(source: Planted, levels: list[int], workers: int) -> dict[str, Any]:
    memory = Memory()
    started = time.perf_counter()
    with (
        repeating(LOOK_SECONDS, memory.look),
        open_vectors(source, "squared_l2", workers, local_rows=0) as (vectors, _),
    ):
        mapped = time.perf_counter()
        found = build_levels(vectors, HierarchyConfig(levels=levels))
        finished = time.perf_counter()
    digest = hashlib.sha256(b"".join(level.centroids.tobytes() for level in found.levels))
    assert found.tree is not None
    return {
        "rows": source.n_rows,
        "workers": workers,
        "map_seconds": mapped - started,
        "cluster_seconds": finished - mapped,
        "rounds": sum(phase.n_rounds for phase in found.tree.phases),
        "inertia": found.tree.phases[-1].objective,
        "driver_bytes": memory.driver,
        "worker_bytes": memory.worker,
        "centroids_sha256": digest.hexdigest()[:16],
        "clusters": [len(level.centroids) for level in found.levels],
    }


class Memory:
    """The largest memory of this process and of any actor, less file pages, when looked at."""

    def __init__(self) -> None:
        self.driver = self.worker = 0

    def look(self) -> None:
        """Compare with what they hold now."""
        self.driver = max(self.driver, resident_bytes(psutil.Process().pid))
        for process in psutil.process_iter(["name"]):
            if (process.info["name"] or "").startswith("ray::"):
                self.worker = max(self.worker, resident_bytes(process.pid))


def resident_bytes(pid: int) -> int:
    """Resident memory of a process without pages of files."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem"))]
    return int(np.sum(kilobytes)) * 1024


if __name__ == "__main__":
    main()
