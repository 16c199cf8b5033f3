"""The assigner gives the vectors of a hierarchy the labels that they have in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hercules_scale.clustering import agglomerative
from hercules_scale.clustering.assigner import Assigner
from hercules_scale.clustering.levels import build_levels, compute_memberships
from hercules_scale.clustering.local_vectors import LocalVectors
from hercules_scale.clustering.nearest_centroids import Float32, to_unit
from hercules_scale.clustering.tiles import labels_of
from hercules_scale.config.hierarchy import HierarchyConfig
from hercules_scale.stages.stored_assigner import read_assigner, write_assigner
from hercules_scale.storage.store import Store


def rows(n: int = 600) -> Float32:
    """Overlapping groups far from the origin, the last three rows equal."""
    draw = np.random.default_rng(0)
    centres = 2 * draw.normal(size=(20, 5)) + 30
    found: Float32 = (centres[np.arange(n) % 20] + draw.normal(size=(n, 5))).astype(np.float32)
    found[-3:] = found[0]
    return found


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"refinement": "none"},
        {"refinement": "none", "resampling": {"rounds": 2}},
        {"metric": "cosine"},
        {"metric": "cosine", "refinement": "none"},
        {"levels": [7]},
        {"levels": "auto", "max_k": 20},
        {"method": "agglomerative"},
        {"method": "agglomerative", "metric": "cosine", "linkage": "average"},
        {"method": "agglomerative", "micro": True},
    ],
    ids=str,
)
def test_clustered_vectors_get_their_own_labels_distances_and_margins(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dict(settings)
    if settings.pop("micro", False):
        monkeypatch.setattr(agglomerative, "EXACT_ROWS", 300)
    config = HierarchyConfig.model_validate({"levels": [20, 6, 2], **settings})
    embeddings = rows()
    space, mean = to_unit(embeddings), np.zeros(5)
    if config.metric == "squared_l2":
        mean = embeddings.mean(axis=0, dtype=np.float64)
        space = embeddings - mean.astype(np.float32)
    vectors = LocalVectors(space)
    found = build_levels(vectors, config)
    expected = compute_memberships(space, found.leaves[labels_of(vectors)], found.levels)

    store = Store(str(tmp_path))
    write_assigner(store, "a.parquet", Assigner.of_levels(found, mean, np.inf, config.metric))
    assigner = read_assigner(store, "a.parquet", config.metric)
    # In any order and any company.
    order = np.random.default_rng(1).permutation(len(embeddings))
    for part in (np.arange(len(embeddings)), order, order[:7]):
        inside = assigner.to_space(embeddings[part])
        leaves = assigner.find_leaves(inside)
        np.testing.assert_array_equal(leaves, expected.labels[part, 0])
        members = assigner.memberships(inside, leaves)
        np.testing.assert_array_equal(members.labels, expected.labels[part])
        np.testing.assert_array_equal(members.distances, expected.distances[part])
        np.testing.assert_allclose(members.margins, expected.margins[part], rtol=1e-4, atol=1e-5)


def test_a_point_that_no_label_was_left_of_takes_no_item() -> None:
    embeddings = rows(60)
    vectors = LocalVectors(embeddings)
    config = HierarchyConfig(levels=[5, 2], method="agglomerative")
    found = build_levels(vectors, config)
    assert (found.leaves < 0).sum() == 3
    assigner = Assigner.of_levels(found, np.zeros(5), np.inf, "squared_l2")
    assert len(assigner.cells) == 57
    assert (assigner.find_leaves(embeddings) >= 0).all()


@pytest.mark.parametrize("metric", ["squared_l2", "cosine"])
def test_means_of_level_1_take_the_nearest_items_and_parents_follow(metric: str) -> None:
    embeddings = rows()
    inside = to_unit(embeddings) if metric == "cosine" else embeddings
    labels = np.arange(len(embeddings)) % 4
    totals = np.stack([inside[labels == c].sum(axis=0, dtype=np.float64) for c in range(4)])
    # A cluster without items.
    totals, counts = np.vstack([totals, np.zeros(5)]), np.array([150, 150, 150, 150, 0])
    parents = [np.array([0, 0, 1, 1, 1], np.int32)]
    assigner = Assigner.of_means(counts, totals, parents, metric)
    vectors = assigner.to_space(embeddings)
    found = assigner.memberships(vectors, assigner.find_leaves(vectors))

    centres = totals[:4] / 150
    if metric == "cosine":
        centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    distances = ((inside[:, None].astype(np.float64) - centres) ** 2).sum(axis=2)
    np.testing.assert_array_equal(found.labels[:, 0], distances.argmin(axis=1))
    np.testing.assert_allclose(found.distances[:, 0], distances.min(axis=1), rtol=1e-3)
    np.testing.assert_array_equal(found.labels[:, 1], parents[0][found.labels[:, 0]])
    above = np.stack([totals[:2].sum(axis=0), totals[2:].sum(axis=0)]) / 300
    if metric == "cosine":
        above /= np.linalg.norm(above, axis=1, keepdims=True)
    own = ((inside - above[found.labels[:, 1]]) ** 2).sum(axis=1)
    np.testing.assert_allclose(found.distances[:, 1], own, rtol=1e-3)
