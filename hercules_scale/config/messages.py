"""Messages about mistakes in a configuration, one line each."""

from __future__ import annotations

import difflib
import reprlib
from typing import Any

from pydantic import BaseModel

from hercules_scale.config.hierarchy import levels_tag
from hercules_scale.config.run import RunConfig
from hercules_scale.sanitize import without_secrets

_RULES = {
    "missing": "is required",
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "model_type": "must be a section of keys",
}


# Large values are shortened, since YAML aliases can make a huge value out of a few bytes.
SHOWN_CHARACTERS = 2_000
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict = 3, 8, 8
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 200


def explain(problem: dict[str, Any]) -> str:
    """Describe one mistake in one line: key, rule, value and remedy.

    Args:
        problem: Error of pydantic, as a mapping.
    """
    unknown = problem["type"] == "extra_forbidden"
    # The location may hold branches of a union, as of input.path; these are not keys.
    branches = ("str", "list[str]", levels_tag(None))
    location = [part for part in problem["loc"] if unknown or part not in branches]
    key = ".".join(str(part) for part in location)
    fields, field = _fields_at(location)
    if unknown:
        near = difflib.get_close_matches(str(location[-1])[:60], fields, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(fields)}"
        return f"{key} is not a known key; {hint}"
    rule = _RULES.get(problem["type"], problem["msg"].removeprefix("Value error, "))
    rule = rule[:1].lower() + rule[1:]
    value = "" if problem["type"] == "missing" or not key else f", got {shown(problem['input'])}"
    remedy = f"; give {field}" if field else ""
    if problem["type"] in ("missing", "model_type") and not field:
        remedy = f"; its keys are {', '.join(fields)}"
    return f"{key} {rule}{value}{remedy}".strip()


def shown(value: object) -> str:
    """Return a value, shortened and without secrets."""
    if isinstance(value, str):
        return repr(without_secrets(value[:SHOWN_CHARACTERS]))[:200]
    try:
        return without_secrets(_SHORT.repr(value))[:200]
    except ValueError:
        # Python refuses to write a number of more than some thousand digits.
        return "a number too long to show"


def _fields_at(location: list[str | int]) -> tuple[list[str], str | None]:
    """Return the known keys of the section at a location, and the description of its field."""
    section: type[BaseModel] = RunConfig
    field = None
    for part in location:
        info = section.model_fields.get(str(part))
        if info is None:
            break
        field = info.description
        kinds = [info.annotation, *getattr(info.annotation, "__args__", ())]
        nested = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not nested:
            break
        section = nested[0]
    return sorted(section.model_fields), field
