"""Passes over shards beside scikit-learn on all vectors at once; in this process, without Ray."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import (
    adjusted_rand_score,
    calinski_harabasz_score,
    completeness_score,
    davies_bouldin_score,
    homogeneity_score,
    silhouette_score,
    v_measure_score,
)

from hercules_scale.clustering.nearest_centroids import Float32, Int32
from hercules_scale.evaluation.internal import Distance
from hercules_scale.runtime import partial_sums
from hercules_scale.runtime.context import Shards
from hercules_scale.runtime.partial_sums import GatherHere, parts_of
from hercules_scale.stages import item_metrics as stage
from hercules_scale.stages.ground_truth import GivenTruth, external_figures
from hercules_scale.stages.item_metrics import ClusteredItems, item_metrics
from hercules_scale.storage import layout
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import write_table
from tests.conftest import write_embeddings

N_ITEMS, DIMENSION = 700, 6
# Finest clusters 12, 13 and 14 hold one item each; the top is one cluster.
PARENTS = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 3, 0, 4], np.int32)
ANCESTORS = (np.arange(15, dtype=np.int32), PARENTS, np.zeros(15, np.int32))


@pytest.fixture
def vectors() -> Float32:
    draw = np.random.default_rng(1)
    centres = 2 * draw.normal(size=(15, DIMENSION))
    return (centres[leaves_of()] + draw.normal(size=(N_ITEMS, DIMENSION))).astype(np.float32)


def leaves_of() -> Int32:
    leaves = np.random.default_rng(0).integers(0, 12, N_ITEMS).astype(np.int32)
    leaves[[5, 300, 699]] = 12, 13, 14
    return leaves


@pytest.fixture
def items(tmp_path: Path, vectors: Float32) -> ClusteredItems:
    """Items in shards of 128, which do not fall together with parts."""
    store, shards = Store(str(tmp_path)), Shards(N_ITEMS, 128)
    write_embeddings(store, shards, vectors)
    for shard in range(len(shards)):
        own = leaves_of()[slice(*shards.bounds(shard))]
        write_table(store, layout.part("memberships", shard), pa.table({"level_1": own}))
    return ClusteredItems(store, shards, DIMENSION, ANCESTORS, "cosine", 0)


@pytest.mark.parametrize("max_parts", [64, 4, 1])
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_metrics_of_items_are_scikit_learns_at_every_level(
    items: ClusteredItems,
    vectors: Float32,
    distance: Distance,
    max_parts: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(partial_sums, "MAX_PARTS", max_parts)
    found = item_metrics(replace(items, distance=distance), GatherHere(items.shards))
    exact = vectors.astype(np.float64)
    for level in (0, 1):
        own = ANCESTORS[level][leaves_of()]
        measured = found[level]["items"]
        expected = {
            "silhouette": silhouette_score(exact, own, metric=distance),
            "davies_bouldin": davies_bouldin_score(exact, own),
            "calinski_harabasz": calinski_harabasz_score(exact, own),
        }
        assert measured.keys() == expected.keys()
        for name, value in expected.items():
            assert measured[name].value == pytest.approx(value, rel=1e-6)
            assert measured[name][1:] == (N_ITEMS, None, None)
    assert found[2] == {"items": {}, "children": {}}


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_metrics_of_children_are_those_of_the_means_below(
    items: ClusteredItems, vectors: Float32, distance: Distance
) -> None:
    found = item_metrics(replace(items, distance=distance), GatherHere(items.shards))
    exact, leaves = vectors.astype(np.float64), leaves_of()
    means = np.stack([exact[leaves == leaf].mean(axis=0) for leaf in range(15)])
    children = found[1]["children"]
    assert "children" not in found[0]
    assert children["silhouette"].value == pytest.approx(
        silhouette_score(means, PARENTS, metric=distance), rel=1e-6
    )
    assert children["davies_bouldin"].value == pytest.approx(davies_bouldin_score(means, PARENTS))
    assert children["calinski_harabasz"].n == 15


def test_a_sampled_silhouette_has_an_interval_around_the_exact_one(
    items: ClusteredItems, vectors: Float32, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "EXACT_ROWS", 100)
    monkeypatch.setattr(stage, "SAMPLE_ROWS", 200)
    euclidean = replace(items, distance="euclidean")
    found = item_metrics(euclidean, GatherHere(items.shards))
    for level in (0, 1):
        figure = found[level]["items"]["silhouette"]
        exact = silhouette_score(vectors.astype(np.float64), ANCESTORS[level][leaves_of()])
        assert 150 < figure.n < 250
        assert figure.low is not None
        assert figure.high is not None
        assert figure.low < exact < figure.high
        assert figure.low < figure.value < figure.high
    assert found[0]["items"]["davies_bouldin"].low is None


def test_parts_hold_every_shard_once_in_order() -> None:
    for n_shards in (1, 63, 64, 65, 200):
        parts = parts_of(Shards(n_shards * 8, 8))
        assert [shard for part in parts for shard in part] == list(range(n_shards))
        assert len(parts) == min(n_shards, 64)


def test_agreement_with_ground_truth_leaves_out_items_without_a_class(
    items: ClusteredItems,
) -> None:
    classes = np.random.default_rng(2).integers(-1, 4, N_ITEMS)
    truth = GivenTruth("y", classes, items.shards.rows)
    levels = external_figures(items, truth, GatherHere(items.shards))["y"]
    has = classes >= 0
    for level, held in enumerate(ANCESTORS):
        own = held[leaves_of()]
        assert levels[level]["ari"].value == pytest.approx(
            adjusted_rand_score(classes[has], own[has])
        )
        assert levels[level]["v_measure"].value == pytest.approx(
            v_measure_score(classes[has], own[has])
        )
        assert levels[level]["ari"].n == has.sum()


def test_a_class_of_its_own_for_every_item_is_measured(items: ClusteredItems) -> None:
    classes = np.arange(N_ITEMS)
    truth = GivenTruth("id", classes, items.shards.rows)
    levels = external_figures(items, truth, GatherHere(items.shards))["id"]
    for level, held in enumerate(ANCESTORS):
        own = held[leaves_of()]
        for name, score in (
            ("homogeneity", homogeneity_score),
            ("completeness", completeness_score),
        ):
            assert levels[level][name].value == pytest.approx(score(classes, own))
