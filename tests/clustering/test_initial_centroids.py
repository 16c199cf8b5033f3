from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.cluster import kmeans_plusplus
from threadpoolctl import threadpool_limits

from hercules_scale.clustering import initial_centroids as module
from hercules_scale.clustering.initial_centroids import distances_of, draw_apart, initial_centroids
from hercules_scale.clustering.local_vectors import LocalVectors
from hercules_scale.config.hierarchy import HierarchyConfig


def left(points: NDArray[np.float32], drawn: NDArray[np.float32]) -> float:
    """Inertia of the points under what was drawn."""
    return float(((points[:, None] - drawn) ** 2).sum(axis=2).min(axis=1).sum())


def test_far_groups_are_each_drawn_from_once() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 50)
    points = (100 * rng.normal(size=(20, 8))[groups] + rng.normal(size=(1000, 8))).astype("f4")
    for seed in range(10):
        drawn = draw_apart(
            distances_of(points), np.ones(1000, np.int64), 20, np.random.default_rng(seed)
        )
        assert sorted(groups[drawn]) == list(range(20))


def test_draws_leave_as_little_as_those_of_scikit_learn() -> None:
    points = np.random.default_rng(1).normal(size=(500, 6)).astype(np.float32)
    weights = np.ones(500, np.int64)
    ours = [
        left(
            points,
            points[draw_apart(distances_of(points), weights, 30, np.random.default_rng(seed))],
        )
        for seed in range(40)
    ]
    theirs = [left(points, kmeans_plusplus(points, 30, random_state=seed)[0]) for seed in range(40)]
    assert np.mean(ours) == pytest.approx(np.mean(theirs), rel=0.02)
    random = [
        left(points, points[np.random.default_rng(seed).choice(500, 30, replace=False)])
        for seed in range(40)
    ]
    assert np.mean(ours) < 0.95 * np.mean(random)


def test_a_point_is_drawn_as_often_as_its_weight_says() -> None:
    points = np.array([[0.0], [1.0], [2.0]], np.float32)
    weights = np.array([1, 0, 3])
    random = np.random.default_rng(2)
    first = [int(draw_apart(distances_of(points), weights, 1, random)[0]) for _ in range(2000)]
    assert np.bincount(first, minlength=3)[1] == 0
    assert first.count(2) / 2000 == pytest.approx(0.75, abs=0.05)


@pytest.mark.parametrize("offset", [0.0, 100.0, 1e6])
def test_where_points_are_equal_positions_still_differ(offset: float) -> None:
    points = np.repeat(np.random.default_rng(3).normal(size=(3, 5)) + offset, 4, axis=0)
    drawn = draw_apart(
        distances_of(points.astype("f4")), np.ones(12, np.int64), 7, np.random.default_rng(0)
    )
    assert len(set(drawn.tolist())) == 7
    assert len(np.unique(points[drawn[:3]], axis=0)) == 3


@pytest.mark.parametrize("limit", [0, 10_000])
def test_distances_from_a_table_and_without_one_are_those_of_float64(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TABLE_POINTS", limit)
    points = (100 + np.random.default_rng(5).normal(size=(150, 7))).astype(np.float32)
    # Equal points lie at 0 exactly.
    points[140:] = points[:10]
    rows = np.array([3, 149, 70])
    difference = points[rows][:, None].astype(np.float64) - points
    expected = (difference**2).sum(axis=2)
    found = distances_of(points)(rows)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert ((found == 0) == (expected == 0)).all()


@pytest.mark.parametrize("init", ["kmeans++", "kmeans||", "sample"])
def test_centroids_do_not_depend_on_threads(init: str) -> None:
    vectors = np.random.default_rng(4).normal(size=(4000, 48)).astype(np.float32)
    config = HierarchyConfig.model_validate({"levels": [40], "init": init})
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            found.append(initial_centroids(LocalVectors(vectors), 40, config, 1, 0))
    assert found[0].shape == (40, 48)
    np.testing.assert_array_equal(found[0], found[1])
