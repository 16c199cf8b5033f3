"""Titles of clusters with children: they cover the children, and are the title of none."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hercules_scale.clustering.nearest_centroids import Float32, Int32, Int64
from hercules_scale.summarization.cluster_facts import Child, ClusterFacts
from hercules_scale.summarization.grounding import stems_of
from hercules_scale.summarization.label_choice import Float64, nearest_siblings
from hercules_scale.summarization.prompts import TITLE_CHARACTERS
from hercules_scale.summarization.titles import DANGLING, clean_title
from hercules_scale.summarization.words import n_letters
from hercules_scale.summarization.worked_examples import TITLE_WORDS

# Share of its parent's items from which a child may have the same title.
WHOLE = 0.85
# Titles say the same if their cosine has come this far from the mean of the level's titles to one.
SAME = 0.8
# Share of the items that a title must cover.
COVERED = 2 / 3
# A title of parts lists at most this many children, each with at least this share of the items.
LISTED, LEAST_LISTED = 3, 0.1


@dataclass(frozen=True)
class Parts:
    """The clusters of the level below.

    Attributes:
        means: Mean vector of a sample of each one's items, shape (m, d).
        parents: Parent of each, shape (m,).
        n_items: Number of items of each, shape (m,).
    """

    means: Float32
    parents: Int32
    n_items: Int64


def small_children(facts: ClusterFacts) -> list[Child]:
    """Return the children that are too small to share a title with their parent."""
    return [child for child in facts.children if child.n_items < WHOLE * facts.n_items]


def names_a_part(facts: ClusterFacts, title: str) -> bool:
    """Return whether a title has the same stems as the title of a small child."""
    key = _key(title)
    return any(_key(child.title) == key for child in small_children(facts))


def names_several_parts(facts: ClusterFacts, title: str) -> bool:
    """Return whether a title has stems of two small children that no other child's title has."""
    stems = _key(title)
    keys = [_key(child.title) for child in facts.children]
    counts = Counter(itertools.chain.from_iterable(keys))
    small = [_key(child.title) for child in small_children(facts)]
    return sum(any(counts[stem] == 1 for stem in key & stems) for key in small) > 1


def _key(title: str) -> frozenset[str]:
    stems = frozenset(stems_of(title))
    return stems - DANGLING or stems


def resembles_a_part(titles: Float32, children: Float32, level: Float32) -> NDArray[np.bool_]:
    """Return which titles of a cluster paraphrase the title of one of its small children.

    Encoders differ in the cosine of any two titles, so closeness is measured from the mean cosine
    of the titles of the level below.

    Args:
        titles: Vectors of the cluster's titles, of unit length, shape (n, d).
        children: Vectors of the titles of its small children, shape (m, d).
        level: Vectors of all titles of the level below, shape (k, d).
    """
    if not len(children):
        return np.zeros(len(titles), bool)
    k = len(level)
    total = float(np.square(level.sum(axis=0, dtype=np.float64)).sum())
    mean = (total - k) / (k * (k - 1)) if k > 1 else 0.0
    near: NDArray[np.bool_] = (titles @ children.T).max(axis=1) >= mean + SAME * (1 - mean)
    return near


def title_of_parts(facts: ClusterFacts) -> tuple[str, float] | None:
    """Return a title that lists the largest children, and their share of the items.

    Long titles are cut at their first comma or function word. None if fewer than two children fit.
    """
    largest = sorted(facts.children, key=lambda child: -child.n_items)
    listed = [each for each in largest if each.n_items >= LEAST_LISTED * facts.n_items][:LISTED]
    for n in range(len(listed), 1, -1):
        fitting = [
            "; ".join(forms)
            for forms in itertools.product(*(_forms(child.title) for child in listed[:n]))
            if not any(one <= other for one, other in itertools.permutations(map(_key, forms), 2))
        ]
        fitting = [
            title
            for title in fitting
            if len(title.split()) <= TITLE_WORDS and n_letters(title) <= TITLE_CHARACTERS
        ]
        if fitting:
            n_items = sum(child.n_items for child in listed[:n])
            return max(fitting, key=len), n_items / facts.n_items
    return None


def _forms(title: str) -> list[str]:
    """Return a title, and its words up to the first comma or function word."""
    words = title.split()
    ends = [
        at + 1 if word[-1] in ",;:" else at
        for at, word in enumerate(words)
        if word[-1] in ",;:" or (at and word.lower() in DANGLING)
    ]
    start = clean_title(" ".join(words[: ends[0]])) if ends else title
    return list(dict.fromkeys([title, start or title]))


def coverage(
    titles: dict[int, Float32], rivals: Float32, parts: Parts, groups: list[Int64]
) -> dict[int, Float64]:
    """Return the share of a cluster's items that each of its titles covers.

    A title covers a child if it lies nearer to the child's items than the titles of the nearest
    siblings do.

    Args:
        titles: Vectors of the titles of some clusters, of unit length, each of shape (n, d).
        rivals: Vectors of one title of every cluster, shape (k, d).
        parts: The clusters of the level below.
        groups: Groups of siblings.

    Returns:
        Shares, each of shape (n,); NaN where nothing is known about the children, and for clusters
        without siblings.
    """
    shares = {cluster: np.full(len(vectors), np.nan) for cluster, vectors in titles.items()}
    k = len(rivals)
    known = np.flatnonzero(parts.means.any(axis=1))
    order = known[np.argsort(parts.parents[known], kind="stable")]
    of_cluster = np.split(order, np.searchsorted(parts.parents[order], np.arange(1, k)))
    means = np.zeros((k, parts.means.shape[1]), np.float32)
    np.add.at(means, parts.parents, parts.means * parts.n_items[:, None].astype(np.float32))
    for group in groups:
        for cluster, others in zip(group.tolist(), nearest_siblings(means, group), strict=True):
            children = of_cluster[cluster]
            if cluster in titles and len(children) and len(others):
                vectors = parts.means[children]
                nearest = (vectors @ rivals[others].T).max(axis=1)
                covers = vectors @ titles[cluster].T > nearest[:, None]
                weights = parts.n_items[children]
                shares[cluster] = np.average(covers, axis=0, weights=weights)
    return shares
