"""Clusters the embeddings and writes the memberships.

The vectors lie in a memory map on the driver's disk, and the loop sees them through the
``VectorSet`` interface alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hercules_scale import schemas
from hercules_scale.clustering.assign import Float32, LocalVectors
from hercules_scale.clustering.kmeans import KMeansResult
from hercules_scale.clustering.levels import Level, build_levels, compute_memberships
from hercules_scale.clustering.nearest_rows import nearest_rows
from hercules_scale.clustering.refinement import Tree
from hercules_scale.errors import InputError
from hercules_scale.progress import StageProgress
from hercules_scale.stages.context import RunContext, Shards
from hercules_scale.storage import layout
from hercules_scale.storage.manifest import Commit, read_commits, write_commit
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import (
    FileRecord,
    column_vectors,
    read_table,
    vector_column,
    write_table,
)

STAGE = "cluster"
CLUSTERS_FILE = layout.stage_file(STAGE, "clusters.parquet")


@dataclass(frozen=True)
class Clustering:
    """What clustering came to.

    Attributes:
        clusters: A row a cluster, by level and id: ``level``, ``cluster_id``,
            ``parent_cluster_id``, ``n_items``, ``n_children``, ``inertia``, ``exemplar_rows``,
            ``centroid``.
        n_levels: Levels, which may be fewer than asked for.
        files: Files of the table ``memberships``, by shard.
    """

    clusters: pa.Table
    n_levels: int
    files: list[FileRecord]

    def level(self, number: int) -> pa.Table:
        """Clusters of one level, by id."""
        return self.clusters.filter(pa.compute.equal(self.clusters["level"], number))


def cluster_items(context: RunContext, shards: Shards, dimension: int) -> Clustering:
    """Build the hierarchy and write the table ``memberships``.

    Raises:
        InputError: There are fewer items than clusters asked for.
    """
    asked = context.config.hierarchy.levels[0]
    if asked > shards.n_items:
        raise InputError(
            f"hierarchy.levels asks for {asked:,} clusters at level 1, but the input has "
            f"{shards.n_items:,} usable items; give at most that many"
        )
    done = read_commits(context.store, STAGE, context.fingerprint)
    n_levels = len(context.config.hierarchy.levels)
    with context.reporter.stage(STAGE, n_levels, "levels", n_levels * bool(done)) as progress:
        if not done:
            commit = _cluster(context, shards, dimension, progress)
            write_commit(context.store, STAGE, commit)
        else:
            commit = done[0]
    for alarm in commit.info["alarms"]:
        context.reporter.alarm(alarm)
    clusters = read_table(context.store, CLUSTERS_FILE)
    return Clustering(clusters, commit.info["n_levels"], commit.files)


def _cluster(
    context: RunContext, shards: Shards, dimension: int, progress: StageProgress
) -> Commit:
    with _memory_map(context.store, shards, dimension) as (vectors, mean):

        def show(number: int, result: KMeansResult) -> None:
            progress.advance(1)
            context.reporter.say(
                f"  level {number}: {len(result.centroids):,} clusters of "
                f"{len(result.labels):,}, {result.n_iterations} iterations, "
                f"inertia {result.inertia:.5g}"
            )

        def show_refined(tree: Tree) -> None:
            context.reporter.say(
                f"  tree refined in {tree.n_rounds} rounds, {tree.n_moved:,} clusters moved to "
                f"other parents, objective {tree.first_objective:.5g} to {tree.objective:.5g}"
            )

        hierarchy = context.config.hierarchy
        levels = build_levels(LocalVectors(vectors), hierarchy, show, show_refined)
        summary = _Summary(levels, context.config.summaries.exemplars)
        files = []
        for shard in range(len(shards)):
            start, stop = shards.bounds(shard)
            files.append(
                _write_memberships(
                    context.store, shard, start, vectors[start:stop], levels, summary
                )
            )
    clusters = summary.table(levels, mean)
    write_table(context.store, CLUSTERS_FILE, clusters)
    alarms = _alarms(context.config.hierarchy.levels, levels, summary.counts, shards.n_items)
    return Commit(0, context.fingerprint, files, {"n_levels": len(levels), "alarms": alarms})


@contextmanager
def _memory_map(
    store: Store, shards: Shards, dimension: int
) -> Iterator[tuple[Float32, NDArray[np.float64]]]:
    """All vectors less their mean, in a file that is gone afterwards, and the mean.

    Without the mean taken off, a large common offset costs float32 its digits: with 100 added to
    unit vectors, 96% of nearest centroids came out wrong.
    """
    with tempfile.TemporaryDirectory(prefix="hercules_scale_") as folder:
        vectors = np.memmap(
            Path(folder) / "vectors", np.float32, "w+", shape=(shards.n_items, dimension)
        )
        total = np.zeros(dimension)
        for shard in range(len(shards)):
            start, stop = shards.bounds(shard)
            vectors[start:stop] = read_vectors(store, shard)
            total += vectors[start:stop].sum(axis=0, dtype=np.float64)
        mean = total / shards.n_items
        for shard in range(len(shards)):
            start, stop = shards.bounds(shard)
            vectors[start:stop] -= mean.astype(np.float32)
        yield vectors, mean


def read_vectors(store: Store, shard: int) -> Float32:
    """Embeddings of one shard, shape (rows, d)."""
    table = read_table(store, layout.part("embeddings", shard), ["embedding"])
    return column_vectors(table["embedding"])


def _write_memberships(
    store: Store, shard: int, start: int, vectors: Float32, levels: list[Level], summary: _Summary
) -> FileRecord:
    rows = np.arange(start, start + len(vectors))
    members = compute_memberships(vectors, levels[0].children[rows], levels)
    summary.add(rows, members.labels, members.distances)
    ids = read_table(store, layout.part("embeddings", shard), ["item_id"])["item_id"]
    columns = {"row": pa.array(rows), "item_id": ids}
    for name, values in (
        ("level", members.labels),
        ("distance", members.distances),
        ("margin", members.margins),
    ):
        for index in range(len(levels)):
            # from_pandas turns the NaN of a level with one cluster into null.
            columns[f"{name}_{index + 1}"] = pa.array(values[:, index], from_pandas=True)
    table = pa.table(columns).cast(schemas.memberships(len(levels)))
    return write_table(store, layout.part("memberships", shard), table)


class _Summary:
    """Counts, inertia and nearest rows of every cluster, summed over shards."""

    def __init__(self, levels: list[Level], n_exemplars: int) -> None:
        sizes = [len(level.centroids) for level in levels]
        self.counts = [np.zeros(size, np.int64) for size in sizes]
        self.inertia = [np.zeros(size) for size in sizes]
        self._n_exemplars = n_exemplars
        self._nearest = [
            (np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.float32)) for _ in sizes
        ]

    def add(self, rows: NDArray[np.int64], labels: NDArray[np.int32], distances: Float32) -> None:
        """Count the items of one shard."""
        for index, (counts, inertia) in enumerate(zip(self.counts, self.inertia, strict=True)):
            own, distance = labels[:, index], distances[:, index]
            counts += np.bincount(own, minlength=len(counts))
            inertia += np.bincount(own, distance.astype(np.float64), len(inertia))
            before = self._nearest[index]
            self._nearest[index] = nearest_rows(
                np.concatenate([before[0], own]),
                np.concatenate([before[2], distance]),
                self._n_exemplars,
                np.concatenate([before[1], rows]),
            )

    def table(self, levels: list[Level], mean: NDArray[np.float64]) -> pa.Table:
        """A row a cluster; centroids with the mean put back."""
        tables = []
        for index, level in enumerate(levels):
            k = len(level.centroids)
            ids = np.arange(k, dtype=np.int32)
            top = index + 1 == len(levels)
            parents = pa.nulls(k, pa.int32()) if top else pa.array(levels[index + 1].children)
            labels, rows, _ = self._nearest[index]
            exemplars = np.split(rows, np.searchsorted(labels, ids[1:]))
            children = self.counts[0] if index == 0 else np.bincount(level.children, minlength=k)
            centroids = (level.centroids + mean).astype(np.float32)
            columns = {
                "level": pa.array(np.full(k, index + 1, np.int16)),
                "cluster_id": pa.array(ids),
                "parent_cluster_id": parents,
                "n_items": pa.array(self.counts[index]),
                "n_children": pa.array(children.astype(np.int32)),
                "inertia": pa.array(self.inertia[index]),
                "exemplar_rows": pa.array(exemplars, pa.list_(pa.int64())),
                "centroid": vector_column(centroids),
            }
            tables.append(pa.table(columns))
        return pa.concat_tables(tables)


def _alarms(
    asked: list[int], levels: list[Level], counts: list[NDArray[np.int64]], n_items: int
) -> list[str]:
    """What a user should know about the clusters before trusting them."""
    alarms = []
    found = [len(level.centroids) for level in levels]
    if found != asked:
        alarms.append(
            f"levels: {asked} clusters were asked for, {found} were found, since items or "
            "centroids are identical"
        )
    for number, (level, sizes) in enumerate(zip(levels, counts, strict=True), start=1):
        if len(sizes) > 1 and sizes.max() > n_items / 2:
            alarms.append(
                f"level {number}: cluster {sizes.argmax()} holds {sizes.max():,} of "
                f"{n_items:,} items, more than half"
            )
        if level.kmeans.n_refilled:
            alarms.append(
                f"level {number}: empty clusters were refilled {level.kmeans.n_refilled} times"
            )
        if not level.kmeans.converged:
            alarms.append(
                f"level {number}: k-means had not converged after "
                f"{level.kmeans.n_iterations} iterations"
            )
    return alarms
