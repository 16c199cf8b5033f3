"""Answers of the explorer as JSON."""

from __future__ import annotations

import json
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response


def to_json(value: Any, status: int = 200) -> Response:
    """Return a JSON response; the value must hold no number that is not finite."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), default=str)
    return Response(text, status, media_type="application/json")


async def refusal(request: Request, error: Exception) -> Response:
    """Return the message of an error as JSON."""
    if isinstance(error, HTTPException):
        return to_json({"error": error.detail}, error.status_code)
    return to_json({"error": str(error)}, 400)
