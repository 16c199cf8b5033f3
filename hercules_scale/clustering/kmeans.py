"""Lloyd's k-means over any vector set."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from hercules_scale.clustering.checkpoints import Checkpoints, NoCheckpoints, State
from hercules_scale.clustering.initial_centroids import SAMPLE_PER_CLUSTER, initial_centroids
from hercules_scale.clustering.local_vectors import LocalVectors
from hercules_scale.clustering.nearest_centroids import Float32, Int64, Sums, to_unit
from hercules_scale.clustering.stateless_random import draw_seed, hash_rows
from hercules_scale.clustering.tiles import Tile, VectorSet, nearest_rows, sample_rows, take
from hercules_scale.config.hierarchy import HierarchyConfig

PERTURBATION = 1e-3
# A sample is clustered first if there are at least this many times as many vectors.
WARM_UP_FROM = 2
WARM_UP_BYTES = 512 << 20


@dataclass(frozen=True)
class KMeansResult:
    """Clusters of one level; the vector set holds their labels.

    Attributes:
        centroids: Shape (k, d); a label is a position among them.
        counts: Weight of each cluster's vectors, shape (k,).
        inertia: Sum of squared L2 distances to the own centroid.
        n_iterations: Number of iterations that were run over all vectors.
        stopped: Reason for the end: ``labels`` (no more of them changed than the bound),
            ``objective`` (it fell by no more than the tolerance) or ``max_iterations``.
        objective_fall: Share by which the objective fell in the last iteration.
        share_changed: Share of labels that changed in the last iteration.
        n_refilled: Number of empty clusters that were given new centroids on the way.
        n_empty: Number of clusters that were asked for, stayed empty and were left out.
    """

    centroids: Float32
    counts: Int64
    inertia: float
    n_iterations: int
    stopped: str
    objective_fall: float
    share_changed: float
    n_refilled: int
    n_empty: int

    @property
    def converged(self) -> bool:
        """Whether the iteration ended before ``max_iterations``."""
        return self.stopped != "max_iterations"


def kmeans(
    vectors: VectorSet,
    k: int,
    config: HierarchyConfig,
    level: int = 1,
    checkpoints: Checkpoints | None = None,
) -> KMeansResult:
    """Cluster vectors, with resampling if asked.

    Args:
        vectors: The vectors of the level below.
        k: Number of clusters, at most the number of vectors.
        config: Seed, start, metric, tolerances, resampling.
        level: Level that is built, for the draws and the checkpoints.
        checkpoints: Store of states.

    Returns:
        The clusters; fewer than k if there are fewer distinct vectors. The vector set's last
        assignment holds their labels.

    Source: HERCULES, Algorithm 3, lines 12-25; Vo et al., Automatic Data Curation for
        Self-Supervised Learning (2024).
    """
    if not 1 <= k <= vectors.n_rows:
        raise ValueError(f"k must be from 1 to the {vectors.n_rows} vectors, got {k}")
    checkpoints = checkpoints or NoCheckpoints()
    name = f"level-{level}"
    rounds = config.resampling.rounds
    resumed = checkpoints.load(f"{name}-resampling")
    if resumed is None:
        result = _best_start(vectors, k, config, level, checkpoints)
        first = 1
    else:
        result = _from_state(resumed, vectors.assign(_centroids(resumed)))
        first = int(resumed.numbers["round"]) + 1
    for round_ in range(first, rounds + 1):
        rows = np.sort(nearest_rows(vectors, config.resampling.points_per_cluster))
        if len(rows) < k:
            break
        # Each round has its own draws, so its seed is a hash of the run's seed and the round.
        seed = draw_seed(config.seed, level, "resample", round_)
        work = partial(_cluster_sample, *take(vectors, rows), k, config, level, seed)
        refined = vectors.run(work)
        result = _assigned(vectors, refined.centroids, refined)
        checkpoints.save(f"{name}-resampling", _to_state(result, round=round_))
    return _without_empty(vectors, result, k)


def _best_start(
    vectors: VectorSet, k: int, config: HierarchyConfig, level: int, checkpoints: Checkpoints
) -> KMeansResult:
    """Return the best of ``n_init`` clusterings by inertia."""
    best: KMeansResult | None = None
    for index in range(config.n_init):
        seed = config.seed if index == 0 else draw_seed(config.seed, level, "start", index)
        loop = f"level-{level}-start-{index}"
        start: Float32 | None = None
        if checkpoints.load(loop) is None:
            start = _warm_start(vectors, k, config, level, seed)
        result = lloyd(vectors, start, config, level, seed, checkpoints, loop)
        if best is None or result.inertia < best.inertia:
            best = result
    assert best is not None
    if config.n_init > 1:
        best = _assigned(vectors, best.centroids, best)
    return best


def _warm_start(
    vectors: VectorSet, k: int, config: HierarchyConfig, level: int, seed: int
) -> Float32:
    """Return initial centroids; for many vectors, the centroids of a clustered sample.

    Passes over the sample are cheap, and leave little to do for the passes over all vectors.
    """
    size = warm_up_size(vectors, k)
    if size == vectors.n_rows:
        return initial_centroids(vectors, k, config, level, seed)
    rows = np.sort(sample_rows(vectors, size, seed, level))
    work = partial(_cluster_sample, *take(vectors, rows), k, config, level, seed)
    return vectors.run(work).centroids


def _cluster_sample(
    vectors: Float32,
    weights: Int64,
    k: int,
    config: HierarchyConfig,
    level: int,
    seed: int,
    n_gpus: int,
) -> KMeansResult:
    sample = LocalVectors(vectors, weights, n_gpus)
    start = initial_centroids(sample, k, config, level, seed)
    return lloyd(sample, start, config, level, seed)


def warm_up_size(vectors: VectorSet, k: int) -> int:
    """Return the size of the sample that is clustered first; all rows if a sample would save
    little."""
    fits = WARM_UP_BYTES // (4 * vectors.dimension)
    size = min(SAMPLE_PER_CLUSTER * k, max(fits, k))
    return size if vectors.n_rows >= WARM_UP_FROM * size else vectors.n_rows


def lloyd(
    vectors: VectorSet,
    start: Float32 | None,
    config: HierarchyConfig,
    level: int = 1,
    seed: int = 0,
    checkpoints: Checkpoints | None = None,
    loop: str = "lloyd",
) -> KMeansResult:
    """Iterate from given centroids until the objective or the labels stop changing.

    Args:
        vectors: Vectors to cluster.
        start: Centroids, shape (k, d); if None, the loop resumes from its checkpoint.
        config: Metric, tolerances and the treatment of empty clusters.
        level: Level that is built, for the draws.
        seed: Seed of this start, for the draws.
        checkpoints: Store of the state of each iteration.
        loop: Name of the loop in ``checkpoints``.
    """
    checkpoints = checkpoints or NoCheckpoints()
    state = checkpoints.load(loop) if start is None else None
    if state is not None:
        # An assignment to these centroids gives the same labels again, to the bit.
        sums = vectors.assign(_centroids(state))
        result = _from_state(state, sums)
        if result.stopped:
            return result
    else:
        assert start is not None
        centroids = project(start, config.metric)
        sums = vectors.assign(centroids)
        result = KMeansResult(centroids, sums.counts, sums.inertia, 0, "", 0.0, 1.0, 0, 0)
    refilled = 0
    while not result.stopped:
        centroids = project(sums.means(result.centroids), config.metric)
        iteration = result.n_iterations + 1
        refilled = refill(vectors, centroids, sums, config, level, seed, iteration)
        previous, sums = sums.inertia, vectors.assign(centroids)
        fall = (previous - sums.inertia) / previous if previous > 0 else 0.0
        changed = sums.n_changed / vectors.n_rows
        stopped = ""
        # A refill may raise the objective for a while, and identical vectors never split.
        if sums.n_changed == 0 or (changed <= config.changed_tolerance and not refilled):
            stopped = "labels"
        elif fall <= config.tolerance and not refilled:
            stopped = "objective"
        elif iteration == config.max_iterations:
            stopped = "max_iterations"
        result = KMeansResult(
            centroids,
            sums.counts,
            sums.inertia,
            iteration,
            stopped,
            fall,
            changed,
            result.n_refilled + refilled,
            0,
        )
        if not stopped:
            checkpoints.save(loop, _to_state(result))
    if refilled:
        # The last refill moved the split clusters' centroids off their means.
        centroids = project(sums.means(result.centroids), config.metric)
        result = _assigned(vectors, centroids, result)
    checkpoints.save(loop, _to_state(result), last=True)
    return result


def project(centroids: Float32, metric: str) -> Float32:
    """Return centroids as the metric needs them: of unit length for ``cosine`` (spherical
    k-means)."""
    return centroids if metric == "squared_l2" else to_unit(centroids)


def _assigned(vectors: VectorSet, centroids: Float32, result: KMeansResult) -> KMeansResult:
    """Return a result after a new assignment to other centroids."""
    sums = vectors.assign(centroids)
    return replace(result, centroids=centroids, counts=sums.counts, inertia=sums.inertia)


def _without_empty(vectors: VectorSet, result: KMeansResult, k: int) -> KMeansResult:
    """Leave out empty clusters, so that ids have no gaps; no vector moves to another centroid."""
    used = np.flatnonzero(result.counts)
    if len(used) < len(result.counts):
        result = _assigned(vectors, result.centroids[used], result)
    return replace(result, n_empty=k - len(used))


_NUMBERS = ("n_iterations", "stopped", "objective_fall", "share_changed", "n_refilled")


def _to_state(result: KMeansResult, **numbers: int) -> State:
    kept = {name: getattr(result, name) for name in _NUMBERS}
    kept["objective"] = result.inertia
    return State({"centroids": result.centroids}, {**kept, **numbers})


def _centroids(state: State) -> Float32:
    return state.arrays["centroids"].astype(np.float32, copy=False)


def _from_state(state: State, sums: Sums) -> KMeansResult:
    """Return a result that was saved, given the sums of an assignment to its centroids."""
    numbers: dict[str, Any] = {name: state.numbers[name] for name in _NUMBERS}
    return KMeansResult(_centroids(state), sums.counts, sums.inertia, n_empty=0, **numbers)


def refill(
    vectors: VectorSet,
    centroids: Float32,
    sums: Sums,
    config: HierarchyConfig,
    level: int,
    seed: int,
    iteration: int,
) -> int:
    """Give each empty cluster a new centroid, in place.

    ``split`` halves the largest clusters: it replaces a centroid by two, a little to either side of
    it along hashed signs. ``farthest`` takes the vectors that lie farthest from their centroids.
    ``drop`` leaves the clusters empty.

    Returns:
        Number of clusters that were refilled.

    Source: faiss ``Clustering.cpp``, ``split_clusters``.
    """
    empty = np.flatnonzero(sums.counts == 0)
    if not len(empty) or config.empty_clusters == "drop":
        return 0
    if config.empty_clusters == "farthest":
        rows = _farthest_rows(vectors, len(empty))
        centroids[empty[: len(rows)]] = take(vectors, rows)[0]
        return len(rows)
    counts = sums.counts.copy()
    for cluster in empty:
        largest = int(counts.argmax())
        if counts[largest] < 2:
            return 0
        columns = np.arange(centroids.shape[1]) + int(cluster) * centroids.shape[1]
        bits = hash_rows(seed, level, "refill", iteration, columns) & np.uint64(1)
        step = PERTURBATION * np.abs(centroids[largest]) * (2.0 * bits.astype(np.float32) - 1)
        centroids[cluster] = centroids[largest] + step
        centroids[largest] = centroids[largest] - step
        counts[cluster] = counts[largest] // 2
        counts[largest] -= counts[cluster]
    return len(empty)


def _farthest_rows(vectors: VectorSet, n_rows: int) -> Int64:
    """Return the rows farthest from their centroids, above distance 0, by (distance, row)."""
    parts = vectors.map(partial(_farthest_of_tile, n_rows=n_rows))
    rows, distances = (np.concatenate(each) for each in zip(*parts, strict=True))
    farthest: Int64 = rows[np.lexsort((rows, -distances))[:n_rows]]
    return farthest


def _farthest_of_tile(tile: Tile, n_rows: int) -> tuple[Int64, Float32]:
    away = np.flatnonzero(tile.distances > 0)
    kept = away[np.lexsort((away, -tile.distances[away]))[:n_rows]]
    return tile.rows[kept], tile.distances[kept]
