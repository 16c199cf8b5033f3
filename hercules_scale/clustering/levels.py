"""Hierarchies of clusters, built level by level."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hercules_scale.clustering.agglomerative import Agglomeration, CutResult, agglomerate_vectors
from hercules_scale.clustering.checkpoints import Checkpoints, NoCheckpoints, State
from hercules_scale.clustering.choose_k import choose_k
from hercules_scale.clustering.cluster_scores import CurvePoint
from hercules_scale.clustering.exact_nearest import nearest_others, squared_distances
from hercules_scale.clustering.kmeans import KMeansResult, kmeans, warm_up_size
from hercules_scale.clustering.local_vectors import LocalVectors
from hercules_scale.clustering.nearest_centroids import Float32, Int32, Int64
from hercules_scale.clustering.refinement import (
    DRAFT_TOLERANCE,
    UPPER_WEIGHTS,
    Parents,
    Tree,
    refine_tree,
)
from hercules_scale.clustering.tiles import VectorSet, labels_of, sample_rows, take
from hercules_scale.config.hierarchy import HierarchyConfig

# A tree that starts from a sample's is near its optimum, and passes over all vectors are costly.
SAMPLE_STARTED_TOLERANCE = 1e-4
# Starts of each level above the first; the best is kept.
UPPER_STARTS = 10


@dataclass(frozen=True)
class Level:
    """Clusters of one level.

    Attributes:
        centroids: Shape (k, d).
        parents: Cluster of the level above that each cluster belongs to, shape (k,); None at the
            top.
    """

    centroids: Float32
    parents: Int32 | None


LevelResult = KMeansResult | CutResult


@dataclass(frozen=True)
class Levels:
    """A whole hierarchy; ``leaves`` maps the labels in the vector set to clusters of level 1.

    Attributes:
        levels: Finest first.
        runs: Result of k-means or cut of each level, before refinement.
        leaves: Cluster of level 1 of each label in the vector set's last assignment; after k-means,
            the label itself.
        path: Vector of each label in that assignment, shape (number of labels, d).
        offsets: Offset of the squared distances to each vector of ``path``,
            shape (number of labels,).
        tree: Result of refinement, if there was any.
        micro: Result of k-means for the micro-clusters below level 1, if there are any.
        curve: Scores by which numbers of clusters were chosen, if they were left to the data.
    """

    levels: list[Level]
    runs: Sequence[LevelResult]
    leaves: Int32
    path: Float32
    offsets: Float32
    tree: Tree | None = None
    micro: KMeansResult | None = None
    curve: list[CurvePoint] = field(default_factory=list)


def build_levels(
    vectors: VectorSet,
    config: HierarchyConfig,
    checkpoints: Checkpoints | None = None,
    on_level: Callable[[int, LevelResult], None] = lambda number, result: None,
) -> Levels:
    """Cluster the items, then the centroids, and so on, finest level first.

    With ``refinement: tree``, the weight of a centroid is its number of items, and the tree is
    refined as a whole at the end; ``none`` is the paper's way. With ``method: agglomerative``, one
    dendrogram is cut at every level instead. A level is left out if it asks for at least as many
    clusters as the level below has. With ``levels: auto``, the number of clusters of each level is
    chosen once the level below is built, until a level has few clusters.

    Args:
        vectors: The items.
        config: The hierarchy section.
        checkpoints: Store of states.
        on_level: Function that is called with the number and the result of each level.

    Source: HERCULES, Algorithm 3 (direct mode).
    """
    checkpoints = checkpoints or NoCheckpoints()
    if config.method == "agglomerative":
        return _cut_levels(agglomerate_vectors(vectors, config, checkpoints), on_level)
    if config.levels != "auto" and len(config.levels) > 1:
        size = warm_up_size(vectors, config.levels[0])
        if config.refinement == "tree" and size < vectors.n_rows:
            return _from_sample(vectors, size, config, checkpoints, on_level)
    runs: list[KMeansResult] = []
    parents: list[Int32] = []
    # Centroids are few, and the cost of more starts is soon repaid in the tree.
    upper = config.model_copy(update={"n_init": max(config.n_init, UPPER_STARTS)})
    finest = config
    if config.refinement == "tree" and (config.levels == "auto" or len(config.levels) > 1):
        tolerance = max(config.tolerance, DRAFT_TOLERANCE)
        finest = config.model_copy(update={"tolerance": tolerance})
    below = vectors
    weights: Int64 | None = None
    curve: list[CurvePoint] = []

    def counts() -> Iterator[int]:
        if isinstance(config.levels, list):
            yield from config.levels
            return
        # Each number is asked for once the level below is built.
        while points := choose_k(below, config, len(runs) + 1, checkpoints, vectors.run):
            curve.extend(points)
            yield next(point.k for point in points if point.chosen)

    for k in counts():
        if runs and k >= below.n_rows:
            continue
        if runs:
            level = len(runs) + 1
            state = checkpoints.load(f"level-{level}")
            if state is None:
                work = partial(_upper_level, runs[-1].centroids, weights, k, upper, level)
                state = vectors.run(work)
                checkpoints.save(f"level-{level}", state, last=True)
            found, _, labels = _from_state(state)
            runs += found
            parents += labels
        else:
            runs.append(kmeans(vectors, k, finest, 1, checkpoints))
        on_level(len(runs), runs[-1])
        weights = runs[-1].counts if config.refinement == "tree" else None
        below = LocalVectors(runs[-1].centroids, weights)
    if config.refinement == "tree" and parents:
        leaves = runs[0].centroids
        tree = refine_tree(vectors, leaves, parents, config.metric, checkpoints, config.tolerance)
        return replace(_of_tree(vectors, tree, runs), curve=curve)
    return replace(_of_kmeans([run.centroids for run in runs], parents, runs), curve=curve)


def _upper_level(
    centroids: Float32,
    weights: Int64 | None,
    k: int,
    config: HierarchyConfig,
    level: int,
    n_gpus: int,
) -> State:
    """Cluster the centroids of the level below; return the result and the cluster of each
    centroid."""
    below = LocalVectors(centroids, weights, n_gpus)
    run = kmeans(below, k, config, level)
    return _to_state([run], run.centroids, [labels_of(below)])


def _from_sample(
    vectors: VectorSet,
    size: int,
    config: HierarchyConfig,
    checkpoints: Checkpoints,
    on_level: Callable[[int, LevelResult], None],
) -> Levels:
    """Build the tree of a sample, then refine it over all vectors.

    Passes over the sample are cheap, and leave little to do for the passes over all vectors.
    """
    state = checkpoints.load("sample")
    if state is None:
        rows = np.sort(sample_rows(vectors, size, config.seed, 1))
        # The driver's machine may be the smallest one, so the best machine runs this.
        found = vectors.run(partial(_of_rows, *take(vectors, rows), config))
        for number, run in enumerate(found.runs, start=1):
            on_level(number, run)
        parents = [level.parents for level in found.levels if level.parents is not None]
        state = _to_state(found.runs, found.levels[0].centroids, parents)
        checkpoints.save("sample", state, last=True)
    runs, leaf_centroids, parents = _from_state(state)
    if parents:
        tolerance = max(config.tolerance, SAMPLE_STARTED_TOLERANCE)
        # The heavier weights were already used on the sample.
        tree = refine_tree(
            vectors,
            leaf_centroids,
            parents,
            config.metric,
            checkpoints,
            tolerance,
            UPPER_WEIGHTS[-1:],
        )
        return _of_tree(vectors, tree, runs)
    # There are too few distinct vectors for a second level.
    vectors.assign(leaf_centroids)
    return _of_kmeans([leaf_centroids], [], runs)


def _of_rows(vectors: Float32, weights: Int64, config: HierarchyConfig, n_gpus: int) -> Levels:
    return build_levels(LocalVectors(vectors, weights, n_gpus), config)


def _to_state(
    runs: Sequence[LevelResult], leaf_centroids: Float32, parents: Sequence[Int32]
) -> State:
    arrays: dict[str, NDArray[Any]] = {"leaf_centroids": leaf_centroids}
    arrays |= {f"parents_{level}": each for level, each in enumerate(parents)}
    kept = []
    for index, run in enumerate(runs):
        numbers = asdict(run)
        for name in ("centroids", "counts"):
            arrays[f"{name}_{index}"] = numbers.pop(name)
        kept.append(numbers)
    return State(arrays, {"runs": kept})


def _from_state(state: State) -> tuple[list[KMeansResult], Float32, list[Int32]]:
    arrays = state.arrays
    runs = [
        KMeansResult(arrays[f"centroids_{index}"], arrays[f"counts_{index}"], **numbers)
        for index, numbers in enumerate(state.numbers["runs"])
    ]
    n_parents = sum(name.startswith("parents_") for name in arrays)
    parents = [arrays[f"parents_{level}"] for level in range(n_parents)]
    return runs, arrays["leaf_centroids"], parents


def _of_tree(vectors: VectorSet, tree: Tree, runs: list[KMeansResult]) -> Levels:
    tree = _without_empty(vectors, tree)
    return _of_kmeans(tree.centroids, tree.parents, runs, tree)


def _of_kmeans(
    centroids: list[Float32], parents: Parents, runs: list[KMeansResult], tree: Tree | None = None
) -> Levels:
    leaves = np.arange(len(centroids[0]), dtype=np.int32)
    path, offsets = centroids[0], np.zeros(len(leaves), np.float32)
    if tree is not None:
        path, offsets = tree.path, tree.offsets
    return Levels(_nested(centroids, parents), runs, leaves, path, offsets, tree)


def _cut_levels(found: Agglomeration, on_level: Callable[[int, LevelResult], None]) -> Levels:
    for number, level in enumerate(found.levels, start=1):
        on_level(number, level)
    levels = _nested([level.centroids for level in found.levels], found.parents)
    offsets = np.zeros(len(found.leaves), np.float32)
    return Levels(levels, found.levels, found.leaves, found.points, offsets, micro=found.micro)


def _nested(centroids: list[Float32], parents: Parents) -> list[Level]:
    above: list[Int32 | None] = [*parents, None]
    return [Level(*level) for level in zip(centroids, above, strict=True)]


def _without_empty(vectors: VectorSet, tree: Tree) -> Tree:
    """Return a tree without the clusters that lost their last item, with ids without gaps."""
    used = [np.flatnonzero(counts) for counts in tree.counts]
    if all(len(kept) == len(counts) for kept, counts in zip(used, tree.counts, strict=True)):
        return tree
    parents = [
        np.searchsorted(used[level + 1], parent[used[level]]).astype(np.int32)
        for level, parent in enumerate(tree.parents)
    ]
    tree = replace(
        tree,
        parents=parents,
        centroids=[each[kept] for each, kept in zip(tree.centroids, used, strict=True)],
        counts=[each[kept] for each, kept in zip(tree.counts, used, strict=True)],
        path=tree.path[used[0]],
        offsets=tree.offsets[used[0]],
    )
    # No item moves, since only empty clusters are left out.
    vectors.assign(tree.path, tree.offsets)
    return tree


@dataclass(frozen=True)
class Memberships:
    """Clusters of some items, at every level.

    Attributes:
        labels: Clusters, shape (n, L), finest level first.
        distances: Squared L2 distances to the own centroid, shape (n, L).
        margins: Squared distance to the best other centroid of the level minus the squared distance
            to the own, shape (n, L); below zero if the item's path does not hold its nearest
            centroid, NaN if the level has one cluster.
    """

    labels: NDArray[np.int32]
    distances: Float32
    margins: Float32


def compute_memberships(vectors: Float32, leaves: Int32, levels: list[Level]) -> Memberships:
    """Return clusters, distances and margins of some items.

    Args:
        vectors: Shape (n, d), in the space that was clustered.
        leaves: Their clusters at level 1, shape (n,).
        levels: Finest first.
    """
    labels, distances, margins = [], [], []
    own = leaves
    for level in levels:
        distance = squared_distances(vectors, level.centroids, own)
        labels.append(own)
        distances.append(distance.astype(np.float32))
        if len(level.centroids) == 1:
            margins.append(np.full(len(vectors), np.nan, np.float32))
        else:
            # The search's own distances are not used: their last digits depend on its batch and
            # threads.
            other = nearest_others(vectors, own, level.centroids)
            margin = squared_distances(vectors, level.centroids, other) - distance
            margins.append(margin.astype(np.float32))
        if level.parents is not None:
            own = level.parents[own]
    return Memberships(
        np.stack(labels, axis=1).astype(np.int32),
        np.stack(distances, axis=1),
        np.stack(margins, axis=1),
    )
