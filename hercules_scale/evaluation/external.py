"""Agreement of clusters with ground truth, from a contingency table."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse


def external_metrics(contingency: NDArray[np.int64] | sparse.coo_array) -> dict[str, float]:
    """Return the metrics of a table of counts, equal to scikit-learn's on the labels themselves.

    Args:
        contingency: Items of each class in each cluster, shape (classes, clusters); sparse where
            there are many of both.

    Returns:
        ``ari``, ``nmi`` (arithmetic mean), ``homogeneity``, ``completeness``, ``v_measure``.

    Source: HERCULES, section 3.7; Hubert and Arabie (1985); Rosenberg and Hirschberg (2007).
    """
    counts = sparse.coo_array(contingency).astype(np.float64)
    n = float(counts.sum())
    classes, clusters = counts.sum(axis=1), counts.sum(axis=0)
    class_entropy, cluster_entropy = _entropy(classes), _entropy(clusters)
    (row, column), cells = counts.coords, counts.data
    mutual = float((cells / n * np.log(cells * n / (classes[row] * clusters[column]))).sum())
    mutual = max(mutual, 0.0)
    homogeneity = mutual / class_entropy if class_entropy else 1.0
    completeness = mutual / cluster_entropy if cluster_entropy else 1.0
    both = homogeneity + completeness
    v_measure = 2 * homogeneity * completeness / both if both else 0.0
    trivial = not class_entropy and not cluster_entropy
    mean_entropy = (class_entropy + cluster_entropy) / 2
    return {
        "ari": _adjusted_rand(cells, classes, clusters, n),
        "nmi": 1.0 if trivial else mutual / mean_entropy,
        "homogeneity": homogeneity,
        "completeness": completeness,
        "v_measure": v_measure,
    }


def _entropy(counts: NDArray[np.float64]) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum()) if len(shares) > 1 else 0.0


def _adjusted_rand(
    cells: NDArray[np.float64],
    classes: NDArray[np.float64],
    clusters: NDArray[np.float64],
    n: float,
) -> float:
    def pairs(counts: NDArray[np.float64]) -> float:
        return float((counts * (counts - 1)).sum() / 2)

    together, of_class, of_cluster = pairs(cells), pairs(classes), pairs(clusters)
    if together == of_class == of_cluster:
        return 1.0
    expected = of_class * of_cluster / pairs(np.array([n]))
    return (together - expected) / ((of_class + of_cluster) / 2 - expected)
