import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hercules_scale.clustering import local_vectors
from hercules_scale.clustering.local_vectors import LocalVectors
from hercules_scale.clustering.nearest_centroids import Float32
from hercules_scale.clustering.tiles import first_of_each, labels_of, nearest_rows


def normal(n: int, d: int, seed: int = 0) -> Float32:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 60), k=st.integers(1, 8), tile=st.integers(1, 70))
def test_one_pass_counts_every_vector_once_whatever_the_tiles(n: int, k: int, tile: int) -> None:
    vectors, centroids = normal(n, 4), normal(k, 4, seed=1)
    whole = LocalVectors(vectors).assign(centroids)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_vectors, "TILE_ROWS", tile)
        local = LocalVectors(vectors)
        sums = local.assign(centroids)
    table = ((vectors[:, None].astype(np.float64) - centroids) ** 2).sum(axis=2)
    assert (labels_of(local) == table.argmin(axis=1)).all()
    assert (sums.counts == np.bincount(labels_of(local), minlength=k)).all()
    assert sums.inertia == pytest.approx(table.min(axis=1).sum(), rel=1e-5, abs=1e-4)
    assert (sums.sums == whole.sums).all()
    assert sums.objective == whole.objective


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_sequence_of_passes_ends_with_the_sums_of_the_last(data: st.DataObject) -> None:
    vectors = normal(50, 3)
    local = LocalVectors(vectors)
    for seed in data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=5)):
        centroids = normal(3 + seed % 3, 3, seed)
        sums, fresh = local.assign(centroids), LocalVectors(vectors).assign(centroids)
        assert (sums.sums == fresh.sums).all()
        assert (sums.counts == fresh.counts).all()
        assert sums.objective == fresh.objective


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


def test_weights_stand_for_repeated_vectors() -> None:
    vectors = normal(50, 4)
    weights = np.random.default_rng(0).integers(1, 5, 50)
    centroids = vectors[:3]
    weighted = LocalVectors(vectors, weights).assign(centroids)
    repeated = LocalVectors(np.repeat(vectors, weights, axis=0)).assign(centroids)
    assert weighted.counts.tolist() == repeated.counts.tolist()
    assert weighted.inertia == pytest.approx(repeated.inertia, rel=1e-6)
    np.testing.assert_allclose(weighted.means(centroids), repeated.means(centroids), rtol=1e-5)


def test_the_first_of_each_label_come_by_distance_and_then_row() -> None:
    labels = np.array([1, 0, 1, 1, 0], np.int32)
    distances = np.array([2, 5, 1, 1, 5], np.float32)
    rows = np.array([10, 11, 13, 12, 9])
    kept = first_of_each(labels, distances, rows, 2)
    assert rows[kept].tolist() == [9, 11, 12, 13]


@settings(deadline=None)
@given(tile=st.integers(1, 40), n_nearest=st.integers(1, 6))
def test_the_nearest_of_all_are_the_nearest_of_the_tiles_nearest(tile: int, n_nearest: int) -> None:
    vectors = np.random.default_rng(0).integers(-2, 3, size=(40, 2)).astype(np.float32)
    centroids = vectors[:4] * np.float32(0.5)
    whole = LocalVectors(vectors)
    whole.assign(centroids)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_vectors, "TILE_ROWS", tile)
        cut = LocalVectors(vectors)
    cut.assign(centroids)
    assert nearest_rows(cut, n_nearest).tolist() == nearest_rows(whole, n_nearest).tolist()
