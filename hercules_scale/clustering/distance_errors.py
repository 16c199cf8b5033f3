"""Error bounds of squared distances in float32, and distances in float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hercules_scale.clustering.nearest_centroids import Float32, Int64

# Relative error of a float32 sum, per number summed, four times that of rounding to nearest.
SUM_ERROR = 2.0**-22


def error_bounds(
    lengths: NDArray[np.float64], dimension: int, centroids: Float32, offsets: Float32 | None
) -> NDArray[np.float64]:
    """Return bounds on the errors of float32 distances from vectors of given lengths, shape (n,).

    Distances are computed as |x|² + |c|² - 2 x·c. A bound holds for centroids that may be among the
    two nearest to a vector x. With b the second smallest norm of all centroids, a centroid with a
    norm above 3 |x| + 2 b lies more than twice as far from x as two others. Such a centroid is
    neither nearest nor mistaken for it, and ``least_squares`` bounds its distance.
    """
    squares = np.einsum("ij,ij->i", centroids, centroids, dtype=np.float64)
    if offsets is not None:
        squares = squares + offsets
    norms = np.sort(np.sqrt(squares))
    reach = 3 * lengths + 2 * norms[:2][-1]
    longest = norms[np.searchsorted(norms, reach, side="right") - 1]
    return np.asarray(_relative_error(dimension) * (lengths + longest) ** 2)


def least_squares(
    distances: NDArray[np.floating], errors: NDArray[np.float64], dimension: int
) -> NDArray[np.float64]:
    """Return lower bounds on the true squared distances, given distances in float32.

    A centroid that ``errors`` does not cover is more than three times as long as the vector, so its
    distance is at least half the sum of both norms.
    """
    share = 1 - 4 * _relative_error(dimension)
    return np.asarray(np.maximum(distances.astype(np.float64) * share - errors, 0))


def _relative_error(dimension: int) -> float:
    """Return the error bound of a float32 distance, as a share of (|x| + |c|)²."""
    return SUM_ERROR * (dimension + 4)


def exact_distances(
    vectors: Float32, centroids: Float32, offsets: Float32 | None, ids: Int64
) -> NDArray[np.float64]:
    """Return squared L2 distances in float64 to some centroids of each row, shape (n, m)."""
    difference = vectors[:, None].astype(np.float64) - centroids[ids]
    exact = np.square(difference, out=difference).sum(axis=2)
    return np.asarray(exact if offsets is None else exact + offsets[ids])
