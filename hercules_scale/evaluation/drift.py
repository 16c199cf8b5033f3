"""Drift of new items in the clusters of older items: distances and shares by cluster and level."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hercules_scale.clustering.nearest_centroids import Float32, Int32, Int64
from hercules_scale.storage import schemas

# Quantiles come from about this many items, those with the smallest hashes, or from all if fewer.
SAMPLE_ITEMS = 32_768
# A cluster with fewer items in the sample has no quantile.
LEAST_SAMPLED = 10

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Distances:
    """Squared L2 distances of items to their own centroids, added up by cluster.

    Attributes:
        counts: Items of each cluster, finest level first, each (k_l,).
        sums: Sum of their distances, each (k_l,).
        beyond: Number of items beyond their level's limit, each (k_l,).
        labels: Clusters of sampled items, shape (s, L).
        sampled: Their distances, shape (s, L).
    """

    counts: list[Int64]
    sums: list[Float64]
    beyond: list[Int64]
    labels: Int32
    sampled: Float32

    @classmethod
    def of(
        cls,
        labels: Int32,
        distances: Float32,
        sizes: list[int],
        in_sample: NDArray[np.bool_],
        limits: Float64 | None = None,
    ) -> Distances:
        """Return the distances of some items.

        Args:
            labels: Clusters, shape (n, L), finest level first.
            distances: Shape (n, L).
            sizes: Clusters of each level.
            in_sample: Whether an item's distances are kept, shape (n,).
            limits: Distance of each level beyond which items are counted, shape (L,); by default
                none are.
        """
        limits = np.full(len(sizes), np.inf) if limits is None else limits
        counts, sums, beyond = [], [], []
        for level, k in enumerate(sizes):
            own, distance = labels[:, level], distances[:, level].astype(np.float64)
            counts.append(np.bincount(own, minlength=k).astype(np.int64))
            sums.append(np.bincount(own, distance, k).astype(np.float64))
            far = own[distance > limits[level]]
            beyond.append(np.bincount(far, minlength=k).astype(np.int64))
        return cls(counts, sums, beyond, labels[in_sample], distances[in_sample])

    @classmethod
    def merge(cls, parts: Iterable[Distances]) -> Distances:
        """Return the distances of all parts, added in their order."""
        labels, sampled = [], []
        counts: list[Int64] = []
        sums: list[Float64] = []
        beyond: list[Int64] = []
        for part in parts:
            labels.append(part.labels)
            sampled.append(part.sampled)
            if len(labels) == 1:
                counts, sums, beyond = part.counts, part.sums, part.beyond
                continue
            counts = [a + b for a, b in zip(counts, part.counts, strict=True)]
            sums = [a + b for a, b in zip(sums, part.sums, strict=True)]
            beyond = [a + b for a, b in zip(beyond, part.beyond, strict=True)]
        return cls(counts, sums, beyond, np.concatenate(labels), np.concatenate(sampled))

    def to_bytes(self) -> bytes:
        """Return the content as a file that ``from_bytes`` reads."""
        arrays = {"labels": self.labels, "sampled": self.sampled}
        for name in ("counts", "sums", "beyond"):
            arrays |= {f"{name}_{level}": each for level, each in enumerate(getattr(self, name))}
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Distances:
        """Read the output of ``to_bytes``."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            levels = range(arrays["labels"].shape[1])
            counts, sums, beyond = (
                [arrays[f"{name}_{level}"] for level in levels]
                for name in ("counts", "sums", "beyond")
            )
            return cls(counts, sums, beyond, arrays["labels"], arrays["sampled"])


def reference_table(distances: Distances) -> pa.Table:
    """Return the table ``reference``: a row for each level as a whole, then one for each
    cluster."""
    tables = []
    for level, (counts, sums) in enumerate(zip(distances.counts, distances.sums, strict=True)):
        p90, p99 = (_quantiles(distances, level, share) for share in (0.9, 0.99))
        tables.append(
            _level_table(
                level,
                {
                    "n_items": _with_total(counts),
                    "mean_distance": _divide(_with_total(sums), _with_total(counts)),
                    "p90_distance": p90,
                    "p99_distance": p99,
                },
                schemas.REFERENCE,
            )
        )
    return pa.concat_tables(tables)


def level_limits(reference: pa.Table) -> Float64:
    """Return the 99th percentile of the distances of each level, shape (L,), finest first."""
    whole = reference.filter(pa.compute.is_null(reference["cluster_id"]))
    return np.asarray(whole.sort_by("level")["p99_distance"].to_numpy(), np.float64)


def drift_table(reference: pa.Table, new: Distances) -> pa.Table:
    """Return the table ``drift``: new items beside the reference.

    A row for each level as a whole, then one for each cluster. ``jensen_shannon`` is the
    divergence of the clusters' shares in bits, from 0 (equal) to 1 (nothing in common).

    Source: Lin, Divergence measures based on the Shannon entropy (1991).
    """
    tables = []
    for level, (counts, sums) in enumerate(zip(new.counts, new.sums, strict=True)):
        old = reference.filter(pa.compute.equal(reference["level"], level + 1))
        n_old, old_mean, old_p90 = (
            old[name].to_numpy() for name in ("n_items", "mean_distance", "p90_distance")
        )
        n_new = _with_total(counts)
        mean = _divide(_with_total(sums), n_new)
        share_new, share_old = n_new / n_new[0], n_old / n_old[0]
        divergence = np.full(len(n_new), np.nan)
        divergence[0] = jensen_shannon(share_new[1:], share_old[1:])
        columns = {
            "n_items": n_new,
            "share_new": share_new,
            "share_old": share_old,
            "mean_distance_new": mean,
            "mean_distance_old": old_mean,
            "distance_ratio": _divide(mean, old_mean),
            "p90_distance_new": _quantiles(new, level, 0.9),
            "p90_distance_old": old_p90,
            "share_beyond_p99": _divide(_with_total(new.beyond[level]), n_new),
            "jensen_shannon": divergence,
        }
        tables.append(_level_table(level, columns, schemas.DRIFT))
    return pa.concat_tables(tables)


def jensen_shannon(one: Float64, two: Float64) -> float:
    """Return the Jensen-Shannon divergence of two distributions of shape (k,), in bits."""
    middle = (one + two) / 2

    def to_middle(shares: Float64) -> float:
        some = shares > 0
        return float((shares[some] * np.log2(shares[some] / middle[some])).sum())

    return max(0.0, (to_middle(one) + to_middle(two)) / 2)


def _level_table(
    level: int, columns: dict[str, NDArray[np.generic]], schema: pa.Schema
) -> pa.Table:
    """Return a table of a level; each column holds its whole level's value, then its clusters'
    values."""
    n_rows = len(columns["n_items"])
    arrays = {
        "level": pa.array(np.full(n_rows, level + 1, np.int16)),
        "cluster_id": pa.array([None, *range(n_rows - 1)], pa.int32()),
        # from_pandas turns NaN, which means no value here, into null.
        **{name: pa.array(values, from_pandas=True) for name, values in columns.items()},
    }
    return pa.table(arrays).select(schema.names).cast(schema)


def _with_total(values: NDArray[np.generic]) -> NDArray[np.generic]:
    return np.concatenate([[values.sum()], values])


def _divide(values: NDArray[np.generic], by: NDArray[np.generic]) -> Float64:
    """Return quotients; NaN where the divisor is 0 or NaN."""
    result = np.full(len(values), np.nan)
    np.divide(values, by, out=result, where=np.asarray(by, np.float64) > 0)
    return result


def _quantiles(distances: Distances, level: int, share: float) -> Float64:
    """Return a quantile of the level's distances, then one of each cluster's; NaN if too few."""
    own, sampled = distances.labels[:, level], distances.sampled[:, level].astype(np.float64)
    ids = np.arange(len(distances.counts[level]))
    order = np.argsort(own, kind="stable")
    groups = np.split(sampled[order], np.searchsorted(own[order], ids[1:]))
    return np.array(
        [
            np.quantile(group, share) if len(group) >= least else np.nan
            for group, least in [(sampled, 1), *((group, LEAST_SAMPLED) for group in groups)]
        ]
    )
