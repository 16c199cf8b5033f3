"""The explorer's web application: static pages, and JSON about runs by number."""

from __future__ import annotations

import importlib.resources
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Route

from hercules_scale.config.resources import StorageConfig
from hercules_scale.errors import HerculesScaleError, InputError
from hercules_scale.explorer import map_items, search, views
from hercules_scale.explorer.answers import refusal, to_json
from hercules_scale.explorer.compare import compare
from hercules_scale.explorer.exports import BINARY, EXPORTS, write_export, write_items
from hercules_scale.explorer.forms import fields
from hercules_scale.explorer.request_values import (
    body,
    body_keys,
    body_number,
    body_numbers,
    body_text,
    query_key,
    query_key_if_any,
    query_number,
    query_numbers,
    query_page,
)
from hercules_scale.explorer.sessions import ShownRun
from hercules_scale.explorer.started_runs import ENDINGS, MAX_UPLOAD_BYTES, Jobs
from hercules_scale.results.edits import read_edit, write_edit
from hercules_scale.results.finished_run import read_files
from hercules_scale.storage.cluster_items import TABLE
from hercules_scale.storage.tables import FileRecord

STATIC = importlib.resources.files("hercules_scale.explorer").joinpath("static")
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
IMAGE_TYPES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}
# Tables that hold the texts of all items.
ITEM_TABLES = ("items", TABLE)


class Explorer:
    """State of the explorer, and the handlers of its requests.

    Args:
        uris: Outputs of the runs that are shown; the first one opens.
        work: Folder for runs that are started from the page; None forbids such runs.
        inputs: Inputs that such runs may have besides uploads.
        models: Folders and hub ids of embedding models that may be loaded.
        storage: Access to the runs.
    """

    def __init__(
        self,
        uris: list[str],
        work: Path | None = None,
        inputs: list[str] | None = None,
        models: Sequence[str] = (),
        storage: StorageConfig | None = None,
    ) -> None:
        self.runs = [ShownRun(uri, models=models, storage=storage) for uri in uris]
        self.jobs = None if work is None else Jobs(work, inputs or [], storage)

    def stop(self) -> None:
        """Stop the runs that were started from the page."""
        if self.jobs is not None:
            self.jobs.stop()

    def run(self, request: Request) -> ShownRun:
        """Return the run that a request is about."""
        number: int = request.path_params["run"]
        if number >= len(self.runs):
            raise InputError(f"there is no run {number}")
        shown: ShownRun = self.runs[number]
        return shown

    def application(self) -> Starlette:
        """Return the web application with its routes."""
        of_run = {
            "state": lambda run, request: run.state(),
            "tree": lambda run, request: views.tree(run.refresh_edits()),
            "descriptions": lambda run, request: views.description_places(run.opened()),
            "points": lambda run, request: map_items.points(
                run.with_items(), query_key_if_any(request), request.query_params.get("by", "")
            ),
            "glimpses": lambda run, request: map_items.glimpses(
                run.with_items(), query_numbers(request, "places")
            ),
            "spots": lambda run, request: map_items.spots(
                run.opened(), query_numbers(request, "rows")
            ),
            "shade_columns": lambda run, request: map_items.shade_columns(run.with_items()),
            "shades": lambda run, request: map_items.shown_shades(
                run.with_items(), request.query_params.get("by", "")
            ),
            "cluster": lambda run, request: views.cluster(run.opened(), query_key(request)),
            "items": lambda run, request: views.items(
                run.with_items(), query_key(request), *query_page(request)
            ),
            "item": lambda run, request: views.item(run.opened(), query_number(request, "row")),
            "ledger": lambda run, request: views.ledger(run.opened(), *query_page(request)),
            "evaluations": lambda run, request: views.table_rows(run.opened(), "evaluations"),
            "k_selection": lambda run, request: views.table_rows(run.opened(), "k_selection"),
            "search/clusters": lambda run, request: search.find_clusters(
                run.opened(), request.query_params.get("q", "")
            ),
            "search/items": lambda run, request: search.find_items(
                run.with_items(),
                request.query_params.get("q", ""),
                query_number(request, "start", 0),
            ),
            "compare": self._compare,
            "search/meaning": lambda run, request: run.meaning.find(
                request.query_params.get("q", "")
            ),
            "search/items_by_meaning": self._items_by_meaning,
            "search/similar": lambda run, request: search.similar_items(
                run.with_items(), query_number(request, "row"), query_number(request, "start", 0)
            ),
        }
        routes = [
            Route("/", self._file),
            Route("/static/{name}", self._file),
            Route("/api/runs", self._answer(lambda request: [run.name for run in self.runs])),
            Route("/api/runs/{run:int}/thumbnail", self._thumbnail),
            Route("/api/runs/{run:int}/edit", self._edit, methods=["POST"]),
            Route("/api/runs/{run:int}/export", self._export),
            Route("/api/runs/{run:int}/selection", self._selection, methods=["POST"]),
            Route("/api/runs/{run:int}/table", self._table),
            Route("/api/form", self._answer(lambda request: self._form())),
            Route("/api/uploads", self._upload, methods=["POST"]),
            Route("/api/{kind}/{number:int}/preview", self._answer(self._preview)),
            Route("/api/jobs", self._answer(lambda request: self._states()), methods=["GET"]),
            Route("/api/jobs", self._start, methods=["POST"]),
            Route("/api/jobs/{number:int}/cancel", self._cancel, methods=["POST"]),
            *(
                Route(f"/api/runs/{{run:int}}/{name}", self._answer(self._about(view)))
                for name, view in of_run.items()
            ),
        ]
        return Starlette(
            routes=routes,
            middleware=[Middleware(GZipMiddleware, minimum_size=2_000, compresslevel=3)],
            exception_handlers={HerculesScaleError: refusal, HTTPException: refusal},
        )

    def _about(self, view: Callable[[ShownRun, Request], Any]) -> Callable[[Request], Any]:
        return lambda request: view(self.run(request), request)

    @staticmethod
    def _answer(view: Callable[[Request], Any]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            return to_json(await run_in_threadpool(view, request))

        return endpoint

    @staticmethod
    def _items_by_meaning(run: ShownRun, request: Request) -> Any:
        run.with_items()
        return run.meaning.find_items(
            request.query_params.get("q", ""), query_number(request, "start", 0)
        )

    def _compare(self, run: ShownRun, request: Request) -> Any:
        number = query_number(request, "other")
        if number >= len(self.runs):
            raise InputError(f"there is no run {number}")
        levels = query_number(request, "level"), query_number(request, "other_level")
        return compare(run.refresh_edits(), self.runs[number].refresh_edits(), *levels)

    @property
    def _work(self) -> Jobs:
        if self.jobs is None:
            raise InputError("no runs can be started here; start the explorer with --work FOLDER")
        return self.jobs

    def _form(self) -> dict[str, Any]:
        if self.jobs is None:
            return {"enabled": False}

        return {
            "enabled": True,
            "endings": ENDINGS,
            "inputs": self.jobs.inputs,
            "fields": fields(),
        }

    def _states(self) -> list[dict[str, Any]]:
        return [] if self.jobs is None else [job.state() for job in self.jobs.jobs]

    def _preview(self, request: Request) -> dict[str, Any]:
        parameters = request.path_params
        return self._work.preview(parameters["number"], parameters["kind"] == "inputs")

    async def _upload(self, request: Request) -> Response:
        name = request.query_params.get("name", "")
        number, stream = await run_in_threadpool(self._work.new_upload, name)
        size = 0
        with stream:
            async for chunk in request.stream():
                size += len(chunk)
                if size > MAX_UPLOAD_BYTES:
                    raise InputError(f"a file must have at most {MAX_UPLOAD_BYTES:,} bytes")
                await run_in_threadpool(stream.write, chunk)
        return to_json({"upload": number, "size_bytes": size})

    async def _start(self, request: Request) -> Response:
        values = await body(request)

        def start() -> dict[str, Any]:
            with self._work.lock:
                job = self._work.start(values, len(self.runs))
                self.runs.append(ShownRun(str(job.output), is_starting=True))
            return job.state()

        return to_json(await run_in_threadpool(start))

    async def _cancel(self, request: Request) -> Response:
        job = self._work.job(request.path_params["number"])
        job.cancel()
        return to_json(job.state())

    async def _export(self, request: Request) -> Response:
        form = request.query_params.get("format")
        if form not in EXPORTS:
            raise InputError(f"format must be one of {', '.join(EXPORTS)}")
        shown = self.run(request)
        # The folder is deleted after the response.
        folder = tempfile.TemporaryDirectory(prefix="hercules_scale_")
        path = f"{folder.name}/{form}"
        if form == "csv" and "level" in request.query_params:
            clusters = [query_key(request)]
            await run_in_threadpool(write_items, shown.opened(), path, None, clusters)
        else:
            await run_in_threadpool(lambda: write_export(shown.opened(), form, path))
        name = f"{shown.name}.{form}"
        return FileResponse(
            path, media_type=EXPORTS[form], filename=name, background=BackgroundTask(folder.cleanup)
        )

    async def _selection(self, request: Request) -> Response:
        values = await body(request)
        rows, clusters = body_numbers(values, "rows"), body_keys(values, "clusters")
        shown = self.run(request)

        def write() -> bytes:
            with tempfile.TemporaryDirectory(prefix="hercules_scale_") as folder:
                path = Path(folder) / "items.csv"
                write_items(shown.opened(), str(path), rows, clusters)
                return path.read_bytes()

        return Response(await run_in_threadpool(write), media_type="text/csv")

    async def _table(self, request: Request) -> Response:
        shown = self.run(request)
        name = request.query_params.get("name", "")
        run = await run_in_threadpool(shown.opened)
        if name in ITEM_TABLES and run.withheld.any():
            raise HTTPException(
                403, "privacy keeps texts of small clusters back, and this table holds all"
            )
        number = query_number(request, "part", 0)

        def open_part(files: list[FileRecord]) -> Any:
            # File names come from the manifest, never from the browser.
            if number >= len(files):
                raise HTTPException(404, "there is no such table")
            return shown.store.arrow.open_input_stream(shown.store.path(files[number].path))

        # The table may have been replaced; this is noticed before the answer begins.
        file = await run_in_threadpool(read_files, run.finished, name, open_part)

        def chunks() -> Iterator[bytes]:
            with file:
                while data := file.read(1 << 20):
                    yield data

        headers = {"content-disposition": f'attachment; filename="{name}-{number}.parquet"'}
        return StreamingResponse(chunks(), headers=headers, media_type=BINARY)

    @staticmethod
    async def _file(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        # The name must be one of the folder's, so that no path leads out of it.
        found = {each.name: each for each in STATIC.iterdir()}.get(name)
        ending = name.rpartition(".")[2]
        if found is None or ending not in TYPES:
            raise HTTPException(404, "there is no such page")
        return Response(found.read_bytes(), media_type=f"{TYPES[ending]}; charset=utf-8")

    async def _thumbnail(self, request: Request) -> Response:
        def read() -> bytes | None:
            shown = self.run(request)
            if "place" not in request.query_params:
                return shown.opened().thumbnail(query_number(request, "row"))
            place, run = query_number(request, "place"), shown.with_items()
            if place >= run.n_items or "thumbnail" not in run.items.columns:
                return None
            # With the id among the columns, thumbnails of withheld items are left out.
            (item,) = run.items.read(place, place + 1, ["item_id", "thumbnail"]).to_pylist()
            found: bytes | None = item["thumbnail"]
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
            key = run.check((body_number(values, "level"), body_number(values, "id")))
            now = read_edit(run.store, key)
            if values.get("revision") != (None if now is None else now.revision):
                raise HTTPException(
                    409,
                    "somebody else has edited this cluster meanwhile; reload the page",
                )
            edit = write_edit(run.store, key, body_text(values, "title"), body_text(values, "note"))
            run.edits = {**run.edits, key: edit}
            return views.cluster(run, key)

        return to_json(await run_in_threadpool(write))
