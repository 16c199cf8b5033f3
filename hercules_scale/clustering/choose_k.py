"""Choice of a level's number of clusters, where the configuration leaves it to the data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial

import numpy as np

from hercules_scale.clustering.checkpoints import Checkpoints, NoCheckpoints, State
from hercules_scale.clustering.cluster_scores import CurvePoint, score_clusters
from hercules_scale.clustering.kmeans import kmeans
from hercules_scale.clustering.local_vectors import LocalVectors
from hercules_scale.clustering.nearest_centroids import Float32, Int64
from hercules_scale.clustering.tiles import VectorSet, sample_rows, take
from hercules_scale.config.hierarchy import HierarchyConfig, ResamplingConfig
from hercules_scale.errors import InputError

# If there are more vectors than this, a sample of this size is clustered for the scores: 77 MB at
# 384 dimensions.
SAMPLE_ROWS = 50_000
# Largest number of vectors for the full silhouette, which needs the distances of all pairs.
MAX_SILHOUETTE_ROWS = 20_000
RATIO = math.sqrt(2)
# Least mean number of items, or of child clusters, in a cluster; scores of smaller clusters say
# little. So max_k is at most SAMPLE_ROWS / 16.
ITEMS_PER_CLUSTER, CHILDREN_PER_CLUSTER = 16, 3
# A level with at most this many clusters is the top level.
TOP_CLUSTERS = 8

Run = Callable[[Callable[[int], list[CurvePoint]]], list[CurvePoint]]


def choose_k(
    vectors: VectorSet,
    config: HierarchyConfig,
    level: int = 1,
    checkpoints: Checkpoints | None = None,
    run: Run | None = None,
) -> list[CurvePoint]:
    """Cluster vectors into each number of clusters on a ladder, score them, and choose one.

    A silhouette chooses the smallest number within one standard error of the best, other scores the
    best. If there are more than 50,000 vectors, a hashed sample of that many is clustered, without
    resampling, and decides for all.

    Args:
        vectors: The items for level 1, else the centroids of the level below with their weights;
            a vector of weight w counts as w vectors in all but the full silhouette.
        config: ``k_score``, ``max_k`` and the settings of k-means.
        level: Level that is built.
        checkpoints: Store of the curve.
        run: Function that runs another on the best machine; by default ``vectors.run``.

    Returns:
        Points of the curve, one of them chosen; empty if no coarser level is wanted.

    Raises:
        InputError: The full silhouette was asked for and there are too many vectors.
    """
    check_score(config, vectors.n_rows)
    if level > 1 and vectors.n_rows <= TOP_CLUSTERS:
        return []
    checkpoints = checkpoints or NoCheckpoints()
    name = f"level-{level}-choose"
    state = checkpoints.load(name)
    if state is not None:
        return [CurvePoint(**point) for point in state.numbers["points"]]
    smallest, largest = k_range(vectors.n_rows, level, config.max_k)
    rows = np.sort(sample_rows(vectors, min(SAMPLE_ROWS, vectors.n_rows), config.seed, level))
    counts = ladder(smallest, largest)
    points = (run or vectors.run)(partial(_curve, *take(vectors, rows), counts, config, level))
    best = choose(points, config.k_score)
    points = [replace(point, chosen=point.k == best.k) for point in points]
    checkpoints.save(name, State({}, {"points": [asdict(each) for each in points]}), last=True)
    return points


def check_score(config: HierarchyConfig, n_rows: int) -> None:
    """Refuse the full silhouette of too many items.

    Raises:
        InputError: The full silhouette is asked for, and there are more than 20,000 items.
    """
    if config.k_score == "silhouette" and n_rows > MAX_SILHOUETTE_ROWS:
        raise InputError(
            f"hierarchy.k_score silhouette takes at most {MAX_SILHOUETTE_ROWS:,} items, since it "
            f"compares all pairs, and there are {n_rows:,}; take simplified_silhouette"
        )


def k_range(n_rows: int, level: int, max_k: int) -> tuple[int, int]:
    """Return the smallest and the largest number of clusters that a level may get.

    Scores of texts are often best at two clusters and fall from there, but two clusters say little
    about a collection. So the range for n items begins at sqrt(n) / 4 (at 8 for few items), and the
    range for n centroids at sqrt(n) / 2, where a cluster has about 2 sqrt(n) children.

    Args:
        n_rows: Number of items for level 1, else of clusters of the level below.
        level: Level that is built.
        max_k: Largest number of clusters of level 1.
    """
    if level == 1:
        largest = min(min(n_rows, SAMPLE_ROWS) // ITEMS_PER_CLUSTER, max_k)
        smallest = min(max(8, math.isqrt(n_rows) // 4), largest // 4)
    else:
        largest = n_rows // CHILDREN_PER_CLUSTER
        smallest = math.isqrt(n_rows) // 2
    # A score needs two clusters, and fewer clusters than vectors.
    most = max(1, n_rows - 1)
    return min(max(2, smallest), most), min(max(2, largest), most)


def ladder(smallest: int, largest: int) -> list[int]:
    """Return numbers from smallest to largest, each about sqrt(2) times the one before."""
    steps = int(math.log(largest / smallest, RATIO) + 1e-9)
    return sorted({round(smallest * RATIO**step) for step in range(steps + 1)})


def largest_counts(n_rows: int, max_k: int) -> list[int]:
    """Return the largest number of clusters that each level may get, finest first."""
    counts = [k_range(n_rows, 1, max_k)[1]]
    while counts[-1] > TOP_CLUSTERS:
        counts.append(k_range(counts[-1], len(counts) + 1, max_k)[1])
    return counts


def choose(points: Sequence[CurvePoint], score: str) -> CurvePoint:
    """Return the point that a score chooses; among equals, the one with the fewest clusters.

    Args:
        points: Points, at least one.
        score: Name of the score, a value of ``k_score``.
    """
    scored = sorted((each for each in points if each.k > 1), key=lambda point: point.k)
    if not scored:
        return points[0]
    values = [float(getattr(point, score)) for point in scored]
    if score == "davies_bouldin":
        return scored[values.index(min(values))]
    bound = max(values)
    if score in ("simplified_silhouette", "silhouette"):
        bound -= scored[values.index(bound)].standard_error or 0.0
    return next(point for point, value in zip(scored, values, strict=True) if value >= bound)


def _curve(
    sample: Float32,
    weights: Int64,
    counts: list[int],
    config: HierarchyConfig,
    level: int,
    n_gpus: int,
) -> list[CurvePoint]:
    """Return a point for each number of clusters; fewer if there are fewer distinct vectors."""
    # Scores take centroids for the means of their clusters, but resampling moves them away.
    config = config.model_copy(update={"resampling": ResamplingConfig()})
    vectors = LocalVectors(sample, weights, n_gpus)
    points: dict[int, CurvePoint] = {}
    for k in counts:
        found = kmeans(vectors, k, config, level)
        if len(found.centroids) not in points:
            point = score_clusters(vectors, found.centroids, config, level)
            points[point.k] = point
    return list(points.values())
