"""Tree refinement: Lloyd's iteration over whole nested trees instead of level by level.

It lowers J, the sum over levels of w_l times the sum over items of |x - c_l|^2, where c_l is the
centroid of the item's cluster at level l and the clusters nest. No step raises J, so the levels
help one another out of poor optima. Upper levels weigh much at first and little at the end. So
level 1 ends as good as k-means alone makes it, but in a better optimum. Compare Hierarchical Means
Clustering (Vichi, Cavicchia and Groenen, Journal of Classification 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hercules_scale.clustering.checkpoints import Checkpoints, NoCheckpoints, State
from hercules_scale.clustering.kmeans import project
from hercules_scale.clustering.nearest_centroids import Float32, Int64
from hercules_scale.clustering.tiles import VectorSet

# Weights of each level above the first, one after another; the first weighs 1. With 2 alone, level
# 1 ends up to 4% above k-means; with .1 alone, upper levels stay in poorer optima.
UPPER_WEIGHTS = (2.0, 0.1)
# Least tolerance before the last weight, which moves everything once more.
DRAFT_TOLERANCE = 1e-3
# Largest number of rounds for each weight.
MAX_ROUNDS = 50

Float64 = NDArray[np.float64]
Parents = list[NDArray[np.int32]]


@dataclass(frozen=True)
class Phase:
    """Rounds under one weight of the upper levels.

    Attributes:
        upper_weight: Weight of the upper levels.
        first_objective: J after the first round's assignment.
        objective: J at the end.
        n_rounds: Number of rounds that were run.
        converged: Whether J stopped falling, or no item changed its cluster.
    """

    upper_weight: float
    first_objective: float = float("inf")
    objective: float = float("inf")
    n_rounds: int = 0
    converged: bool = False

    @property
    def ended(self) -> bool:
        """Whether no round follows."""
        return self.converged or self.n_rounds == MAX_ROUNDS

    def weights(self, n_levels: int) -> Float64:
        """Return the weight of each level, finest first, shape (L,)."""
        return np.array([1.0] + [self.upper_weight] * (n_levels - 1))

    def after(self, objective: float, n_changed: int, tolerance: float) -> Phase:
        """Return the phase after one more round."""
        first = self.n_rounds == 0
        steady = not first and self.objective - objective <= tolerance * self.objective
        return replace(
            self,
            first_objective=objective if first else self.first_objective,
            objective=objective,
            n_rounds=self.n_rounds + 1,
            converged=steady or n_changed == 0,
        )


@dataclass(frozen=True)
class Tree:
    """A nested clustering; the vector set holds the labels of its leaves.

    Attributes:
        parents: Parent of each cluster of levels 1 to L - 1, each of shape (k_l,).
        centroids: Means of the items of each cluster, finest level first, each (k_l, d).
        counts: Items of each cluster, finest level first, each (k_l,).
        path: Vector of each leaf's path, to which items were assigned, shape (k_1, d); see
            ``path_centroids``.
        offsets: Offset of each leaf's path, shape (k_1,); see ``path_centroids``.
        phases: Rounds under each weight of the upper levels.
        n_moved: Number of moves of clusters to other parents.
    """

    parents: Parents
    centroids: list[Float32]
    counts: list[Int64]
    path: Float32
    offsets: Float32
    phases: list[Phase]
    n_moved: int


def refine_tree(
    vectors: VectorSet,
    leaf_centroids: Float32,
    parents: Parents,
    metric: str = "squared_l2",
    checkpoints: Checkpoints | None = None,
    tolerance: float = 1e-5,
    upper_weights: Sequence[float] = UPPER_WEIGHTS,
) -> Tree:
    """Lower J from a given tree until it stops falling, under one weight after the other.

    A round moves clusters to better parents, computes the means of all clusters, and assigns every
    item to the leaf with the cheapest path. It costs one assignment to k_1 centroids.

    Args:
        vectors: The items.
        leaf_centroids: Centroids of level 1 to start from, shape (k_1, d).
        parents: Parent of each cluster of levels 1 to L - 1.
        metric: ``cosine`` keeps centroids at unit length.
        checkpoints: Store of the state of each round.
        tolerance: Stop when J falls by no more than this share in one round.
        upper_weights: Weights of the levels above the first, one after another.
    """
    checkpoints = checkpoints or NoCheckpoints()
    n_levels = len(parents) + 1
    state = checkpoints.load("refinement")
    if state is None:
        parents = [level.copy() for level in parents]
        centroids = [leaf_centroids]
        phases = [Phase(upper_weights[0])]
        n_moved = 0
        path, offsets = leaf_centroids, np.zeros(len(leaf_centroids), np.float32)
        sums = vectors.assign(path)
    else:
        parents = [state.arrays[f"parents_{level}"].copy() for level in range(len(parents))]
        centroids = [state.arrays[f"centroids_{level}"] for level in range(n_levels)]
        phases = [Phase(**phase) for phase in state.numbers["phases"]]
        n_moved = int(state.numbers["n_moved"])
        path, offsets = state.arrays["path"], state.arrays["offsets"]
        sums = vectors.assign(path, offsets)
    while not phases[-1].ended or len(phases) < len(upper_weights):
        if phases[-1].ended:
            phases.append(Phase(upper_weights[len(phases)]))
        in_last = len(phases) == len(upper_weights)
        enough = tolerance if in_last else max(tolerance, DRAFT_TOLERANCE)
        weights = phases[-1].weights(n_levels)
        counts, totals = add_up(sums.counts, sums.totals(), parents)
        for level in range(len(parents)):
            n_moved += reparent(level, parents, counts, totals, weights, metric)
        centroids = means(counts, totals, centroids, metric)
        path, offsets = path_centroids(centroids, parents, weights)
        sums = vectors.assign(path, offsets)
        objective = sums.inertia * float(weights.sum())
        phases[-1] = phases[-1].after(objective, sums.n_changed, enough)
        numbers = {
            "phases": [asdict(phase) for phase in phases],
            "n_moved": n_moved,
            "objective": objective,
        }
        arrays = {
            "path": path,
            "offsets": offsets,
            **{f"parents_{level}": each for level, each in enumerate(parents)},
            **{f"centroids_{level}": each for level, each in enumerate(centroids)},
        }
        checkpoints.save("refinement", State(arrays, numbers), last=in_last and phases[-1].ended)
    # Centroids are the means of the last assignment, so that they agree with the items.
    counts, totals = add_up(sums.counts, sums.totals(), parents)
    centroids = means(counts, totals, centroids, metric)
    return Tree(parents, centroids, counts, path, offsets, phases, n_moved)


def path_centroids(
    centroids: list[Float32], parents: Parents, weights: Float64
) -> tuple[Float32, Float32]:
    """Return one vector and one offset for the whole path of each leaf.

    With W the sum of the weights, the sum over a path of w_l |x - c_l|^2 equals
    W (|x - p|^2 + o), where p is the weighted mean of the path's centroids.

    Returns:
        Vector p of each leaf, shape (k_1, d), and its offset o, shape (k_1,).
    """
    total = weights.sum()
    node = np.arange(len(centroids[0]))
    mean = np.zeros(centroids[0].shape)
    squares = np.zeros(len(node))
    for level, weight in enumerate(weights):
        if level > 0:
            node = parents[level - 1][node]
        own = centroids[level][node].astype(np.float64)
        mean += weight * own
        squares += weight * np.einsum("ij,ij->i", own, own)
    mean /= total
    offsets = squares / total - np.einsum("ij,ij->i", mean, mean)
    return mean.astype(np.float32), np.maximum(offsets, 0).astype(np.float32)


def reparent(
    level: int,
    parents: Parents,
    counts: list[Int64],
    totals: list[Float64],
    weights: Float64,
    metric: str = "squared_l2",
) -> int:
    """Move each cluster of one level to the parent that lowers J most, in place.

    A move of n items with mean c from a cluster of N_p items with mean C_p to a cluster of N_q
    items with mean C_q changes the level's sum of squares by
    n N_q / (N_q + n) |c - C_q|^2 - n N_p / (N_p - n) |c - C_p|^2. The change counts at every level
    above at which the path changes. A parent's last child stays. With centroids of unit length, a
    cluster of N unit vectors that add up to S has the sum of squares 2 N - 2 |S|.

    Returns:
        Number of clusters that were moved.
    """
    moved = 0
    cost = _squared_l2_cost if metric == "squared_l2" else _cosine_cost
    n_children = np.bincount(parents[level], minlength=len(counts[level + 1]))
    for node in np.flatnonzero(counts[level]):
        old = int(parents[level][node])
        if n_children[old] == 1:
            continue
        n, total = int(counts[level][node]), totals[level][node]
        change = np.zeros(len(counts[level + 1]))
        ancestor = np.arange(len(change))
        own = old
        for above in range(level + 1, len(counts)):
            if above > level + 1:
                ancestor = parents[above - 1][ancestor]
                own = int(parents[above - 1][own])
            change += weights[above] * cost(n, total, counts[above], totals[above], own)[ancestor]
        best = int(change.argmin())
        if change[best] < -1e-9 * weights.sum() * n:
            _move(level, int(node), old, best, parents, counts, totals)
            n_children[old] -= 1
            n_children[best] += 1
            moved += 1
    return moved


def _squared_l2_cost(n: int, total: Float64, counts: Int64, totals: Float64, own: int) -> Float64:
    """Return the change of one level's sum of squares for each cluster that could take the
    items."""
    mean = total / n
    others = totals / np.maximum(counts, 1)[:, None]
    difference = others - mean
    squares = np.einsum("ij,ij->i", difference, difference)
    gain = n * counts / (counts + n) * squares
    left = counts[own] - n
    loss = n * counts[own] / left * squares[own] if left > 0 else 0.0
    change: Float64 = gain - loss
    change[own] = 0.0
    return change


def _cosine_cost(n: int, total: Float64, counts: Int64, totals: Float64, own: int) -> Float64:
    """Return the same change for centroids of unit length."""
    lengths = np.linalg.norm(totals, axis=1)
    gain = 2 * (lengths - np.linalg.norm(totals + total, axis=1))
    change: Float64 = gain + 2 * (lengths[own] - np.linalg.norm(totals[own] - total))
    change[own] = 0.0
    return change


def _move(
    level: int,
    node: int,
    old: int,
    new: int,
    parents: Parents,
    counts: list[Int64],
    totals: list[Float64],
) -> None:
    n, total = counts[level][node], totals[level][node]
    parents[level][node] = new
    for above in range(level + 1, len(counts)):
        if above > level + 1:
            old, new = int(parents[above - 1][old]), int(parents[above - 1][new])
        counts[above][old] -= n
        totals[above][old] -= total
        counts[above][new] += n
        totals[above][new] += total


def add_up(counts: Int64, totals: Float64, parents: Parents) -> tuple[list[Int64], list[Float64]]:
    """Return the counts and sums of every level's clusters, added up from the leaves."""
    all_counts, all_totals = [counts], [totals]
    for level in parents:
        k = int(level.max()) + 1
        above_counts = np.bincount(level, all_counts[-1], k).astype(np.int64)
        above_totals = np.zeros((k, totals.shape[1]))
        np.add.at(above_totals, level, all_totals[-1])
        all_counts.append(above_counts)
        all_totals.append(above_totals)
    return all_counts, all_totals


def means(
    counts: list[Int64], totals: list[Float64], otherwise: list[Float32], metric: str
) -> list[Float32]:
    """Return the centroids of every level from counts and sums; empty ones keep ``otherwise``."""
    centroids = []
    for level, (count, total) in enumerate(zip(counts, totals, strict=True)):
        mean = (total / np.maximum(count, 1)[:, None]).astype(np.float32)
        if level < len(otherwise):
            mean = np.where(count[:, None] > 0, mean, otherwise[level])
        centroids.append(project(mean, metric))
    return centroids
