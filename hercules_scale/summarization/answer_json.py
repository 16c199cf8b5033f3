"""JSON values from a model's answer, also from broken JSON, and JSON within thoughts or prose."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import json_repair

# Bounds on the work for a hostile answer: the length of its end that is read, the number of broken
# JSON values that are passed over, the number that are repaired, and the length of a repaired one.
ANSWER_CHARACTERS, BROKEN, REPAIRS, REPAIRED_CHARACTERS = 50_000, 100, 3, 4_000
_OPENING, _OF_OBJECT = re.compile(r"[\[{]"), re.compile(r"\{\s*[\"'“]")
_THOUGHTS = re.compile(
    r"<(think|thinking|thought|reasoning)>.*?(?:</\1>|\Z)", re.IGNORECASE | re.DOTALL
)
# Some chat templates open the thoughts in the prompt, so that the answer has the closing tag alone.
_THOUGHTS_BEFORE = re.compile(
    r"\A.*</(?:think|thinking|thought|reasoning)>", re.IGNORECASE | re.DOTALL
)


def answer_values(text: str) -> Iterator[Any]:
    """Yield the JSON values of an answer, the likeliest first.

    Objects with a title and a description come first, then other values, each from the end of the
    answer to its beginning; then lines such as "Title: Ferries"; then repaired JSON.
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
    """Yield the place and value of each object and list of a text; None for invalid JSON."""
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
    """Return an answer without the thoughts that some models write first."""
    return _THOUGHTS_BEFORE.sub("", _THOUGHTS.sub(" ", text))


def _labelled_lines(text: str) -> dict[str, str]:
    """Return title and description from lines such as "Title: Ferries"."""
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
    """Return the first object with a title and a description within a value, down to ``depth``
    levels; the value itself where there is none."""
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
    """Return an object with keys in lower case; return other values unchanged."""
    if not isinstance(value, dict):
        return value
    return {str(key).strip().lower(): entry for key, entry in value.items()}
