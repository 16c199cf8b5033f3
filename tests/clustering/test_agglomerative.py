from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.cluster.hierarchy import cophenet, fcluster
from scipy.cluster.hierarchy import linkage as scipy_linkage
from sklearn.metrics import adjusted_rand_score

from hercules_scale.clustering import agglomerative as module
from hercules_scale.clustering.agglomerative import (
    CutResult,
    Dendrogram,
    agglomerate,
    agglomerate_vectors,
    cut,
)
from hercules_scale.clustering.kmeans import KMeansResult
from hercules_scale.clustering.levels import (
    LevelResult,
    Levels,
    Memberships,
    build_levels,
    compute_memberships,
)
from hercules_scale.clustering.local_vectors import LocalVectors
from hercules_scale.clustering.nearest_centroids import Float32
from hercules_scale.clustering.tiles import labels_of
from hercules_scale.config.hierarchy import (
    MAX_AGGLOMERATED,
    HierarchyConfig,
    Linkage,
    ResamplingConfig,
)

Float64 = NDArray[np.float64]
LINKAGES: tuple[Linkage, ...] = get_args(Linkage)
every_linkage = pytest.mark.parametrize("linkage", LINKAGES)


def normal(n: int, d: int, seed: int = 0) -> Float64:
    return np.random.default_rng(seed).normal(size=(n, d))


def blobs(k: int, each: int, d: int, spread: float) -> tuple[Float32, np.ndarray]:
    """Planted clusters far apart, and which is whose."""
    truth = np.repeat(np.arange(k), each)
    vectors = 10 * np.eye(k, d)[truth] + spread * normal(k * each, d)
    return vectors.astype(np.float32), truth


def merge_all(points: Float64, linkage: Linkage) -> Dendrogram:
    return agglomerate(points, np.ones(len(points), np.int64), linkage)


def as_scipy(found: Dendrogram) -> Float64:
    """The merges as scipy's table: clusters by number, height, size."""
    n = len(found.heights) + 1
    number, size = np.arange(n), np.ones(n)
    rows = []
    for step, ((lower, upper), height) in enumerate(zip(found.merges, found.heights, strict=True)):
        assert lower < upper
        size[lower] += size[upper]
        rows.append([*sorted((number[lower], number[upper])), height, size[lower]])
        number[lower] = n + step
    return np.array(rows)


def same_clusters(one: NDArray[np.int32], two: NDArray[np.int32]) -> bool:
    pairs = len(set(zip(one.tolist(), two.tolist(), strict=True)))
    return pairs == len(set(one.tolist())) == len(set(two.tolist()))


@every_linkage
@pytest.mark.parametrize(("n", "d"), [(2, 1), (7, 2), (60, 3), (200, 16)])
def test_merges_are_those_of_scipy(linkage: Linkage, n: int, d: int) -> None:
    points = normal(n, d, seed=n)
    expected = scipy_linkage(points, linkage)
    if linkage == "ward":
        expected[:, 2] **= 2
    found = as_scipy(merge_all(points, linkage))
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    np.testing.assert_allclose(cophenet(found), cophenet(expected), rtol=1e-9)


@every_linkage
def test_every_cut_is_that_of_scipy(linkage: Linkage) -> None:
    points = normal(80, 4)
    found, expected = merge_all(points, linkage), scipy_linkage(points, linkage)
    for k in range(1, 81):
        assert same_clusters(cut(found, k), fcluster(expected, k, "maxclust"))


@every_linkage
@pytest.mark.parametrize("seed", range(3))
def test_a_weight_counts_like_so_many_equal_points(linkage: Linkage, seed: int) -> None:
    points, weights = normal(40, 3, seed), np.random.default_rng(seed).integers(1, 6, 40)
    found = agglomerate(points, weights, linkage)
    repeated = merge_all(np.repeat(points, weights, axis=0), linkage)
    n_equal = int(weights.sum()) - 40
    assert (repeated.heights[:n_equal] == 0).all()
    np.testing.assert_allclose(found.heights, repeated.heights[n_equal:], rtol=1e-9)
    for k in (1, 2, 5, 20, 40):
        assert (np.repeat(cut(found, k), weights) == cut(repeated, k)).all()


def test_ward_heights_are_twice_the_rise_of_the_sum_of_squares() -> None:
    points, weights = normal(30, 3), np.random.default_rng(1).integers(1, 9, 30)
    found = agglomerate(points, weights, "ward")
    for k in (1, 4, 12):
        labels, squares = cut(found, k), 0.0
        for own in (labels == each for each in range(k)):
            mean = np.average(points[own], axis=0, weights=weights[own])
            squares += float((weights[own] * ((points[own] - mean) ** 2).sum(axis=1)).sum())
        assert found.heights[: 30 - k].sum() == pytest.approx(2 * squares)


@settings(max_examples=100, deadline=None)
@given(
    points=st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=1, max_size=30),
    linkage=st.sampled_from(LINKAGES),
    data=st.data(),
)
def test_any_points_merge_into_cuts_that_nest(
    points: list[tuple[int, int]], linkage: Linkage, data: st.DataObject
) -> None:
    n = len(points)
    weights = np.array(data.draw(st.lists(st.integers(1, 9), min_size=n, max_size=n)))
    array = np.array(points, np.float64)
    found = agglomerate(array, weights, linkage)
    assert (np.diff(found.heights) >= 0).all()
    assert np.isfinite(found.heights).all()
    assert cut(found, n).tolist() == list(range(n))
    coarser = np.zeros(n, np.int32)
    for k in range(1, n + 1):
        labels = cut(found, k)
        firsts = np.unique(labels, return_index=True)[1]
        assert len(firsts) == k
        # Numbered by lowest point, and inside one cluster of the cut before.
        assert (np.diff(firsts) > 0).all()
        assert (coarser[firsts][labels] == coarser).all()
        coarser = labels
    # Equal points come together before any others.
    n_distinct = len(set(points))
    assert (found.heights == 0).sum() == n - n_distinct
    distinct = np.unique(array, axis=0, return_inverse=True)[1].astype(np.int32)
    assert same_clusters(cut(found, n_distinct), distinct)


def check_merges(found: Dendrogram) -> None:
    """Each merge is of two clusters that are there, in an order that the heights allow."""
    there = set(range(len(found.heights) + 1))
    for lower, upper in found.merges.tolist():
        assert lower < upper
        assert {lower, upper} <= there
        there.remove(upper)
    assert (np.diff(found.heights) >= 0).all()


@every_linkage
def test_points_all_equally_far_merge_in_order_whatever_the_rounding(linkage: Linkage) -> None:
    for seed in range(300):
        draw = np.random.default_rng(seed)
        n = int(draw.integers(3, 14))
        points = np.eye(n) * draw.random()
        check_merges(merge_all(points, linkage))
        check_merges(agglomerate(points, draw.integers(1, 9, n), linkage))


@every_linkage
def test_a_grid_full_of_ties_merges_in_order(linkage: Linkage) -> None:
    grid = np.stack(np.meshgrid(np.arange(12), np.arange(12)), axis=-1).reshape(-1, 2) * 0.1
    for seed in range(20):
        check_merges(merge_all(np.random.default_rng(seed).permutation(grid), linkage))


@every_linkage
def test_ties_on_a_line_go_by_order(linkage: Linkage) -> None:
    points = np.arange(4, dtype=np.float64)[:, None]
    found = merge_all(points, linkage)
    assert found.merges[0].tolist() == [0, 1]
    assert cut(found, 2).tolist() == ([0, 0, 0, 1] if linkage == "single" else [0, 0, 1, 1])


def test_points_that_cannot_be_agglomerated_are_refused() -> None:
    weights = np.ones(MAX_AGGLOMERATED + 1, np.int64)
    with pytest.raises(ValueError, match=r"points must be from 1 to 5,000, got 5,001"):
        agglomerate(np.zeros((MAX_AGGLOMERATED + 1, 1)), weights, "ward")
    with pytest.raises(ValueError, match="weights must be above 0, got 0"):
        agglomerate(np.zeros((2, 1)), np.array([1, 0]), "ward")
    with pytest.raises(ValueError, match="k must be from 1 to the 3 points, got 4"):
        cut(merge_all(normal(3, 1), "ward"), 4)


def build(vectors: Float32, sizes: list[int], **values: Any) -> tuple[Levels, Memberships]:
    config = HierarchyConfig(levels=sizes, method="agglomerative", **values)
    local = LocalVectors(vectors)
    found = build_levels(local, config)
    leaves = found.leaves[labels_of(local)]
    return found, compute_memberships(vectors, leaves, found.levels)


@every_linkage
def test_levels_of_few_rows_are_cuts_of_scipys_dendrogram(linkage: Linkage) -> None:
    vectors = normal(120, 5).astype(np.float32)
    found, members = build(vectors, [30, 8, 2], linkage=linkage)
    expected = scipy_linkage(vectors.astype(np.float64), linkage)
    for number, k in enumerate([30, 8, 2]):
        own = members.labels[:, number]
        assert same_clusters(own, fcluster(expected, k, "maxclust"))
        for cluster, centroid in enumerate(found.levels[number].centroids):
            np.testing.assert_allclose(centroid, vectors[own == cluster].mean(axis=0), atol=1e-6)


def test_each_level_says_how_it_was_cut() -> None:
    vectors = np.array([[0], [1], [5], [7], [20]], np.float32)
    seen: list[tuple[int, LevelResult]] = []
    config = HierarchyConfig(levels=[5, 3, 1], method="agglomerative", linkage="single")
    found = build_levels(LocalVectors(vectors), config, on_level=lambda *run: seen.append(run))
    assert [number for number, _ in seen] == [1, 2, 3]
    assert [run for _, run in seen] == found.runs
    heights = []
    for run in found.runs:
        assert isinstance(run, CutResult)
        assert (run.linkage, run.n_points) == ("single", 5)
        heights.append((run.height, run.next_height))
    assert heights == [(0.0, 1.0), (2.0, 4.0), (13.0, None)]
    assert found.runs[1].counts.tolist() == [2, 2, 1]
    assert (found.tree, found.micro) == (None, None)


@settings(max_examples=40, deadline=None)
@given(
    points=st.lists(st.tuples(st.integers(-2, 2), st.integers(-2, 2)), min_size=1, max_size=40),
    wanted=st.sets(st.integers(1, 40), min_size=1, max_size=4),
    linkage=st.sampled_from(LINKAGES),
    metric=st.sampled_from(["squared_l2", "cosine"]),
    exact_rows=st.sampled_from([12, 5000]),
)
def test_every_item_is_in_one_cluster_a_level_and_parents_nest(
    points: list[tuple[int, int]],
    wanted: set[int],
    linkage: Linkage,
    metric: str,
    exact_rows: int,
) -> None:
    vectors = np.array(points, np.float32)
    sizes = sorted({min(k, len(points), exact_rows) for k in wanted}, reverse=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "EXACT_ROWS", exact_rows)
        found, members = build(vectors, sizes, linkage=linkage, metric=metric)
    assert members.labels.shape == (len(points), len(found.levels))
    n_distinct = len(set(points))
    if len(points) <= exact_rows:
        assert [len(level.centroids) for level in found.levels] == sorted(
            {min(k, n_distinct) for k in sizes}, reverse=True
        )
    below = len(points) + 1
    for number, (level, run) in enumerate(zip(found.levels, found.runs, strict=True)):
        own, k = members.labels[:, number], len(level.centroids)
        counts = np.bincount(own, minlength=k)
        assert counts.min() > 0
        assert counts.tolist() == run.counts.tolist()
        assert k < below
        if level.parents is not None:
            assert (level.parents[own] == members.labels[:, number + 1]).all()
        below = k


def test_equal_rows_share_a_cluster_and_are_counted_once_each() -> None:
    vectors = np.array([[0], [9], [0], [9], [1], [0]], np.float32)
    found, members = build(vectors, [6, 2])
    assert members.labels.tolist() == [[0, 0], [1, 1], [0, 0], [1, 1], [2, 0], [0, 0]]
    assert [run.counts.tolist() for run in found.runs] == [[3, 2, 1], [4, 2]]
    assert found.leaves.tolist() == [0, 1, -1, -1, 2, -1]


def test_spherical_centroids_have_unit_length() -> None:
    vectors, truth = blobs(5, 20, 8, spread=0.5)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found, members = build(vectors, [20, 5], metric="cosine")
    for level in found.levels:
        np.testing.assert_allclose(np.linalg.norm(level.centroids, axis=1), 1, atol=1e-6)
    assert adjusted_rand_score(truth, members.labels[:, 1]) == 1.0


@pytest.mark.parametrize("linkage", ["ward", "average", "complete"])
def test_many_rows_are_agglomerated_from_micro_clusters(
    linkage: Linkage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EXACT_ROWS", 200)
    monkeypatch.setattr(module, "MICRO_CLUSTERS", 60)
    vectors, truth = blobs(6, 100, 8, spread=0.3)
    found, members = build(vectors, [20, 6, 2], linkage=linkage)
    assert isinstance(found.micro, KMeansResult)
    # Four for each cluster of level 1.
    assert len(found.leaves) == len(found.micro.counts) == 80
    assert [len(level.centroids) for level in found.levels] == [20, 6, 2]
    assert adjusted_rand_score(truth, members.labels[:, 1]) == 1.0
    for number, level in enumerate(found.levels):
        own = members.labels[:, number]
        assert found.runs[number].counts.tolist() == np.bincount(own).tolist()
        for cluster, centroid in enumerate(level.centroids):
            np.testing.assert_allclose(centroid, vectors[own == cluster].mean(axis=0), atol=1e-5)


def test_there_are_no_more_micro_clusters_than_can_be_agglomerated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "EXACT_ROWS", 50)
    found, _ = build(normal(200, 4).astype(np.float32), [30, 3])
    assert len(found.leaves) == 50


def test_the_same_seed_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXACT_ROWS", 60)
    vectors = normal(300, 4).astype(np.float32)
    one, two, other = (build(vectors, [12, 3], seed=seed) for seed in (5, 5, 6))
    assert one[1].labels.tobytes() == two[1].labels.tobytes()
    for level, same in zip(one[0].levels, two[0].levels, strict=True):
        assert level.centroids.tobytes() == same.centroids.tobytes()
    assert one[1].labels.tobytes() != other[1].labels.tobytes()


def test_more_clusters_than_rows_are_refused_as_by_k_means() -> None:
    config = HierarchyConfig(levels=[4], method="agglomerative")
    with pytest.raises(ValueError, match="k must be from 1 to the 3 vectors, got 4"):
        agglomerate_vectors(LocalVectors(np.eye(3, dtype=np.float32)), config)


def test_resampling_is_refused_in_a_hierarchy_section_alone() -> None:
    with pytest.raises(ValueError, match=r"must be kmeans where resampling\.rounds is above 0"):
        HierarchyConfig(method="agglomerative", resampling=ResamplingConfig(rounds=1))
