from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hercules_scale.clustering.checkpoints import NoCheckpoints, State
from hercules_scale.clustering.levels import build_levels, compute_memberships
from hercules_scale.clustering.local_vectors import LocalVectors
from hercules_scale.clustering.nearest_centroids import to_unit
from hercules_scale.clustering.refinement import (
    UPPER_WEIGHTS,
    path_centroids,
    refine_tree,
    reparent,
)
from hercules_scale.clustering.tiles import labels_of
from hercules_scale.config.hierarchy import HierarchyConfig


def groups(seed: int, n: int = 600, dimension: int = 8) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(12, dimension)) * 3
    return (centres[rng.integers(0, 12, n)] + rng.normal(size=(n, dimension))).astype(np.float32)


def tree_objective(
    vectors: NDArray[np.float32],
    leaves: NDArray[np.int32],
    parents: list[NDArray[np.int32]],
    centroids: list[NDArray[np.float32]],
    upper_weight: float,
) -> float:
    total, node = 0.0, leaves
    for level, own in enumerate(centroids):
        if level > 0:
            node = parents[level - 1][node]
        weight = 1.0 if level == 0 else upper_weight
        total += weight * float(((vectors.astype(np.float64) - own[node]) ** 2).sum())
    return total


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_refinement_never_raises_the_objective_and_reports_the_true_one(seed: int) -> None:
    vectors = groups(seed)
    local = LocalVectors(vectors)
    start = build_levels(local, HierarchyConfig(levels=[24, 6, 2], refinement="none"))
    parents = [level.parents for level in start.levels if level.parents is not None]
    leaves = start.leaves[labels_of(local)]
    centroids = means(vectors, leaves, parents, [24, 6, 2])
    tree = refine_tree(local, start.levels[0].centroids, parents)
    assert [phase.upper_weight for phase in tree.phases] == list(UPPER_WEIGHTS)
    for phase in tree.phases:
        assert phase.converged
        assert phase.objective <= phase.first_objective * (1 + 1e-6)
    last = tree.phases[-1]
    found = labels_of(local)
    reached = tree_objective(vectors, found, tree.parents, tree.centroids, last.upper_weight)
    # The means of the last assignment are at least as good as the centroids it was made with.
    assert reached <= last.objective * (1 + 1e-5)
    assert reached >= last.objective * 0.98
    before = tree_objective(vectors, leaves, parents, centroids, last.upper_weight)
    assert reached <= before * (1 + 1e-6)


def test_level_1_is_left_as_good_as_k_means_alone() -> None:
    shares = []
    for seed in range(8):
        vectors = groups(seed, 2000)
        alone, nested = LocalVectors(vectors), LocalVectors(vectors)
        config = HierarchyConfig(levels=[24, 6, 2], seed=seed)
        build_levels(alone, config.model_copy(update={"levels": [24]}))
        build_levels(nested, config)
        inertia = []
        for local in (alone, nested):
            own = labels_of(local)
            centroids = means(vectors, own, [], [24])
            inertia.append(tree_objective(vectors, own, [], centroids, 0.0))
        shares.append(inertia[1] / inertia[0])
    assert np.median(shares) <= 1.005


class Kept(NoCheckpoints):
    """Keeps the objective of every round, by phase."""

    def __init__(self) -> None:
        self.objectives: dict[int, list[float]] = {}

    def save(self, loop: str, state: State, last: bool = False) -> None:
        phases = state.numbers["phases"]
        self.objectives.setdefault(len(phases), []).append(phases[-1]["objective"])


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(60, 400),
    dimension=st.integers(1, 10),
    levels=st.sampled_from([[8, 3], [20, 6, 2], [30, 12, 5, 2]]),
    metric=st.sampled_from(["squared_l2", "cosine"]),
)
def test_no_round_raises_the_objective_and_the_tree_stays_whole(
    seed: int, n: int, dimension: int, levels: list[int], metric: str
) -> None:
    vectors = groups(seed, n, dimension)
    if metric == "cosine":
        vectors = to_unit(vectors)
    rng = np.random.default_rng(seed)
    # A poor start, so that there is much to fix: random leaves under random parents.
    leaves = vectors[rng.choice(n, levels[0], replace=False)]
    parents = [
        rng.permutation(np.arange(below) % above).astype(np.int32)
        for below, above in pairwise(levels)
    ]
    local, kept = LocalVectors(vectors), Kept()
    tree = refine_tree(local, leaves, parents, metric, kept)
    for objectives in map(np.array, kept.objectives.values()):
        assert (np.diff(objectives) <= 1e-6 * objectives[:-1]).all()
    node = labels_of(local)
    for level, k in enumerate(levels):
        if level > 0:
            assert set(tree.parents[level - 1]) == set(range(k))
            node = tree.parents[level - 1][node]
        assert (np.bincount(node, minlength=k) == tree.counts[level]).all()
    assert all(counts.sum() == n for counts in tree.counts)


def means(
    vectors: NDArray[np.float32],
    leaves: NDArray[np.int32],
    parents: list[NDArray[np.int32]],
    sizes: list[int],
) -> list[NDArray[np.float32]]:
    found, node = [], leaves
    for level, k in enumerate(sizes):
        if level > 0:
            node = parents[level - 1][node]
        found.append(np.stack([vectors[node == each].mean(axis=0) for each in range(k)]))
    return found


def test_the_centroids_of_every_level_are_the_means_of_their_items() -> None:
    vectors = groups(3)
    local = LocalVectors(vectors)
    found = build_levels(local, HierarchyConfig(levels=[20, 5, 2]))
    members = compute_memberships(vectors, found.leaves[labels_of(local)], found.levels)
    for number, level in enumerate(found.levels):
        own = members.labels[:, number]
        assert np.unique(own).tolist() == list(range(len(level.centroids)))
        for cluster, centroid in enumerate(level.centroids):
            np.testing.assert_allclose(centroid, vectors[own == cluster].mean(axis=0), atol=1e-4)


def test_the_path_vector_costs_what_the_path_costs() -> None:
    rng = np.random.default_rng(0)
    centroids = [rng.normal(size=(k, 4)).astype(np.float32) for k in (6, 3, 2)]
    parents = [np.array([0, 0, 1, 1, 2, 2], np.int32), np.array([0, 1, 1], np.int32)]
    weights = np.array([1.0, 4.0, 2.0])
    path, offsets = path_centroids(centroids, parents, weights)
    item = rng.normal(size=4)
    for leaf in range(6):
        nodes = [leaf, parents[0][leaf], parents[1][parents[0][leaf]]]
        cost = sum(
            weight * ((item - own[node]) ** 2).sum()
            for weight, own, node in zip(weights, centroids, nodes, strict=True)
        )
        assert weights.sum() * (((item - path[leaf]) ** 2).sum() + offsets[leaf]) == pytest.approx(
            cost, rel=1e-5
        )


def test_reparenting_moves_a_misplaced_cluster_and_never_the_last_child() -> None:
    # Two groups on a line; the cluster at 9 starts under the parent of those near 0.
    totals = [np.array([[0.0], [1.0], [9.0], [10.0]]) * 5]
    counts = [np.full(4, 5)]
    parents = [np.array([0, 0, 0, 1], np.int32)]
    counts.append(np.array([15, 5]))
    totals.append(np.array([[50.0], [50.0]]))
    moved = reparent(0, parents, counts, totals, np.array([1.0, 4.0]))
    assert moved == 1
    assert parents[0].tolist() == [0, 0, 1, 1]
    assert counts[1].tolist() == [10, 10]
    assert totals[1].ravel().tolist() == [5.0, 95.0]
    alone = [np.array([0, 1], np.int32)]
    counts = [np.array([5, 5]), np.array([5, 5])]
    totals = [np.array([[0.0], [0.1]]), np.array([[0.0], [0.1]])]
    assert reparent(0, alone, counts, totals, np.array([1.0, 4.0])) == 0


def test_spherical_reparenting_lowers_the_sum_of_squares_by_what_it_reckons() -> None:
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(60, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    children = draw.integers(0, 12, 60)
    parents = [draw.integers(0, 4, 12).astype(np.int32)]
    counts = [np.bincount(children, minlength=12)]
    totals = [np.stack([vectors[children == each].sum(axis=0) for each in range(12)])]
    counts.append(np.bincount(parents[0], counts[0], 4).astype(np.int64))
    totals.append(np.stack([totals[0][parents[0] == each].sum(axis=0) for each in range(4)]))

    def sum_of_squares() -> float:
        of_items = parents[0][children]
        centroids = np.stack([vectors[of_items == each].sum(axis=0) for each in range(4)])
        centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
        return float(((vectors - centroids[of_items]) ** 2).sum())

    before = sum_of_squares()
    assert reparent(0, parents, counts, totals, np.array([1.0, 4.0]), "cosine") > 0
    assert sum_of_squares() < before
    lengths = np.linalg.norm(totals[1], axis=1)
    assert sum_of_squares() == pytest.approx(2 * 60 - 2 * lengths.sum())
