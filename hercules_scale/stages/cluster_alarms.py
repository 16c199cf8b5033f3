"""Alarms about clusters, for users to read before they trust them."""

from __future__ import annotations

from typing import Literal

from hercules_scale.clustering.agglomerative import EXACT_ROWS, MICRO_PER_CLUSTER
from hercules_scale.clustering.kmeans import KMeansResult
from hercules_scale.clustering.levels import Levels
from hercules_scale.stages.memberships import MembersSummary


def cluster_alarms(
    asked: list[int] | Literal["auto"], found: Levels, summary: MembersSummary, n_items: int
) -> list[str]:
    """Return the alarms that a user should read before trusting the clusters."""
    alarms = []
    if asked == "auto":
        asked = [point.k for point in found.curve if point.chosen]
    sizes = [len(level.centroids) for level in found.levels]
    if sizes != asked:
        alarms.append(
            f"levels: {asked} clusters were asked for, {sizes} were found, since items or "
            "centroids are identical"
        )
    # An item that is a cluster by itself equals its centroid.
    n_alike = summary.n_near_identical - int((summary.counts[0] == 1).sum())
    if n_alike > n_items / 10 and sizes[0] < n_items / 10:
        alarms.append(
            f"{n_alike:,} of {n_items:,} items are nearly identical to others; "
            "remove duplicates if their clusters hide the rest"
        )
    for number, (run, counts) in enumerate(zip(found.runs, summary.counts, strict=True), start=1):
        if len(counts) > 1 and counts.max() > n_items / 2:
            alarms.append(
                f"level {number}: cluster {counts.argmax()} holds {counts.max():,} of "
                f"{n_items:,} items, more than half"
            )
        if isinstance(run, KMeansResult):
            alarms += _kmeans_alarms(f"level {number}", run)
    if found.micro is not None:
        alarms += _kmeans_alarms("micro-clusters", found.micro)
        if MICRO_PER_CLUSTER * asked[0] > EXACT_ROWS:
            alarms.append(
                f"level 1: {sizes[0]:,} clusters were made of {len(found.micro.counts):,} "
                f"micro-clusters, the most there can be; with fewer than {MICRO_PER_CLUSTER} a "
                f"cluster the linkage counts for little; ask for at most "
                f"{EXACT_ROWS // MICRO_PER_CLUSTER:,} clusters, or for method kmeans"
            )
    return alarms


def _kmeans_alarms(name: str, run: KMeansResult) -> list[str]:
    alarms = []
    if run.n_refilled:
        alarms.append(f"{name}: empty clusters were refilled {run.n_refilled} times")
    if not run.converged:
        alarms.append(f"{name}: k-means had not converged after {run.n_iterations} iterations")
    return alarms
