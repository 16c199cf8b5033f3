"""Vectors of a run for the clustering loop, in this process or in actors on Ray.

Each actor decodes its tiles once into a memory map. The map's file is unlinked at once, so that its
disk space is freed however the actor ends. Ray restarts an actor that dies; it decodes its tiles
again and repeats the previous assignment, so that the results are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import joblib
import numpy as np
import ray
from numpy.typing import NDArray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hercules_scale.clustering.local_vectors import LocalVectors
from hercules_scale.clustering.nearest_centroids import Float32, Int64, Scale
from hercules_scale.clustering.parallel_blocks import map_blocks
from hercules_scale.clustering.tiles import NAMED_ROWS, TILE_ROWS, VectorSet
from hercules_scale.clustering.vector_lengths import count_far, far_limit, typical_length
from hercules_scale.runtime.context import Shards
from hercules_scale.runtime.waiting import Room
from hercules_scale.stages.ray_vectors import Crew, RayVectors, add_up
from hercules_scale.stages.tile_actors import Space, TileActor, TileHolder, TileSource
from hercules_scale.storage import layout
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import column_vectors, read_table

# Up to this many rows one process is as fast: FAISS uses all threads, and no actors are started.
LOCAL_ROWS = 4 * TILE_ROWS
# The same limit beside GPUs, which are faster beyond it.
LOCAL_ROWS_BESIDE_GPUS = TILE_ROWS
# The same limit beside a machine of the cluster with more processors, which is faster beyond it.
LOCAL_ROWS_OF_THE_SMALLER = TILE_ROWS // 8
# Vectors within this many typical lengths of the mean are never far, even if nearly all vectors are
# the same.
NEVER_FAR = 4


@dataclass(frozen=True)
class ShardTiles:
    """Tiles from the shards of a table of vectors; each tile consists of whole shards."""

    store: Store
    shards: Shards
    dimension: int
    table: str = "embeddings"

    @property
    def n_rows(self) -> int:
        """Number of vectors."""
        return self.shards.n_items

    def read(self, tile: int, out: Float32) -> None:
        """Write the vectors of a tile into ``out``."""
        first = tile * TILE_ROWS

        def read_rows(rows: slice) -> None:
            out[rows] = read_vectors(
                self.store, (first + rows.start) // self.shards.rows, self.table
            )

        map_blocks(read_rows, len(out), self.shards.rows)


def read_vectors(store: Store, shard: int, table: str = "embeddings") -> Float32:
    """Return the vectors of one shard, shape (rows, d)."""
    column = read_table(store, layout.part(table, shard), ["embedding"])["embedding"]
    return column_vectors(column)


def local_rows_of() -> int:
    """Return the largest number of rows for which this process is faster than tasks."""
    return _local_rows(better_machine(), 0)


def _local_rows(better: tuple[str, int] | None, n_gpus: float) -> int:
    if better:
        return LOCAL_ROWS_OF_THE_SMALLER
    return LOCAL_ROWS_BESIDE_GPUS if n_gpus else LOCAL_ROWS


def better_machine() -> tuple[str, int] | None:
    """Return the largest other node, if half of its processors exceed this machine's.

    Returns:
        Id of the node and half of its processors; None if there is no such node.
    """
    if not ray.is_initialized():
        return None
    here = ray.get_runtime_context().get_node_id()
    halves = [
        (int(node["Resources"].get("CPU", 0)) // 2, str(node["NodeID"]))
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] != here
    ]
    n_cpus, node = max(halves, default=(0, ""))
    return (node, n_cpus) if n_cpus > joblib.cpu_count() else None


@contextmanager
def open_vectors(
    source: TileSource,
    metric: str,
    workers: int,
    local_rows: int | None = None,
    options: dict[str, Any] | None = None,
    *,
    room: Room | None = None,
) -> Iterator[tuple[VectorSet, Space]]:
    """Provide the vectors in the space that is clustered, and that space.

    For ``squared_l2`` the mean is subtracted: a large common offset costs float32 its digits (with
    100 added to unit vectors, 96% of nearest centroids came out wrong). A few very long vectors
    would cost the others their digits too: vectors ``FAR`` times as long as the median are left out
    of the mean, and vectors ``FAR`` times as far from the mean as the median are shortened to that
    distance. For ``cosine``, vectors are scaled to unit length and the mean is 0.

    Args:
        source: Source of the vectors.
        metric: ``squared_l2`` or ``cosine``.
        workers: Number of actors; at most one per tile, and as many as the cluster has CPUs for.
        local_rows: Largest number of rows that this process holds itself, without actors or GPUs;
            by default fewer if actors have GPUs, or another machine has more processors.
        options: Ray's arguments for an actor; by default one CPU.
        room: Reports the wait of actors for resources, and limits it.

    Raises:
        InputError: A number is NaN or infinite (the message names the rows), or the squares of
            all numbers overflow.
    """
    n_tiles = -(-source.n_rows // TILE_ROWS)
    options = options or {"num_cpus": 1, "num_gpus": 0}
    better = better_machine() if local_rows is None else None
    if local_rows is None:
        local_rows = _local_rows(better, options["num_gpus"])
    if source.n_rows <= local_rows:
        holder = TileHolder(source, list(range(n_tiles)), metric)
        space, _, _ = _find_space(
            lambda name, *given: [getattr(holder, name)(*given)], source.n_rows, metric
        )
        originals = [tile.original_lengths for tile in holder.prepare(space)]
        yield LocalVectors(holder.vectors, original_lengths=np.concatenate(originals)), space
        return
    if better and not options["num_gpus"] and source.n_rows <= LOCAL_ROWS:
        # One actor with many processors does the work, as this process would.
        workers = 1
        strategy = NodeAffinitySchedulingStrategy(better[0], soft=True)
        options = {**options, "num_cpus": better[1], "scheduling_strategy": strategy}
    # An actor that the cluster has no processors for would be waited for forever.
    have = ray.cluster_resources().get("CPU", 1)
    workers = min(workers, n_tiles, max(1, int(have / options["num_cpus"])))
    actor = TileActor.options(**options)  # type: ignore[attr-defined]
    n_gpus = 1 if options["num_gpus"] else 0
    actors = [
        actor.remote(source, list(range(first, n_tiles, workers)), metric, n_gpus)
        for first in range(workers)
    ]
    needs = {"CPU": workers * options["num_cpus"], "GPU": workers * options["num_gpus"]}
    crew = Crew(actors, needs, room, n_tiles)
    try:

        def ask(method: str, *given: Any) -> list[Any]:
            return crew.get([getattr(each, method).remote(*given) for each in actors])

        space, largest, counts = _find_space(ask, source.n_rows, metric)
        typical = typical_length(counts)
        scale = Scale.of(source.n_rows, largest, source.dimension, typical)
        yield RayVectors(crew, source.n_rows, source.dimension, space, scale), space
    finally:
        for actor in actors:
            ray.kill(actor)


Ask = Callable[..., list[Any]]
"""Function that calls a method of every holder of tiles, and returns all results."""


def _find_space(ask: Ask, n_rows: int, metric: str) -> tuple[Space, float, Int64]:
    """Return the space, and the largest number and counts of lengths of the vectors in it."""
    totals, counts = _merge(ask("total", math.inf))
    limit, least = far_limit(counts), NEVER_FAR * typical_length(counts)
    n_far = count_far(counts, limit)
    if n_far:
        totals, _ = _merge(ask("total", limit))
    # In the order of tiles, since float64 additions depend on it.
    total = sum(totals[tile] for tile in sorted(totals))
    mean = np.asarray(total) / (n_rows - n_far)
    space = Space(mean if metric == "squared_l2" else np.zeros_like(mean), math.inf)
    largest, counts = _most(ask("measure", space))
    limit = max(far_limit(counts), least)
    space = replace(space, limit=limit)
    if not count_far(counts, limit):
        return space, largest, counts
    largest, counts = _most(ask("measure", space))
    rows = np.sort(np.concatenate(ask("far_rows", space)))
    return (
        replace(space, n_far=len(rows), far_rows=tuple(rows[:NAMED_ROWS].tolist())),
        largest,
        counts,
    )


def _merge(
    parts: list[tuple[dict[int, NDArray[np.float64]], Int64]],
) -> tuple[dict[int, NDArray[np.float64]], Int64]:
    totals = {tile: total for part, _ in parts for tile, total in part.items()}
    return totals, add_up([counts for _, counts in parts])


def _most(parts: list[tuple[float, Int64]]) -> tuple[float, Int64]:
    return max(largest for largest, _ in parts), add_up([counts for _, counts in parts])
