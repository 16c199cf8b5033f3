"""The configuration of a run as fields of a form, and the way back.

Fields come from the configuration's schema, with bounds and help. Keys that name places or code are
left out: only the person who started the explorer decides where a run reads and writes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from hercules_scale.config.file import check_functions, parse_config
from hercules_scale.config.run import RunConfig
from hercules_scale.config.section import CALLABLE
from hercules_scale.errors import ConfigError
from hercules_scale.models.aliases import IMAGE_ALIASES, chat_aliases, embedding_aliases

MODELS = {
    "embedding.model": [*embedding_aliases(), *IMAGE_ALIASES],
    "embedding.text_model": embedding_aliases(),
    "summaries.model": chat_aliases(),
}
"""Models of installed packages that the form offers."""
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.:-]*)?")
# Beginning of the default in the description of a key without one in the schema.
LEFT_OUT = re.compile("left out:", re.IGNORECASE)
KINDS = {"boolean", "integer", "number", "string"}
BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
}


def fields() -> list[dict[str, Any]]:
    """Return a field for every key that a browser may set, in the order of the configuration.

    Returns:
        For each key: ``key``, ``kind`` (boolean, integer, number, string, choice, yaml),
        ``default``, ``help``, ``unset`` (shown where there is no default), ``bounds`` in words,
        ``choices``.
    """
    schema = RunConfig.model_json_schema()
    defaults = parse_config({"input": {"path": "-"}, "output": {"path": "-"}}).model_dump()
    found: list[dict[str, Any]] = []

    def add(prefix: str, section: dict[str, Any], values: dict[str, Any]) -> None:
        for name, rule in section["properties"].items():
            key, value = f"{prefix}{name}", values.get(name)
            if "$ref" in rule and isinstance(value, dict):
                add(f"{key}.", schema["$defs"][rule["$ref"].rpartition("/")[2]], value)
            elif rule.get("browser"):
                found.append(_field(key, rule, value))

    add("", schema, defaults)
    return found


def _field(key: str, rule: dict[str, Any], default: Any) -> dict[str, Any]:
    branches = [each for each in rule.get("anyOf", [rule]) if each.get("type") != "null"]
    only = branches[0] if len(branches) == 1 else {}
    # A function can be given in Python only.
    choices = [choice for choice in only.get("enum", []) if choice != CALLABLE]
    kind = "choice" if choices else only.get("type", "yaml")
    if kind not in KINDS and kind != "choice":
        kind = "yaml"
    bounds = [text.format(only[name]) for name, text in BOUNDS.items() if name in only]
    if kind == "yaml" and default is not None:
        default = yaml.safe_dump(default, default_flow_style=True, width=1000).strip()
        default = default.removesuffix("\n...")
    help_text = rule.get("description", "")
    return {
        "key": key,
        "kind": kind,
        "default": default,
        "help": LEFT_OUT.sub("default:", help_text),
        "unset": "Auto-detect" if "left out: detected" in help_text else "Default",
        "bounds": ", ".join(bounds),
        "choices": choices or MODELS.get(key, []),
    }


def configuration(given: dict[str, Any], paths: list[str], output: str) -> RunConfig:
    """Return the configuration from the values of a form.

    Args:
        given: Values of the form by key; blank ones mean the default.
        paths: Input of the run.
        output: Output folder of the run.

    Raises:
        ConfigError: A key is unknown or its value is invalid.
    """
    known = {field["key"]: field for field in fields()}
    values: dict[str, Any] = {"input": {"path": paths}, "output": {"path": output}}
    for key, value in given.items():
        if key not in known:
            raise ConfigError(f"{key[:80]} is not a key that may be given here")
        if value is None or (isinstance(value, str) and not value.strip()):
            continue
        field = known[key]
        if key in MODELS and value not in MODELS[key]:
            _check_model(key, value)
        if isinstance(value, str) and field["kind"] not in ("string", "choice"):
            value = _parsed(key, value)
        section = values
        *sections, name = key.split(".")
        for each in sections:
            section = section.setdefault(each, {})
        section[name] = value
    config = parse_config(values)
    check_functions(config)
    return config


def _check_model(key: str, name: Any) -> None:
    """Refuse a model that is a folder on this machine."""
    if not isinstance(name, str) or not HUB_ID.fullmatch(name) or Path(name).exists():
        raise ConfigError(
            f"{key} must be one of {', '.join(MODELS[key])}, or the name of a model elsewhere, got "
            f"{str(name)[:80]!r}"
        )


def _parsed(key: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ConfigError(f"{key} must be YAML such as [100, 20, 5], got {text[:80]!r}") from None
