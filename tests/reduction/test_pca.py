import math

import numpy as np
import pytest
import sklearn.decomposition
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hercules_scale.clustering.local_vectors import LocalVectors
from hercules_scale.clustering.parallel_blocks import threads
from hercules_scale.clustering.tile_sets import TileSet
from hercules_scale.clustering.tiles import Tile
from hercules_scale.reduction.pca import PCA
from hercules_scale.reduction.scatter import BLOCK_ROWS, scatter_of_tiles


def correlated(n: int, d: int) -> NDArray[np.float32]:
    draw = np.random.default_rng(0)
    scales = 1.5 ** -np.arange(d)
    rotation = np.linalg.qr(draw.normal(size=(d, d)))[0]
    vectors = (draw.normal(size=(n, d)) * scales) @ rotation + 0.3
    return np.asarray(vectors, np.float32)


def fit(vectors: NDArray[np.float32], n_components: int, cuts: list[int]) -> PCA:
    held = LocalVectors(vectors)
    held._tiles = TileSet(
        [
            Tile(first, part, np.ones(len(part), np.int64))
            for first, part in zip([0, *cuts], np.split(vectors, cuts), strict=True)
        ]
    )
    return scatter_of_tiles(held, math.inf).components(n_components)


@pytest.mark.parametrize("n_components", [2, 3])
def test_components_and_coordinates_are_those_of_scikit_learn(n_components: int) -> None:
    vectors = correlated(500, 12)
    ours = fit(vectors, n_components, [100, 350])
    reference = sklearn.decomposition.PCA(n_components, svd_solver="full").fit(
        vectors.astype(np.float64)
    )
    signs = np.sign((ours.components * reference.components_).sum(axis=1))
    expected = reference.components_ * signs[:, None]
    np.testing.assert_allclose(ours.components, expected, atol=1e-6)
    np.testing.assert_allclose(ours.mean, vectors.mean(axis=0, dtype=np.float64), atol=1e-9)
    coordinates = reference.transform(vectors.astype(np.float64)) * signs
    np.testing.assert_allclose(ours.transform(vectors), coordinates, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(cuts=st.sets(st.integers(1, 199), max_size=5))
def test_the_tiles_do_not_matter(cuts: set[int]) -> None:
    vectors = correlated(200, 6)
    whole, tiles = fit(vectors, 3, []), fit(vectors, 3, sorted(cuts))
    np.testing.assert_allclose(tiles.components, whole.components, atol=1e-8)
    np.testing.assert_allclose(tiles.mean, whole.mean, atol=1e-12)


def test_threads_and_the_rows_beside_it_change_no_bit() -> None:
    vectors = correlated(3 * BLOCK_ROWS + 100, 24)
    found = []
    for n_threads in (1, 2):
        with threads(n_threads):
            pca = fit(vectors, 2, [BLOCK_ROWS + 50])
            places = pca.transform(vectors)
        found.append([pca.mean.tobytes(), pca.components.tobytes(), places.tobytes()])
    assert found[0] == found[1]
    alone = [pca.transform(vectors[row : row + 1])[0] for row in range(0, len(vectors), 977)]
    assert (np.stack(alone) == places[::977]).all()


@pytest.mark.parametrize("scale", [1e-9, 1e9, 1e15])
def test_the_unit_of_the_vectors_does_not_matter(scale: float) -> None:
    vectors = correlated(300, 6)
    plain, scaled = (fit(each, 3, [100]) for each in (vectors, vectors * np.float32(scale)))
    np.testing.assert_allclose(scaled.components, plain.components, atol=1e-6)
    np.testing.assert_allclose(scaled.mean, plain.mean * scale, rtol=1e-5)


def test_a_constant_offset_changes_no_component() -> None:
    vectors = (np.rint(correlated(300, 6) * 256) / 256).astype(np.float32)
    plain = fit(vectors, 2, [100])
    # A multiple of 1/256, so that the moved vectors are exact in float32.
    moved = fit(vectors + np.float32(1024), 2, [100])
    np.testing.assert_allclose(moved.components, plain.components, atol=1e-8)
    np.testing.assert_allclose(moved.mean, plain.mean + 1024, atol=1e-9)


def test_the_entry_of_largest_magnitude_is_positive() -> None:
    components = fit(correlated(100, 8), 3, []).components
    largest = np.abs(components).argmax(axis=1)
    assert (components[np.arange(3), largest] > 0).all()
    np.testing.assert_allclose(components @ components.T, np.eye(3), atol=1e-12)


def test_fewer_dimensions_than_components_leave_zeros() -> None:
    vectors = np.array([[1], [3]], np.float32)
    found = fit(vectors, 2, [])
    assert found.components.tolist() == [[1.0], [0.0]]
    assert found.transform(vectors).tolist() == [[-1.0, 0.0], [1.0, 0.0]]


def test_identical_vectors_have_coordinates_of_zero() -> None:
    vectors = np.full((5, 3), 0.5, np.float32)
    assert (fit(vectors, 2, [2]).transform(vectors) == 0).all()
