from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from hercules_scale.clustering import initial_centroids as init
from hercules_scale.clustering import kmeans as module
from hercules_scale.clustering.initial_centroids import draw_far_rows, initial_centroids
from hercules_scale.clustering.kmeans import KMeansResult, kmeans, lloyd
from hercules_scale.clustering.local_vectors import LocalVectors
from hercules_scale.clustering.nearest_centroids import Float32, Int32, nearest
from hercules_scale.clustering.tiles import labels_of, nearest_rows, sample_rows, take
from hercules_scale.config.hierarchy import HierarchyConfig


def blobs(k: int, each: int, d: int, spread: float, seed: int) -> tuple[Float32, np.ndarray]:
    """Planted clusters around unit vectors, and which is whose."""
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(k, d))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    truth = np.repeat(np.arange(k), each)
    vectors = centres[truth] + spread * draw.normal(size=(k * each, d))
    return vectors.astype(np.float32), truth


@dataclass(frozen=True)
class Found:
    result: KMeansResult
    labels: Int32


def config(**values: Any) -> HierarchyConfig:
    return HierarchyConfig.model_validate(values)


def cluster(vectors: Float32, k: int, rounds: int = 0, points: int = 10, **values: Any) -> Found:
    resampling = {"rounds": rounds, "points_per_cluster": points}
    local = LocalVectors(vectors)
    result = kmeans(local, k, config(refinement="none", resampling=resampling, **values))
    return Found(result, labels_of(local))


def iterate(vectors: Float32, start: Float32, **values: Any) -> Found:
    local = LocalVectors(vectors)
    result = lloyd(local, start, config(**values))
    return Found(result, labels_of(local))


def check(vectors: Float32, k: int, found: Found) -> None:
    """What holds for every clustering."""
    result, labels = found.result, found.labels
    used = len(result.centroids)
    assert used + result.n_empty == k
    assert sorted(set(labels.tolist())) == list(range(used))
    assert (result.counts == np.bincount(labels, minlength=used)).all()
    own = ((vectors - result.centroids[labels]).astype(np.float64) ** 2).sum(axis=1)
    # Rounding of faiss's expansion of the square grows with the length of the vectors.
    slack = 1e-5 * (1 + float((vectors**2).sum(axis=1).max()))
    best = nearest(vectors, result.centroids)[0][:, 0]
    assert (own <= best + slack).all()
    assert result.inertia == pytest.approx(own.sum(), rel=1e-4, abs=len(vectors) * slack)


@pytest.mark.parametrize("seed", range(4))
def test_lloyd_reaches_the_inertia_of_scikit_learn(seed: int) -> None:
    vectors, _ = blobs(12, 80, 16, spread=0.3, seed=seed)
    start = vectors[np.random.default_rng(seed).choice(len(vectors), 12, replace=False)]
    ours = iterate(vectors, start)
    reference = KMeans(
        12, init=start, n_init=1, tol=0, max_iter=ours.result.n_iterations, algorithm="lloyd"
    ).fit(vectors)
    assert ours.result.n_refilled == 0
    assert ours.result.converged
    assert ours.result.inertia == pytest.approx(reference.inertia_, rel=1e-5)
    assert adjusted_rand_score(reference.labels_, ours.labels) > 0.99
    assert len(ours.result.centroids) == 12


def test_lloyd_stops_at_the_last_iteration() -> None:
    vectors, _ = blobs(8, 50, 8, spread=0.5, seed=0)
    found = iterate(vectors, vectors[:8], max_iterations=1).result
    assert (found.n_iterations, found.stopped, found.converged) == (1, "max_iterations", False)
    reference = KMeans(8, init=vectors[:8], n_init=1, tol=0, max_iter=1).fit(vectors)
    assert found.inertia == pytest.approx(reference.inertia_, rel=1e-5)


def test_it_says_what_ended_it() -> None:
    vectors, _ = blobs(8, 200, 8, spread=0.5, seed=0)
    exact = iterate(vectors, vectors[:8], tolerance=0).result
    assert (exact.stopped, exact.share_changed) == ("labels", 0)
    by_objective = iterate(vectors, vectors[:8], tolerance=0.01).result
    assert by_objective.stopped == "objective"
    assert 0 < by_objective.objective_fall <= 0.01
    by_labels = iterate(vectors, vectors[:8], tolerance=0, changed_tolerance=0.02).result
    assert by_labels.stopped == "labels"
    assert 0 < by_labels.share_changed <= 0.02
    assert by_labels.n_iterations < exact.n_iterations


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), k=st.integers(2, 12))
def test_the_objective_never_rises_without_empty_clusters(seed: int, k: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(200, 4)).astype(np.float32)
    local = LocalVectors(vectors)
    sums = local.assign(vectors[:k])
    for _ in range(10):
        if not sums.counts.all():
            return
        before, sums = sums, local.assign(sums.means(vectors[:k]))
        assert sums.inertia <= before.inertia * (1 + 1e-6)
        assert sums.counts.sum() == 200


@pytest.mark.parametrize("rounds", [0, 2])
def test_planted_clusters_are_found(rounds: int) -> None:
    vectors, truth = blobs(10, 60, 16, spread=0.05, seed=3)
    found = cluster(vectors, 10, rounds)
    assert adjusted_rand_score(truth, found.labels) == 1.0
    check(vectors, 10, found)


@pytest.mark.parametrize("way", ["sample", "kmeans++", "kmeans||"])
def test_every_start_finds_planted_clusters(way: str) -> None:
    vectors, truth = blobs(6, 60, 16, spread=0.05, seed=3)
    found = cluster(vectors, 6, init=way, n_init=4)
    assert adjusted_rand_score(truth, found.labels) == 1.0
    check(vectors, 6, found)


def test_the_best_of_several_starts_is_kept() -> None:
    vectors, _ = blobs(30, 20, 4, spread=0.1, seed=1)
    one = cluster(vectors, 30, init="sample")
    many = cluster(vectors, 30, init="sample", n_init=5)
    assert many.result.inertia < one.result.inertia
    check(vectors, 30, many)


def test_the_rows_of_resampling_are_those_of_a_plain_loop() -> None:
    draw = np.random.default_rng(0)
    # Small whole numbers, so that distances tie.
    vectors = draw.integers(-3, 4, size=(400, 3)).astype(np.float32)
    centroids = vectors[[0, 50, 99, 150]] * np.float32(0.5)
    local = LocalVectors(vectors)
    local.assign(centroids)
    labels, found = labels_of(local), nearest_rows(local, 7)
    distances = nearest(vectors, centroids)[0][:, 0]
    expected = []
    for each in range(4):
        members = [(distances[row], row) for row in range(400) if labels[row] == each]
        expected += [row for _, row in sorted(members)[:7]]
    assert found.tolist() == expected


def test_a_round_of_resampling_keeps_the_items_nearest_to_each_centroid() -> None:
    vectors, truth = blobs(6, 40, 16, spread=0.02, seed=1)
    found = cluster(vectors, 6, 1, 10)
    assert adjusted_rand_score(truth, found.labels) == 1.0
    for blob in range(6):
        members = vectors[truth == blob].astype(np.float64)
        distances = ((members - members.mean(axis=0)) ** 2).sum(axis=1)
        core = members[distances.argsort()[:10]].mean(axis=0)
        centroid = found.result.centroids[found.labels[blob * 40]]
        np.testing.assert_allclose(centroid, core, atol=1e-6)


def test_resampling_without_enough_vectors_keeps_what_there_is() -> None:
    vectors, _ = blobs(3, 4, 4, spread=0.1, seed=0)
    plain, resampled = cluster(vectors, 12), cluster(vectors, 12, 2, 1)
    check(vectors, 12, resampled)
    assert len(resampled.result.centroids) == len(plain.result.centroids)


def test_the_same_seed_gives_the_same_bits_and_another_does_not() -> None:
    vectors, _ = blobs(12, 30, 8, spread=0.5, seed=0)
    one, two, other = (cluster(vectors, 12, 1, seed=seed) for seed in (5, 5, 6))
    assert one.result.centroids.tobytes() == two.result.centroids.tobytes()
    assert one.labels.tobytes() == two.labels.tobytes()
    assert one.result.centroids.tobytes() != other.result.centroids.tobytes()


@settings(max_examples=25, deadline=None)
@given(
    points=st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=1, max_size=25),
    way=st.sampled_from(["auto", "sample", "kmeans||"]),
    empty=st.sampled_from(["split", "farthest", "drop"]),
    data=st.data(),
)
def test_any_points_are_all_clustered(
    points: list[tuple[int, int]], way: str, empty: str, data: st.DataObject
) -> None:
    vectors = np.array(points, np.float32)
    k = data.draw(st.integers(1, len(points)))
    rounds = data.draw(st.integers(0, 2))
    check(vectors, k, cluster(vectors, k, rounds, 3, init=way, empty_clusters=empty))


@pytest.mark.parametrize("k", [3, 4, 9])
@pytest.mark.parametrize("way", ["kmeans++", "kmeans||"])
def test_fewer_distinct_vectors_than_clusters_give_a_cluster_each(k: int, way: str) -> None:
    distinct = np.array([[3, 3], [5, 1], [-2, 0.3]], np.float32)
    vectors = np.repeat(distinct, 20, axis=0)
    found = cluster(vectors, k, init=way)
    assert (len(found.result.centroids), found.result.n_empty) == (3, k - 3)
    assert (found.result.centroids[found.labels] == vectors).all()
    assert found.result.inertia == pytest.approx(0, abs=1e-3)
    assert found.result.converged


def test_as_many_clusters_as_vectors_hold_one_each() -> None:
    vectors = np.arange(6, dtype=np.float32)[:, None]
    found = cluster(vectors, 6)
    assert (found.result.centroids[found.labels] == vectors).all()


def test_zero_vectors_are_vectors_like_others() -> None:
    vectors = np.concatenate([np.zeros((30, 3)), np.ones((30, 3))]).astype(np.float32)
    for metric in ("squared_l2", "cosine"):
        found = cluster(vectors, 2, metric=metric)
        assert sorted(found.result.counts.tolist()) == [30, 30]
        assert np.isfinite(found.result.centroids).all()


def test_one_cluster_is_the_mean() -> None:
    vectors, _ = blobs(3, 30, 4, spread=0.3, seed=0)
    (centroid,) = cluster(vectors, 1).result.centroids
    np.testing.assert_allclose(centroid, vectors.mean(axis=0), atol=1e-6)


@pytest.mark.parametrize("policy", ["split", "farthest"])
def test_an_empty_cluster_is_refilled(policy: str) -> None:
    vectors, truth = blobs(3, 50, 8, spread=0.02, seed=0)
    start = np.stack([vectors[0], vectors[50], np.full(8, 99, np.float32)])
    found = iterate(vectors, start, empty_clusters=policy)
    assert found.result.n_refilled >= 1
    assert found.result.counts.tolist() == [50, 50, 50]
    assert adjusted_rand_score(truth, found.labels) == 1.0


def test_an_empty_cluster_can_be_dropped() -> None:
    vectors, _ = blobs(3, 50, 8, spread=0.02, seed=0)
    start = np.stack([vectors[0], np.full(8, 99, np.float32), vectors[50]])
    found = iterate(vectors, start, empty_clusters="drop")
    assert found.result.n_refilled == 0
    assert sorted(found.result.counts.tolist()) == [0, 50, 100]


def test_spherical_centroids_have_unit_length_and_follow_direction_alone() -> None:
    vectors, truth = blobs(5, 60, 8, spread=0.05, seed=2)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = cluster(vectors, 5, metric="cosine")
    np.testing.assert_allclose(np.linalg.norm(found.result.centroids, axis=1), 1, atol=1e-6)
    assert adjusted_rand_score(truth, found.labels) == 1.0
    cosines = np.einsum("ij,ij->i", vectors, found.result.centroids[found.labels])
    assert found.result.inertia == pytest.approx((2 - 2 * cosines).sum(), rel=1e-4)


@pytest.mark.parametrize("offset", [1.0, 16.0])
def test_a_constant_offset_changes_no_cluster(offset: float) -> None:
    vectors, _ = blobs(5, 60, 8, spread=0.05, seed=0)
    plain, moved = cluster(vectors, 5), cluster(vectors + np.float32(offset), 5)
    assert adjusted_rand_score(plain.labels, moved.labels) == 1.0


@pytest.mark.parametrize("k", [0, 4])
def test_a_count_that_the_vectors_do_not_allow_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=f"k must be from 1 to the 3 vectors, got {k}"):
        kmeans(LocalVectors(np.eye(3, dtype=np.float32)), k, config())


def test_a_sample_is_of_distinct_rows_and_grows_without_change() -> None:
    vectors = LocalVectors(np.zeros((1000, 1), np.float32))
    small, large = sample_rows(vectors, 50, 0, 1), sample_rows(vectors, 200, 0, 1)
    assert len(set(large.tolist())) == 200
    assert (small == large[:50]).all()
    few = LocalVectors(np.zeros((9, 1), np.float32))
    assert sorted(sample_rows(few, 20, 0, 1).tolist()) == list(range(9))


def test_many_clusters_start_at_rows_of_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(init, "LARGE_K", 4)
    vectors, _ = blobs(4, 30, 4, spread=0.2, seed=0)
    start = initial_centroids(LocalVectors(vectors), 4, config(), 1, 0)
    assert len(np.unique(start, axis=0)) == 4
    assert (nearest(start, vectors)[0] < 1e-5).all()


def test_many_vectors_start_from_their_clustered_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, truth = blobs(5, 400, 8, spread=0.05, seed=0)
    cold = cluster(vectors, 5, tolerance=0)
    monkeypatch.setattr(module, "SAMPLE_PER_CLUSTER", 40)
    warm = cluster(vectors, 5, tolerance=0)
    assert warm.result.n_iterations <= 2
    assert warm.result.inertia == pytest.approx(cold.result.inertia, rel=1e-5)
    assert adjusted_rand_score(truth, warm.labels) == 1.0


def test_far_rows_are_drawn_by_weight_times_squared_distance() -> None:
    # Distance 1 with weight 9, distance 3 with weight 1, and vectors that lie at the centroid.
    vectors = np.repeat(np.array([[1.0], [3.0], [0.0]], np.float32), 100, axis=0)
    weights = np.repeat(np.array([9, 1, 100]), 100)
    drawn = np.zeros(300)
    for seed in range(200):
        rows = draw_far_rows(
            LocalVectors(vectors, weights), np.zeros((1, 1), np.float32), 20, seed, 1, 0
        )
        assert len(set(rows.tolist())) == 20
        drawn[rows] += 1
    assert drawn[200:].sum() == 0
    assert drawn[:100].sum() == pytest.approx(drawn[100:200].sum(), rel=0.1)


def test_rows_are_taken_in_the_order_asked() -> None:
    vectors, _ = blobs(2, 5, 3, spread=0.1, seed=0)
    local = LocalVectors(vectors, np.arange(10))
    found, weights = take(local, np.array([7, 0, 3]))
    assert (found == vectors[[7, 0, 3]]).all()
    assert weights.tolist() == [7, 0, 3]
