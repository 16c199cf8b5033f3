"""Crosswalk between the clusters of two runs, and the fate of every cluster."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hercules_scale.clustering.nearest_centroids import Int32, Int64

Float64 = NDArray[np.float64]
KEPT, GROWN, SHRUNK = "kept", "grown", "shrunk"
SPLIT, MERGED, BORN, DIED = "split", "merged", "born", "died"
STATUSES = (KEPT, GROWN, SHRUNK, SPLIT, MERGED, BORN, DIED)
# Share of a cluster's items that makes the other cluster its main one.
MAIN = 0.5
# Jaccard index from which clusters are the same, even if one took in a small part of others.
SAME = 2 / 3
# Least share of the other cluster's items that such a pair must have too.
LEAST = 0.1
# A cluster with less than this part of the items that it would have with an unchanged share of
# the run is gone; growth from which it has grown or shrunk.
GONE, GREW, SHRANK = 0.2, 1.25, 0.8


@dataclass(frozen=True)
class Pairs:
    """Pairs of an old and a new cluster of one level that items link.

    Attributes:
        old: Id of the old cluster, shape (p,).
        new: Id of the new cluster, shape (p,).
        n_old: Number of the old cluster's items that belong to the new cluster, shape (p,).
        n_new: Number of the new cluster's items that belong to the old cluster, shape (p,).
    """

    old: Int32
    new: Int32
    n_old: Int64
    n_new: Int64

    @property
    def of_old(self) -> Float64:
        """Share of the old cluster's linked items that belong to the new cluster, shape (p,)."""
        return _shares(self.old, self.n_old)

    @property
    def of_new(self) -> Float64:
        """Share of the new cluster's linked items that belong to the old cluster, shape (p,)."""
        return _shares(self.new, self.n_new)

    @property
    def jaccard(self) -> Float64:
        """Jaccard index of each pair, by both shares, shape (p,)."""
        of_old, of_new = self.of_old, self.of_new
        both = (of_old > 0) & (of_new > 0)
        found = np.zeros(len(both))
        found[both] = 1 / (1 / of_old[both] + 1 / of_new[both] - 1)
        return found


def _shares(clusters: Int32, counts: Int64) -> Float64:
    totals = np.bincount(clusters, counts)
    return np.asarray(counts / np.maximum(totals[clusters], 1))


@dataclass(frozen=True)
class Fates:
    """Fate of every cluster of one level of a run.

    Attributes:
        statuses: One of ``STATUSES`` each, shape (k,).
        partners: Cluster of the other run that is the same topic, -1 where none is, shape (k,).
        growth: Share of the new run's items that belong to the topic, over that of the old run's,
            shape (k,).
    """

    statuses: list[str]
    partners: Int32
    growth: Float64


@dataclass(frozen=True)
class Links:
    """Items of one run by their cluster in it and their cluster in the other run.

    Attributes:
        own: Cluster in their own run, shape (n,).
        other: Cluster in the other run, shape (n,).
        shared: Whether they are items of both runs, shape (n,).
    """

    own: Int32
    other: Int32
    shared: NDArray[np.bool_]

    @classmethod
    def of(cls, own: Int32, other: Int32, shared: NDArray[np.bool_]) -> Links:
        """Return the links of the items with a cluster in the other run, -1 for no cluster."""
        known = other >= 0
        return cls(own[known], other[known], shared[known])

    @property
    def swapped(self) -> Links:
        """The same links from the other run."""
        return Links(self.other, self.own, self.shared)


def join_links(of_old: Links, of_new: Links) -> tuple[Pairs, Int64]:
    """Return the pairs of clusters that items link.

    Args:
        of_old: Links of the old run's items; ``own`` is the old cluster.
        of_new: Links of the new run's items, swapped, so that ``own`` is the old cluster too.

    Returns:
        The pairs in order of their ids, and for each the number of links by shared items.
    """
    sides = (of_old, of_new)
    codes = [each.own.astype(np.int64) << 32 | each.other for each in sides]
    keys = np.union1d(*codes)
    at = [np.searchsorted(keys, each) for each in codes]
    n_old, n_new = (np.bincount(each, minlength=len(keys)).astype(np.int64) for each in at)
    shared = np.concatenate([x[each.shared] for x, each in zip(at, sides, strict=True)])
    pairs = Pairs((keys >> 32).astype(np.int32), keys.astype(np.int32), n_old, n_new)
    return pairs, np.bincount(shared, minlength=len(keys)).astype(np.int64)


def find_fates(pairs: Pairs, old_sizes: Int64, new_sizes: Int64) -> tuple[Fates, Fates]:
    """Return the fates of the old and of the new clusters of one level.

    Two clusters are the same topic if at least half of the items of each belong to the other. If
    several old clusters have at least half of their items in a new one, they have merged; if
    several new clusters have at least half of their items from an old one, it has split; unless
    one pair alone has a Jaccard index of two thirds. A topic that has hardly any items in the
    other run has died, or was born.

    Args:
        pairs: The pairs.
        old_sizes: Number of items of each old cluster, shape (k_old,).
        new_sizes: Number of items of each new cluster, shape (k_new,).
    """
    n_before, n_now = int(old_sizes.sum()), int(new_sizes.sum())
    growth_of_old = _ratio(pairs.old, pairs.n_new, old_sizes, n_now / n_before)
    before = _ratio(pairs.new, pairs.n_old, new_sizes, n_before / n_now)
    growth_of_new = 1 / np.maximum(before, np.finfo(float).tiny)
    gone, fresh = growth_of_old < GONE, growth_of_new > 1 / GONE
    known = ~gone[pairs.old] & ~fresh[pairs.new]
    of_old, of_new = pairs.of_old, pairs.of_new
    into = known & (of_old >= MAIN) & (of_new >= LEAST)
    out_of = known & (of_new >= MAIN) & (of_old >= LEAST)
    n_sources = np.bincount(pairs.new[into], minlength=len(new_sizes))
    n_parts = np.bincount(pairs.old[out_of], minlength=len(old_sizes))
    alone = (n_sources[pairs.new] < 2) & (n_parts[pairs.old] < 2)
    same = into & out_of & (alone | (pairs.jaccard >= SAME))
    partners = np.full(len(old_sizes), -1, np.int32), np.full(len(new_sizes), -1, np.int32)
    partners[0][pairs.old[same]] = pairs.new[same]
    partners[1][pairs.new[same]] = pairs.old[same]
    # The part of a merged or split cluster shares its fate.
    merged = np.isin(np.arange(len(old_sizes)), pairs.old[into & (n_sources[pairs.new] > 1)])
    divided = np.isin(np.arange(len(new_sizes)), pairs.new[out_of & (n_parts[pairs.old] > 1)])
    old = _statuses(partners[0], growth_of_old, gone, DIED, n_parts > 1, merged, SPLIT, MERGED)
    # A topic grows by one number, whichever run it is seen from.
    own = np.where(partners[1] >= 0, growth_of_old[partners[1]], growth_of_new)
    new = _statuses(partners[1], own, fresh, BORN, n_sources > 1, divided, MERGED, SPLIT)
    return Fates(old, partners[0], growth_of_old), Fates(new, partners[1], own)


def _ratio(clusters: Int32, linked: Int64, sizes: Int64, factor: float) -> Float64:
    """Return the other run's items that belong to each cluster, over those that would if it had
    the same share of both runs."""
    found: Float64 = np.bincount(clusters, linked, len(sizes)) / (np.maximum(sizes, 1) * factor)
    return found


def _statuses(
    partners: Int32,
    growth: Float64,
    absent: NDArray[np.bool_],
    absent_status: str,
    many: NDArray[np.bool_],
    part: NDArray[np.bool_],
    many_status: str,
    other_status: str,
) -> list[str]:
    """Return the status of each cluster; one without a main cluster has ``many_status``."""
    found = np.where(part & ~many, other_status, many_status)
    by_growth = np.where(growth >= GREW, GROWN, np.where(growth <= SHRANK, SHRUNK, KEPT))
    found = np.where(partners >= 0, by_growth, found)
    statuses: list[str] = np.where(absent, absent_status, found).tolist()
    return statuses
