"""Shards of ``memberships`` and ``reductions``, each written once where its vectors are held.

Each shard has a file with its summary of the clusters, so that a killed run writes only the shards
that are left.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hercules_scale.clustering.levels import Level, Memberships, compute_memberships
from hercules_scale.clustering.nearest_centroids import Float32, Int32
from hercules_scale.clustering.parallel_blocks import map_blocks
from hercules_scale.clustering.stateless_random import uniform
from hercules_scale.clustering.tiles import Tile, first_of_each
from hercules_scale.reduction.pca import PCA
from hercules_scale.reduction.scatter import BLOCK_ROWS
from hercules_scale.runtime.context import Shards
from hercules_scale.storage import layout
from hercules_scale.storage.commits import Commit, read_commit, write_commit
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import (
    FileRecord,
    memberships_table,
    read_table,
    reductions_table,
    write_table,
)

STAGE = "memberships"
# An item is nearly identical to its centroid if its squared distance to it is at most this share
# of its squared distance to the mean of all items.
NEAR_IDENTICAL = 1e-6

# Clusters of some rows, the rows, and the keys that rank them.
Ranked = tuple[NDArray[np.int32], NDArray[np.int64], NDArray[Any]]


@dataclass(frozen=True)
class MembersSummary:
    """Summary by level: size, inertia, nearest rows and some random rows of each cluster."""

    counts: list[NDArray[np.int64]]
    inertia: list[NDArray[np.float64]]
    nearest: list[Ranked]
    drawn: list[Ranked]
    n_near_identical: int = 0

    def to_bytes(self) -> bytes:
        """Return the summary as the bytes of an ``.npz`` file."""
        arrays: dict[str, NDArray[Any]] = {"n_near_identical": np.array(self.n_near_identical)}
        for level in range(len(self.counts)):
            arrays[f"counts {level}"] = self.counts[level]
            arrays[f"inertia {level}"] = self.inertia[level]
            for name, ranked in (("nearest", self.nearest[level]), ("drawn", self.drawn[level])):
                arrays |= {f"{name} {level} {place}": ranked[place] for place in range(3)}
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, n_levels: int) -> MembersSummary:
        """Read the output of ``to_bytes``."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:

            def ranked(name: str, level: int) -> Ranked:
                rows, ids, keys = (arrays[f"{name} {level} {place}"] for place in range(3))
                return rows, ids, keys

            levels = range(n_levels)
            return cls(
                [arrays[f"counts {level}"] for level in levels],
                [arrays[f"inertia {level}"] for level in levels],
                [ranked("nearest", level) for level in levels],
                [ranked("drawn", level) for level in levels],
                int(arrays["n_near_identical"]),
            )


Written = tuple[list[FileRecord], MembersSummary]
"""Files of a shard, and the summary of its members."""


@dataclass(frozen=True)
class MembershipWriter:
    """Writes a tile's shards of ``memberships`` and ``reductions``, except shards with a commit.

    Attributes:
        store: Output of the run.
        done: Files of shards that an earlier attempt has written.
        shards: Shards of the run's items.
        fingerprint: Fingerprint of the run.
        levels: The clusters.
        leaves: Finest cluster of each label of a tile.
        n_exemplars: Number of nearest rows, and of random rows, that are kept for each cluster.
        seed: Seed of the run.
        pca: Projection of the tiles' vectors.
    """

    store: Store
    done: dict[int, list[FileRecord]]
    shards: Shards
    fingerprint: str
    levels: list[Level]
    leaves: Int32
    n_exemplars: int
    seed: int
    pca: PCA

    def __call__(self, tile: Tile) -> list[Written]:
        """Write the shards of a tile; return the files and the summary of each."""
        first = tile.first_row // self.shards.rows

        def write(rows: slice) -> Written:
            return self._write(tile, first + rows.start // self.shards.rows)

        return map_blocks(write, len(tile.vectors), self.shards.rows)

    def thin(self, tiles: list[list[Written]]) -> list[list[Written]]:
        """Return the same tiles, with the ranked rows of all summaries in the first one.

        Floating-point sums stay separate, since they depend on the order of all shards.
        """
        summaries = [summary for tile in tiles for _, summary in tile]
        nearest = _merge_ranked([each.nearest for each in summaries], self.n_exemplars)
        drawn = _merge_ranked([each.drawn for each in summaries], self.n_exemplars)
        first = replace(summaries[0], nearest=nearest, drawn=drawn)
        none = [(labels[:0], rows[:0], keys[:0]) for labels, rows, keys in nearest]
        others = (replace(each, nearest=none, drawn=none) for each in summaries[1:])
        thinned = chain([first], others)
        return [[(files, next(thinned)) for files, _ in tile] for tile in tiles]

    def _write(self, tile: Tile, shard: int) -> Written:
        path = layout.stage_file(STAGE, f"{shard:06d}.npz")
        files = self._written(shard)
        if files is not None:
            summary = MembersSummary.from_bytes(self.store.read_bytes(path), len(self.levels))
            return files, summary
        start, stop = self.shards.bounds(shard)
        part = slice(start - tile.first_row, stop - tile.first_row)
        leaves = self.leaves[tile.labels[part]]
        members = compute_memberships(tile.vectors[part], leaves, self.levels)
        ids = read_table(self.store, layout.part("embeddings", shard), ["item_id"])["item_id"]
        rows = np.arange(start, stop)
        tables = {
            "memberships": memberships_table(
                rows, ids, members.labels, members.distances, members.margins
            ),
            "reductions": reductions_table(rows, ids, self._places(tile, part)),
        }
        files = [
            write_table(self.store, layout.part(name, shard), table)
            for name, table in tables.items()
        ]
        summary = self._summarize(rows, tile.vectors[part], members)
        self.store.write_bytes(path, summary.to_bytes())
        info = {"units": stop - start}
        write_commit(self.store, STAGE, Commit(shard, self.fingerprint, files, info))
        return files, summary

    def _places(self, tile: Tile, part: slice) -> Float32:
        """Return the coordinates of some vectors, shape (n, c)."""
        rows = np.arange(part.start, part.stop, BLOCK_ROWS)
        blocks = (slice(row, min(row + BLOCK_ROWS, part.stop)) for row in rows)
        return np.concatenate([self.pca.transform(tile.original(block)) for block in blocks])

    def _written(self, shard: int) -> list[FileRecord] | None:
        """Return the files of a shard that was written before, perhaps by a worker that died."""
        if shard in self.done:
            return self.done[shard]
        commit = read_commit(self.store, STAGE, shard, self.fingerprint)
        return None if commit is None else commit.files

    def _summarize(
        self, rows: NDArray[np.int64], vectors: Float32, members: Memberships
    ) -> MembersSummary:
        counts: list[NDArray[np.int64]] = []
        nearest, drawn = [], []
        inertia: list[NDArray[np.float64]] = []
        hashes = uniform(self.seed, 1, "exemplar", 0, rows)
        for index, level in enumerate(self.levels):
            own, distances = members.labels[:, index], members.distances[:, index]
            k = len(level.centroids)
            counts.append(np.bincount(own, minlength=k).astype(np.int64))
            inertia.append(np.bincount(own, distances.astype(np.float64), k).astype(np.float64))
            nearest.append(_first(own, rows, distances, self.n_exemplars))
            drawn.append(_first(own, rows, hashes, self.n_exemplars))
        lengths = np.einsum("ij,ij->i", vectors, vectors)
        identical = members.distances[:, 0] <= NEAR_IDENTICAL * lengths
        return MembersSummary(counts, inertia, nearest, drawn, int(np.count_nonzero(identical)))


def _first(
    labels: NDArray[np.int32], rows: NDArray[np.int64], keys: NDArray[Any], n_first: int
) -> Ranked:
    """Return the first ``n_first`` rows of each cluster by key, ranked."""
    kept = first_of_each(labels, keys, rows, n_first)
    return labels[kept], rows[kept], keys[kept]


def merge_summaries(parts: list[MembersSummary], n_exemplars: int) -> MembersSummary:
    """Return one summary of all shards, added in the order of the shards."""
    counts = [np.sum(level, axis=0) for level in zip(*(p.counts for p in parts), strict=True)]
    inertia = [np.sum(level, axis=0) for level in zip(*(p.inertia for p in parts), strict=True)]
    return MembersSummary(
        counts,
        inertia,
        _merge_ranked([part.nearest for part in parts], n_exemplars),
        _merge_ranked([part.drawn for part in parts], n_exemplars),
        sum(part.n_near_identical for part in parts),
    )


def _merge_ranked(parts: list[list[Ranked]], n_exemplars: int) -> list[Ranked]:
    """Return the first rows of each cluster among those of all parts, by level."""
    levels = []
    for level in zip(*parts, strict=True):
        labels, rows, keys = (np.concatenate(each) for each in zip(*level, strict=True))
        levels.append(_first(labels, rows, keys, n_exemplars))
    return levels
