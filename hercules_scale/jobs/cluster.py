"""The stages of a run, and how a run starts, resumes and ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pyarrow.compute as pc
import ray

from hercules_scale.config.resolved import ResolvedConfig
from hercules_scale.config.run import RunConfig
from hercules_scale.config.section import CALLABLE, names_function
from hercules_scale.errors import ConfigError, StorageError
from hercules_scale.jobs.preflight import check
from hercules_scale.jobs.run_record import earlier_run, fingerprint_of, keep_record, new_record
from hercules_scale.reading.sources import SourceFile
from hercules_scale.reading.survey import Survey
from hercules_scale.runtime.context import NO_FUNCTIONS, Functions, RunContext
from hercules_scale.runtime.machines import take_resources
from hercules_scale.runtime.pipeline import Pipeline, Results, run_pipeline
from hercules_scale.runtime.progress import Reporter
from hercules_scale.runtime.ray_session import check_one_machine
from hercules_scale.stages.assigner_tables import keep_assigner
from hercules_scale.stages.cluster import cluster_items
from hercules_scale.stages.clusters_table import STAGE as CLUSTERS
from hercules_scale.stages.clusters_table import write_clusters
from hercules_scale.stages.describe import describe_items
from hercules_scale.stages.embed import embed_items
from hercules_scale.stages.encoders import open_endpoint
from hercules_scale.stages.evaluate import evaluate_levels
from hercules_scale.stages.language_model import (
    LanguageModel,
    open_label_encoder,
    open_model,
    probe_endpoint,
)
from hercules_scale.stages.numeric_statistics import measure_statistics
from hercules_scale.stages.read import Sources, read_items
from hercules_scale.stages.smooth import smooth_vectors
from hercules_scale.stages.summarize import summarize_clusters
from hercules_scale.stages.tree_order import order_items
from hercules_scale.storage import layout
from hercules_scale.storage.commits import read_commits
from hercules_scale.storage.lock import hold_lock
from hercules_scale.storage.manifest import publish
from hercules_scale.storage.retries import explain, reason_of
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import FileRecord, read_tables

PIPELINE: Pipeline = (
    read_items,
    describe_items,
    embed_items,
    smooth_vectors,
    cluster_items,
    measure_statistics,
    summarize_clusters,
    write_clusters,
    keep_assigner,
    evaluate_levels,
    order_items,
)
"""Stages of a run; ``check_order`` checks their order by the types that they read and write."""


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
    if config.criteria:
        raise ConfigError(
            f"criteria ({', '.join(config.criteria)}) make a run each; take run_criteria of "
            "hercules_scale.jobs.criteria, or the command hercules-scale run"
        )
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
    context = take_resources(context, sources)
    model = LanguageModel(lambda: open_model(context))
    with open_label_encoder(context) as encoder:
        n_cpus = int(ray.cluster_resources().get("CPU", 1))
        _load_workers(min(context.config.resources.n_tasks, n_cpus))
        tables, record = run_pipeline(PIPELINE, (context, Sources(sources, taken), model, encoder))
    return tables, record | {"tokens": _tokens(context.store, tables["llm_calls"])}


def _tokens(store: Store, calls: list[FileRecord]) -> dict[str, int]:
    names = ["prompt_tokens", "completion_tokens"]
    table = read_tables(store, [file.path for file in calls], names)
    sums = {name: int(pc.sum(table[name]).as_py() or 0) for name in names}
    return {"calls": table.num_rows, **sums}
