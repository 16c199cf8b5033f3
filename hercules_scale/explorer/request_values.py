"""Values of a request to the explorer."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request

from hercules_scale.errors import InputError

MAX_BODY_BYTES = 1_000_000


async def body(request: Request) -> dict[str, Any]:
    """Return the JSON object in the body of a request.

    Raises:
        InputError: The body is not a JSON object, or is too large.
    """
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_BODY_BYTES:
            raise InputError(f"a request must have at most {MAX_BODY_BYTES:,} bytes")
    try:
        values = json.loads(data)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise InputError("a request must hold a JSON object")
    return values


def query_number(request: Request, name: str, default: int | None = None) -> int:
    """Return a number of the query.

    Raises:
        InputError: The value is not a whole number, or is left out and has no default.
    """
    text = request.query_params.get(name, "" if default is None else str(default))
    if not _is_number(text):
        raise InputError(f"{name} must be a whole number, got {text[:40]!r}")
    return int(text)


def query_numbers(request: Request, name: str) -> list[int]:
    """Return the numbers of the query that commas separate.

    Raises:
        InputError: A value is not a whole number.
    """
    texts = request.query_params.get(name, "").split(",")
    for text in texts:
        if not _is_number(text):
            raise InputError(f"{name} must be whole numbers with commas between, got {text[:40]!r}")
    return [int(text) for text in texts]


def _is_number(text: str) -> bool:
    # int() would accept any length, and digits of any script.
    return text.isascii() and text.isdigit() and len(text) <= 18


def query_key(request: Request) -> tuple[int, int]:
    """Return level and id of the cluster that the query names."""
    return query_number(request, "level"), query_number(request, "id")


def query_key_if_any(request: Request) -> tuple[int, int] | None:
    """Return level and id of the cluster that the query names; None if it names no level."""
    return query_key(request) if "level" in request.query_params else None


def query_page(request: Request) -> tuple[int, int]:
    """Return the first row of a page, and its number of rows."""
    return query_number(request, "offset", 0), query_number(request, "limit", 50)


def body_number(values: dict[str, Any], name: str) -> int:
    """Return a number of a body.

    Raises:
        InputError: The value is not a whole number.
    """
    value = values.get(name)
    if type(value) is not int:
        raise InputError(f"{name} must be a whole number")
    return value


def body_numbers(values: dict[str, Any], name: str) -> list[int]:
    """Return the numbers in a list of a body.

    Raises:
        InputError: The value is not a list of whole numbers.
    """
    found = values.get(name)
    if not isinstance(found, list) or any(type(each) is not int for each in found):
        raise InputError(f"{name} must be a list of whole numbers, such as [3, 17]")
    if any(abs(each) >= 10**18 for each in found):
        raise InputError(f"{name} must be numbers of at most 18 digits")
    return found


def body_keys(values: dict[str, Any], name: str) -> list[tuple[int, int]]:
    """Return the clusters in a list of a body, each as level and id.

    Raises:
        InputError: The value is not a list of pairs of whole numbers.
    """
    found = values.get(name)
    if not isinstance(found, list) or any(
        not isinstance(each, list) or len(each) != 2 or any(type(part) is not int for part in each)
        for each in found
    ):
        raise InputError(f"{name} must be a list of levels and ids, such as [[1, 7], [2, 0]]")
    return [(level, cluster_id) for level, cluster_id in found]


def body_text(values: dict[str, Any], name: str) -> str | None:
    """Return a text of a body; None if it is left out.

    Raises:
        InputError: The value is not text.
    """
    value = values.get(name)
    if value is not None and not isinstance(value, str):
        raise InputError(f"{name} must be text")
    return value
