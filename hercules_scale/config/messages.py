"""Messages about mistakes in a configuration: key, rule, value and remedy in one line."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from hercules_scale.config.hierarchy import levels_tag
from hercules_scale.config.run import RunConfig
from hercules_scale.sanitize import without_secrets

# Rules by pydantic's type of an error, with pydantic's figures in braces.
_RULES = {
    "missing": "is required",
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a section of keys",
    "literal_error": "must be {expected}",
    "greater_than": "must be above {gt:,}",
    "greater_than_equal": "must be at least {ge:,}",
    "less_than": "must be below {lt:,}",
    "less_than_equal": "must be at most {le:,}",
    "string_too_short": "must not be empty",
    "string_too_long": "must have a length of at most {max_length:,}",
    "too_short": "must not be empty",
    "too_long": "must have at most {max_length:,} entries",
    "string_pattern_mismatch": "must have another form",
}
# Types of errors about the name of a key, not about its value.
_UNKNOWN = {"extra_forbidden", "invalid_key"}
# Branches of unions, as of input.path, which are in the location of an error but are no keys.
_BRANCHES = {"str", "list[str]", "constrained-int", "literal['auto']", "[key]", levels_tag(None)}
# Large values are shortened, since YAML aliases can make a huge value out of a few bytes.
SHOWN_CHARACTERS = 2_000
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict = 3, 8, 8
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 200


def explain(problems: Sequence[dict[str, Any]]) -> str:
    """Describe mistakes in one line: key, rule, value and remedy of up to three.

    Args:
        problems: Errors of pydantic, as mappings.
    """
    # A value that fits no branch of a union has an error for each branch.
    of_key: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for problem in problems:
        of_key.setdefault(tuple(map(str, _location(problem))), []).append(problem)
    # A list with a wrong entry fits no other branch either.
    outer = {key[:length] for key in of_key for length in range(len(key))}
    inner = [each for key, each in of_key.items() if key not in outer]
    return "; also ".join(map(_explain_key, inner[:3]))


def shown(value: object) -> str:
    """Return a value, shortened and without secrets."""
    if isinstance(value, str):
        return repr(without_secrets(value[:SHOWN_CHARACTERS]))[:200]
    try:
        return without_secrets(_SHORT.repr(value))[:200]
    except ValueError:
        # Python refuses to write a number of more than some thousand digits.
        return "a number too long to show"


def _location(problem: dict[str, Any]) -> list[str | int]:
    """Return the keys and the places in lists that lead to a value."""
    unknown = problem["type"] in _UNKNOWN
    return [part for part in problem["loc"] if unknown or part not in _BRANCHES]


def _explain_key(problems: list[dict[str, Any]]) -> str:
    """Describe the mistakes in one value."""
    problem, location = problems[0], _location(problems[0])
    key = ".".join(map(str, location))
    fields, description = _fields_at(location)
    if problem["type"] in _UNKNOWN:
        near = difflib.get_close_matches(str(location[-1])[:60], fields, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(fields)}"
        return f"{key} is not a known key; {hint}"
    if problem["type"] == "value_error" and description is None:
        # The rule is about several keys of a section, and has their values and the remedy.
        return f"{key}: {_rule(problem)}".removeprefix(": ")
    rule, _, remedy = _rule(problem).partition("; ")
    rule = " or ".join([rule, *(_rule(other).removeprefix("must be ") for other in problems[1:])])
    value = "" if problem["type"] == "missing" else f", got {shown(problem['input'])}"
    return f"{key} {rule}{value}; {remedy or _remedy(fields, description)}"


def _remedy(fields: list[str], description: str | None) -> str:
    if description is None:
        return f"its keys are {', '.join(fields)}"
    return f"{'it says' if description.startswith('whether ') else 'give the'} {description}"


def _rule(problem: dict[str, Any]) -> str:
    """Return the rule that a value breaks, without its key."""
    rule = _RULES.get(problem["type"])
    if rule is None:
        message = str(problem["msg"]).removeprefix("Value error, ")
        return message[:1].lower() + message[1:]
    figures = problem.get("ctx", {})
    return rule.format(
        **{
            name: int(value) if isinstance(value, float) and value.is_integer() else value
            for name, value in figures.items()
        }
    )


def _fields_at(location: Sequence[str | int]) -> tuple[list[str], str | None]:
    """Return the known keys of the section at a location, and the description of its field."""
    section: type[BaseModel] = RunConfig
    description = None
    parts = iter(location)
    for part in parts:
        info = section.model_fields.get(str(part))
        if info is None:
            # A place in a list, or an unknown key.
            continue
        description = info.description
        nested = _section_in(info.annotation)
        if nested is None:
            break
        section = nested
        if get_origin(info.annotation) is dict:
            # Names of sections are the user's own.
            next(parts, None)
    return sorted(section.model_fields), description


def _section_in(kind: Any) -> type[BaseModel] | None:
    """Return the section that a type is or holds, if any."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    return next(filter(None, map(_section_in, get_args(kind))), None)
