"""Puts items into the clusters of a finished run, shard by shard.

An item that the run already holds (same id and content) keeps its memberships there, since a new
embedding of it may differ in the last bits: encoders round differently in each batch. Keys of items
are joined in buckets, so that no process holds the keys of all items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hercules_scale.clustering.assigner import Assigner
from hercules_scale.clustering.levels import Memberships
from hercules_scale.clustering.nearest_centroids import Int64
from hercules_scale.errors import InputError
from hercules_scale.evaluation.drift import Distances, drift_table, level_limits
from hercules_scale.runtime.context import RunContext, Shards
from hercules_scale.runtime.pipeline import Product
from hercules_scale.runtime.shard_tasks import ShardResult
from hercules_scale.runtime.shards import Stage, run_shards
from hercules_scale.stages.assigner_tables import (
    columns_of_levels,
    sampled_rows,
    write_keys,
)
from hercules_scale.stages.embed import Embeddings
from hercules_scale.stages.stored_assigner import read_assigner
from hercules_scale.stages.vectors import read_vectors
from hercules_scale.storage import layout, schemas
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import (
    FileRecord,
    memberships_table,
    read_rows,
    read_table,
    write_table,
)

KEYS, KNOWN = "item_keys", "known"
KEYS_PER_BUCKET = 4_000_000


@dataclass(frozen=True)
class TargetRun:
    """The run that items are assigned to.

    Attributes:
        store: Output of the run.
        files: Paths of the files of each table, in row order.
        shards: Shards of the run's items.
        metric: Metric of the clustering.
    """

    store: Store
    files: dict[str, list[str]]
    shards: Shards
    metric: str

    @classmethod
    def of(cls, store: Store, tables: dict[str, list[FileRecord]], metric: str) -> TargetRun:
        """Return a run, given the tables of its manifest."""
        members = tables["memberships"]
        n_items = sum(file.rows for file in members)
        files = {name: [file.path for file in records] for name, records in tables.items()}
        return cls(store, files, Shards(n_items, members[0].rows), metric)

    def assigner(self) -> Assigner:
        """Return the assigner of items to the run's clusters."""
        return read_assigner(self.store, self.files["assigner"][0], self.metric)


@dataclass(frozen=True)
class Assigned(Product):
    """Result of assigning.

    Attributes:
        run: Output of the run that holds the clusters.
        memberships: Files of the table ``memberships``.
        drift: File of the table ``drift``.
        n_known: Number of items that kept their memberships in the run.
    """

    run: str
    memberships: list[FileRecord]
    drift: FileRecord
    n_known: int

    @property
    def tables(self) -> dict[str, list[FileRecord]]:
        """Files of the tables ``memberships`` and ``drift``."""
        return {"memberships": self.memberships, "drift": [self.drift]}

    @property
    def record(self) -> dict[str, Any]:
        """The run, and the numbers of all items and of those that it holds."""
        n_items = sum(file.rows for file in self.memberships)
        return {"assigned": {"run": self.run, "items": n_items, "known": self.n_known}}


def assign_items(context: RunContext, embeddings: Embeddings, run: TargetRun) -> Assigned:
    """Write the tables ``memberships`` and ``drift`` of embedded items.

    Raises:
        InputError: The embeddings have another dimension than the run's.
    """
    store, workers = context.store, context.config.resources.n_tasks
    shards, dimension = embeddings.vectors.shards, embeddings.vectors.dimension
    assigner = run.assigner()
    if dimension != assigner.dimension:
        raise InputError(
            f"embedding.model {context.config.embedding.model!r} gives {dimension} numbers an "
            f"item, and the run at {run.store.uri} has {assigner.dimension}; give the model that "
            "the run was made with"
        )
    keys = Stage("keys", "items", shards.n_items, workers)
    of_vectors = context.config.input.modality == "embedding"
    run_shards(context, keys, len(shards), _KeyWorker(store, of_vectors))
    n_buckets = -(-shards.n_items // KEYS_PER_BUCKET)
    join = Stage("known", "buckets", n_buckets, workers)
    run_shards(context, join, n_buckets, _KnownWorker(store, shards, run, n_buckets))
    reference = read_table(run.store, run.files["reference"][0])
    stage = Stage("assign", "items", shards.n_items, workers)
    seed = context.config.hierarchy.seed
    worker = _AssignWorker(store, shards, run, n_buckets, level_limits(reference), seed)
    commits = run_shards(context, stage, len(shards), worker)
    parts = (Distances.from_bytes(store.read_bytes(_distances(shard))) for shard in commits)
    table = drift_table(reference, Distances.merge(parts))
    return Assigned(
        run.store.uri,
        [file for commit in commits.values() for file in commit.files],
        write_table(store, layout.part("drift", 0), table),
        sum(commit.info["n_known"] for commit in commits.values()),
    )


@dataclass(frozen=True)
class _KeyWorker:
    store: Store
    of_vectors: bool

    def __call__(self, shard: int) -> ShardResult:
        file = write_keys(self.store, shard, layout.work_part(KEYS, shard), self.of_vectors)
        return ShardResult([file], units=file.rows)


@dataclass(frozen=True)
class _KnownWorker:
    """Finds the rows that the items of one bucket of keys have in the run."""

    store: Store
    shards: Shards
    run: TargetRun
    n_buckets: int

    def __call__(self, bucket: int) -> ShardResult:
        wanted, rows = [], []
        for shard in range(len(self.shards)):
            path = layout.work_part(KEYS, shard)
            keys, own = _keys_of_bucket(self.store, path, bucket, self.n_buckets)
            wanted.append(keys)
            rows.append(own + self.shards.bounds(shard)[0])
        wanted_keys, wanted_rows = pa.concat_arrays(wanted), np.concatenate(rows)
        found: list[Int64] = []
        known: list[Int64] = []
        for shard, path in enumerate(self.run.files[KEYS]):
            keys, own = _keys_of_bucket(self.run.store, path, bucket, self.n_buckets)
            places = pc.index_in(keys, value_set=wanted_keys)
            here = np.flatnonzero(places.is_valid().to_numpy(zero_copy_only=False))
            found.append(wanted_rows[places.drop_null().to_numpy()])
            known.append(own[here] + self.run.shards.bounds(shard)[0])
        pairs = pa.table({"row": np.concatenate(found), "known_row": np.concatenate(known)})
        file = write_table(self.store, layout.work_part(KNOWN, bucket), pairs.sort_by("row"))
        return ShardResult([file])


def _keys_of_bucket(
    store: Store, path: str, bucket: int, n_buckets: int
) -> tuple[pa.FixedSizeBinaryArray, Int64]:
    """Return the keys of one bucket in a file, and their places there."""
    keys = pa.concat_arrays(read_table(store, path)["key"].chunks)
    # A key is two words with uniform bits; the first word gives the bucket.
    words = np.frombuffer(keys.buffers()[1], np.uint64)[2 * keys.offset :][: 2 * len(keys) : 2]
    places: Int64 = np.flatnonzero(words % np.uint64(n_buckets) == bucket)
    return keys.take(pa.array(places)), places


@dataclass(frozen=True)
class _AssignWorker:
    """Writes one shard of ``memberships``, and its distances for ``drift``."""

    store: Store
    shards: Shards
    run: TargetRun
    n_buckets: int
    limits: NDArray[np.float64]
    seed: int

    def __call__(self, shard: int) -> ShardResult:
        assigner = self.run.assigner()
        vectors = assigner.to_space(read_vectors(self.store, shard))
        leaves = assigner.find_leaves(vectors)
        places, stored = self._known(shard, schemas.memberships(len(assigner.levels)))
        leaves[places] = stored["level_1"].to_numpy()
        members = assigner.memberships(vectors, leaves)
        sizes, in_sample = assigner.sizes, sampled_rows(self.seed, self.shards, shard)
        found = Distances.of(members.labels, members.distances, sizes, in_sample, self.limits)
        self.store.write_bytes(_distances(shard), found.to_bytes())
        members = _with_rows(members, places, stored)
        path = layout.part("embeddings", shard)
        ids = read_table(self.store, path, ["item_id"])["item_id"]
        rows = np.arange(*self.shards.bounds(shard))
        table = memberships_table(rows, ids, members.labels, members.distances, members.margins)
        file = write_table(self.store, layout.part("memberships", shard), table)
        return ShardResult([file], {"n_known": len(places)}, units=len(vectors))

    def _known(self, shard: int, schema: pa.Schema) -> tuple[Int64, pa.Table]:
        """Return the places of known items in a shard, and their memberships in the run."""
        start, stop = self.shards.bounds(shard)
        here = [("row", ">=", start), ("row", "<", stop)]
        pairs = pa.concat_tables(
            read_table(self.store, layout.work_part(KNOWN, bucket), where=here)
            for bucket in range(self.n_buckets)
        ).sort_by("known_row")
        known = pairs["known_row"].to_numpy()
        stored = [schema.empty_table()]
        for source in np.unique(known // self.run.shards.rows).tolist():
            first = source * self.run.shards.rows
            rows = known[known // self.run.shards.rows == source] - first
            path = self.run.files["memberships"][source]
            near = read_rows(self.run.store, path, int(rows[0]), int(rows[-1]) + 1)
            stored.append(near.take(pa.array(rows - rows[0])).cast(schema))
        return pairs["row"].to_numpy() - start, pa.concat_tables(stored).combine_chunks()


def _with_rows(members: Memberships, places: Int64, stored: pa.Table) -> Memberships:
    """Return a copy of memberships, with the rows of a table in some places."""
    labels, distances = members.labels.copy(), members.distances.copy()
    margins = members.margins.copy()
    labels[places] = columns_of_levels(stored, "level")
    distances[places] = columns_of_levels(stored, "distance")
    margins[places] = columns_of_levels(stored, "margin")
    return Memberships(labels, distances, margins)


def _distances(shard: int) -> str:
    return layout.stage_file("assign", f"{shard:06d}.npz")
