"""The explorer as a web application: files of its own pages, and JSON about runs by number."""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hercules_scale.errors import HerculesScaleError, InputError
from hercules_scale.exchange.edits import read_edit, write_edit
from hercules_scale.explorer import search, views
from hercules_scale.explorer.sessions import ShownRun

STATIC = importlib.resources.files("hercules_scale.explorer").joinpath("static")
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
IMAGE_TYPES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}
MAX_BODY_BYTES = 1_000_000


class Explorer:
    """What the requests are about.

    Args:
        uris: Outputs of the runs that are shown; the first is the one that opens.
    """

    def __init__(self, uris: list[str]) -> None:
        self.runs = [ShownRun(uri) for uri in uris]

    def run(self, request: Request) -> ShownRun:
        """The run that a request is about."""
        number: int = request.path_params["run"]
        if number >= len(self.runs):
            raise InputError(f"there is no run {number}")
        shown: ShownRun = self.runs[number]
        return shown

    def application(self) -> Starlette:
        """The routes."""
        of_run = {
            "state": lambda run, request: run.state(),
            "tree": lambda run, request: views.tree(run.refresh_edits()),
            "descriptions": lambda run, request: views.description_places(run.opened()),
            "points": lambda run, request: views.points(run.with_items(), _key(request, False)),
            "cluster": lambda run, request: views.cluster(run.opened(), _cluster_key(request)),
            "items": lambda run, request: views.items(
                run.with_items(), _cluster_key(request), *_page(request)
            ),
            "item": lambda run, request: views.item(run.opened(), _number(request, "row")),
            "ledger": lambda run, request: views.ledger(run.opened(), *_page(request)),
            "evaluations": lambda run, request: views.table_rows(run.opened(), "evaluations"),
            "k_selection": lambda run, request: views.table_rows(run.opened(), "k_selection"),
            "search/clusters": lambda run, request: search.find_clusters(
                run.opened(), request.query_params.get("q", "")
            ),
            "search/items": lambda run, request: search.find_items(
                run.with_items(), request.query_params.get("q", ""), _number(request, "start", 0)
            ),
            "search/meaning": lambda run, request: run.meaning.find(
                request.query_params.get("q", "")
            ),
        }
        routes = [
            Route("/", self._file),
            Route("/static/{name}", self._file),
            Route("/api/runs", self._answer(lambda request: [run.name for run in self.runs])),
            Route("/api/runs/{run:int}/thumbnail", self._thumbnail),
            Route("/api/runs/{run:int}/edit", self._edit, methods=["POST"]),
            *(
                Route(f"/api/runs/{{run:int}}/{name}", self._answer(self._about(view)))
                for name, view in of_run.items()
            ),
        ]
        return Starlette(
            routes=routes,
            middleware=[Middleware(GZipMiddleware, minimum_size=2_000, compresslevel=3)],
            exception_handlers={HerculesScaleError: _told, HTTPException: _told},
        )

    def _about(self, view: Callable[[ShownRun, Request], Any]) -> Callable[[Request], Any]:
        return lambda request: view(self.run(request), request)

    @staticmethod
    def _answer(view: Callable[[Request], Any]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            return to_json(await run_in_threadpool(view, request))

        return endpoint

    @staticmethod
    async def _file(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        # Among the names that are there, so that no path leads out of the folder.
        found = {each.name: each for each in STATIC.iterdir()}.get(name)
        ending = name.rpartition(".")[2]
        if found is None or ending not in TYPES:
            raise HTTPException(404, "there is no such page")
        return Response(found.read_bytes(), media_type=f"{TYPES[ending]}; charset=utf-8")

    async def _thumbnail(self, request: Request) -> Response:
        def read() -> bytes | None:
            run = self.run(request).opened()
            row = _number(request, "row")
            if not 0 <= row < run.n_items:
                raise InputError(f"there is no row {row}")
            found: bytes | None = run.rows("items", [row])[0].get("thumbnail")
            return found

        data = await run_in_threadpool(read)
        kind = next(
            (IMAGE_TYPES[start] for start in IMAGE_TYPES if data and data.startswith(start)), None
        )
        if data is None or kind is None:
            raise HTTPException(404, "this item has no picture")
        return Response(data, media_type=kind)

    async def _edit(self, request: Request) -> Response:
        values = await body(request)

        def write() -> dict[str, Any]:
            shown = self.run(request)
            run = shown.opened()
            key = run.check((_whole(values, "level"), _whole(values, "id")))
            now = read_edit(run.store, key)
            if values.get("revision") != (None if now is None else now.revision):
                raise HTTPException(
                    409, "somebody else has edited this cluster meanwhile; read it again"
                )
            edit = write_edit(run.store, key, _words(values, "title"), _words(values, "note"))
            run.edits = {**run.edits, key: edit}
            return views.cluster(run, key)

        return to_json(await run_in_threadpool(write))


def to_json(value: Any, status: int = 200) -> Response:
    """JSON; numbers that are not finite are an error of ours."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), default=str)
    return Response(text, status, media_type="application/json")


async def body(request: Request) -> dict[str, Any]:
    """The JSON object that a request holds.

    Raises:
        InputError: It holds another thing, or too much.
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


async def _told(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return to_json({"error": error.detail}, error.status_code)
    return to_json({"error": str(error)}, 400)


def _number(request: Request, name: str, default: int | None = None) -> int:
    text = request.query_params.get(name, "" if default is None else str(default))
    # int() would take any length and any script's digits.
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise InputError(f"{name} must be a whole number, got {text[:40]!r}")
    return int(text)


def _key(request: Request, needed: bool = True) -> tuple[int, int] | None:
    if not needed and "level" not in request.query_params:
        return None
    return _number(request, "level"), _number(request, "id")


def _cluster_key(request: Request) -> tuple[int, int]:
    return _number(request, "level"), _number(request, "id")


def _page(request: Request) -> tuple[int, int]:
    return _number(request, "offset", 0), _number(request, "limit", 50)


def _whole(values: dict[str, Any], name: str) -> int:
    value = values.get(name)
    if type(value) is not int:
        raise InputError(f"{name} must be a whole number")
    return value


def _words(values: dict[str, Any], name: str) -> str | None:
    value = values.get(name)
    if value is not None and not isinstance(value, str):
        raise InputError(f"{name} must be text")
    return value
