"""A few very long vectors cost the others neither their clusters nor their digits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from hercules_scale.clustering.assigner import Assigner
from hercules_scale.clustering.kmeans import kmeans
from hercules_scale.clustering.levels import build_levels
from hercules_scale.clustering.local_vectors import LocalVectors
from hercules_scale.clustering.nearest_centroids import Float32, to_unit
from hercules_scale.clustering.tiles import labels_of
from hercules_scale.config.hierarchy import HierarchyConfig
from hercules_scale.errors import InputError
from hercules_scale.reduction.pca import Scatter
from hercules_scale.reduction.scatter import scatter_of_tiles
from hercules_scale.stages.stored_assigner import read_assigner, write_assigner
from hercules_scale.stages.vectors import open_vectors
from hercules_scale.storage.store import Store

N_ROWS = 3000
TRUTH = np.arange(N_ROWS) % 8


@dataclass(frozen=True)
class Array:
    """Vectors in memory."""

    vectors: Float32

    @property
    def n_rows(self) -> int:
        return len(self.vectors)

    @property
    def dimension(self) -> int:
        return int(self.vectors.shape[1])

    def read(self, tile: int, out: Float32) -> None:
        out[:] = self.vectors


def planted(*far: float) -> Float32:
    """Unit vectors around eight centres, and one vector of each given number."""
    draw = np.random.default_rng(0)
    rows = np.eye(8, 16)[TRUTH] + 0.1 * draw.normal(size=(N_ROWS, 16))
    long = np.zeros((len(far), 16), np.float32)
    long[np.arange(len(far)), np.arange(len(far))] = far
    return np.concatenate([to_unit(rows.astype(np.float32)), long])


@pytest.mark.parametrize("far", [1e5, 1e8, 1e19, 1e30, -3e38])
def test_one_vector_far_away_changes_no_other(far: float) -> None:
    plain, config = LocalVectors(planted()), HierarchyConfig(levels=[9])
    inertia = kmeans(plain, 8, config).inertia
    with open_vectors(Array(planted(far)), "squared_l2", 1) as (vectors, space):
        found = kmeans(vectors, 9, config)
        labels = labels_of(vectors)
    assert found.inertia == pytest.approx(inertia, rel=1e-3)
    assert adjusted_rand_score(TRUTH, labels[:N_ROWS]) == 1.0
    assert (labels[:N_ROWS] != labels[N_ROWS]).all()
    np.testing.assert_allclose(space.mean, planted().mean(axis=0), atol=1e-6)
    (alarm,) = space.alarms(N_ROWS + 1)
    assert alarm.startswith(
        "1 of 3,001 items lie more than 1,024 times as far from the mean as the median item "
        "(rows 3000)"
    )


def test_where_no_vector_is_far_away_none_is_shortened() -> None:
    with open_vectors(Array(planted(500, 900)), "squared_l2", 1) as (vectors, space):
        longest = max(float(tile.lengths.max()) for tile in vectors.map(lambda tile: tile))
    assert longest == pytest.approx(900, rel=1e-3)
    assert space.alarms(N_ROWS + 2) == []


def test_few_vectors_that_differ_from_the_others_are_told_apart() -> None:
    rows = np.zeros((9000, 4), np.float32)
    rows[:3], rows[3:5] = [1, 0, 0, 0], [0, 1, 0, 0]
    with open_vectors(Array(rows), "squared_l2", 1) as (vectors, _):
        found = kmeans(vectors, 2, HierarchyConfig(levels=[2]))
    assert sorted(found.counts.tolist()) == [5, 8995]
    assert found.inertia == pytest.approx(2.4)


def test_directions_of_very_long_and_very_short_vectors_are_kept() -> None:
    rows = np.array([[3e38, 3e38], [3e-30, 4e-30], [0, 0], [3, 4]], np.float32)
    np.testing.assert_allclose(
        to_unit(rows), [[0.5**0.5, 0.5**0.5], [0.6, 0.8], [0, 0], [0.6, 0.8]], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("far", "message"),
    [
        (1e19, "numbers must be at most 2.3e[+]18 from 0 for their squares to be computed"),
        (1e16, "sums cannot hold numbers of up to 1e[+]16 beside vectors of length 1.1"),
    ],
)
def test_vectors_that_were_not_shortened_are_refused(far: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        LocalVectors(planted(far))


def test_vectors_that_are_all_too_long_are_refused() -> None:
    with (
        pytest.raises(InputError, match="divide all of them by a constant"),
        open_vectors(Array(planted() * np.float32(1e30)), "squared_l2", 1),
    ):
        pass


def test_new_items_are_shortened_as_those_of_the_run_were(tmp_path: Path) -> None:
    rows = planted(1e19, 1e4)
    config, store = HierarchyConfig(levels=[10, 3]), Store(str(tmp_path))
    with open_vectors(Array(rows), "squared_l2", 1) as (vectors, space):
        found = build_levels(vectors, config)
        labels = labels_of(vectors)
    assigner = Assigner.of_levels(found, space.mean, space.limit, "squared_l2")
    write_assigner(store, "assigner.parquet", assigner)
    again = read_assigner(store, "assigner.parquet", "squared_l2")
    inside = again.to_space(rows)
    assert (again.find_leaves(inside) == labels).all()
    np.testing.assert_allclose(np.linalg.norm(inside[N_ROWS:], axis=1), space.limit, rtol=1e-6)


def test_the_map_is_of_the_vectors_that_are_not_far_away() -> None:
    rows = planted(1e19)
    with open_vectors(Array(rows), "squared_l2", 1) as (vectors, space):
        scatter = scatter_of_tiles(vectors, space.limit)
        (tile,) = vectors.map(lambda tile: tile)
    assert scatter.n == N_ROWS
    expected = Scatter.of(rows[:N_ROWS])
    np.testing.assert_allclose(scatter.products, expected.products, atol=1e-3)
    np.testing.assert_allclose(scatter.mean + space.mean, expected.mean, atol=1e-6)
    # It has its own place on the map, and not that of the shortened vector.
    assert np.linalg.norm(tile.vectors[N_ROWS]) == pytest.approx(space.limit)
    restored = tile.original(slice(None)) + space.mean.astype(np.float32)
    np.testing.assert_allclose(restored, rows, rtol=1e-6, atol=1e-6)


def test_the_map_is_of_vectors_as_they_came_and_not_of_unit_length() -> None:
    rows = planted() * np.linspace(0.1, 3, N_ROWS, dtype=np.float32)[:, None]
    rows[7] = 0
    with open_vectors(Array(rows), "cosine", 1) as (vectors, _):
        scatter = scatter_of_tiles(vectors, np.inf)
        (tile,) = vectors.map(lambda tile: tile)
    assert tile.lengths.max() == pytest.approx(1)
    np.testing.assert_allclose(tile.original(slice(None)), rows, atol=1e-6)
    np.testing.assert_allclose(scatter.products, Scatter.of(rows).products, atol=1e-3)
