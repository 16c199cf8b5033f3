from collections.abc import Callable
from typing import Any, Literal, TypeVar

import cloudpickle
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from hercules_scale.clustering import agglomerative, choose_k, initial_centroids, kmeans
from hercules_scale.clustering.cluster_scores import score_clusters
from hercules_scale.clustering.kmeans import KMeansResult
from hercules_scale.clustering.levels import (
    Level,
    LevelResult,
    Memberships,
    build_levels,
    compute_memberships,
)
from hercules_scale.clustering.local_vectors import LocalVectors
from hercules_scale.clustering.nearest_centroids import Float32
from hercules_scale.clustering.tiles import labels_of
from hercules_scale.config.hierarchy import HierarchyConfig, ResamplingConfig

T = TypeVar("T")


def normal(n: int, d: int, seed: int = 0) -> Float32:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def nested_blobs() -> tuple[Float32, np.ndarray]:
    """Three groups of four clusters of 25 vectors, and the fine cluster of each vector."""
    draw = np.random.default_rng(0)
    groups = np.eye(3, 8) * 10
    clusters = np.repeat(groups, 4, axis=0) + draw.normal(size=(12, 8))
    fine = np.repeat(np.arange(12), 25)
    return (clusters[fine] + 0.01 * draw.normal(size=(300, 8))).astype(np.float32), fine


def build(
    vectors: Float32,
    sizes: list[int],
    rounds: int = 0,
    refinement: Literal["tree", "none"] = "none",
) -> tuple[list[Level], Memberships]:
    config = HierarchyConfig(
        levels=sizes, resampling=ResamplingConfig(rounds=rounds), refinement=refinement
    )
    local = LocalVectors(vectors)
    found = build_levels(local, config)
    leaves = found.leaves[labels_of(local)]
    return found.levels, compute_memberships(vectors, leaves, found.levels)


def test_a_planted_hierarchy_is_found() -> None:
    vectors, fine = nested_blobs()
    labels = build(vectors, [12, 3])[1].labels
    assert adjusted_rand_score(fine, labels[:, 0]) == 1.0
    assert adjusted_rand_score(fine // 4, labels[:, 1]) == 1.0


@settings(max_examples=20, deadline=None)
@given(
    n=st.integers(1, 60),
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4, unique=True),
    way=st.sampled_from([(0, "tree"), (0, "none"), (1, "none")]),
)
def test_every_item_is_in_one_cluster_a_level_and_parents_nest(
    n: int, sizes: list[int], way: tuple[int, Literal["tree", "none"]]
) -> None:
    vectors = normal(n, 4)
    wanted = sorted((min(size, n) for size in sizes), reverse=True)
    levels, found = build(vectors, sorted(set(wanted), reverse=True), *way)
    assert found.labels.shape == (n, len(levels))
    below = n
    for number, level in enumerate(levels):
        k = len(level.centroids)
        # Every cluster has items, and so has children.
        counts = np.bincount(found.labels[:, number], minlength=k)
        assert counts.min() > 0
        assert counts.sum() == n
        assert k < below or number == 0
        if level.parents is not None:
            assert level.parents.shape == (k,)
            assert (level.parents[found.labels[:, number]] == found.labels[:, number + 1]).all()
        below = k


def test_upper_levels_cluster_centroids_without_weights() -> None:
    vectors = np.repeat(np.array([[0], [1], [10], [11]], np.float32), [97, 1, 1, 1], axis=0)
    levels, _ = build(vectors, [4, 2])
    # With weights the lower centroid would lie at 1/98.
    assert sorted(levels[1].centroids[:, 0].tolist()) == pytest.approx([0.5, 10.5], abs=1e-5)


def test_a_level_that_would_not_be_coarser_is_left_out() -> None:
    vectors = np.repeat(np.array([[0], [5], [9]], np.float32), 10, axis=0)
    seen: list[tuple[int, int]] = []

    def on_level(number: int, result: LevelResult) -> None:
        seen.append((number, len(result.centroids)))

    config = HierarchyConfig(levels=[8, 4, 2])
    found = build_levels(LocalVectors(vectors), config, on_level=on_level)
    assert [len(level.centroids) for level in found.levels] == [3, 2]
    assert isinstance(found.runs[0], KMeansResult)
    assert found.runs[0].n_empty == 5
    assert seen == [(1, 3), (2, 2)]


def test_distances_and_margins_are_those_of_a_full_table() -> None:
    vectors = normal(80, 6)
    levels, found = build(vectors, [9, 4, 2])
    for number, level in enumerate(levels):
        table = ((vectors[:, None].astype(np.float64) - level.centroids) ** 2).sum(axis=2)
        own = found.labels[:, number]
        rows = np.arange(len(vectors))
        np.testing.assert_allclose(found.distances[:, number], table[rows, own], rtol=1e-5)
        others = table.copy()
        others[rows, own] = np.inf
        margin = others.min(axis=1) - table[rows, own]
        np.testing.assert_allclose(found.margins[:, number], margin, atol=1e-4)
    assert (found.margins[:, 0] > -1e-4).all()


def test_a_level_of_one_cluster_has_no_margin() -> None:
    vectors = normal(10, 3)
    _, found = build(vectors, [3, 1])
    assert np.isnan(found.margins[:, 1]).all()
    assert np.isfinite(found.margins[:, 0]).all()


# Some processors round matrix products by the shape of the batch, in the larger case.
@pytest.mark.parametrize(("d", "sizes"), [(4, [6, 2]), (48, [50, 7])])
def test_the_memberships_of_some_items_are_theirs_among_all(d: int, sizes: list[int]) -> None:
    vectors = normal(500, d)
    levels, whole = build(vectors, sizes)
    for rows in (slice(0, 1), slice(20, 30), slice(3, 499)):
        some = compute_memberships(vectors[rows], whole.labels[rows, 0], levels)
        assert (some.labels == whole.labels[rows]).all()
        assert (some.distances == whole.distances[rows]).all()
        assert (some.margins == whole.margins[rows]).all()


class Elsewhere(LocalVectors):
    """Vectors with another machine for what cannot be divided; it gets copies, as by Ray."""

    busy, n_done = False, 0

    def run(self, work: Callable[[int], T]) -> T:
        Elsewhere.busy = True
        try:
            found: T = cloudpickle.loads(cloudpickle.dumps(work))(0)
            return found
        finally:
            Elsewhere.busy = False


@pytest.mark.parametrize(
    "values",
    [
        {"levels": [12]},
        {"levels": [12], "init": "kmeans||"},
        {"levels": [12, 3]},
        {"levels": [12, 3], "refinement": "none", "n_init": 2},
        {"levels": [12], "refinement": "none", "resampling": {"rounds": 2}},
        {"levels": "auto"},
        {"levels": [12, 3], "method": "agglomerative"},
    ],
)
def test_what_cannot_be_divided_is_done_on_another_machine(
    values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of 300 vectors a start by a sample of 64 would be one.
    monkeypatch.setattr(kmeans, "SAMPLE_PER_CLUSTER", 5)
    monkeypatch.setattr(kmeans, "WARM_UP_BYTES", 0)
    config = HierarchyConfig(**values)
    vectors, _ = nested_blobs()
    local = build_levels(LocalVectors(vectors), config)
    Elsewhere.n_done = 0

    def watched(whole: Callable[..., Any]) -> Callable[..., Any]:
        def watch(*given: Any) -> Any:
            assert Elsewhere.busy
            Elsewhere.n_done += 1
            return whole(*given)

        return watch

    monkeypatch.setattr(initial_centroids, "draw_apart", watched(initial_centroids.draw_apart))
    monkeypatch.setattr(choose_k, "score_clusters", watched(score_clusters))
    monkeypatch.setattr(agglomerative, "agglomerate", watched(agglomerative.agglomerate))
    found = build_levels(Elsewhere(vectors), config)
    assert Elsewhere.n_done
    for one, other in zip(found.levels, local.levels, strict=True):
        assert one.centroids.tobytes() == other.centroids.tobytes()
