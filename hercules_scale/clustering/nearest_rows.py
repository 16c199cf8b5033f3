"""The rows nearest to each centroid, exact over any split of the rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def nearest_rows(
    labels: NDArray[np.int32],
    distances: NDArray[np.float32],
    n_nearest: int,
    rows: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.float32]]:
    """The ``n_nearest`` rows of each cluster by (distance, row).

    The nearest of a union are the nearest of the parts' nearest, so parts can be merged with
    another call.

    Args:
        labels: Cluster of each row, shape (n,).
        distances: Squared L2 distance of each row to its centroid, shape (n,).
        n_nearest: Rows wanted of each cluster.
        rows: Row ids, shape (n,); by default 0 to n - 1.

    Returns:
        Clusters, row ids and distances of the rows kept, by cluster, nearest first.
    """
    if rows is None:
        rows = np.arange(len(labels))
    order = np.lexsort((rows, distances, labels))
    sorted_labels = labels[order]
    firsts = np.searchsorted(sorted_labels, sorted_labels, side="left")
    keep = order[np.arange(len(order)) - firsts < n_nearest]
    return labels[keep], rows[keep], distances[keep]
