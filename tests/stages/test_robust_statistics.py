"""A few huge values take no part in the mean and the deviation of their column."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from hercules_scale.errors import InputError
from hercules_scale.reading.column_statistics import Moments
from hercules_scale.runtime.context import RunContext, Shards
from hercules_scale.runtime.progress import Reporter
from hercules_scale.stages.embed import StandardiseWorker
from hercules_scale.stages.robust_statistics import known_near_moments, near_moments
from hercules_scale.stages.vectors import read_vectors
from hercules_scale.storage import layout
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import write_table
from tests.conftest import resolved

NAMES = ("length", "year")
ROWS = np.column_stack(
    [np.random.default_rng(0).lognormal(size=900), np.random.default_rng(1).integers(0, 9, 900)]
) + np.array([0, 1.7e9])


def context_of(folder: Path, values: np.ndarray) -> tuple[RunContext, Shards]:
    store, shards = Store(str(folder)), Shards(len(values), 512)
    for shard in range(len(shards)):
        start, stop = shards.bounds(shard)
        columns = [pa.array(values[start:stop, place]) for place in range(2)]
        names = ["row", "item_id", *NAMES]
        rows = pa.array(np.arange(start, stop))
        table = pa.table([rows, rows.cast(pa.string()), *columns], names)
        write_table(store, layout.part("items", shard), table)
    settings = resolved({"input": {"path": str(folder)}, "output": {"path": str(folder)}})
    return RunContext(settings, store, "test", Reporter()), shards


def test_figures_of_usual_columns_stay_as_they_are(tmp_path: Path) -> None:
    context, shards = context_of(tmp_path, ROWS)
    moments = Moments.of(ROWS)
    assert near_moments(context, shards, "items", NAMES, moments) is moments
    assert context.reporter.alarms == []


@pytest.mark.ray
@pytest.mark.parametrize("huge", [1e5, -1e19, 1e300])
def test_a_huge_value_has_no_part_in_its_columns_figures(
    huge: float, tmp_path: Path, local_ray: None
) -> None:
    values = ROWS.copy()
    values[[7, 700], 0] = huge, -huge / 2
    context, shards = context_of(tmp_path, values)
    found = near_moments(context, shards, "items", NAMES, Moments.of(values))
    usual = Moments.of(np.delete(ROWS, [7, 700], axis=0))
    np.testing.assert_allclose(found.mean[0, 0], usual.mean[0, 0])
    np.testing.assert_allclose(found.std[0, 0], usual.std[0, 0])
    np.testing.assert_allclose(found.std[0, 1], ROWS[:, 1].std())
    assert (found.low[0, 0], found.high[0, 0]) == (min(huge, -huge / 2), max(huge, -huge / 2))
    (alarm,) = context.reporter.alarms
    assert "2 of 900 values of 'length' lie more than 1,024 times as far from its median" in alarm
    again = known_near_moments(context, Moments.of(values))
    assert again.std.tolist() == found.std.tolist()
    StandardiseWorker(context.store, NAMES, found)(0)
    vectors = read_vectors(context.store, 0)
    assert np.isfinite(vectors).all()
    assert vectors[:7, 0].std() > 0.1


def test_values_that_are_all_huge_are_refused(tmp_path: Path) -> None:
    values = ROWS * np.array([1e200, 1])
    context, shards = context_of(tmp_path, values)
    with pytest.raises(InputError, match="values of 'length' are too large for their squares"):
        near_moments(context, shards, "items", NAMES, Moments.of(values))
