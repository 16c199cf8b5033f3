"""Quality of titles and descriptions, measured on items that were not used to write them.

Source: HERCULES, section 3.7, for the metrics on description embeddings.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hercules_scale.clustering.nearest_centroids import Float32, Int64, to_unit
from hercules_scale.evaluation.internal import internal_metrics
from hercules_scale.summarization.distinct_titles import title_key
from hercules_scale.summarization.label_choice import Items, label_accuracy

Measured = dict[str, tuple[float, int]]


def held_out_accuracy(
    vectors: Float32, centroids: Float32, items: Items, sizes: Int64, groups: list[Int64]
) -> Measured:
    """Return how often held-out items lie nearer to their cluster's label than to its siblings'
    labels.

    Args:
        vectors: Embedded "title. description" of each cluster, shape (k, d), of unit length.
        centroids: Means of each cluster's items, shape (k, d); their accuracy as labels is given
            for comparison. If smoothed vectors were clustered, labels can be better than the means.
        items: Items that were neither in a prompt nor used to choose labels.
        sizes: Number of items of each cluster, shape (k,).
        groups: Clusters that are siblings.

    Returns:
        Metrics, each with the number of clusters measured; empty if no cluster has siblings. The
        plain metric is the mean over clusters, ``_weighted`` the mean over all items.
    """
    with_siblings = np.zeros(len(vectors), bool)
    chance = np.ones(len(vectors))
    for group in groups:
        with_siblings[group] = len(group) > 1
        chance[group] = 1 / len(group)
    own = label_accuracy(vectors, items, groups)
    of_centroids = label_accuracy(to_unit(centroids), items, groups)
    kept = np.flatnonzero(with_siblings & ~np.isnan(own))
    if not len(kept):
        return {}
    n = len(kept)
    return {
        "label_accuracy": (float(own[kept].mean()), n),
        "label_accuracy_weighted": (float(np.average(own[kept], weights=sizes[kept])), n),
        "label_accuracy_centroids": (float(of_centroids[kept].mean()), n),
        "label_accuracy_chance": (float(chance[kept].mean()), n),
    }


def summary_shares(level: pa.Table, groups: list[Int64]) -> Measured:
    """Return shares of clusters that the model labelled, and of titles that no other cluster has.

    ``share_ok`` counts clusters with title and description by the model, ``share_titles_by_model``
    clusters with a title by the model.
    """
    keys = [title_key(title) for title in level["title"].to_pylist()]
    n = len(keys)
    among_siblings = sum(_n_alone([keys[each] for each in group]) for group in groups)
    ok = sum(status == "ok" for status in level["summary_status"].to_pylist())
    titles = sum(source == "model" for source in level["summary_source"].to_pylist())
    return {
        "share_ok": (ok / n, n),
        "share_titles_by_model": (titles / n, n),
        "share_distinct_siblings": (among_siblings / n, n),
        "share_distinct_level": (_n_alone(keys) / n, n),
    }


def _n_alone(keys: list[str]) -> int:
    _, counts = np.unique(keys, return_counts=True)
    return int((counts == 1).sum())


def groundedness_metrics(shares: NDArray[np.float64]) -> Measured:
    """Return the mean share of content words in titles, and in descriptions, that the items
    contain.

    Args:
        shares: Shares of each cluster's title and description, shape (k, 2 or more); NaN where
            unknown.
    """
    found = {}
    for name, own in zip(("titles", "descriptions"), shares.T, strict=False):
        known = own[~np.isnan(own)]
        if len(known):
            found[f"groundedness_{name}"] = (float(known.mean()), len(known))
    return found


def description_metrics(vectors: Float32, parents: NDArray[np.int32]) -> Measured:
    """Return internal metrics of the clusters of a level, by the labels of their children.

    Args:
        vectors: Embedded labels of the level below, shape (n, d), of unit length.
        parents: Cluster of each, shape (n,).

    Returns:
        Silhouette (cosine), Davies-Bouldin and Calinski-Harabasz; empty if every cluster has one
        child, or if there is one cluster.
    """
    found = internal_metrics(vectors, parents, "cosine")
    return {f"llm_{metric}": (figure.value, figure.n) for metric, figure in found.items()}
