"""Fit of labels to their clusters, and the choice of the best one.

A label is embedded as "title. description", by the model that embedded the items. It is good where
the items of its cluster lie nearer to it than to the labels of the siblings.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hercules_scale.clustering.assign import Float32, Int32, Int64, nearest

Float64 = NDArray[np.float64]

# Siblings that a label is set against, the nearest ones; more change little and cost much.
SIBLINGS = 32
# Cosines of items to labels differ by some hundredths; times this they are log-odds.
SHARPNESS = 25.0
ROUNDS = 5
# In nats of the mean log-likelihood of a cluster's items.
SHORT_PENALTY, COMMAS_PENALTY = 0.5, 0.1
# A model's words are wrong where key phrases make the items likelier by more than this.
TITLE_OF_PHRASES, DESCRIPTION_OF_PHRASES = 1.0, 1.2
# Nats that words lose which no item has, or few; descriptions by small models list single items.
TYPICAL_TITLE, TYPICAL_DESCRIPTION = 1.0, 2.0


@dataclass(frozen=True)
class Items:
    """Items of known clusters.

    Attributes:
        vectors: Shape (n, d), of unit length.
        labels: Cluster of each, shape (n,).
        weights: Items that each represents, shape (n,).
        rows: Row ids, shape (n,).
    """

    vectors: Float32
    labels: Int64
    weights: Float64
    rows: Int64

    def rows_of(self, k: int) -> list[Int64]:
        """Return the positions of the items of each of k clusters."""
        order = np.argsort(self.labels, kind="stable")
        return np.split(order, np.searchsorted(self.labels[order], np.arange(1, k)))


def sibling_groups(parents: Int32 | None, k: int) -> list[Int64]:
    """Return clusters by parent; at the top all are siblings."""
    if parents is None:
        return [np.arange(k)]
    order = np.argsort(parents, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(parents[order])) + 1)


def choose_labels(
    candidates: list[Float32], penalties: list[Float64], items: Items, groups: list[Int64]
) -> Int64:
    """Return the candidate of each cluster that makes its items the likeliest, against its
    siblings'.

    The chance that an item belongs to a sibling is taken as the softmax of the cosines to their
    labels. Choices depend on one another, so they are improved in turn.

    Args:
        candidates: Vectors of each cluster's candidates, each of shape (m, d), of unit length.
        penalties: Taken off the mean log-likelihood of the cluster's items, each of shape (m,).
        items: Items to choose by.
        groups: Clusters that are siblings.

    Returns:
        Index of the candidate of each cluster, shape (k,).
    """
    k = len(candidates)
    rows = items.rows_of(k)
    means = np.stack(
        [
            items.vectors[own].mean(axis=0) if len(own) else vectors[0] * 0
            for own, vectors in zip(rows, candidates, strict=True)
        ]
    )
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
    """Return the nearest siblings of each cluster of a group, itself left out."""
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
    """Return mean log-likelihoods of a cluster's items and its siblings', for each candidate.

    The siblings' count once in all, so that a label which takes their items pays for it.
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
        vectors: Vectors of the labels, shape (k, d), of unit length; centroids give the ceiling.
        items: Items that had no part in the labels.
        groups: Clusters that are siblings.

    Returns:
        Shape (k,); NaN where a cluster has no item here.
    """
    rows = items.rows_of(len(vectors))
    shares = np.full(len(vectors), np.nan)
    for group in groups:
        labels = np.ascontiguousarray(vectors[group])
        for place, cluster in enumerate(group.tolist()):
            if len(rows[cluster]):
                own = rows[cluster]
                # The largest product is the nearest: all have unit length.
                nearest = (items.vectors[own] @ labels.T).argmax(axis=1)
                shares[cluster] = np.average(nearest == place, weights=items.weights[own])
    return shares


def reading_penalty(title: str) -> float:
    """Return the penalty of a title that reads badly, in nats: a single word, or words side by
    side."""
    short = SHORT_PENALTY if len(title.split()) < 2 else 0.0
    return short + (COMMAS_PENALTY if title.count(",") > 1 else 0.0)


def list_penalty(of_title: bool) -> float:
    """Return the advantage in nats that key phrases need over words of the model."""
    return TITLE_OF_PHRASES if of_title else DESCRIPTION_OF_PHRASES
