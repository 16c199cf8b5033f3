"""Clusters the embeddings; writes memberships and reductions where the vectors are held.

Loops of k-means keep checkpoints, and shards of memberships are committed in these processes, so
this stage keeps its own commits.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hercules_scale.clustering.agglomerative import CutResult
from hercules_scale.clustering.assigner import Assigner
from hercules_scale.clustering.cluster_scores import CurvePoint
from hercules_scale.clustering.levels import Level, LevelResult, Levels, build_levels
from hercules_scale.errors import InputError
from hercules_scale.reduction.pca import PCA
from hercules_scale.runtime.context import RunContext, Shards
from hercules_scale.runtime.pipeline import Product
from hercules_scale.runtime.progress import StageProgress
from hercules_scale.runtime.resources import clustering_pool
from hercules_scale.runtime.shards import done_shards
from hercules_scale.runtime.store_checkpoints import StoreCheckpoints
from hercules_scale.runtime.waiting import Room
from hercules_scale.stages.cluster_alarms import cluster_alarms
from hercules_scale.stages.k_plot import plot_curve
from hercules_scale.stages.memberships import STAGE as MEMBERSHIPS
from hercules_scale.stages.memberships import MembershipWriter, MembersSummary, merge_summaries
from hercules_scale.stages.reduce import fit_pca
from hercules_scale.stages.smooth import Smoothing
from hercules_scale.stages.stored_assigner import CLUSTERED, write_assigner
from hercules_scale.stages.vectors import ShardTiles, open_vectors
from hercules_scale.storage import layout, schemas
from hercules_scale.storage.commits import Commit, read_commits, write_commit
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import FileRecord, read_table, vector_column, write_table

STAGE = "cluster"
# Each diverse exemplar is chosen from this many of the rows nearest to the centroid.
EXEMPLAR_POOL = 4
CLUSTERS_FILE = layout.stage_file(STAGE, "clusters.parquet")


@dataclass(frozen=True)
class Clusters:
    """Clusters of all levels.

    Attributes:
        clusters: One row per cluster, by level and id: ``level``, ``cluster_id``,
            ``parent_cluster_id``, ``n_items``, ``n_children``, ``inertia``, ``exemplar_rows``,
            ``random_rows``, ``centroid``.
        n_levels: Number of levels, which may be smaller than asked for.
    """

    clusters: pa.Table
    n_levels: int

    def level(self, number: int) -> pa.Table:
        """Return the clusters of one level, by id."""
        return self.clusters.filter(pa.compute.equal(self.clusters["level"], number))


@dataclass(frozen=True)
class Clustering(Clusters, Product):
    """Result of clustering.

    Attributes:
        files: Files of the table ``memberships``, by shard.
        report: Record of the levels, for ``run.json``.
        curve: Files of the table ``k_selection``; none if the user gave the numbers of clusters.
        reductions: Files of the table ``reductions``, by shard.
        pca: Function from vectors to their places on the map.
    """

    files: list[FileRecord]
    report: dict[str, Any]
    curve: list[FileRecord]
    reductions: list[FileRecord]
    pca: PCA

    @property
    def tables(self) -> dict[str, list[FileRecord]]:
        """Files of ``memberships`` and ``reductions``, and of ``k_selection`` if there is one."""
        curve = {"k_selection": self.curve} if self.curve else {}
        return {"memberships": self.files, "reductions": self.reductions, **curve}

    @property
    def record(self) -> dict[str, Any]:
        """Numbers of clusters, the report, and the mean and components of the PCA."""
        levels = range(1, self.n_levels + 1)
        sizes = {str(level): self.level(level).num_rows for level in levels}
        return {
            "clusters_per_level": sizes,
            "clustering": self.report,
            "pca": self.pca.record(),
        }


def cluster_items(context: RunContext, smoothing: Smoothing) -> Clustering:
    """Build the hierarchy of some vectors and write ``memberships`` and ``reductions``.

    Raises:
        InputError: There are fewer items than clusters asked for.
    """
    source = smoothing.vectors
    shards = source.shards
    asked = context.config.hierarchy.levels
    if asked != "auto" and asked[0] > shards.n_items:
        raise InputError(
            f"hierarchy.levels asks for {asked[0]:,} clusters at level 1, but the input has "
            f"{shards.n_items:,} usable items; give at most that many"
        )
    # Lost shards are written again with the missing ones.
    written = done_shards(context, MEMBERSHIPS)
    done = done_shards(context, STAGE)
    n_levels = 1 if asked == "auto" else len(asked)
    with context.reporter.stage(STAGE, n_levels, "levels", n_levels * bool(done)) as progress:
        if not done:
            files = {shard: commit.files for shard, commit in written.items()}
            commit = _cluster(context, source, progress, files)
            write_commit(context.store, STAGE, commit)
        else:
            commit = done[0]
    for alarm in commit.info["alarms"]:
        context.reporter.alarm(alarm)
    return _read(context.store, commit)


def read_clusters(context: RunContext) -> tuple[Clusters, Shards] | None:
    """Return the clusters of a run, perhaps by an older version, and the shards of its items.

    None if the run has not been clustered.
    """
    done = read_commits(context.store, STAGE, context.fingerprint)
    if not done:
        return None
    members = _files(done[0], "memberships")
    clusters = Clusters(read_table(context.store, CLUSTERS_FILE), done[0].info["n_levels"])
    return clusters, Shards(sum(file.rows for file in members), members[0].rows)


def _read(store: Store, commit: Commit) -> Clustering:
    clusters, info = read_table(store, CLUSTERS_FILE), commit.info
    return Clustering(
        clusters,
        info["n_levels"],
        _files(commit, "memberships"),
        info["report"],
        [FileRecord(**record) for record in info["curve"]],
        _files(commit, "reductions"),
        PCA.of_record(info["pca"]),
    )


def _files(commit: Commit, table: str) -> list[FileRecord]:
    return [file for file in commit.files if file.path.startswith(f"{table}/")]


def _cluster(
    context: RunContext,
    source: ShardTiles,
    progress: StageProgress,
    written: dict[int, list[FileRecord]],
) -> Commit:
    def show(number: int, result: LevelResult) -> None:
        # The number of levels is not known in advance.
        progress.report.total = max(progress.report.total, number)
        progress.advance(1)
        context.reporter.detail(
            f"level {number}: {len(result.centroids):,} clusters, {_describe(result)}",
            level=number,
        )

    hierarchy = context.config.hierarchy
    shards = source.shards
    actors = clustering_pool(context.config.resources, context.n_gpus)
    room = Room(context, STAGE, actors.asked)
    with open_vectors(
        source, hierarchy.metric, actors.least, options=actors.options, room=room
    ) as (vectors, space):
        checkpoints = StoreCheckpoints(context.store, context.fingerprint, context.reporter.measure)
        found = build_levels(vectors, hierarchy, checkpoints, show)
        if found.tree is not None:
            rounds = ", ".join(
                f"{phase.n_rounds} rounds with upper levels weighing {phase.upper_weight:g} "
                f"(objective {phase.first_objective:.5g} to {phase.objective:.5g})"
                for phase in found.tree.phases
            )
            context.reporter.detail(
                f"tree refined in {rounds}; {found.tree.n_moved:,} clusters changed parent"
            )
        pca = fit_pca(context, vectors, space)
        summaries = context.config.summaries
        pool = EXEMPLAR_POOL if summaries.exemplar_strategy == "diverse" else 1
        n_near = pool * summaries.exemplars
        writer = MembershipWriter(
            context.store,
            written,
            shards,
            context.fingerprint,
            found.levels,
            found.leaves,
            n_near,
            hierarchy.seed,
            pca.moved(-space.mean.astype(np.float32)),
        )
        parts = [part for tile in vectors.map(writer, writer.thin) for part in tile]
    summary = merge_summaries([part for _, part in parts], n_near)
    table = _clusters_table(found.levels, summary, space.mean)
    assigner = Assigner.of_levels(found, space.mean, space.limit, hierarchy.metric)
    kept = [
        write_table(context.store, CLUSTERS_FILE, table),
        write_assigner(context.store, CLUSTERED, assigner),
    ]
    info = {
        "n_levels": len(found.levels),
        "alarms": [
            *space.alarms(shards.n_items),
            *cluster_alarms(hierarchy.levels, found, summary, shards.n_items),
        ],
        "report": _report(found),
        "curve": [asdict(file) for file in _write_curve(context, found.curve)],
        "pca": pca.record(),
    }
    files = [file for files, _ in parts for file in files]
    return Commit(0, context.fingerprint, files, info, kept)


def _describe(result: LevelResult) -> str:
    if isinstance(result, CutResult):
        following = "" if result.next_height is None else f", the next at {result.next_height:.5g}"
        return (
            f"{result.linkage} linkage of {result.n_points:,} points (last merge at "
            f"{result.height:.5g}{following})"
        )
    return (
        f"{result.n_iterations} iterations (stopped by {result.stopped}; objective fell by "
        f"{result.objective_fall:.1g}, {result.share_changed:.2%} of labels changed), "
        f"inertia {result.inertia:.5g}"
    )


def _write_curve(context: RunContext, curve: list[CurvePoint]) -> list[FileRecord]:
    """Write the table ``k_selection`` and its plot, if the data chose the numbers of clusters."""
    if not curve:
        return []
    score = context.config.hierarchy.k_score
    context.reporter.say(
        f"  clusters per level {[point.k for point in curve if point.chosen]} chosen by {score}"
    )
    table = pa.Table.from_pylist([asdict(point) for point in curve], schemas.K_SELECTION)
    file = write_table(context.store, layout.part("k_selection", 0), table)
    try:
        context.store.write_bytes(layout.K_SELECTION_PLOT, plot_curve(curve, score))
    except ModuleNotFoundError:
        context.reporter.say(
            f"  no picture {layout.K_SELECTION_PLOT}: it needs matplotlib; install "
            "hercules-scale[plots]"
        )
    return [file]


def _report(found: Levels) -> dict[str, Any]:
    """Return a report on how the clusters were found, for ``run.json``."""
    levels = [{"level": number, **_numbers(run)} for number, run in enumerate(found.runs, start=1)]
    report: dict[str, Any] = {"levels": levels}
    if found.micro is not None:
        report["micro_clusters"] = {"n_clusters": len(found.micro.counts), **_numbers(found.micro)}
    if found.tree is not None:
        phases = [asdict(phase) for phase in found.tree.phases]
        report["tree"] = {"n_moved": found.tree.n_moved, "phases": phases}
    return report


def _numbers(run: LevelResult) -> dict[str, Any]:
    numbers = asdict(run)
    for name in ("centroids", "counts"):
        del numbers[name]
    return numbers


def _clusters_table(
    levels: list[Level], summary: MembersSummary, mean: NDArray[np.float64]
) -> pa.Table:
    """Return one row per cluster, with the mean added back to the centroids."""
    tables = []
    children = summary.counts[0]
    for index, level in enumerate(levels):
        k = len(level.centroids)
        ids = np.arange(k, dtype=np.int32)
        near, drawn = (
            pa.array(np.split(rows, np.searchsorted(labels, ids[1:])), pa.list_(pa.int64()))
            for labels, rows, _ in (summary.nearest[index], summary.drawn[index])
        )
        top = level.parents is None
        parents = pa.nulls(k, pa.int32()) if top else pa.array(level.parents)
        columns = {
            "level": pa.array(np.full(k, index + 1, np.int16)),
            "cluster_id": pa.array(ids),
            "parent_cluster_id": parents,
            "n_items": pa.array(summary.counts[index]),
            "n_children": pa.array(children.astype(np.int32)),
            "inertia": pa.array(summary.inertia[index]),
            "exemplar_rows": near,
            "random_rows": drawn,
            "centroid": vector_column((level.centroids + mean).astype(np.float32)),
        }
        tables.append(pa.table(columns))
        if level.parents is not None:
            children = np.bincount(level.parents)
    return pa.concat_tables(tables)
