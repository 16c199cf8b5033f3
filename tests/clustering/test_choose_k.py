from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    calinski_harabasz_score,
    davies_bouldin_score,
    silhouette_samples,
    silhouette_score,
)

from hercules_scale.clustering import choose_k as module
from hercules_scale.clustering import cluster_scores
from hercules_scale.clustering.checkpoints import NoCheckpoints, State
from hercules_scale.clustering.choose_k import choose, choose_k, k_range, ladder, largest_counts
from hercules_scale.clustering.cluster_scores import CurvePoint, score_clusters
from hercules_scale.clustering.kmeans import kmeans
from hercules_scale.clustering.levels import build_levels
from hercules_scale.clustering.local_vectors import LocalVectors
from hercules_scale.clustering.nearest_centroids import Float32
from hercules_scale.clustering.tile_sets import TileSet
from hercules_scale.clustering.tiles import Tile, labels_of
from hercules_scale.config.hierarchy import HierarchyConfig
from hercules_scale.errors import InputError


def config(**values: Any) -> HierarchyConfig:
    return HierarchyConfig.model_validate({"levels": "auto", **values})


def tree_of_blobs(groups: int, each: int, items: int) -> Float32:
    """Groups of clusters of items, far apart at every level."""
    draw = np.random.default_rng(0)
    centres = np.repeat(20 * np.eye(groups, 8), each, axis=0)
    centres += 2 * draw.normal(size=centres.shape)
    vectors = np.repeat(centres, items, axis=0)
    return (vectors + 0.05 * draw.normal(size=vectors.shape)).astype(np.float32)


def uniform_noise(n: int, d: int = 4) -> Float32:
    return np.random.default_rng(1).random((n, d)).astype(np.float32)


def chosen(points: list[CurvePoint]) -> list[int]:
    return [point.k for point in points if point.chosen]


def point(k: int, value: float, error: float = 0.1) -> CurvePoint:
    return CurvePoint(1, k, value, error, value, value, value, 0.0)


class InTiles(LocalVectors):
    """Vectors in tiles of other lengths."""

    def __init__(self, vectors: Float32, rows: int) -> None:
        super().__init__(vectors)
        starts = range(0, len(vectors), rows)
        parts = [vectors[start : start + rows] for start in starts]
        self._tiles = TileSet(
            [
                Tile(start, part, np.ones(len(part), np.int64))
                for start, part in zip(starts, parts, strict=True)
            ]
        )


def test_the_ladder_is_of_distinct_counts_about_root_2_apart() -> None:
    assert ladder(2, 16) == [2, 3, 4, 6, 8, 11, 16]
    assert ladder(8, 100) == [8, 11, 16, 23, 32, 45, 64, 91]
    assert ladder(1, 1) == [1]


@pytest.mark.parametrize(
    ("n_rows", "level", "expected"),
    [
        (1, 1, (1, 1)),
        (2, 1, (1, 1)),
        (3, 1, (2, 2)),
        (64, 1, (2, 4)),
        (1600, 1, (10, 100)),
        (10**8, 1, (250, 1000)),
        (9, 2, (2, 3)),
        (100, 2, (5, 33)),
    ],
)
def test_counts_are_bounded_by_the_vectors(
    n_rows: int, level: int, expected: tuple[int, int]
) -> None:
    assert k_range(n_rows, level, 1000) == expected


def test_the_most_clusters_that_a_hierarchy_may_get_fall_to_the_top() -> None:
    assert largest_counts(10**6, 1000) == [1000, 333, 111, 37, 12, 4]
    assert largest_counts(3, 1000) == [2]


@pytest.mark.parametrize(
    "score", ["simplified_silhouette", "silhouette", "davies_bouldin", "calinski_harabasz"]
)
def test_every_score_chooses_planted_clusters(score: str) -> None:
    points = choose_k(LocalVectors(tree_of_blobs(4, 4, 40)), config(k_score=score))
    assert [each.k for each in points] == [8, 11, 16, 23, 32]
    assert chosen(points) == [16]


def test_both_counts_of_a_planted_tree_are_chosen() -> None:
    found = build_levels(LocalVectors(tree_of_blobs(4, 4, 40)), config())
    assert chosen(found.curve) == [16, 4]
    assert [len(level.centroids) for level in found.levels] == [16, 4]
    assert {each.level for each in found.curve} == {1, 2}


@pytest.mark.parametrize("metric", ["squared_l2", "cosine"])
@pytest.mark.parametrize("k", [2, 7])
def test_scores_are_those_of_scikit_learn(k: int, metric: str) -> None:
    vectors = uniform_noise(300)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    local = LocalVectors(vectors)
    values = config(k_score="silhouette", metric=metric)
    found = score_clusters(local, kmeans(local, k, values).centroids, values)
    labels = labels_of(local)
    assert found.k == k
    assert found.davies_bouldin == pytest.approx(davies_bouldin_score(vectors, labels), rel=1e-6)
    assert found.calinski_harabasz == pytest.approx(
        calinski_harabasz_score(vectors, labels), rel=1e-5
    )
    assert found.silhouette == pytest.approx(silhouette_score(vectors, labels), rel=1e-6)
    error = silhouette_samples(vectors, labels).std(ddof=1) / np.sqrt(300)
    assert found.standard_error == pytest.approx(error, rel=1e-6)


def test_the_simplified_silhouette_is_that_of_a_plain_loop() -> None:
    vectors = np.concatenate([uniform_noise(60), [[9, 9, 9, 9]]]).astype(np.float32)
    local = LocalVectors(vectors)
    centroids = kmeans(local, 5, config()).centroids
    found = score_clusters(local, centroids, config())
    labels = labels_of(local)
    scores: dict[int, list[float]] = {}
    for row, vector in enumerate(vectors):
        own = labels[row]
        others = vectors[(labels == own) & (np.arange(61) != row)]
        b = np.delete(np.linalg.norm(centroids - vector, axis=1), own).min()
        # The own centroid is that of the other members.
        a = np.linalg.norm(others.mean(axis=0) - vector) if len(others) else 0.0
        scores.setdefault(int(own), []).append((b - a) / max(a, b))
    # A cluster of one vector has 0.
    means = [float(np.mean(each)) if len(each) > 1 else 0.0 for each in scores.values()]
    assert min(len(each) for each in scores.values()) == 1
    assert found.simplified_silhouette == pytest.approx(np.mean(means), rel=1e-5)
    assert found.standard_error == pytest.approx(np.std(means, ddof=1) / np.sqrt(5), rel=1e-5)
    assert found.silhouette is None


def test_few_vectors_of_each_cluster_give_nearly_the_scores_of_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    local = LocalVectors(uniform_noise(3000))
    centroids = kmeans(local, 6, config()).centroids
    whole = score_clusters(local, centroids, config())
    monkeypatch.setattr(cluster_scores, "ROWS_PER_CLUSTER", 100)
    sampled = score_clusters(local, centroids, config())
    assert whole.simplified_silhouette is not None
    assert sampled.simplified_silhouette != whole.simplified_silhouette
    assert sampled.simplified_silhouette == pytest.approx(whole.simplified_silhouette, abs=0.03)
    # Only the silhouette is sampled.
    assert sampled.davies_bouldin == whole.davies_bouldin


def test_a_vector_of_some_weight_is_left_out_of_its_centroid_with_all_of_it() -> None:
    vectors = np.array([[0.0], [1.0], [10.0], [12.0]], np.float32)
    local = LocalVectors(vectors, np.array([3, 1, 1, 1]))
    centroids = np.array([[0.25], [11.0]], np.float32)
    found = score_clusters(local, centroids, config()).simplified_silhouette
    left = (3 * (10 / 11 * 0 + (11 - 1) / 11) + (10 - 1) / 10) / 4
    right = ((9.75 - 2) / 9.75 + (11.75 - 2) / 11.75) / 2
    assert found == pytest.approx((left + right) / 2, rel=1e-5)


def test_a_vector_of_some_weight_counts_as_often() -> None:
    vectors, weights = uniform_noise(50), np.arange(50) % 3 + 2
    heavy, often = LocalVectors(vectors, weights), LocalVectors(np.repeat(vectors, weights, axis=0))
    centroids = kmeans(heavy, 4, config()).centroids
    one, other = (score_clusters(each, centroids, config()) for each in (heavy, often))
    for name in ("davies_bouldin", "calinski_harabasz", "inertia"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-6)


@pytest.mark.parametrize("rows", [31, 97, 640])
def test_any_split_of_the_rows_gives_the_same_curve(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = uniform_noise(700)
    assert choose_k(InTiles(vectors, rows), config()) == choose_k(LocalVectors(vectors), config())
    monkeypatch.setattr(module, "SAMPLE_ROWS", 500)
    assert choose_k(InTiles(vectors, rows), config()) == choose_k(LocalVectors(vectors), config())


def test_a_sample_of_many_vectors_chooses_as_all_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLE_ROWS", 640)
    assert chosen(choose_k(LocalVectors(tree_of_blobs(4, 4, 80)), config())) == [16]


def test_the_smallest_count_within_one_standard_error_of_the_best_is_chosen() -> None:
    points = [point(8, 0.29), point(2, 0.2), point(4, 0.31), point(16, 0.4)]
    assert choose(points, "simplified_silhouette").k == 4
    assert choose(points, "silhouette").k == 4
    assert choose(points, "calinski_harabasz").k == 16
    assert choose(points, "davies_bouldin").k == 2
    assert choose([point(2, 0.3), point(4, 0.3)], "davies_bouldin").k == 2
    assert choose([point(2, 0.1, 9.0), point(4, 0.3, 0.01)], "simplified_silhouette").k == 4


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 300), d=st.integers(1, 5))
def test_noise_of_any_size_gets_a_hierarchy(n: int, d: int) -> None:
    found = build_levels(LocalVectors(uniform_noise(n, d)), config())
    sizes = [len(level.centroids) for level in found.levels]
    assert sizes == sorted(set(sizes), reverse=True)
    assert 1 <= sizes[-1] <= module.TOP_CLUSTERS
    assert len(chosen(found.curve)) == len(found.runs)


def test_three_vectors_get_one_level_of_two_clusters() -> None:
    found = build_levels(LocalVectors(np.array([[0], [1], [9]], np.float32)), config())
    assert [len(level.centroids) for level in found.levels] == [2]
    assert [(each.k, each.chosen) for each in found.curve] == [(2, True)]


def test_identical_vectors_get_one_cluster_without_a_score() -> None:
    found = build_levels(LocalVectors(np.ones((200, 3), np.float32)), config())
    assert [len(level.centroids) for level in found.levels] == [1]
    assert [(each.k, each.simplified_silhouette) for each in found.curve] == [(1, None)]


def test_no_more_clusters_are_tried_than_there_are_distinct_vectors() -> None:
    vectors = np.repeat(uniform_noise(5), 100, axis=0)
    points = choose_k(LocalVectors(vectors), config())
    assert [each.k for each in points] == [5]
    assert points[0].simplified_silhouette == pytest.approx(1.0)
    assert (points[0].davies_bouldin, points[0].calinski_harabasz) == (0.0, 1.0)


def test_a_curve_that_was_kept_is_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Kept(NoCheckpoints):
        def __init__(self) -> None:
            self.states: dict[str, State] = {}

        def load(self, loop: str) -> State | None:
            return self.states.get(loop)

        def save(self, loop: str, state: State, last: bool = False) -> None:
            self.states[loop] = state

    kept, local = Kept(), LocalVectors(uniform_noise(200))
    first = choose_k(local, config(), checkpoints=kept)
    monkeypatch.delattr(module, "kmeans")
    assert choose_k(local, config(), checkpoints=kept) == first


def test_the_full_silhouette_of_many_items_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        InputError, match=r"k_score silhouette takes at most 20,000 items.*there are 20,001; take"
    ):
        choose_k(LocalVectors(np.zeros((20_001, 1), np.float32)), config(k_score="silhouette"))
