from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from scipy.spatial.distance import jensenshannon

from hercules_scale.evaluation.drift import (
    Distances,
    drift_table,
    jensen_shannon,
    level_limits,
    reference_table,
)


def distances(labels: list[list[int]], values: list[list[float]], limit: float) -> Distances:
    return Distances.of(
        np.array(labels, np.int32),
        np.array(values, np.float32),
        [3, 1],
        np.ones(len(labels), np.bool_),
        np.array([limit, limit]),
    )


@pytest.fixture
def reference() -> pa.Table:
    """Twenty items in cluster 0 at distances 1 to 20, five in cluster 1, none in cluster 2."""
    labels = [[0, 0]] * 20 + [[1, 0]] * 5
    values = [[float(n), 2.0] for n in range(1, 21)] + [[3.0, 2.0]] * 5
    return reference_table(distances(labels, values, np.inf))


def test_the_reference_holds_means_and_quantiles_by_cluster_and_level(reference: pa.Table) -> None:
    rows = reference.to_pylist()
    assert [(row["level"], row["cluster_id"], row["n_items"]) for row in rows] == [
        (1, None, 25),
        (1, 0, 20),
        (1, 1, 5),
        (1, 2, 0),
        (2, None, 25),
        (2, 0, 25),
    ]
    assert rows[0]["mean_distance"] == pytest.approx((210 + 15) / 25)
    assert rows[1]["p90_distance"] == pytest.approx(np.quantile(np.arange(1, 21), 0.9))
    # Five items tell no quantile.
    assert rows[2]["mean_distance"] == 3
    assert rows[2]["p90_distance"] is None
    assert rows[3]["mean_distance"] is None
    np.testing.assert_allclose(
        level_limits(reference), [np.quantile([*range(1, 21), *[3] * 5], 0.99), 2]
    )


def test_drift_sets_new_items_beside_the_reference(reference: pa.Table) -> None:
    new = distances([[0, 0], [1, 0], [1, 0], [2, 0]], [[42, 2], [6, 2], [6, 2], [1, 2]], 30.0)
    rows = drift_table(reference, new).to_pylist()
    whole, first, second, third = rows[:4]
    assert [row["n_items"] for row in rows] == [4, 1, 2, 1, 4, 4]
    assert whole["distance_ratio"] == pytest.approx((55 / 4) / 9)
    assert whole["share_beyond_p99"] == 0.25
    assert (first["share_new"], first["share_old"]) == (0.25, 0.8)
    assert (second["distance_ratio"], second["share_beyond_p99"]) == (2, 0)
    assert (third["mean_distance_old"], third["distance_ratio"]) == (None, None)
    expected = jensenshannon([0.25, 0.5, 0.25], [0.8, 0.2, 0], base=2) ** 2
    assert whole["jensen_shannon"] == pytest.approx(expected)
    assert first["jensen_shannon"] is None
    assert rows[4]["jensen_shannon"] == 0


def test_equal_shares_diverge_by_0_and_disjoint_ones_by_1() -> None:
    one, two = np.array([0.3, 0.7, 0, 0]), np.array([0, 0, 0.5, 0.5])
    assert jensen_shannon(one, one) == 0
    assert jensen_shannon(one, two) == pytest.approx(1)


def test_parts_add_up_to_the_whole_and_survive_their_files() -> None:
    labels, values = [[0, 0], [2, 0], [2, 0]], [[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]]
    whole = distances(labels, values, 2.5)
    parts = [distances(labels[:1], values[:1], 2.5), distances(labels[1:], values[1:], 2.5)]
    merged = Distances.merge(Distances.from_bytes(part.to_bytes()) for part in parts)
    for name in ("counts", "sums", "beyond"):
        for found, expected in zip(getattr(merged, name), getattr(whole, name), strict=True):
            np.testing.assert_array_equal(found, expected)
    assert merged.beyond[0].tolist() == [0, 0, 1]
    np.testing.assert_array_equal(merged.sampled, whole.sampled)
