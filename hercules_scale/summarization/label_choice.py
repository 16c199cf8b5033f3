"""Fit of labels to their clusters, and choice of the best label.

A label is embedded as "title. description", by the model that embedded the items. It fits if the
items of its cluster lie nearer to it than to the labels of the siblings.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hercules_scale.clustering.nearest_centroids import Float32, Int32, Int64, nearest

Float64 = NDArray[np.float64]

# Nearest siblings that a label is compared with; more of them change little and cost much.
SIBLINGS = 32
# Factor from cosines of items and labels, which differ by some hundredths, to log-odds.
SHARPNESS = 25.0
ROUNDS = 5
# Penalties in nats of the mean log-likelihood of a cluster's items.
SHORT_PENALTY, COMMAS_PENALTY = 0.5, 0.1
# Gain in nats from which key phrases replace a title or description of the model.
TITLE_OF_PHRASES, DESCRIPTION_OF_PHRASES = 1.0, 1.2
# Penalties in nats of words that few items or none have. Descriptions have the larger one, since
# small models list single items in them.
TYPICAL_TITLE, TYPICAL_DESCRIPTION = 1.0, 2.0


@dataclass(frozen=True)
class Items:
    """Items of known clusters.

    Attributes:
        vectors: Vectors of unit length, shape (n, d).
        labels: Cluster of each item, shape (n,).
        weights: Number of items that each represents, shape (n,).
        rows: Row of each item, shape (n,).
    """

    vectors: Float32
    labels: Int64
    weights: Float64
    rows: Int64

    def rows_of(self, k: int) -> list[Int64]:
        """Return the positions of the items of each of k clusters."""
        order = np.argsort(self.labels, kind="stable")
        return np.split(order, np.searchsorted(self.labels[order], np.arange(1, k)))

    def means(self, k: int, dimension: int) -> Float32:
        """Return the mean vector of the items of each of k clusters, shape (k, dimension); zeros
        without items."""
        means = np.zeros((k, dimension), np.float32)
        for cluster, own in enumerate(self.rows_of(k)):
            if len(own):
                means[cluster] = self.vectors[own].mean(axis=0)
        return means


def sibling_groups(parents: Int32 | None, k: int) -> list[Int64]:
    """Return the ids of siblings, a group for each parent; at the top level all are siblings."""
    if parents is None:
        return [np.arange(k)]
    order = np.argsort(parents, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(parents[order])) + 1)


def choose_labels(
    candidates: list[Float32], penalties: list[Float64], items: Items, groups: list[Int64]
) -> Int64:
    """Choose the candidate of each cluster that makes the items of it and its siblings likeliest.

    The probability that an item belongs to a cluster is the softmax of its cosines with the labels
    of the siblings. Choices depend on one another, so they are improved in turn.

    Args:
        candidates: Vectors of each cluster's candidates, of unit length, each of shape (m, d).
        penalties: Penalties of the candidates in nats, each of shape (m,).
        items: Items to choose by.
        groups: Groups of siblings.

    Returns:
        Index of the chosen candidate of each cluster, shape (k,).
    """
    k = len(candidates)
    rows, means = items.rows_of(k), items.means(k, candidates[0].shape[1])
    chosen = np.array(
        [
            int((vectors @ mean - penalty / SHARPNESS).argmax())
            for vectors, mean, penalty in zip(candidates, means, penalties, strict=True)
        ]
    )
    for group in groups:
        rivals = nearest_siblings(means, group)
        for _ in range(ROUNDS):
            before = chosen[group].copy()
            for cluster, others in zip(group.tolist(), rivals, strict=True):
                if len(candidates[cluster]) > 1 and len(others):
                    gains = _likelihood(cluster, others, chosen, candidates, items, rows)
                    chosen[cluster] = int((gains - penalties[cluster]).argmax())
            if (chosen[group] == before).all():
                break
    return chosen


def nearest_siblings(means: Float32, group: Int64) -> list[Int64]:
    """Return the nearest siblings of each cluster of a group, without the cluster itself."""
    if len(group) - 1 <= SIBLINGS:
        return [group[group != cluster] for cluster in group]
    _, ids = nearest(means[group], means[group], SIBLINGS + 1)
    return [group[own[own != place][:SIBLINGS]] for place, own in enumerate(ids)]


def _likelihood(
    cluster: int,
    others: Int64,
    chosen: Int64,
    candidates: list[Float32],
    items: Items,
    rows: list[Int64],
) -> Float64:
    """Return the log-likelihood of each candidate, shape (m,).

    It is the sum, over the cluster and its siblings, of the mean log-likelihood of their items. So
    a label that attracts items of siblings loses.
    """
    group = [cluster, *others.tolist()]
    labels = np.stack([candidates[other][chosen[other]] for other in others])
    own = [rows[each] for each in group]
    vectors = items.vectors[np.concatenate(own)]
    of_rivals = np.exp(SHARPNESS * (vectors @ labels.T).astype(np.float64))
    of_own = np.exp(SHARPNESS * (vectors @ candidates[cluster].T).astype(np.float64))
    total = of_rivals.sum(axis=1)[:, None] + of_own
    starts = np.cumsum([0, *(len(each) for each in own)])
    gains = np.zeros(of_own.shape[1])
    for place, (start, stop) in enumerate(itertools.pairwise(starts)):
        if start == stop:
            continue
        true = of_own[start:stop] if place == 0 else of_rivals[start:stop, place - 1, None]
        weights = items.weights[own[place]]
        gains += np.average(np.log(true / total[start:stop]), axis=0, weights=weights)
    return gains


def label_accuracy(vectors: Float32, items: Items, groups: list[Int64]) -> Float64:
    """Return the share of each cluster's items that lie nearer to its label than to any sibling's.

    Args:
        vectors: Vectors of the labels, of unit length, shape (k, d); centroids give the ceiling.
        items: Held-out items, which had no part in making or choosing the labels.
        groups: Groups of siblings.

    Returns:
        Shares, shape (k,); NaN where a cluster has no held-out item.
    """
    rows = items.rows_of(len(vectors))
    shares = np.full(len(vectors), np.nan)
    for group in groups:
        labels = np.ascontiguousarray(vectors[group])
        for place, cluster in enumerate(group.tolist()):
            if len(rows[cluster]):
                own = rows[cluster]
                # Among vectors of unit length the largest product is the nearest.
                nearest = (items.vectors[own] @ labels.T).argmax(axis=1)
                shares[cluster] = np.average(nearest == place, weights=items.weights[own])
    return shares


def reading_penalty(title: str) -> float:
    """Return the penalty in nats of a title that is a single word or a list of words."""
    short = SHORT_PENALTY if len(title.split()) < 2 else 0.0
    return short + (COMMAS_PENALTY if title.count(",") > 1 else 0.0)


def list_penalty(of_title: bool) -> float:
    """Return the gain in nats from which key phrases replace the model's title or description."""
    return TITLE_OF_PHRASES if of_title else DESCRIPTION_OF_PHRASES
