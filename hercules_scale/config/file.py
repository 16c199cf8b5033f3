"""Configurations from YAML files and mappings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from hercules_scale.config.messages import explain, shown
from hercules_scale.config.resources import StorageConfig
from hercules_scale.config.run import RunConfig
from hercules_scale.config.section import names_function
from hercules_scale.errors import ConfigError
from hercules_scale.sanitize import printable


def load_config(path: str, overrides: list[str] | None = None) -> RunConfig:
    """Read a YAML file, apply overrides such as ``a.b=value``, and validate.

    Raises:
        ConfigError: The file is missing or not a YAML mapping, or a key is wrong.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"configuration {path}: {error.strerror}; give a YAML file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"configuration {path}: must be UTF-8 ({error}); save it as UTF-8"
        ) from None
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"configuration {path}: must be YAML: {reason}") from None
    if not isinstance(values, dict):
        raise ConfigError(
            f"configuration {path}: must be a mapping of sections such as input and output, "
            f"got {type(values).__name__}; see the README's example"
        )
    for override in overrides or []:
        _set(values, override)
    config = parse_config(values)
    check_functions(config)
    return config


def check_functions(config: RunConfig, llm: bool = False, embed: bool = False) -> None:
    """Check that the Python functions that a configuration names are given.

    Args:
        config: The configuration.
        llm: Whether a function that answers prompts is given.
        embed: Whether a function that embeds texts is given.

    Raises:
        ConfigError: A function is missing.
    """
    asked = (
        ("llm", llm, "summaries.engine", config.summaries.engine),
        ("embed", embed, "embedding.model", config.embedding.model),
        ("embed", embed, "embedding.text_model", config.embedding.text_model),
    )
    for name, given, key, value in asked:
        if names_function(value) and not given:
            raise ConfigError(
                f"{key} {printable(str(value))} is for Python, where the function is given: "
                f"Hercules({name}=...) for a run, and for new items of a finished one "
                f"Hierarchy.open(RUN).assign(items, {name}=...); elsewhere name a model"
            )


def storage_options(overrides: list[str]) -> StorageConfig:
    """Return the section ``storage`` from overrides such as ``storage.endpoint=URL``.

    Raises:
        ConfigError: A key is wrong, or belongs to another section.
    """
    values: dict[Any, Any] = {}
    for override in overrides:
        if not override.startswith("storage."):
            raise ConfigError(
                f"--set {override}: must be of the section storage, such as "
                "storage.endpoint=http://minio:9000; the others are the run's own"
            )
        _set(values, override)
    return storage_section(values.get("storage"))


def storage_section(values: dict[str, Any] | StorageConfig | None) -> StorageConfig:
    """Return the section ``storage``, if need be from a mapping of its keys.

    Raises:
        ConfigError: A key is wrong.
    """
    if isinstance(values, StorageConfig):
        return values
    section = {"input": {"path": "-"}, "output": {"path": "-"}, "storage": values or {}}
    return parse_config(section).storage


def _set(values: dict[Any, Any], override: str) -> None:
    """Apply one override ``a.b=value``, with the value in YAML."""
    key, equals, text = override.partition("=")
    names = key.split(".")
    if not equals or not all(names):
        raise ConfigError(f"--set {override}: must be key=value, such as hierarchy.seed=1")
    section = values
    for name in names[:-1]:
        child = section.get(name)
        if child is None:
            child = section[name] = {}
        if not isinstance(child, dict):
            raise ConfigError(
                f"--set {override}: {name} holds {shown(child)}, not a section; "
                "set a key of a section"
            )
        section = child
    try:
        section[names[-1]] = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"--set {override}: the value must be YAML: {reason}") from None


def parse_config(values: dict[Any, Any]) -> RunConfig:
    """Validate a mapping of sections.

    Raises:
        ConfigError: A key is wrong; one line has key, rule, value and remedy of up to three.
    """
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        problems = explain([dict(problem) for problem in error.errors()])
        raise ConfigError(f"configuration: {printable(problems)}") from None
