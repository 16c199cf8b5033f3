"""One worker beside two: the embedding stage and an iteration of k-means.

    python benchmarks/workers.py [--texts 8192] [--rows 1000000] [--workers 1 2] [--rounds 3]

Texts are the demo's, in shards as reading leaves them; a rate is of the time from when each worker
has ended a shard to the end of the last, so that loading the model is left out. An iteration
assigns all rows (unit vectors of 384 dimensions around planted centres) to 1,000 centroids that it
has not seen before, and sums them. Rounds alternate between the numbers of workers; medians are
printed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import ray
from embedding import load_texts, time_stage, write_items
from kmeans import Planted

from hercules_scale.stages.vectors import open_vectors

CLUSTERS, DIMENSION, ITERATIONS = 1000, 384, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=8_192)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="where to write the figures")
    options = parser.parse_args()
    texts = load_texts(None, options.texts)
    rates: dict[int, list[float]] = {workers: [] for workers in options.workers}
    seconds: dict[int, list[float]] = {workers: [] for workers in options.workers}
    for _ in range(options.rounds):
        for workers in options.workers:
            with tempfile.TemporaryDirectory() as folder:
                rates[workers].append(time_stage(*write_items(folder, texts), workers)[0])
            seconds[workers].append(time_iteration(options.rows, workers))
            print(
                f"{workers} workers: {rates[workers][-1]:,.0f} texts/s, "
                f"{seconds[workers][-1]:.2f} s an iteration",
                flush=True,
            )
    least, most = min(options.workers), max(options.workers)
    embedding = statistics.median(rates[most]) / statistics.median(rates[least])
    iteration = statistics.median(seconds[least]) / statistics.median(seconds[most])
    print(f"{most} workers against {least}: embedding {embedding:.2f}x, iteration {iteration:.2f}x")
    if options.json:
        figures = {"texts_per_second": rates, "seconds_per_iteration": seconds}
        Path(options.json).write_text(json.dumps(figures, indent=1))


def time_iteration(rows: int, workers: int) -> float:
    """Seconds of one assignment with its sums, the median of some, by that many actors."""
    ray.init("local", num_cpus=workers, include_dashboard=False, log_to_driver=False)
    try:
        source = Planted(rows, DIMENSION)
        with open_vectors(source, "squared_l2", workers, local_rows=0) as (vectors, _):
            draw = np.random.default_rng(0)
            taken = []
            for _ in range(ITERATIONS):
                centroids = draw.normal(size=(CLUSTERS, DIMENSION)).astype(np.float32)
                centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
                started = time.perf_counter()
                vectors.assign(centroids)
                taken.append(time.perf_counter() - started)
    finally:
        ray.shutdown()
    return statistics.median(taken)


if __name__ == "__main__":
    main()
