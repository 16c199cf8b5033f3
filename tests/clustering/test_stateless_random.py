import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hercules_scale.clustering import stateless_random
from hercules_scale.clustering.stateless_random import hash_rows, uniform

MASK = 2**64 - 1
INT64 = st.integers(-(2**63), 2**63 - 1)


def splitmix(state: int) -> int:
    """SplitMix64 in Python's integers."""
    state = (state + 0x9E3779B97F4A7C15) & MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
    return state ^ (state >> 31)


def expected(seed: int, level: int, phase: str, index: int, row: int) -> int:
    state = 0
    for part in (seed, level, int.from_bytes(phase.encode().ljust(8), "little"), index, row):
        state = splitmix(state ^ (part & MASK))
    return state


def test_the_reference_gives_the_published_first_numbers() -> None:
    assert splitmix(0) == 0xE220A8397B1DCDAF
    assert splitmix(0x9E3779B97F4A7C15) == 0x6E789E6AA1B965F4


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1),
    level=st.integers(1, 9),
    phase=st.sampled_from(["sample", "refill", "kmeans++"]),
    index=st.integers(0, 2**40),
    rows=st.lists(INT64, min_size=1, max_size=3),
)
def test_hashes_are_splitmix64(
    seed: int, level: int, phase: str, index: int, rows: list[int]
) -> None:
    found = hash_rows(seed, level, phase, index, np.array(rows, np.int64))
    assert found.tolist() == [expected(seed, level, phase, index, row) for row in rows]


def test_a_draw_depends_on_its_row_and_not_on_its_neighbours() -> None:
    rows = np.arange(100)
    whole = uniform(1, 1, "sample", 0, rows)
    assert (uniform(1, 1, "sample", 0, rows[::-1])[::-1] == whole).all()
    assert (uniform(1, 1, "sample", 0, rows[37:41]) == whole[37:41]).all()


@pytest.mark.parametrize(
    "other", [(2, 1, "sample", 0), (1, 2, "sample", 0), (1, 1, "phrases", 0), (1, 1, "sample", 1)]
)
def test_draws_for_different_things_are_unrelated(other: tuple[int, int, str, int]) -> None:
    rows = np.arange(20_000)
    one, two = uniform(1, 1, "sample", 0, rows), uniform(*other, rows)
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.03


def test_draws_are_uniform() -> None:
    drawn = uniform(0, 1, "sample", 0, np.arange(50_000))
    assert stats.kstest(drawn, "uniform").pvalue > 1e-3


def test_draws_lie_strictly_between_zero_and_one(monkeypatch: pytest.MonkeyPatch) -> None:
    extremes = np.array([0, MASK], np.uint64)
    monkeypatch.setattr(stateless_random, "hash_rows", lambda *_: extremes)
    low, high = uniform(0, 1, "sample", 0, np.zeros(2, np.int64))
    assert 0 < low < high < 1
