"""Neighbourhood smoothing: each vector becomes the mean of itself and its nearest neighbours.

This is a low-pass filter on the neighbour graph, applied several times with the neighbours of the
unsmoothed vectors. Compare Zhang et al., Attributed Graph Clustering via Adaptive Graph Convolution
(IJCAI 2019). Smoothed vectors are used for clustering only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from hercules_scale.clustering.faiss_import import faiss
from hercules_scale.clustering.kmeans import kmeans
from hercules_scale.clustering.local_vectors import LocalVectors
from hercules_scale.clustering.nearest_centroids import Float32, Int32, Int64, to_unit
from hercules_scale.clustering.stateless_random import draw_seed, hash_rows
from hercules_scale.clustering.tiles import labels_of
from hercules_scale.config.hierarchy import HierarchyConfig

AUTO_NEIGHBOURS = 10
AUTO_SAMPLE_ROWS = 16_384
# Neighbourhoods that a finest cluster should hold; with fewer, smoothing blurs clusters together.
NEIGHBOURHOODS_PER_CLUSTER = 2
LEAST_NEIGHBOURS = 3
# Vectors count as vectors of unit length if their lengths differ from 1 by at most this.
UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True)
class SmoothingChoice:
    """Decision of ``auto`` and its reasons.

    Attributes:
        neighbours: Number of neighbours of each vector; 0 means no smoothing.
        agreement_raw: Agreement (ARI) of two halves of a sample that were clustered separately,
            without smoothing; None if it was not measured.
        agreement_smoothed: The same agreement with each half smoothed by itself.
    """

    neighbours: int
    agreement_raw: float | None = None
    agreement_smoothed: float | None = None


def find_neighbours(vectors: Float32, candidates: Float32, own: Int64, n_neighbours: int) -> Int64:
    """Return the nearest candidates of each vector, except the vector itself.

    Args:
        vectors: Shape (n, d).
        candidates: Shape (c, d); the vectors are among them.
        own: Position of each vector among the candidates, shape (n,).
        n_neighbours: Number of neighbours, at most c - 1.

    Returns:
        Positions among the candidates, nearest first, shape (n, n_neighbours).
    """
    _, ids = faiss.knn(vectors, candidates, n_neighbours + 1)
    # Among many equal vectors, a vector may not find itself; then the last one found is dropped.
    itself = ids == own[:, None]
    itself[~itself.any(axis=1), -1] = True
    kept: Int64 = ids[~itself].reshape(len(vectors), n_neighbours)
    return kept


def average(vectors: Float32, neighbours: Int64, candidates: Float32, unit: bool) -> Float32:
    """Return the mean of each vector and its neighbours, shape (n, d), at unit length if
    ``unit``."""
    n, m = neighbours.shape
    members = sparse.csr_array(
        (np.ones(n * m, np.float32), neighbours.ravel(), np.arange(n + 1) * m),
        shape=(n, len(candidates)),
    )
    mean: Float32 = (vectors + members @ candidates) / np.float32(m + 1)
    return to_unit(mean) if unit else mean


def is_unit(vectors: Float32) -> bool:
    """Return whether vectors have unit length, as text encoders give them."""
    lengths = np.linalg.norm(vectors, axis=1)
    return bool(np.abs(lengths - 1).max(initial=0) <= UNIT_TOLERANCE)


def smooth(vectors: Float32, n_neighbours: int, rounds: int, unit: bool) -> Float32:
    """Smooth vectors that fit in memory, with their exact neighbours.

    Args:
        vectors: Vectors minus their mean, shape (n, d).
        n_neighbours: Number of neighbours of each vector.
        rounds: Number of rounds.
        unit: Whether vectors are kept at unit length.
    """
    vectors = to_unit(vectors) if unit else vectors
    neighbours = find_neighbours(
        vectors, vectors, np.arange(len(vectors)), min(n_neighbours, len(vectors) - 1)
    )
    for _ in range(rounds):
        vectors = average(vectors, neighbours, vectors, unit)
    return vectors


def choose_smoothing(
    sample: Float32, n_rows: int, k: int, rounds: int, unit: bool, seed: int
) -> SmoothingChoice:
    """Return whether to smooth and over how many neighbours, without the use of labels.

    A neighbourhood may have at most half the size of an average finest cluster. Equal vectors count
    once here, since they need no smoothing and would absorb the few others. Within that limit,
    smoothing is chosen if it does not lower the agreement of two halves of a sample that are
    smoothed and clustered separately: real structure is found in both halves.

    Args:
        sample: Vectors of some rows minus their mean, shape (n, d).
        n_rows: Number of all vectors.
        k: Number of clusters at the finest level.
        rounds: Rounds of smoothing.
        unit: Whether vectors are kept at unit length.
        seed: Seed of the run.
    """
    share = len({row.tobytes() for row in sample}) / max(len(sample), 1)
    neighbours = min(AUTO_NEIGHBOURS, int(share * n_rows) // (NEIGHBOURHOODS_PER_CLUSTER * k))
    # Clusters are smaller in half of the sample, so there are fewer of them.
    k = min(k, len(sample) // (4 * max(neighbours, 1)))
    if neighbours < LEAST_NEIGHBOURS or k < 2:
        return SmoothingChoice(0)
    order = np.argsort(hash_rows(seed, 1, "halves", 0, np.arange(len(sample))), kind="stable")
    halves = [sample[np.sort(half)] for half in np.array_split(order, 2)]
    raw = _agreement(halves, k, seed)
    smoothed = _agreement([smooth(half, neighbours, rounds, unit) for half in halves], k, seed)
    return SmoothingChoice(neighbours if smoothed >= raw else 0, raw, smoothed)


def _agreement(halves: list[Float32], k: int, seed: int) -> float:
    """Return the agreement of two halves: the mean ARI of a half's own clusters and the assignment
    of its vectors to the other half's centroids."""
    # scikit-learn takes a second to load, and only this needs it here.
    from sklearn.metrics import adjusted_rand_score

    found: list[tuple[Float32, Int32]] = []
    for half in halves:
        local = LocalVectors(half)
        config = HierarchyConfig(levels=[k], seed=draw_seed(seed, 1, "halves", 1))
        found.append((kmeans(local, k, config).centroids, labels_of(local)))
    scores = []
    for half, (_, own), (centroids, _) in zip(halves, found, found[::-1], strict=True):
        local = LocalVectors(half)
        local.assign(centroids)
        scores.append(adjusted_rand_score(own, labels_of(local)))
    return float(np.mean(scores))
