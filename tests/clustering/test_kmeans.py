import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from hercules_scale.clustering import init
from hercules_scale.clustering import kmeans as module
from hercules_scale.clustering.assign import Float32, LocalVectors, nearest
from hercules_scale.clustering.init import initial_centroids, sample_rows
from hercules_scale.clustering.kmeans import KMeansResult, kmeans, lloyd


def blobs(k: int, each: int, d: int, spread: float, seed: int) -> tuple[Float32, np.ndarray]:
    """Planted clusters around unit vectors, and which is whose."""
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(k, d))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    truth = np.repeat(np.arange(k), each)
    vectors = centres[truth] + spread * draw.normal(size=(k * each, d))
    return vectors.astype(np.float32), truth


def check(vectors: Float32, k: int, result: KMeansResult) -> None:
    """What holds for every clustering."""
    used = len(result.centroids)
    assert used + result.n_empty == k
    assert sorted(set(result.labels.tolist())) == list(range(used))
    own = ((vectors - result.centroids[result.labels]).astype(np.float64) ** 2).sum(axis=1)
    # Rounding of faiss's expansion of the square grows with the length of the vectors.
    slack = 1e-5 * (1 + float((vectors**2).sum(axis=1).max()))
    best = nearest(vectors, result.centroids)[0][:, 0]
    assert (own <= best + slack).all()
    assert result.inertia == pytest.approx(own.sum(), rel=1e-4, abs=len(vectors) * slack)


@pytest.mark.parametrize("seed", range(4))
def test_lloyd_reaches_the_inertia_of_scikit_learn(seed: int) -> None:
    vectors, _ = blobs(12, 80, 16, spread=0.3, seed=seed)
    start = vectors[np.random.default_rng(seed).choice(len(vectors), 12, replace=False)]
    ours = lloyd(LocalVectors(vectors), start, 0, 1)
    reference = KMeans(
        12, init=start, n_init=1, tol=0, max_iter=ours.n_iterations, algorithm="lloyd"
    ).fit(vectors)
    assert ours.n_refilled == 0
    assert ours.converged
    assert ours.inertia == pytest.approx(reference.inertia_, rel=1e-5)
    assert adjusted_rand_score(reference.labels_, ours.labels) > 0.99
    check(vectors, 12, ours)


def test_lloyd_stops_at_the_last_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ITERATIONS", 1)
    vectors, _ = blobs(8, 50, 8, spread=0.5, seed=0)
    result = lloyd(LocalVectors(vectors), vectors[:8], 0, 1)
    assert (result.n_iterations, result.converged) == (1, False)
    reference = KMeans(8, init=vectors[:8], n_init=1, tol=0, max_iter=1).fit(vectors)
    assert result.inertia == pytest.approx(reference.inertia_, rel=1e-5)


@pytest.mark.parametrize("rounds", [0, 2])
def test_planted_clusters_are_found(rounds: int) -> None:
    vectors, truth = blobs(10, 60, 16, spread=0.05, seed=3)
    result = kmeans(LocalVectors(vectors), 10, 0, 1, rounds)
    assert adjusted_rand_score(truth, result.labels) == 1.0
    check(vectors, 10, result)


def test_a_round_of_resampling_keeps_the_items_nearest_to_each_centroid() -> None:
    vectors, truth = blobs(6, 40, 16, spread=0.02, seed=1)
    result = kmeans(LocalVectors(vectors), 6, 0, 1, 1, 10)
    assert adjusted_rand_score(truth, result.labels) == 1.0
    for blob in range(6):
        members = vectors[truth == blob].astype(np.float64)
        distances = ((members - members.mean(axis=0)) ** 2).sum(axis=1)
        core = members[distances.argsort()[:10]].mean(axis=0)
        found = result.centroids[result.labels[blob * 40]]
        np.testing.assert_allclose(found, core, atol=1e-6)


def test_resampling_without_enough_vectors_keeps_what_there_is() -> None:
    vectors, _ = blobs(3, 4, 4, spread=0.1, seed=0)
    plain = kmeans(LocalVectors(vectors), 12, 0, 1)
    resampled = kmeans(LocalVectors(vectors), 12, 0, 1, 2, 1)
    check(vectors, 12, resampled)
    assert len(resampled.centroids) == len(plain.centroids)


def test_the_same_seed_gives_the_same_bits_and_another_does_not() -> None:
    vectors, _ = blobs(12, 30, 8, spread=0.5, seed=0)
    one, two, other = (kmeans(LocalVectors(vectors), 12, seed, 1, 1) for seed in (5, 5, 6))
    assert one.centroids.tobytes() == two.centroids.tobytes()
    assert one.labels.tobytes() == two.labels.tobytes()
    assert one.centroids.tobytes() != other.centroids.tobytes()


@settings(max_examples=25, deadline=None)
@given(
    points=st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=1, max_size=25),
    data=st.data(),
)
def test_any_points_are_all_clustered(points: list[tuple[int, int]], data: st.DataObject) -> None:
    vectors = np.array(points, np.float32)
    k = data.draw(st.integers(1, len(points)))
    rounds = data.draw(st.integers(0, 2))
    check(vectors, k, kmeans(LocalVectors(vectors), k, 0, 1, rounds, 3))


@pytest.mark.parametrize("k", [3, 4, 9])
def test_fewer_distinct_vectors_than_clusters_give_a_cluster_each(k: int) -> None:
    distinct = np.array([[3, 3], [5, 1], [-2, 0.3]], np.float32)
    vectors = np.repeat(distinct, 20, axis=0)
    result = kmeans(LocalVectors(vectors), k, 0, 1)
    assert (len(result.centroids), result.n_empty) == (3, k - 3)
    assert (result.centroids[result.labels] == vectors).all()
    assert result.inertia == pytest.approx(0, abs=1e-3)
    assert result.converged


def test_as_many_clusters_as_vectors_hold_one_each() -> None:
    vectors = np.arange(6, dtype=np.float32)[:, None]
    result = kmeans(LocalVectors(vectors), 6, 0, 1)
    assert (result.centroids[result.labels] == vectors).all()


def test_one_cluster_is_the_mean() -> None:
    vectors, _ = blobs(3, 30, 4, spread=0.3, seed=0)
    (centroid,) = kmeans(LocalVectors(vectors), 1, 0, 1).centroids
    np.testing.assert_allclose(centroid, vectors.mean(axis=0), atol=1e-6)


def test_an_empty_cluster_is_refilled_from_the_largest() -> None:
    vectors, truth = blobs(3, 50, 8, spread=0.02, seed=0)
    start = np.stack([vectors[0], vectors[50], np.full(8, 99, np.float32)])
    result = lloyd(LocalVectors(vectors), start, 0, 1)
    assert result.n_refilled >= 1
    assert (len(result.centroids), result.n_empty) == (3, 0)
    assert adjusted_rand_score(truth, result.labels) == 1.0


@pytest.mark.parametrize("offset", [1.0, 16.0])
def test_a_constant_offset_changes_no_cluster(offset: float) -> None:
    vectors, _ = blobs(5, 60, 8, spread=0.05, seed=0)
    plain = kmeans(LocalVectors(vectors), 5, 0, 1)
    moved = kmeans(LocalVectors(vectors + np.float32(offset)), 5, 0, 1)
    assert adjusted_rand_score(plain.labels, moved.labels) == 1.0


@pytest.mark.parametrize("k", [0, 4])
def test_a_count_that_the_vectors_do_not_allow_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=f"k must be from 1 to the 3 vectors, got {k}"):
        kmeans(LocalVectors(np.eye(3, dtype=np.float32)), k, 0, 1)


def test_a_sample_is_of_distinct_rows_and_grows_without_change() -> None:
    small, large = sample_rows(1000, 50, 0, 1), sample_rows(1000, 200, 0, 1)
    assert len(set(large.tolist())) == 200
    assert (small == large[:50]).all()
    assert sorted(sample_rows(9, 20, 0, 1).tolist()) == list(range(9))


def test_many_clusters_start_at_rows_of_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(init, "LARGE_K", 4)
    vectors, _ = blobs(4, 30, 4, spread=0.2, seed=0)
    start = initial_centroids(LocalVectors(vectors), 4, 0, 1)
    assert len(np.unique(start, axis=0)) == 4
    assert (nearest(start, vectors)[0] < 1e-5).all()
