"""Neighbourhood smoothing of vectors that do not fit in memory.

1. index: a coarse k-means divides the vectors into cells, and each tile is sorted by cell, so that
   neighbours lie near one another in files. There are at most ``MAX_CELLS`` cells, so that time and
   memory grow with the rows and not with their square.
2. gather: buckets, which consist of cells or of parts of large cells, are collected from the tiles.
   If the limit makes cells too large, they are clustered again, bucket by bucket, into blocks.
3. round: the vectors of each bucket are averaged with their neighbours, and the bucket is written
   again. Neighbours are searched, exactly, in the nearest blocks of the nearest cells.
4. scatter: the rows go back to their shards.

Files depend on the vectors alone, so the results do not depend on the workers.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from hercules_scale.clustering.choose_k import k_range
from hercules_scale.clustering.kmeans import kmeans
from hercules_scale.clustering.local_vectors import LocalVectors
from hercules_scale.clustering.nearest_centroids import Float32, Int64, nearest, to_unit
from hercules_scale.clustering.smoothing import (
    AUTO_SAMPLE_ROWS,
    SmoothingChoice,
    choose_smoothing,
    is_unit,
)
from hercules_scale.clustering.stateless_random import draw_seed
from hercules_scale.clustering.tiles import Tile, VectorSet, labels_of, sample_rows, take
from hercules_scale.config.hierarchy import HierarchyConfig
from hercules_scale.runtime.context import RunContext, Shards
from hercules_scale.runtime.pipeline import Product
from hercules_scale.runtime.shard_tasks import ShardResult, ShardWorker
from hercules_scale.runtime.shards import Stage, run_once, run_shards
from hercules_scale.runtime.waiting import Room
from hercules_scale.stages.embed import Embeddings
from hercules_scale.stages.smooth_files import INDEX, STAGE, Place, file_name
from hercules_scale.stages.smooth_shards import (
    CANDIDATE_ROWS,
    CELL_ROWS,
    SMOOTHED,
    Average,
    Gather,
    Scatter,
    TileSorter,
    coarse_config,
)
from hercules_scale.stages.vectors import ShardTiles, local_rows_of, open_vectors
from hercules_scale.storage import layout
from hercules_scale.storage.commits import Commit, read_commits, write_commit
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import FileRecord

# Up to this many rows, neighbours are searched among all rows.
EXACT_ROWS = 32_768
MAX_CELLS = 1_024
BUCKET_ROWS = 65_536
RECALL_ROWS = 256


@dataclass(frozen=True)
class Smoothing(Product):
    """Result of smoothing.

    Attributes:
        vectors: The vectors to cluster: smoothed, or the embeddings themselves.
        report: Neighbours, rounds, recall and the findings of ``auto``, for ``run.json``.
    """

    vectors: ShardTiles
    report: dict[str, Any]

    @property
    def smoothed(self) -> bool:
        """Whether the vectors to cluster differ from the embeddings."""
        return self.vectors.table != "embeddings"

    @property
    def record(self) -> dict[str, Any]:
        """Report of the smoothing."""
        return {"smoothing": self.report}


def smooth_vectors(context: RunContext, embeddings: Embeddings) -> Smoothing:
    """Write the smoothed vectors, if the configuration or ``auto`` asks for them."""
    vectors = embeddings.vectors
    if context.config.hierarchy.smoothing.neighbours == 0:
        return Smoothing(vectors, {"neighbours": 0})
    before = read_commits(context.store, STAGE, context.fingerprint)

    def work() -> ShardResult:
        if before:
            # A finished smoothing has deleted the files between its steps, so all steps run again.
            rounds = range(1, context.config.hierarchy.smoothing.rounds + 1)
            steps = ["index", "gather", *(f"round_{round_}" for round_ in rounds), "scatter"]
            for step in steps:
                context.store.delete_files(f"{layout.WORK}/commits/smooth_{step}")
        with context.reporter.stage(STAGE, vectors.n_rows, "items", 0) as progress:
            report, files = _smooth(context, vectors)
            progress.advance(vectors.n_rows)
        return ShardResult(files, report, vectors.n_rows)

    report = run_once(context, STAGE, work).info
    for alarm in report["alarms"]:
        context.reporter.alarm(alarm)
    kept = {name: value for name, value in report.items() if name not in ("alarms", "units")}
    return Smoothing(replace(vectors, table=SMOOTHED) if report["neighbours"] else vectors, kept)


def _smooth(context: RunContext, source: ShardTiles) -> tuple[dict[str, Any], list[FileRecord]]:
    report = run_once(context, "smooth_index", lambda: _index(context, source)).info
    shards = source.shards
    neighbours, rounds = report["neighbours"], report["rounds"]
    if not neighbours:
        return report, []
    store = context.store
    place = Place(store)
    n_tiles, n_buckets = len(place.index.counts), len(place.index.buckets) - 1
    gather = Gather(place, draw_seed(context.config.hierarchy.seed, 0, "blocks", 0))
    _run(context, shards, "smooth_gather", n_buckets, gather)
    store.delete_files(file_name("tile"))
    hits = wanted = 0
    for round_ in range(1, rounds + 1):
        worker = Average(place, neighbours, report["unit"], CANDIDATE_ROWS, round_, rounds)
        for commit in _run(context, shards, f"smooth_round_{round_}", n_buckets, worker):
            hits, wanted = hits + commit.info["hits"], wanted + commit.info["wanted"]
        store.delete_files(file_name(f"round-{round_ - 1}"))
    scattered = _run(context, shards, "smooth_scatter", n_tiles, Scatter(place, shards, rounds))
    store.delete_files(file_name(f"round-{rounds}"))
    files = [file for commit in scattered for file in commit.files]
    return report | {"recall": hits / wanted if wanted else 1.0}, files


def _index(context: RunContext, source: ShardTiles) -> ShardResult:
    """Decide how to smooth, and sort the tiles by cell if at all."""
    config = context.config.hierarchy
    n_rows = source.n_rows
    workers = context.config.resources.workers
    room = Room(context, STAGE, f"resources.workers {workers:,} of 1 CPU")
    with open_vectors(source, "squared_l2", workers, room=room) as (vectors, space):
        sample = np.sort(sample_rows(vectors, AUTO_SAMPLE_ROWS, config.seed, 0))
        centred, _ = take(vectors, sample)
        unit = is_unit(centred + space.mean.astype(np.float32))
        choice = vectors.run(lambda n_gpus: _choose(config, centred, n_rows, unit))
        report = {"rounds": config.smoothing.rounds, "unit": unit, **vars(choice)}
        # Averages with neighbours hide far vectors from the clustering, which would report them.
        report["alarms"] = space.alarms(n_rows) if choice.neighbours else []
        if choice.neighbours:
            _write_index(context.store, vectors, config, choice.neighbours, unit)
    return ShardResult(info=report)


def _choose(config: HierarchyConfig, sample: Float32, n_rows: int, unit: bool) -> SmoothingChoice:
    asked = config.smoothing.neighbours
    if asked != "auto":
        return SmoothingChoice(min(asked, n_rows - 1))
    finest = k_range(n_rows, 1, config.max_k)[0] if config.levels == "auto" else config.levels[0]
    return choose_smoothing(sample, n_rows, finest, config.smoothing.rounds, unit, config.seed)


def _run(
    context: RunContext, shards: Shards, name: str, n_parts: int, worker: ShardWorker
) -> Iterable[Commit]:
    """Run every part of a step: on Ray, or in this process and unseen if there is little to do."""
    if shards.n_items <= local_rows_of():
        done = read_commits(context.store, name, context.fingerprint)
        for part in range(n_parts):
            if part not in done:
                result = context.store.patiently(partial(worker, part))
                done[part] = Commit(part, context.fingerprint, result.files, result.info)
                write_commit(context.store, name, done[part])
    else:
        stage = Stage(name, "parts", n_parts, context.config.resources.n_tasks)
        done = run_shards(context, stage, n_parts, worker)
    return done.values()


def _write_index(
    store: Store, vectors: VectorSet, config: HierarchyConfig, neighbours: int, unit: bool
) -> None:
    """Sort every tile by cell, and write the index that all steps read."""
    n_wanted = 1 if vectors.n_rows <= EXACT_ROWS else vectors.n_rows // CELL_ROWS
    n_cells = min(n_wanted, MAX_CELLS)
    coarse = coarse_config(n_cells, draw_seed(config.seed, 0, "cells", 0))
    centroids = kmeans(vectors, n_cells, coarse).centroids
    order = _near_one_another(centroids, vectors.n_rows, coarse)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    counts = np.stack(vectors.map(TileSorter(store, rank, unit)))
    wanted = np.sort(sample_rows(vectors, RECALL_ROWS, config.seed, 0))
    queries, _ = take(vectors, wanted)
    queries = to_unit(queries) if unit else queries
    work = partial(_nearest_of_tile, queries=queries, own=wanted, n_nearest=neighbours, unit=unit)
    distances, rows = (np.hstack(each) for each in zip(*vectors.map(work), strict=True))
    nearest_first = np.lexsort((rows, distances), axis=1)[:, :neighbours]
    buffer = io.BytesIO()
    parts, part_cells, buckets = _cut(counts.sum(axis=0))
    np.savez(
        buffer,
        counts=counts,
        centroids=centroids[order],
        parts=parts,
        part_cells=part_cells,
        buckets=buckets,
        divided=n_cells < n_wanted,
        recall_rows=wanted,
        recall_neighbours=np.take_along_axis(rows, nearest_first, axis=1),
    )
    store.write_bytes(INDEX, buffer.getvalue())


def _cut(sizes: Int64) -> tuple[Int64, Int64, Int64]:
    """Cut cells into parts and gather them into buckets.

    Returns:
        First position of each part, and the end; the cell of each part; first part of each bucket,
        and the end.
    """
    starts, cells, buckets = [0], [], [0]
    for cell, size in enumerate(sizes.tolist()):
        # Large cells, such as one of many equal vectors, are cut, so that searches stay small.
        for left in range(size, 0, -CANDIDATE_ROWS):
            starts.append(starts[-1] + min(left, CANDIDATE_ROWS))
            cells.append(cell)
            if starts[-1] - starts[buckets[-1]] >= BUCKET_ROWS:
                buckets.append(len(cells))
    if buckets[-1] < len(cells):
        buckets.append(len(cells))
    return np.array(starts), np.array(cells), np.array(buckets)


def _near_one_another(centroids: Float32, n_rows: int, config: HierarchyConfig) -> Int64:
    """Return the cells in an order that puts near cells next to one another."""
    n_groups = min(len(centroids), -(-n_rows // BUCKET_ROWS))
    local = LocalVectors(centroids)
    kmeans(local, n_groups, config)
    return np.argsort(labels_of(local), kind="stable")


def _nearest_of_tile(
    tile: Tile, queries: Float32, own: Int64, n_nearest: int, unit: bool
) -> tuple[Float32, Int64]:
    """Return distances and rows of a tile's vectors nearest to each query, without itself."""
    vectors = to_unit(tile.vectors) if unit else tile.vectors
    distances, ids = nearest(queries, vectors, min(n_nearest + 1, len(vectors)))
    rows = ids + tile.first_row
    return np.where(rows == own[:, None], np.float32(np.inf), distances), rows
