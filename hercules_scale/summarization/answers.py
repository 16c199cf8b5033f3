"""JSON values out of a model's answer: out of thoughts, fences and prose, broken or cut off."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import json_repair

# The end of an answer that is read, and in it the number of broken JSON values that are passed over
# and repaired, and their length: they bound the work on a hostile answer.
ANSWER_CHARACTERS, BROKEN, REPAIRS, REPAIRED_CHARACTERS = 50_000, 100, 3, 4_000
_OPENING, _OF_OBJECT = re.compile(r"[\[{]"), re.compile(r"\{\s*[\"'“]")
_THOUGHTS = re.compile(
    r"<(think|thinking|thought|reasoning)>.*?(?:</\1>|\Z)", re.IGNORECASE | re.DOTALL
)
# Chat templates that open the thoughts themselves leave their end alone in the answer.
_THOUGHTS_BEFORE = re.compile(
    r"\A.*</(?:think|thinking|thought|reasoning)>", re.IGNORECASE | re.DOTALL
)


def answer_values(text: str) -> Iterator[Any]:
    """Yield JSON values of an answer, likelier ones first, out of thoughts, fences and prose.

    The last value comes first, those about a title and a description before others; then lines
    such as "Title: Ferries", then broken JSON, repaired, also where it is cut off.
    """
    answer = without_thoughts(text)[-ANSWER_CHARACTERS:]
    values: list[Any] = []
    broken: list[int] = []
    for start, value in _json_values(answer):
        if value is None:
            broken.append(start)
        else:
            values.append(value)
    values.sort(key=_describes_one)
    yield from reversed(values)
    yield from filter(None, [_labelled_lines(answer)])
    if answer.count("{") + answer.count("[") > BROKEN:
        return
    broken.sort(key=lambda start: _OF_OBJECT.match(answer, start) is None)
    for start in broken[:REPAIRS]:
        with suppress(ValueError, RecursionError):
            yield json_repair.loads(
                answer[start : start + REPAIRED_CHARACTERS], skip_json_loads=True
            )


def _json_values(text: str) -> Iterator[tuple[int, Any]]:
    """Yield objects and lists of a text in order, with their places; None for what is no valid
    JSON."""
    decoder = json.JSONDecoder(strict=False)
    place = n_broken = 0
    while n_broken < BROKEN and (match := _OPENING.search(text, place)) is not None:
        place = match.start()
        try:
            value, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            yield place, None
            place += 1
            n_broken += 1
        else:
            yield place, value
            place = end


def without_thoughts(text: str) -> str:
    """Return an answer without the thoughts that some models write before it."""
    return _THOUGHTS_BEFORE.sub("", _THOUGHTS.sub(" ", text))


def _labelled_lines(text: str) -> dict[str, str]:
    """Return title and description of an answer without JSON, such as "Title: Ferries"."""
    found = {}
    for name in ("title", "description"):
        match = re.search(rf"^\W{{0,8}}{name}\W{{0,4}}:\W{{0,4}}(\S.*)$", text, re.I | re.M)
        if match:
            found[name] = match[1].strip(" \"'“”‘’*_")
    return found


def _describes_one(value: Any) -> bool:
    entry = entry_in(value)
    return isinstance(entry, dict) and {"title", "description"} <= entry.keys()


def entry_in(value: Any, depth: int = 3) -> Any:
    """Return the first object with a title and a description in a value, at most three levels
    down."""
    value = lower_keys(value)
    if depth == 0 or (isinstance(value, dict) and {"title", "description"} <= value.keys()):
        return value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for each in inner:
        found = entry_in(each, depth - 1)
        if isinstance(found, dict) and {"title", "description"} <= found.keys():
            return found
    return value


def lower_keys(value: Any) -> Any:
    """Return an object with its keys in lower case; anything else as it is."""
    if not isinstance(value, dict):
        return value
    return {str(key).strip().lower(): entry for key, entry in value.items()}
