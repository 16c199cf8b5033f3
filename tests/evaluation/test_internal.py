from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import (
    calinski_harabasz_score,
    davies_bouldin_score,
    silhouette_samples,
    silhouette_score,
)

from hercules_scale.clustering.nearest_centroids import Float32, Int32
from hercules_scale.evaluation import internal
from hercules_scale.evaluation.internal import (
    ClusterSums,
    Distance,
    Spread,
    distance_sums,
    euclidean_silhouettes,
    figures,
    internal_metrics,
    sampled_mean,
)

EXACT = 1e-6


def planted(n: int = 90, k: int = 7, offset: float = 0.0) -> tuple[Float32, Int32]:
    """Overlapping groups, of which the last two are of one vector each."""
    draw = np.random.default_rng(n + k)
    labels = np.sort(draw.integers(0, k - 2, n)).astype(np.int32)
    labels[-2:] = k - 2, k - 1
    vectors = 2 * draw.normal(size=(k, 5))[labels] + draw.normal(size=(n, 5)) + offset
    return vectors.astype(np.float32), labels


@pytest.mark.parametrize("offset", [0.0, 50.0])
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_metrics_are_scikit_learns(distance: Distance, offset: float) -> None:
    vectors, labels = planted(offset=offset)
    exact = vectors.astype(np.float64)
    found = internal_metrics(vectors, labels, distance)
    assert {each.n for each in found.values()} == {90}
    assert found["silhouette"].value == pytest.approx(
        silhouette_score(exact, labels, metric=distance), rel=EXACT
    )
    assert found["davies_bouldin"].value == pytest.approx(
        davies_bouldin_score(exact, labels), rel=EXACT
    )
    assert found["calinski_harabasz"].value == pytest.approx(
        calinski_harabasz_score(exact, labels), rel=EXACT
    )


def test_more_clusters_and_vectors_than_a_block_holds_change_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vectors, labels = planted(n=120, k=30)
    whole = [internal_metrics(vectors, labels, each) for each in ("cosine", "euclidean")]
    for name, rows in (("BLOCK_ROWS", 16), ("BLOCK_CLUSTERS", 4), ("PAIR_ROWS", 8)):
        monkeypatch.setattr(internal, name, rows)
    parts = [internal_metrics(vectors, labels, each) for each in ("cosine", "euclidean")]
    for one, other in zip(whole, parts, strict=True):
        for name, figure in one.items():
            assert other[name].value == pytest.approx(figure.value, rel=1e-12)


@pytest.mark.parametrize("labels", [np.zeros(4, np.int32), np.arange(4, dtype=np.int32)])
def test_one_cluster_or_one_vector_in_each_has_no_metrics(labels: Int32) -> None:
    for distance in ("cosine", "euclidean"):
        assert internal_metrics(np.eye(4, dtype=np.float32), labels, distance) == {}


def test_sums_of_parts_and_of_children_are_those_of_the_whole() -> None:
    vectors, labels = planted()
    parents = np.array([0, 1, 1, 0, 2, 2, 0], np.int32)
    parts = [slice(0, 20), slice(20, 90)]
    sums = [ClusterSums.of(vectors[part], labels[part], 7) for part in parts]
    merged = sums[0].plus(sums[1]).merged(parents, 3)
    own = parents[labels]
    spreads = [Spread.of(vectors[part], own[part], merged, cosine=True) for part in parts]
    found = figures(merged, spreads[0].plus(spreads[1]), None)
    for name, figure in internal_metrics(vectors, own, "cosine").items():
        assert found[name].value == pytest.approx(figure.value, rel=1e-12)


def test_a_vector_of_zeros_is_at_distance_1_from_all_others_by_cosine() -> None:
    vectors, labels = planted()
    vectors[3] = 0
    expected = silhouette_score(vectors.astype(np.float64), labels, metric="cosine")
    found = internal_metrics(vectors, labels, "cosine")
    assert found["silhouette"].value == pytest.approx(expected, rel=EXACT)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_identical_vectors_in_two_clusters_score_0(distance: Distance) -> None:
    vectors = np.full((6, 3), 0.3, np.float32)
    found = internal_metrics(vectors, np.array([0, 0, 0, 1, 1, 1]), distance)
    assert found["silhouette"].value == 0
    assert found["davies_bouldin"].value == 0


def test_silhouettes_of_a_sample_are_those_of_the_whole() -> None:
    vectors, labels = planted()
    drawn = np.array([3, 40, 88, 89])
    apart = distance_sums(vectors[drawn], vectors, labels, 7)
    found = euclidean_silhouettes(apart, labels[drawn], np.bincount(labels))
    expected = silhouette_samples(vectors.astype(np.float64), labels)[drawn]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_interval_of_a_sample_holds_the_mean_of_all_in_19_of_20_draws() -> None:
    draw = np.random.default_rng(0)
    everything = draw.beta(2, 3, 50_000)
    held = 0
    for _ in range(400):
        figure = sampled_mean(draw.choice(everything, 300, replace=False))
        assert figure.low is not None
        assert figure.high is not None
        held += figure.low < everything.mean() < figure.high
    assert 365 <= held <= 394
