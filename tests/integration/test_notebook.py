"""A whole run where an event loop runs already: in a notebook, in a web server, in a thread."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import fastapi
import httpx
import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from hercules_scale import Hercules
from hercules_scale.errors import StageError
from hercules_scale.runtime.event_loop import run_coroutine
from tests.integration.conftest import Endpoint

pytestmark = pytest.mark.ray

CELLS = [
    """
from hercules_scale import Hercules
texts = [f"{place} {row}" for row in range(12) for place in ("ferry to Crete", "rye bread")]
summaries = {"engine": "openai", "model": "tester", "endpoint": ENDPOINT, "candidates": 1}
hierarchy = Hercules([4, 2], summaries=summaries, verbose=False).fit(texts)
hierarchy
""",
    "hierarchy.tree()",
    "hierarchy.tree(depth=1)",
    "hierarchy.plot()",
    "hierarchy.evaluate(labels=[row % 2 for row in range(24)])",
    "hierarchy.clusters()[['level', 'title', 'summary_status']]",
    """
import urllib.request
explorer = hierarchy.explore()
page = urllib.request.urlopen(explorer.address).read().decode()
assert "<title>" in page
explorer
""",
    "explorer.stop()",
]
WRITE_PID = "import os, pathlib; pathlib.Path('pid').write_text(str(os.getpid()))"


def execute(cells: list[str], folder: Path) -> list[dict[str, str]]:
    """The last output of each cell by its MIME types, in a kernel that is stopped at the end."""
    v4: Any = nbformat.v4
    notebook = v4.new_notebook(cells=[v4.new_code_cell(cell) for cell in cells])
    kernel = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    kernel.execute()
    shown = []
    for cell in notebook.cells:
        outputs = [
            each.get("data") or {"text/plain": each.get("text", "")} for each in cell.outputs
        ]
        shown.append(dict(outputs[-1]) if outputs else {})
    return shown


@pytest.mark.slow
def test_a_notebook_fits_shows_plots_evaluates_and_explores(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    cells = [CELLS[0].replace("ENDPOINT", json.dumps(endpoint.url)), *CELLS[1:]]
    hierarchy, tree, top, plot, evaluation, clusters, explorer, _ = execute(cells, tmp_path)
    assert "Codes of" in hierarchy["text/html"]
    assert "Codes of" in tree["text/html"]
    assert top["text/plain"].count("items,") == 2
    assert "image/png" in plot
    assert "ari" in evaluation["text/plain"]
    assert clusters["text/plain"].count("ok") == 6
    assert explorer["text/html"].startswith('<a href="http://127.0.0.1:')


@pytest.mark.slow
def test_an_interrupt_of_a_cell_ends_the_run(endpoint: Endpoint, tmp_path: Path) -> None:
    # The probe is answered, and no question about a cluster.
    endpoint.failures = [600.0] * 10
    ended = threading.Event()

    def interrupt() -> None:
        while not endpoint.requests and not ended.wait(0.2):
            pass
        # Python drops an interrupt that arrives while an object is deleted; people press again.
        while not ended.is_set():
            with suppress(ProcessLookupError):
                os.kill(int((tmp_path / "pid").read_text()), signal.SIGINT)
            ended.wait(10)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(CellExecutionError, match="KeyboardInterrupt"):
            execute([WRITE_PID, CELLS[0].replace("ENDPOINT", json.dumps(endpoint.url))], tmp_path)
    finally:
        ended.set()
        thread.join()
    assert endpoint.requests


def fitted(endpoint: Endpoint) -> pd.DataFrame:
    texts = [f"{place} {row}" for row in range(12) for place in ("ferry to Crete", "rye bread")]
    summaries = {"engine": "openai", "model": "tester", "endpoint": endpoint.url, "candidates": 1}
    return Hercules([4, 2], summaries=summaries, verbose=False).fit(texts).clusters()


def test_an_endpoint_of_fastapi_fits_in_its_loop(endpoint: Endpoint, local_ray: None) -> None:
    app = fastapi.FastAPI()

    @app.get("/fit")
    async def fit() -> dict[str, int]:
        return dict(Counter(fitted(endpoint)["summary_status"]))

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
            return await client.get("/fit")

    assert run_coroutine(ask()).json() == {"ok": 6}


def test_a_thread_fits(endpoint: Endpoint, local_ray: None) -> None:
    found: list[pd.DataFrame] = []
    thread = threading.Thread(target=lambda: found.append(fitted(endpoint)))
    thread.start()
    thread.join()
    assert set(found[0]["summary_status"]) == {"ok"}


def test_errors_and_results_pass_through_a_running_loop() -> None:
    async def fail() -> None:
        raise StageError("the model stopped", stage="summarize")

    async def count() -> int:
        return threading.get_ident()

    async def outer() -> int:
        with pytest.raises(StageError, match="the model stopped"):
            run_coroutine(fail())
        return run_coroutine(count())

    assert run_coroutine(outer()) != threading.get_ident() == run_coroutine(count())
