from __future__ import annotations

import numpy as np
import pytest

from hercules_scale.clustering.smoothing import choose_smoothing, smooth


@pytest.mark.parametrize("n_other", [1, 3])
def test_equal_vectors_do_not_melt_the_few_others(n_other: int) -> None:
    vectors = np.zeros((250, 4), np.float32)
    vectors[:, 0] = 1
    vectors[-n_other:] = [0, 1, 0, 0]
    centred = vectors - vectors.mean(axis=0)
    choice = choose_smoothing(centred, 250, 2, 3, unit=True, seed=0)
    assert choice.neighbours == 0
    # What smoothing would do.
    melted = smooth(centred, 10, 3, unit=True)
    assert np.abs(melted[0] - melted[-1]).max() < np.abs(centred[0] - centred[-1]).max()


def test_vectors_that_all_differ_are_smoothed_as_before() -> None:
    rng = np.random.default_rng(0)
    centres = np.repeat([[3.0, 0, 0, 0], [0, 3, 0, 0]], 200, axis=0)
    vectors = (centres + rng.normal(size=(400, 4))).astype(np.float32)
    choice = choose_smoothing(vectors - vectors.mean(axis=0), 400, 2, 3, unit=False, seed=0)
    assert choice.neighbours == 10
    assert choice.agreement_smoothed is not None
