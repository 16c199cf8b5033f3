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
    # int() would accept any length, and digits of any script.
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise InputError(f"{name} must be a whole number, got {text[:40]!r}")
    return int(text)


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


def body_text(values: dict[str, Any], name: str) -> str | None:
    """Return a text of a body; None if it is left out.

    Raises:
        InputError: The value is not text.
    """
    value = values.get(name)
    if value is not None and not isinstance(value, str):
        raise InputError(f"{name} must be text")
    return value
