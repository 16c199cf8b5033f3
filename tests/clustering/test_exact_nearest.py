import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hercules_scale.clustering.distance_errors import error_bounds
from hercules_scale.clustering.exact_nearest import Pass, find_labels, nearest_others, own_distances
from hercules_scale.clustering.local_vectors import LocalVectors
from hercules_scale.clustering.nearest_centroids import Float32, nearest
from hercules_scale.clustering.tiles import labels_of
from hercules_scale.clustering.vector_lengths import vector_lengths


def truth(vectors: Float32, centroids: Float32, offsets: Float32) -> np.ndarray:
    difference = vectors[:, None].astype(np.float64) - centroids
    return np.asarray((difference**2).sum(axis=2) + offsets)


def normal(n: int, d: int, seed: int = 0) -> Float32:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def blobs(n: int, d: int, seed: int) -> Float32:
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(40, d))
    return (centres[draw.integers(0, 40, n)] + 0.3 * draw.normal(size=(n, d))).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    k=st.sampled_from([1, 2, 5, 40, 90]),
    step=st.sampled_from([0.0, 1e-3, 0.05, 1.0]),
    with_offsets=st.booleans(),
)
def test_bounds_change_no_label_however_centroids_move(
    seed: int, k: int, step: float, with_offsets: bool
) -> None:
    draw = np.random.default_rng(seed)
    vectors = blobs(300, 6, seed)
    lengths = vector_lengths(vectors)
    centroids = vectors[draw.choice(300, k, replace=False)]
    labels, bounds = np.full(300, -1, np.int32), np.zeros(300)
    before = None
    for _ in range(5):
        offsets = draw.random(k).astype(np.float32) if with_offsets else np.zeros(k, np.float32)
        now = Pass.of(centroids, offsets, before)
        labels, distances, bounds = find_labels(vectors, lengths, labels, bounds, now, nearest)
        table = truth(vectors, centroids, offsets)
        assert (labels == table.argmin(axis=1)).all()
        np.testing.assert_allclose(distances, table.min(axis=1), rtol=1e-5, atol=1e-6)
        others = table.copy()
        others[np.arange(300), labels] = np.inf
        assert (bounds <= np.sqrt(others.min(axis=1)) + 1e-9).all()
        before = now
        # Some centroids move, one of them far.
        moved = draw.normal(size=centroids.shape) * step * draw.random((k, 1)) ** 4
        moved[draw.integers(0, k)] *= 10
        centroids = (centroids + moved).astype(np.float32)


def test_centroids_far_away_leave_others_as_sure_as_they_were() -> None:
    vectors, far = blobs(300, 6, seed=0), 1000 * normal(5, 6, seed=1)
    centroids = vectors[:40]
    both, given = np.concatenate([vectors, far]), np.concatenate([centroids, far])
    lengths = vector_lengths(both)
    errors = error_bounds(lengths, 6, given, None)
    assert (errors[:300] == error_bounds(lengths[:300], 6, centroids, None)).all()
    labels, bounds = np.full(305, -1, np.int32), np.zeros(305)
    step = Pass.of(given, None, None)
    labels, _, bounds = find_labels(both, lengths, labels, bounds, step, nearest)
    table = truth(both, given, np.zeros(45, np.float32))
    assert (labels == table.argmin(axis=1)).all()
    table[np.arange(305), labels] = np.inf
    assert (bounds <= np.sqrt(table.min(axis=1))).all()
    assert (nearest_others(both, labels, given) == table.argmin(axis=1)).all()


def test_what_float32_cannot_tell_apart_is_decided_in_float64() -> None:
    # The squares of vectors this long leave float32 no digit for the difference.
    vectors = np.full((50, 8), 1000, np.float32)
    centroids = np.full((3, 8), 1000, np.float32)
    centroids[0, 0] += 0.5
    centroids[1, 0] -= 0.25
    centroids[2, 0] += 0.25
    offsets = np.zeros(3, np.float32)
    now = Pass.of(centroids, offsets, None)
    labels, distances, _ = find_labels(
        vectors, vector_lengths(vectors), np.zeros(50, np.int32), np.zeros(50), now, nearest
    )
    assert (labels == 1).all()
    assert (distances == 0.0625).all()


@pytest.mark.parametrize("copies", [2, 12])
def test_of_equal_centroids_the_first_takes_all(copies: int) -> None:
    vectors = blobs(200, 4, 0)
    distinct = vectors[:5]
    local = LocalVectors(vectors)
    for _ in range(3):
        sums = local.assign(np.concatenate([distinct] * copies))
        table = truth(vectors, distinct, np.zeros(5, np.float32))
        assert (labels_of(local) == table.argmin(axis=1)).all()
        assert sums.counts[5:].sum() == 0
        distinct = sums.means(np.concatenate([distinct] * copies))[:5]


def test_many_nearly_equal_centroids_are_all_compared() -> None:
    vectors = np.zeros((20, 3), np.float32) + np.float32(100)
    centroids = np.full((30, 3), 100, np.float32)
    centroids[:, 0] += np.linspace(0.01, 0.002, 30, dtype=np.float32)
    local = LocalVectors(vectors)
    local.assign(centroids)
    expected = truth(vectors, centroids, np.zeros(30, np.float32)).argmin(axis=1)
    assert (labels_of(local) == expected).all()


def test_most_vectors_are_not_searched_once_centroids_rest() -> None:
    searched = []

    def counting(
        vectors: Float32, centroids: Float32, n_nearest: int, offsets: Float32 | None
    ) -> tuple[Float32, np.ndarray]:
        if len(centroids) == 40:
            searched.append(len(vectors))
        return nearest(vectors, centroids, n_nearest, offsets)

    vectors = blobs(2000, 6, 1)
    lengths = vector_lengths(vectors)
    labels, bounds = np.full(2000, -1, np.int32), np.zeros(2000)
    centroids, before = vectors[:40], None
    for _ in range(25):
        now = Pass.of(centroids, None, before)
        labels, _, bounds = find_labels(vectors, lengths, labels, bounds, now, counting)
        before = now
        counts = np.maximum(np.bincount(labels, minlength=40), 1)
        sums = np.zeros((40, 6))
        np.add.at(sums, labels, vectors)
        centroids = (sums / counts[:, None]).astype(np.float32)
    assert searched[0] == 2000
    assert sum(searched[-5:]) < 1000


@pytest.mark.parametrize("k", [2, 3, 40])
def test_the_nearest_other_is_that_of_a_float64_table(k: int) -> None:
    # Half of the centroids lie so near to others that float32 cannot tell them apart.
    centroids = normal(k, 24)
    centroids[k // 2 :] = centroids[: k - k // 2] + np.float32(1e-6)
    vectors = centroids[np.arange(300) % k] + normal(300, 24, seed=1) / 10
    own = (np.arange(300) % k).astype(np.int32)
    difference = vectors[:, None].astype(np.float64) - centroids
    table = (difference**2).sum(axis=2)
    table[np.arange(300), own] = np.inf
    assert (nearest_others(vectors, own, centroids) == table.argmin(axis=1)).all()


def test_own_distances_do_not_depend_on_the_batch() -> None:
    vectors, centroids = blobs(100, 33, 2), blobs(7, 33, 3)
    labels = (np.arange(100) % 7).astype(np.int32)
    now = Pass.of(centroids, None, None)
    whole = own_distances(vectors, labels, now)
    some = own_distances(vectors[31:60], labels[31:60], now)
    assert (some == whole[31:60]).all()
