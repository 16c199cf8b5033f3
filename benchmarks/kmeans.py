"""One k-means iteration beside its peers, from the same start, with its inertia.

    python benchmarks/kmeans.py [--rows 200000] [--clusters 1000] [--dimension 384] [--rounds 5]

Vectors of unit length around planted centres. Each method runs the same number of iterations from
the same centroids; times are of the loop alone. ``faiss.Kmeans`` and scikit-learn use all cores;
``local`` is our loop in one process on all cores, ``actors`` the same over Ray, one core an actor.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import ray
from numpy.typing import NDArray
from sklearn.cluster import KMeans, MiniBatchKMeans

from hercules_scale.clustering.kmeans import lloyd
from hercules_scale.clustering.local_vectors import LocalVectors
from hercules_scale.clustering.tiles import TILE_ROWS, VectorSet
from hercules_scale.config.hierarchy import HierarchyConfig
from hercules_scale.stages.vectors import open_vectors

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Planted:
    """Unit vectors around centres that lie around coarser centres, made tile by tile."""

    n_rows: int
    dimension: int
    n_centres: int = 2000

    def read(self, tile: int, out: Float32) -> None:
        """Write the vectors of a tile into ``out``."""
        shared = np.random.default_rng(1)
        coarse = shared.normal(size=(20, self.dimension)).astype(np.float32)
        fine = shared.normal(size=(self.n_centres, self.dimension)).astype(np.float32)
        centres = coarse[np.arange(self.n_centres) % 20] + fine
        draw = np.random.default_rng([2, tile])
        own = draw.integers(0, self.n_centres, len(out))
        for start in range(0, len(out), 8192):
            part = slice(start, start + 8192)
            noise = draw.standard_normal((len(own[part]), self.dimension), np.float32)
            out[part] = centres[own[part]] + 1.2 * noise
        out /= np.linalg.norm(out, axis=1, keepdims=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--clusters", type=int, default=1000)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="*", default=[os.cpu_count() or 1])
    parser.add_argument("--json", help="where to write the figures")
    options = parser.parse_args()
    source = Planted(options.rows, options.dimension)
    vectors = np.empty((options.rows, options.dimension), np.float32)
    for tile in range(-(-options.rows // TILE_ROWS)):
        source.read(tile, vectors[tile * TILE_ROWS : (tile + 1) * TILE_ROWS])
    vectors -= vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    start = vectors[np.random.default_rng(0).choice(len(vectors), options.clusters, replace=False)]

    ray.init(
        address="local", num_cpus=max(options.workers), include_dashboard=False, log_to_driver=False
    )
    methods: dict[str, Callable[[], tuple[float, float]]] = {
        "faiss.Kmeans": lambda: time_faiss(vectors, start, options.iterations),
        "scikit-learn Lloyd": lambda: time_sklearn(vectors, start, options.iterations),
        "MiniBatchKMeans": lambda: time_minibatch(vectors, start, options.iterations),
        "local": lambda: time_ours(LocalVectors(vectors), start, options.iterations),
    }
    for workers in options.workers:
        methods[f"actors, {workers}"] = lambda workers=workers: time_actors(  # type: ignore[misc]
            source, start, options.iterations, workers
        )
    if importlib.util.find_spec("superkmeans"):
        methods["SuperKMeans"] = lambda: time_super(vectors, options.clusters, options.iterations)
    else:
        print("superkmeans is not installed (pip install superkmeans); left out")
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    inertia: dict[str, float] = {}
    for _ in range(options.rounds):
        for name, method in methods.items():
            taken, inertia[name] = method()
            seconds[name].append(taken / options.iterations)
    ray.shutdown()

    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{options.rows:,} x {options.dimension}, k={options.clusters:,}")
    print(f"{'':<20}{'s/iteration':>12}{'of faiss':>10}{'of sklearn':>12}{'inertia':>14}")
    for name, median in medians.items():
        print(
            f"{name:<20}{median:>12.3f}{median / medians['faiss.Kmeans']:>10.2f}"
            f"{median / medians['scikit-learn Lloyd']:>12.2f}{inertia[name]:>14.6g}"
        )
    if options.json:
        figures = {
            "options": vars(options),
            "seconds_per_iteration": seconds,
            "medians": medians,
            "inertia": inertia,
        }
        Path(options.json).write_text(json.dumps(figures, indent=1))


def final_inertia(vectors: Float32, centroids: Float32) -> float:
    return LocalVectors(vectors).assign(centroids.astype(np.float32)).inertia


def time_faiss(vectors: Float32, start: Float32, iterations: int) -> tuple[float, float]:
    kmeans = faiss.Kmeans(
        vectors.shape[1], len(start), niter=iterations, max_points_per_centroid=len(vectors)
    )
    started = time.perf_counter()
    kmeans.train(vectors, init_centroids=start)
    taken = time.perf_counter() - started
    return taken, final_inertia(vectors, np.asarray(kmeans.centroids))


def time_sklearn(vectors: Float32, start: Float32, iterations: int) -> tuple[float, float]:
    model = KMeans(len(start), init=start, n_init=1, tol=0, max_iter=iterations, algorithm="lloyd")
    started = time.perf_counter()
    model.fit(vectors)
    return time.perf_counter() - started, final_inertia(vectors, model.cluster_centers_)


def time_minibatch(vectors: Float32, start: Float32, iterations: int) -> tuple[float, float]:
    """As many passes over the rows, in batches of 16,384."""
    model = MiniBatchKMeans(
        len(start), init=start, n_init=1, max_iter=iterations, batch_size=16_384,
        max_no_improvement=None, random_state=0,
    )  # fmt: skip
    started = time.perf_counter()
    model.fit(vectors)
    return time.perf_counter() - started, final_inertia(vectors, model.cluster_centers_)


def time_super(vectors: Float32, k: int, iterations: int) -> tuple[float, float]:
    """All rows in every iteration; it takes no start, and draws its own."""
    from superkmeans import SuperKMeans

    model = SuperKMeans(
        k, vectors.shape[1], hierarchical=False, iters=iterations, sampling_fraction=1.0,
        max_points_per_cluster=len(vectors), early_termination=False,
    )  # fmt: skip
    started = time.perf_counter()
    centroids = model.train(vectors)
    return time.perf_counter() - started, final_inertia(vectors, np.asarray(centroids))


def time_ours(vectors: VectorSet, start: Float32, iterations: int) -> tuple[float, float]:
    config = HierarchyConfig(max_iterations=iterations, tolerance=0.0)
    started = time.perf_counter()
    result = lloyd(vectors, start, config)
    # The loop ends with an assignment that its peers leave out.
    taken = (time.perf_counter() - started) * result.n_iterations / (result.n_iterations + 1)
    return taken * iterations / result.n_iterations, result.inertia


def time_actors(
    source: Planted, start: Float32, iterations: int, workers: int
) -> tuple[float, float]:
    with open_vectors(source, "squared_l2", workers, local_rows=0) as (vectors, _):
        return time_ours(vectors, start, iterations)


if __name__ == "__main__":
    main()
