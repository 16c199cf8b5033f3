import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hercules_scale.clustering import assign
from hercules_scale.clustering.assign import (
    Float32,
    Int64,
    LocalVectors,
    fixed_point_bits,
    nearest,
    sum_clusters,
)


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


def test_the_result_of_a_vector_does_not_depend_on_its_batch() -> None:
    vectors, centroids = normal(200, 32), normal(50, 32, seed=1)
    distances, ids = nearest(vectors, centroids)
    for rows in (slice(0, 1), slice(17, 40), slice(199, 200)):
        some_distances, some_ids = nearest(vectors[rows], centroids)
        assert (some_ids == ids[rows]).all()
        assert (some_distances == distances[rows]).all()


def test_distances_are_never_below_zero() -> None:
    vectors = normal(100, 64) + np.float32(10)
    assert nearest(vectors, vectors)[0].min() >= 0


@given(n=st.integers(1, 2**36), largest=st.floats(0, 1e6))
def test_fixed_point_sums_stay_within_64_bits_and_use_them(n: int, largest: float) -> None:
    bits = fixed_point_bits(n, largest)
    peak = max(n, 2) * max(largest, 2.0**-40) * 2.0**bits
    assert 2.0**59 < peak <= 2.0**62


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_sums_of_clusters_do_not_depend_on_the_order_of_blocks(data: st.DataObject) -> None:
    rows = assign.SUM_ROWS
    vectors = normal(3 * rows, 2)
    labels: Int64 = np.arange(len(vectors)) * 7919 % 5
    order = data.draw(st.permutations(range(3)))
    shuffled = np.concatenate([np.arange(block * rows, (block + 1) * rows) for block in order])
    whole = sum_clusters(vectors, labels, 5, 40)
    assert (sum_clusters(vectors[shuffled], labels[shuffled], 5, 40) == whole).all()
    parts = [
        sum_clusters(vectors[start : start + rows], labels[start : start + rows], 5, 40)
        for start in range(0, len(vectors), rows)
    ]
    assert (np.sum(parts, axis=0) == whole).all()


def test_sums_of_clusters_are_those_of_float64() -> None:
    vectors = normal(1000, 3)
    labels: Int64 = np.arange(1000) % 4
    found = sum_clusters(vectors, labels, 5, 40) / 2.0**40
    for cluster in range(5):
        exact = vectors[labels == cluster].astype(np.float64).sum(axis=0)
        np.testing.assert_allclose(found[cluster], exact, atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 60), k=st.integers(1, 8), tile=st.integers(1, 70))
def test_one_pass_counts_every_vector_once(n: int, k: int, tile: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assign, "TILE_ROWS", tile)
        vectors, centroids = normal(n, 4), normal(k, 4, seed=1)
        local = LocalVectors(vectors)
        sums = local.assign(centroids)
    table = all_distances(vectors, centroids)
    assert sums.counts.sum() == n
    assert (local.labels() == table.argmin(axis=1)).all()
    assert (sums.counts == np.bincount(local.labels(), minlength=k)).all()
    np.testing.assert_allclose(local.distances(), table.min(axis=1), rtol=1e-4, atol=1e-4)
    assert sums.inertia == pytest.approx(table.min(axis=1).sum(), rel=1e-5, abs=1e-4)


def test_changed_labels_are_counted() -> None:
    local = LocalVectors(np.array([[0.0], [1.0], [9.0]], np.float32))
    assert local.assign(np.array([[0.0], [9.0]], np.float32)).n_changed == 3
    assert local.assign(np.array([[0.0], [9.0]], np.float32)).n_changed == 0
    assert local.assign(np.array([[0.0], [1.0]], np.float32)).n_changed == 1


def test_an_empty_cluster_keeps_the_centroid_it_had() -> None:
    vectors = np.array([[0, 2], [0, 4]], np.float32)
    centroids = np.array([[0, 3], [50, 50]], np.float32)
    sums = LocalVectors(vectors).assign(centroids)
    assert sums.counts.tolist() == [2, 0]
    assert sums.means(centroids).tolist() == [[0, 3], [50, 50]]


def test_rows_are_taken_in_the_order_asked() -> None:
    vectors = normal(5, 2)
    local = LocalVectors(vectors)
    assert (local.take(np.array([3, 0])) == vectors[[3, 0]]).all()
    assert (local.n_rows, local.dimension) == (5, 2)
