import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hercules_scale.clustering.nearest_centroids import SUM_ROWS, Float32, Scale, move_rows, nearest


def normal(n: int, d: int, seed: int = 0) -> Float32:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def all_distances(vectors: Float32, centroids: Float32) -> np.ndarray:
    difference = vectors[:, None].astype(np.float64) - centroids[None].astype(np.float64)
    return np.asarray((difference**2).sum(axis=2))


# Beyond 1,024 centroids faiss works in blocks.
@pytest.mark.parametrize(("n", "k"), [(1, 3), (5, 1), (300, 7), (40, 3000)])
def test_the_nearest_centroid_is_that_of_a_full_table(n: int, k: int) -> None:
    vectors, centroids = normal(n, 16), normal(k, 16, seed=1)
    table = all_distances(vectors, centroids)
    distances, ids = nearest(vectors, centroids)
    assert (ids[:, 0] == table.argmin(axis=1)).all()
    np.testing.assert_allclose(distances[:, 0], table.min(axis=1), rtol=1e-4, atol=1e-4)


def test_several_nearest_come_in_order() -> None:
    vectors, centroids = normal(50, 8), normal(9, 8, seed=1)
    _, ids = nearest(vectors, centroids, 3)
    assert (ids == all_distances(vectors, centroids).argsort(axis=1)[:, :3]).all()


@pytest.mark.parametrize("n_nearest", [1, 2, 3])
def test_ties_go_to_the_lowest_id(n_nearest: int) -> None:
    # Whole numbers, so that equal distances are equal in every order of additions.
    centroids = np.array([[9, 9], [1, 0], [0, 1], [1, 0], [-1, 0]], np.float32)
    vectors = np.array([[0, 0], [1, 0], [2, 0], [0, 3]], np.float32)
    expected = all_distances(vectors, centroids).argsort(axis=1, kind="stable")[:, :n_nearest]
    assert nearest(vectors, centroids, n_nearest)[1].tolist() == expected.tolist()


def test_ties_over_blocks_of_centroids_go_to_the_lowest_id() -> None:
    centroids = np.tile(np.array([[3, 0], [1, 1]], np.float32), (2000, 1))
    assert nearest(np.ones((4, 2), np.float32), centroids)[1].tolist() == [[1]] * 4


def test_a_vector_has_the_same_centroids_in_any_batch_and_its_distances_to_rounding() -> None:
    vectors, centroids = normal(200, 32), normal(50, 32, seed=1)
    distances, ids = nearest(vectors, centroids)
    for rows in (slice(0, 1), slice(17, 40), slice(199, 200)):
        some_distances, some_ids = nearest(vectors[rows], centroids)
        assert (some_ids == ids[rows]).all()
        # Matrix products round by the shape of the batch, so results take distances of pairs.
        np.testing.assert_allclose(some_distances, distances[rows], rtol=1e-5)


def test_distances_are_never_below_zero() -> None:
    vectors = normal(100, 64) + np.float32(10)
    assert nearest(vectors, vectors)[0].min() >= 0


def test_offsets_are_added_to_squared_distances() -> None:
    vectors, centroids = normal(60, 4), normal(5, 4, seed=1)
    offsets = np.array([0, 3, 0.5, 1, 0], np.float32)
    distances, ids = nearest(vectors, centroids, 1, offsets)
    table = all_distances(vectors, centroids) + offsets
    assert (ids[:, 0] == table.argmin(axis=1)).all()
    np.testing.assert_allclose(distances[:, 0], table.min(axis=1), rtol=1e-4, atol=1e-4)


@settings(deadline=None)
@given(n=st.integers(1, 2**36), largest=st.floats(0, 1e6))
def test_fixed_point_sums_stay_within_64_bits_and_use_them(n: int, largest: float) -> None:
    peak = max(n, 2) * max(largest, 2.0**-40) * 2.0 ** Scale.of(n, largest, 1).vectors
    assert 2.0**59 < peak <= 2.0**62


def summed(vectors: Float32, labels: np.ndarray, k: int) -> np.ndarray:
    sums, counts = np.zeros((k, vectors.shape[1]), np.int64), np.zeros(k, np.int64)
    none = np.full(len(vectors), -1, np.int32)
    weights = np.ones(len(vectors), np.int64)
    move_rows(sums, counts, vectors, none, labels, weights, Scale(40, 40))
    assert (counts == np.bincount(labels, minlength=k)).all()
    return sums


def test_sums_of_clusters_do_not_depend_on_the_order_of_rows() -> None:
    vectors = normal(2 * SUM_ROWS + 77, 3)
    labels = (np.arange(len(vectors)) * 7919 % 5).astype(np.int32)
    order = np.random.default_rng(0).permutation(len(vectors))
    whole = summed(vectors, labels, 5)
    assert (summed(vectors[order], labels[order], 5) == whole).all()
    parts = [
        summed(vectors[start : start + 999], labels[start : start + 999], 5)
        for start in range(0, len(vectors), 999)
    ]
    assert (np.sum(parts, axis=0) == whole).all()
    for cluster in range(5):
        exact = vectors[labels == cluster].astype(np.float64).sum(axis=0)
        np.testing.assert_allclose(whole[cluster] / 2.0**40, exact, atol=1e-7)


def test_moving_rows_gives_the_sums_of_where_they_end() -> None:
    vectors = normal(500, 3)
    old, new = (np.random.default_rng(seed).integers(0, 6, 500).astype(np.int32) for seed in (1, 2))
    sums = summed(vectors, old, 6)
    counts = np.bincount(old, minlength=6)
    weights = np.ones(500, np.int64)
    move_rows(sums, counts, vectors, old, new, weights, Scale(40, 40))
    assert (sums == summed(vectors, new, 6)).all()
    assert (counts == np.bincount(new, minlength=6)).all()


@pytest.mark.slow
def test_a_cluster_of_more_than_two_to_the_24_vectors_has_its_exact_mean() -> None:
    # float32 sums stop at 2^24: alternating 0 and 1 then have the mean 1.
    n = 2**25
    sums, counts = np.zeros((1, 1), np.int64), np.zeros(1, np.int64)
    scale = Scale.of(n, 1.0, 1)
    tile = (np.arange(2**20) % 2).astype(np.float32)[:, None]
    none, new = np.full(2**20, -1, np.int32), np.zeros(2**20, np.int32)
    for _ in range(n // 2**20):
        move_rows(sums, counts, tile, none, new, np.ones(2**20, np.int64), scale)
    assert counts[0] == n
    assert sums[0, 0] / 2.0**scale.vectors / n == 0.5
