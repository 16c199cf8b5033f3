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
LEFT_OUT = {
    "check_estimators_fit_returns_self": RETURNS,
    "check_readonly_memmap_input": RETURNS,
    "check_fit1d": "a list of numbers is items of one number each",
    "check_fit2d_1sample": "columns that never vary are refused by name, and of one row all are",
    "check_array_api_input-numpy-False": "needs SCIPY_ARRAY_API",
}
# They take many fits, of half a second each, or calls of predict, of a fifth.
SLOW = {
    "check_methods_subset_invariance",
    "check_estimators_dtypes",
    "check_fit_idempotent",
    "check_clustering-True",
    "check_estimators_pickle-True",
    "check_dict_unchanged",
    "check_n_features_in",
    "check_fit_check_is_fitted",
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
        pytest.param(estimator, check, id=name, marks=[pytest.mark.slow] * (name in SLOW))
        for name, estimator, check in CHECKS
        if name not in LEFT_OUT
    ],
)
def test_a_check_of_scikit_learn_passes(
    estimator: Hercules, check: Callable[[Any], None], local_ray: None
) -> None:
    check(estimator)


def test_checks_that_are_left_out_are_checks_of_scikit_learn() -> None:
    assert LEFT_OUT.keys() | SLOW <= {name for name, *_ in CHECKS}
