"""scikit-learn's checks of an estimator, on a local Ray."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.utils.estimator_checks import estimator_checks_generator

from hercules_scale import Hercules

pytestmark = pytest.mark.ray

RETURNS = "fit returns the hierarchy, which users' scripts depend on"
# Of a fit of half a second and calls of predict of a fifth, and of what other checks cover.
SLOW = "takes 2 to 11 seconds"
LEFT_OUT = {
    "check_estimators_fit_returns_self": RETURNS,
    "check_readonly_memmap_input": RETURNS,
    "check_fit1d": "a list of numbers is items of one number each",
    "check_fit2d_1sample": "columns that never vary are refused by name, and of one row all are",
    "check_array_api_input-numpy-False": "needs SCIPY_ARRAY_API",
    "check_methods_subset_invariance": f"{SLOW}: predicts row by row",
    "check_estimators_dtypes": f"{SLOW}: four fits; integers and floats are in test_memory.py",
    "check_fit_idempotent": f"{SLOW}; that a run has the same bits again is in test_kill.py",
    "check_clustering-True": f"{SLOW}; again, from a map of a file that cannot be written",
    "check_estimators_pickle-True": f"{SLOW}; again, from a map of a file",
    "check_dict_unchanged": f"{SLOW}; predict sets nothing",
    "check_n_features_in": f"{SLOW}; as check_n_features_in_after_fitting",
    "check_fit_check_is_fitted": f"{SLOW}; in test_api.py",
}


def letters(texts: list[str]) -> NDArray[np.float64]:
    """Vectors of titles, which else a model makes that takes seconds to load."""
    return np.array([[text.count(letter) + 0.1 for letter in "aeinrst"] for text in texts])


CHECKS = [
    ("-".join([check.func.__name__, *map(str, check.keywords.values())]), estimator, check)
    for estimator, check in estimator_checks_generator(
        Hercules([3], summaries="keyphrases", verbose=False, embed=letters)
    )
]


@pytest.mark.parametrize(
    ("estimator", "check"),
    [
        pytest.param(estimator, check, id=name)
        for name, estimator, check in CHECKS
        if name not in LEFT_OUT
    ],
)
def test_a_check_of_scikit_learn_passes(
    estimator: Hercules, check: Callable[[Any], None], local_ray: None
) -> None:
    check(estimator)


def test_checks_that_are_left_out_are_checks_of_scikit_learn() -> None:
    assert LEFT_OUT.keys() <= {name for name, *_ in CHECKS}
