"""The order of a run's stages, and how a run starts, resumes and ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray

from hercules_scale.clustering.nearest_centroids import Float32, to_unit
from hercules_scale.config.resolved import ResolvedConfig
from hercules_scale.config.run import RunConfig
from hercules_scale.config.section import CALLABLE, names_function
from hercules_scale.errors import StorageError
from hercules_scale.jobs.preflight import check
from hercules_scale.jobs.run_record import (
    Results,
    earlier_run,
    fingerprint_of,
    keep_record,
    new_record,
)
from hercules_scale.reading.sources import SourceFile
from hercules_scale.reading.survey import Survey
from hercules_scale.reduction.pca import PCA
from hercules_scale.runtime.context import NO_FUNCTIONS, Functions, RunContext, Shards
from hercules_scale.runtime.machines import label_encoder_gib, take_resources
from hercules_scale.runtime.progress import Reporter
from hercules_scale.runtime.ray_session import check_one_machine
from hercules_scale.runtime.resources import label_encoder_pool
from hercules_scale.runtime.shard_tasks import ShardResult
from hercules_scale.runtime.shards import run_once
from hercules_scale.runtime.waiting import Room
from hercules_scale.stages.assigner_tables import keep_assigner
from hercules_scale.stages.cluster import Clustering, cluster_items, read_reductions
from hercules_scale.stages.describe import describe_items
from hercules_scale.stages.embed import embed_items, embedding_tokens
from hercules_scale.stages.encoders import open_endpoint
from hercules_scale.stages.evaluate import evaluate_levels
from hercules_scale.stages.language_model import open_encoder, open_model, probe_endpoint
from hercules_scale.stages.numeric_statistics import Statistics, measure_statistics
from hercules_scale.stages.prompt_facts import LABELLING, cells
from hercules_scale.stages.read import read_items
from hercules_scale.stages.smooth import smooth_vectors
from hercules_scale.stages.summarize import Summaries, summarize_clusters
from hercules_scale.stages.tree_order import order_items
from hercules_scale.stages.vectors import ShardTiles
from hercules_scale.storage import layout, schemas
from hercules_scale.storage.commits import read_commits
from hercules_scale.storage.lock import hold_lock
from hercules_scale.storage.manifest import publish
from hercules_scale.storage.retries import explain, reason_of
from hercules_scale.storage.schemas import WITHHELD
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import (
    FileRecord,
    column_vectors,
    read_tables,
    vector_column,
    write_table,
)

CLUSTERS = "clusters"


def run(
    config: RunConfig, reporter: Reporter | None = None, functions: Functions = NO_FUNCTIONS
) -> Store:
    """Run the whole job, or what is left of it.

    Args:
        config: The run.
        reporter: Shows progress; by default on the terminal.
        functions: The user's functions, if the configuration asks for them.

    Returns:
        The finished output.

    Raises:
        HerculesScaleError: The run failed; the type tells the kind of failure.
    """
    resolved, sources, taken = check(config, functions)

    def stages(context: RunContext) -> Results:
        return _run_stages(context, sources, taken)

    return carry_out(resolved, sources, taken, stages, reporter, None, functions)


def carry_out(
    config: ResolvedConfig,
    sources: list[SourceFile],
    taken: Survey,
    stages: Callable[[RunContext], Results],
    reporter: Reporter | None = None,
    assigned_to: str | None = None,
    functions: Functions = NO_FUNCTIONS,
) -> Store:
    """Start or resume the stages of one output, keep its record, and publish its tables.

    Args:
        config: The run.
        sources: Input files of the run.
        taken: Findings about the input.
        stages: Function that runs the stages on Ray.
        reporter: Shows progress; by default on the terminal.
        assigned_to: Fingerprint of the run that items are assigned to, if any.
        functions: The user's functions, if the configuration asks for them.

    Returns:
        The finished output.

    Raises:
        ConfigError: The run needs functions of this process, and Ray has several machines.
        ManifestMismatchError: The output holds another run.
        StorageError: Another run is writing there, or the storage fails.
    """
    reporter = reporter or Reporter()
    if config.embeds_by_function or config.summaries.engine == CALLABLE:
        check_one_machine()
    store = Store(config.output.path, config.storage)
    run_fingerprint = fingerprint_of(config, sources, assigned_to)
    context = RunContext(config, store, run_fingerprint, reporter, functions=functions)

    def earlier_attempt() -> tuple[dict[str, Any] | None, bool]:
        earlier = earlier_run(store, config, sources, run_fingerprint, assigned_to)
        return earlier, earlier is not None and store.exists(layout.SUCCESS)

    with _storage_errors(store):
        finished = earlier_attempt()[1]
        if not finished:
            if _embeds_at_endpoint(context):
                # Faults of the endpoint are found before anything is written.
                _ = open_endpoint(config.text_embedding).dimension
            if _asks_endpoint(context, assigned_to):
                context = probe_endpoint(context)
            with hold_lock(store, reporter.alarm) as lock:
                # Another run may have finished in the meantime.
                earlier, finished = earlier_attempt()
                if not finished:
                    lock.store.delete_unfinished()
                    context = replace(context, store=lock.store)
                    record = earlier or new_record(context, sources, assigned_to)
                    record["input"] = taken.record()
                    for line in taken.lines:
                        reporter.say(line)
                    for alarm in taken.alarms:
                        reporter.alarm(alarm)
                    tables = keep_record(context, record, lock, stages)
                    lock.check()
                    publish(lock.store, tables, run_fingerprint)
                    return store
    reporter.say(f"{store.uri}: finished before, nothing to do")
    return store


def _asks_endpoint(context: RunContext, assigned_to: str | None) -> bool:
    """Return whether an endpoint still has questions to answer in a run."""
    config = context.config
    if config.summaries.engine != "openai" or (assigned_to and not config.describes_items):
        return False
    return not read_commits(context.store, CLUSTERS, context.fingerprint)


def _embeds_at_endpoint(context: RunContext) -> bool:
    """Return whether an endpoint still has texts to embed in a run."""
    config = context.config
    if config.embedding.engine != "openai" or names_function(config.text_embedding.model):
        return False
    return not read_commits(context.store, CLUSTERS, context.fingerprint)


@contextmanager
def _storage_errors(store: Store) -> Iterator[None]:
    """Turn errors of the storage into messages of one line."""
    try:
        yield
    except OSError as error:
        raise explain(error, store.uri) or StorageError(
            f"{store.uri}: the storage failed ({reason_of(error)}); check access to it and run "
            "again, it resumes"
        ) from error


def _load_workers(n_workers: int) -> None:
    """Make workers import all stages now, and not each stage at its first use."""
    load = ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(_load_stages)
    for _ in range(n_workers):
        load.remote()


def _load_stages() -> None:
    """Do nothing; a worker imports this module for the function, and so every stage."""


def _run_stages(context: RunContext, sources: list[SourceFile], taken: Survey) -> Results:
    """Run every stage in order."""
    context, n_gpus = take_resources(context, sources)
    config = context.config
    with _label_encoder(context, n_gpus) as encode:
        n_cpus = int(ray.cluster_resources().get("CPU", 1))
        _load_workers(min(config.resources.n_tasks, n_cpus))
        items = read_items(context, sources, taken)
        shards, files = items.shards, dict(items.files)
        calls: list[FileRecord] = []
        spent, described = (0, 0), {}
        if config.describes_items:
            descriptions = describe_items(context, shards, open_model(context, n_gpus))
            files["items"], calls, spent = (
                descriptions.items,
                descriptions.calls,
                descriptions.spent,
            )
            described = {"described_items": {"not_described": descriptions.n_kept}}
        embeddings, dimension = embed_items(context, items, n_gpus)
        smoothing = smooth_vectors(context, shards, dimension)
        source = ShardTiles(context.store, shards, dimension, smoothing.table)
        clustering = cluster_items(context, source, n_gpus)
        statistics = measure_statistics(context, shards, clustering, items.moments)
        model = open_model(context, n_gpus)
        summaries = summarize_clusters(
            context, shards, clustering, model, encode, spent, statistics
        )
    calls = [*summaries.calls, *calls]
    pca, reductions = read_reductions(context)
    clusters = run_once(
        context,
        CLUSTERS,
        lambda: _write_clusters(context, shards, clustering, summaries, statistics, pca),
    )
    # This goes before the metrics, which reuse its sums.
    assigning = keep_assigner(context, shards, smoothed=source.table != "embeddings")
    evaluations = evaluate_levels(context, shards, clustering, summaries)
    tables = files | {
        "embeddings": embeddings,
        "memberships": clustering.files,
        "clusters": clusters.files,
        "reductions": reductions,
        "evaluations": [evaluations],
        "llm_calls": calls,
        **assigning,
    }
    tables["cluster_items"] = order_items(context, clustering.clusters, tables)
    if clustering.curve:
        tables["k_selection"] = clustering.curve
    return tables, {
        "rows": {name: sum(file.rows for file in files) for name, files in tables.items()},
        "rejected": items.reasons,
        "clusters_per_level": {
            str(level): clustering.level(level).num_rows
            for level in range(1, clustering.n_levels + 1)
        },
        "variables": {} if statistics is None else statistics.variables(),
        "smoothing": smoothing.report,
        "pca": pca.record(),
        "clustering": clustering.report,
        "summary_status": _counts(summaries.table["summary_status"]),
        "summary_source": _counts(summaries.table["summary_source"]),
        "tokens": _tokens(context.store, calls),
        **({"embedding_tokens": embedding_tokens(context)} if config.embeds_at_endpoint else {}),
        **described,
    }


def _label_encoder(
    context: RunContext, n_gpus: int
) -> AbstractContextManager[Callable[[list[str]], Float32]]:
    """Provide the function that embeds labels: the user's own or a model's."""
    embed, config = context.functions.embed, context.config.text_embedding
    if embed is None or not names_function(config.model):
        pool = label_encoder_pool(context.config, n_gpus, label_encoder_gib(context.config))
        room = Room(context, LABELLING, pool.asked)
        return open_encoder(config, context.config.storage, pool, room)
    return nullcontext(lambda texts: to_unit(embed.encode(texts, "summarize")))


def _write_clusters(
    context: RunContext,
    shards: Shards,
    clustering: Clustering,
    summaries: Summaries,
    statistics: Statistics | None,
    pca: PCA,
) -> ShardResult:
    """Write the table ``clusters`` from the results of clustering and summarising."""
    clusters = clustering.clusters
    centroids = column_vectors(clusters["centroid"])
    reduced = pca.transform(centroids)
    n_exemplars = context.config.summaries.exemplars
    withheld = pc.equal(summaries.table["summary_source"], WITHHELD).to_pylist()
    rows = [
        [] if hidden else near[:n_exemplars]
        for near, hidden in zip(clusters["exemplar_rows"].to_pylist(), withheld, strict=True)
    ]
    ids = cells(context.store, shards, rows, "item_id")
    table = clusters.drop_columns(["exemplar_rows", "random_rows"])
    for name in schemas.LABEL.names:
        table = table.append_column(name, summaries.table[name])
    extra = {
        "exemplar_item_ids": pa.array(
            [[ids[row] for row in exemplars] for exemplars in rows], pa.list_(pa.string())
        ),
        "exemplar_rows": pa.array(rows, pa.list_(pa.int64())),
        "description_embedding": vector_column(summaries.embeddings),
        "reduction": vector_column(reduced),
        "numeric_stats": pa.nulls(table.num_rows, schemas.NUMERIC_STATS)
        if statistics is None
        else pc.if_else(pa.array(withheld), None, statistics.column()),
    }
    for name, column in extra.items():
        table = table.append_column(name, column)
    schema = schemas.clusters(centroids.shape[1], summaries.embeddings.shape[1], reduced.shape[1])
    table = table.select(schema.names).cast(schema)
    return ShardResult([write_table(context.store, layout.part("clusters", 0), table)])


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    return {pair["values"]: pair["counts"] for pair in pc.value_counts(column).to_pylist()}


def _tokens(store: Store, calls: list[FileRecord]) -> dict[str, int]:
    names = ["prompt_tokens", "completion_tokens"]
    if not calls:
        return {"calls": 0, **dict.fromkeys(names, 0)}
    table = read_tables(store, [file.path for file in calls], names)
    sums = {name: int(pc.sum(table[name]).as_py() or 0) for name in names}
    return {"calls": table.num_rows, **sums}
