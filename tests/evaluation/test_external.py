import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics
from sklearn.metrics.cluster import contingency_matrix

from hercules_scale.evaluation.external import external_metrics

REFERENCES = {
    "ari": metrics.adjusted_rand_score,
    "nmi": metrics.normalized_mutual_info_score,
    "homogeneity": metrics.homogeneity_score,
    "completeness": metrics.completeness_score,
    "v_measure": metrics.v_measure_score,
}


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=60))
def test_metrics_are_those_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    classes, clusters = zip(*pairs, strict=True)
    found = external_metrics(contingency_matrix(classes, clusters))
    assert found.keys() == REFERENCES.keys()
    for name, reference in REFERENCES.items():
        assert found[name] == pytest.approx(reference(classes, clusters), abs=1e-9), name


def test_empty_classes_and_clusters_change_nothing() -> None:
    table = np.array([[3, 1], [0, 4]])
    padded = np.pad(table, 1)
    assert external_metrics(padded) == pytest.approx(external_metrics(table))


def test_millions_of_items_do_not_overflow() -> None:
    found = external_metrics(np.diag([2**31, 2**31]).astype(np.int64))
    assert all(value == pytest.approx(1.0) for value in found.values())
