"""Job that puts new items into the clusters of a finished run, as a list of stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hercules_scale.config.file import parse_config
from hercules_scale.config.resolved import ResolvedConfig
from hercules_scale.config.resources import StorageConfig
from hercules_scale.config.run import RunConfig
from hercules_scale.config.section import names_function
from hercules_scale.config.trust import check_models, check_trusted
from hercules_scale.errors import InputError, SchemaError
from hercules_scale.jobs.cluster import carry_out
from hercules_scale.jobs.preflight import check
from hercules_scale.reading.file_rows import read_columns
from hercules_scale.reading.listing import list_sources
from hercules_scale.reading.sources import SourceFile
from hercules_scale.runtime.context import NO_FUNCTIONS, Functions, RunContext
from hercules_scale.runtime.machines import take_resources
from hercules_scale.runtime.pipeline import Pipeline, Results, run_pipeline
from hercules_scale.runtime.progress import Reporter
from hercules_scale.stages.assign import TargetRun, assign_items
from hercules_scale.stages.describe import describe_items
from hercules_scale.stages.embed import embed_items
from hercules_scale.stages.language_model import LanguageModel, open_model
from hercules_scale.stages.numeric_statistics import known_moments
from hercules_scale.stages.read import Sources, read_items
from hercules_scale.storage import layout
from hercules_scale.storage.file_systems import split_uri
from hercules_scale.storage.manifest import published_files
from hercules_scale.storage.run_file import read_run, run_config
from hercules_scale.storage.store import Store

ASSIGNMENT: Pipeline = (read_items, describe_items, embed_items, assign_items)
NEEDED = ("memberships", "assigner", "reference", "item_keys")


def assign(
    run: str,
    section: dict[str, Any],
    output: str,
    reporter: Reporter | None = None,
    functions: Functions = NO_FUNCTIONS,
    *,
    redact: str | None = None,
    endpoints: Sequence[str] = (),
    models: Sequence[str] = (),
    storage: StorageConfig | None = None,
) -> Store:
    """Put items into the clusters of a finished run, at every level; resumes like a run.

    The tables ``items``, ``embeddings``, ``memberships``, ``rejected`` and ``drift`` are written,
    and ``labels`` if the input has label columns of the run.

    Args:
        run: Output of the run.
        section: The ``path`` of the items, and keys of the section ``input`` that differ from the
            run's.
        output: Folder of the tables.
        reporter: Shows progress; by default on the terminal.
        functions: The user's functions, if the run was made with functions.
        redact: ``privacy.redact`` of the run, if it has one; it is imported and called.
        endpoints: ``embedding.endpoint`` and ``summaries.endpoint`` of the run, if they embed or
            describe items.
        models: Models of the run that are loaded from folders or hub ids.
        storage: Access to the run, the items and the output.

    Returns:
        The finished output.

    Raises:
        InputError: The run is not finished or holds nothing to assign by, the input names no file
            or lacks a column, the output is not empty, or the run would call a function, ask a
            server or load a model that the caller does not name.
        ManifestMismatchError: The output holds another run.
    """
    reporter = reporter or Reporter()
    store = Store(run, storage)
    tables = published_files(store)
    missing = [name for name in NEEDED if not tables.get(name)]
    if missing:
        raise InputError(
            f"{run}: holds no table {missing[0]!r}, which items are assigned by; give the output "
            "of a run, made by this version"
        )
    if (Store(output).root, Store(output).scheme) == (store.root, store.scheme):
        raise InputError(f"--output {output} is the run itself; give a new folder")
    record = read_run(store)
    recorded = run_config(store, record)
    values = recorded.model_dump()
    if not recorded.labels_share_space and names_function(recorded.embedding.text_model):
        # It embeds titles alone, of which assigning makes none.
        del values["embedding"]["text_model"]
    _check_storage(store, values, [str(section["path"]), output])
    # Older versions described the items whenever descriptions were clustered.
    described = recorded.describes_items or "described_items" in record
    config = _configure(values, described, section, output, store.options, reporter)
    # The options of the run's storage serve items and output too.
    config = config.model_copy(update={"storage": store.options})
    known = ResolvedConfig.of(config, config.input)
    check_trusted(store.uri, "privacy.redact", config.privacy.redact, redact, "--redact ")
    for key, named in _asked_endpoints(known).items():
        given = named if named in endpoints else next(iter(endpoints), None)
        check_trusted(store.uri, key, named, given, "--endpoint ")
    check_models(store.uri, _loaded_models(known), models)
    resolved, sources, taken = check(config, functions)
    finished = TargetRun.of(store, tables, config.hierarchy.metric)
    try:
        moments = known_moments(record.get("variables") or {}, resolved.input.columns)
    except (KeyError, TypeError):
        raise InputError(
            f"{store.uri}/{layout.RUN}: variables must hold the figures of each column, such as "
            f"{resolved.input.columns[0]!r}; give the output of a run of hercules-scale"
        ) from None

    def stages(context: RunContext) -> Results:
        context = take_resources(context, sources, labels=False)
        model = LanguageModel(lambda: open_model(context))
        return run_pipeline(
            ASSIGNMENT, (context, Sources(sources, taken, moments), model, finished)
        )

    return carry_out(resolved, sources, taken, stages, reporter, record["fingerprint"], functions)


def _check_storage(store: Store, values: dict[str, Any], places: list[str]) -> None:
    """Refuse a storage endpoint that only the run names, and not the caller.

    Raises:
        InputError: Items or output are remote, and the run names an endpoint for them.
    """
    named = values.get("storage", {}).get("endpoint")
    elsewhere = [place for place in places if split_uri(place)[0] != "file"]
    if elsewhere and not store.is_reached_by_endpoint:
        option = "--set storage.endpoint="
        check_trusted(store.uri, "storage.endpoint", named, None, option)


def _loaded_models(config: ResolvedConfig) -> dict[str, str | None]:
    """Return the models that embed and describe new items, by configuration key."""
    modality, loaded = config.input.modality, dict[str, str | None]()
    if modality in ("text", "image") and not config.embeds_at_endpoint:
        loaded["embedding.model"] = config.embedding.model
    if modality != "text" and config.clusters_descriptions and not config.embeds_at_endpoint:
        loaded["embedding.text_model"] = config.embedding.text_model
    if config.describes_items and config.summaries.engine == "vllm":
        loaded["summaries.model"] = config.summaries.model
    return loaded


def _asked_endpoints(config: ResolvedConfig) -> dict[str, str | None]:
    """Return the endpoints that embed and describe new items, by configuration key."""
    asked = dict[str, str | None]()
    if config.embeds_at_endpoint:
        asked["embedding.endpoint"] = config.embedding.endpoint
    if config.describes_items and config.summaries.engine == "openai":
        asked["summaries.endpoint"] = config.summaries.endpoint
    return asked


def _configure(
    values: dict[str, Any],
    described: bool,
    section: dict[str, Any],
    output: str,
    storage: StorageConfig,
    reporter: Reporter,
) -> RunConfig:
    """Return the run's configuration for new items, without options that only titles need."""
    labels = values["input"]["label_columns"]
    # Only the caller may say where images are fetched from.
    values["input"] |= {"label_columns": [], "image_sources": [], **section}
    values["output"] = {"path": output}
    # A cache is written to, and the run may name any place for it.
    values["embedding"]["cache"] = None
    # Clusters get no text here, so owners of items are not needed.
    values["input"]["owner_column"] = None
    values["privacy"] |= {"min_items": 0, "min_owners": 0}
    described = described and values["hierarchy"]["representation"] == "description"
    values["summaries"] |= {"describe_items": described, "vocabulary": None}
    if not described:
        values["summaries"]["engine"] = "keyphrases"
    config = parse_config(values)
    source = list_sources(config.input.paths, documents=config.input.documents, storage=storage)[0]
    read_columns(config.input, source)
    there = [name for name in labels if _has_label(config, source, name)]
    if absent := [name for name in labels if name not in there]:
        reporter.say(f"the input has no label column {', '.join(absent)}: assigned without it")
    values["input"]["label_columns"] = there
    return parse_config(values)


def _has_label(config: RunConfig, source: SourceFile, name: str) -> bool:
    try:
        read_columns(config.input.model_copy(update={"label_columns": [name]}), source)
    except SchemaError:
        return False
    return True
