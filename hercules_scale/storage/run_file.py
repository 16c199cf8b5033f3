"""Content of ``run.json``, checked so that it is safe to act on."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

from hercules_scale.config.file import parse_config
from hercules_scale.config.resolved import ResolvedConfig
from hercules_scale.errors import ConfigError, InputError
from hercules_scale.storage import layout
from hercules_scale.storage.json_records import json_object
from hercules_scale.storage.store import Store

# Increased when a stage begins to leave other files, records or counts to later stages.
FORMAT = 6
# Members of ``run.json`` that are replaced by the record of progress.
PROGRESS_KEYS = ("alarms", "stages", "seen_at")
_FINGERPRINT = re.compile(r"[0-9a-f]{16}")
_STAGE = re.compile(r"\w[\w .-]*(/\w[\w .-]*)*", re.ASCII)
# Members of ``run.json`` that are read by name; every run has the first ones.
_NEEDED = {"config": dict, "status": str, "started_at": str, "versions": dict, "inputs": list}
_MEMBERS: dict[str, type] = _NEEDED | {
    "seen_at": str,
    "ended_at": str,
    "error": str,
    "attempts": int,
    "alarms": list,
    "rows": dict,
    "tokens": dict,
    "variables": dict,
}
_FIGURES = ("done", "total", "seconds", "driver_peak_bytes", "worker_peak_bytes")
_KINDS = {dict: "an object", str: "text", list: "a list", int: "a whole number"}


def read_run(store: Store) -> dict[str, Any]:
    """Return the content of ``run.json``, checked so that it is safe to act on.

    A run may come from somebody else, so its content is untrusted data: no path in it leads out of
    its folder, and only the caller names hosts to ask and code to execute.

    Raises:
        FileNotFoundError: There is no run.
        InputError: The file belongs to something else, or is damaged.
    """
    name, data = f"{store.uri}/{layout.RUN}", store.read_bytes(layout.RUN)
    record = json_object(name, data)
    for key in ("fingerprint", "assigned_to"):
        value = record.get(key)
        if not (isinstance(value, str) and _FINGERPRINT.fullmatch(value)) and (
            value is not None or key == "fingerprint"
        ):
            raise InputError(
                f"{name}: {key} must be 16 hexadecimal digits, got {str(value)[:60]!r}; "
                "give the output of a run of hercules-scale"
            )
    if not isinstance(record.get("config"), dict):
        raise InputError(
            f"{name}: holds no configuration; give the output of a run of hercules-scale"
        )
    _check_stages(name, record)
    _check_members(name, record)
    return record


def run_config(store: Store, record: dict[str, Any]) -> ResolvedConfig:
    """Return the configuration of a run, with its present location as the output.

    Args:
        store: Output of the run.
        record: Result of ``read_run``.

    Raises:
        InputError: The configuration is not valid in this version.
    """
    try:
        config = parse_config(record["config"] | {"output": {"path": store.uri}})
        if config.input.modality is None:
            raise ConfigError("input.modality must be what the run found, and is left out")
        return ResolvedConfig.of(config, config.input)
    except ConfigError as error:
        raise InputError(
            f"{store.uri}/{layout.RUN}: {error}; give the output of a run of this version"
        ) from None


def read_record(store: Store) -> dict[str, Any]:
    """Return the content of ``run.json``, updated with the progress since it was written.

    Raises:
        FileNotFoundError: There is no run.
        InputError: The files belong to something else, or are damaged.
    """
    record = read_run(store)
    with suppress(FileNotFoundError):
        name = f"{store.uri}/{layout.PROGRESS}"
        since = json_object(name, store.read_bytes(layout.PROGRESS))
        _check_stages(name, since)
        if not isinstance(since.get("alarms", []), list):
            raise InputError(f"{name}: alarms must be a list; give the output of a run")
        record |= {key: since[key] for key in PROGRESS_KEYS if key in since}
    return record


def _check_members(name: str, record: dict[str, Any]) -> None:
    """Refuse a record that lacks members of every run, or has members of other types."""
    sections = {f"config.{key}": value for key, value in record["config"].items()}
    needed = {**_NEEDED, "config.input": dict}
    for key, kind in {**_MEMBERS, **dict.fromkeys(sections, dict), "config.input": dict}.items():
        value = (sections if key.startswith("config.") else record).get(key)
        if not isinstance(value, kind) and (value is not None or key in needed):
            raise InputError(
                f"{name}: {key[:60]} must be {_KINDS[kind]}, got {str(value)[:60]!r}; give the "
                "output of a run of hercules-scale"
            )
    for file in record["inputs"]:
        if not (isinstance(file, dict) and isinstance(file.get("name"), str)):
            raise InputError(
                f"{name}: inputs must be files with a name, got {str(file)[:60]!r}; give the "
                "output of a run of hercules-scale"
            )


def _check_stages(name: str, record: dict[str, Any]) -> None:
    """Refuse stages with names that lead out of the folder, or without their numbers."""
    stages = record.get("stages") or []
    for stage in stages if isinstance(stages, list) else [stages]:
        known = isinstance(stage, dict) and isinstance(stage.get("name"), str)
        numbers = (
            known
            and all(isinstance(stage.get(key), int) for key in ("done", "total"))
            and all(isinstance(stage.get(key, 0), int | float) for key in _FIGURES)
            and isinstance(stage.get("unit", ""), str)
            and stage.keys() <= {"name", "unit", *_FIGURES}
        )
        if not (numbers and _STAGE.fullmatch(stage["name"])):
            raise InputError(
                f"{name}: stages must have a name and how far each is, got {str(stage)[:80]!r}; "
                "give the output of a run of hercules-scale"
            )
