from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import davies_bouldin_score, silhouette_score

from hercules_scale.clustering.nearest_centroids import to_unit
from hercules_scale.evaluation.label_quality import (
    description_metrics,
    held_out_accuracy,
    summary_shares,
)
from hercules_scale.summarization.label_choice import Items


def test_held_out_accuracy_beside_its_ceiling_and_chance() -> None:
    # Two pairs of siblings and one alone; the labels of the first pair are swapped.
    centroids = np.eye(5, dtype=np.float32)
    labels = centroids[[1, 0, 2, 3, 4]]
    clusters = np.repeat(np.arange(5), 3)
    items = Items(centroids[clusters], clusters, np.ones(15), np.arange(15))
    groups = [np.array([0, 1]), np.array([2, 3]), np.array([4])]
    sizes = np.array([30, 30, 20, 20, 99])
    found = held_out_accuracy(labels, centroids, items, sizes, groups)
    assert found == {
        "label_accuracy": (0.5, 4),
        "label_accuracy_weighted": (0.4, 4),
        "label_accuracy_centroids": (1.0, 4),
        "label_accuracy_chance": (0.5, 4),
    }
    alone = [np.array([each]) for each in range(5)]
    assert held_out_accuracy(labels, centroids, items, sizes, alone) == {}


def test_shares_of_ok_and_of_distinct_titles() -> None:
    level = pa.table(
        {
            "title": ["Ferries", "The ferries", "Trains", "Ferries"],
            "summary_status": ["ok", "ok", "fallback", "fallback"],
            "summary_source": ["model", "model", "keyphrases", "model"],
        }
    )
    found = summary_shares(level, [np.array([0, 1]), np.array([2, 3])])
    assert found == {
        "share_ok": (0.5, 4),
        "share_titles_by_model": (0.75, 4),
        "share_distinct_siblings": (0.5, 4),
        "share_distinct_level": (0.25, 4),
    }


def test_metrics_of_descriptions_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    parents = np.repeat(np.arange(3), 4).astype(np.int32)
    vectors = to_unit((np.eye(3)[parents] + 0.3 * rng.normal(size=(12, 3))).astype(np.float32))
    found = description_metrics(vectors, parents)
    expected = silhouette_score(vectors, parents, metric="cosine")
    assert found["llm_silhouette"][0] == pytest.approx(expected)
    assert found["llm_silhouette"][1] == 12
    assert found["llm_davies_bouldin"][0] == pytest.approx(davies_bouldin_score(vectors, parents))
    assert found["llm_calinski_harabasz"][0] > 0


@pytest.mark.parametrize("parents", [np.zeros(4, np.int32), np.arange(4, dtype=np.int32)])
def test_one_cluster_or_one_child_each_cannot_be_measured(parents: np.ndarray) -> None:
    assert description_metrics(np.eye(4, dtype=np.float32), parents) == {}
