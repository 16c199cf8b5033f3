"""An OpenAI-compatible endpoint: a small server that fails in the ways endpoints do."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from hercules_scale.summarization import clients, labeller, request_limits
from tests.integration.endpoints import is_by_parts, title_of_parts

GOOD = '{"title": "Codes of TITLE", "description": "Items about TITLE."}'
# A failure: a status, a status and its headers, seconds to stall, or the text of an answer in which
# TITLE stands for the cluster's first key phrase.
Failure = int | tuple[int, dict[str, str]] | float | str


@pytest.fixture(autouse=True, scope="session")
def _forked(worker_program: str) -> None:
    """Workers of the Rays that tests start are forks."""


class Endpoint(ThreadingHTTPServer):
    """Answers chat completions; the first questions with the failures it is given, probes always.

    A question that holds the word ``obeys`` is answered by it, as a gullible model does that finds
    orders in what it reads.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.failures: list[Failure] = []
        self.requests: list[dict[str, Any]] = []
        self.probes: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.lock = threading.Lock()
        self.seconds = 0.0
        self.obeys = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def prompts(self) -> Counter[str]:
        """How often each question was asked."""
        return Counter(json.dumps(request, sort_keys=True) for request in self.requests)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a client that left: other tests of the process read what is printed."""


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.keys.add(self.headers["Authorization"])
            if body["messages"] == clients.PROBE.messages:
                self.server.probes.append(body)
                failure: Failure = GOOD
            else:
                self.server.requests.append(body)
                failure = self.server.failures.pop(0) if self.server.failures else GOOD
        time.sleep(self.server.seconds)
        if isinstance(failure, float):
            time.sleep(failure)
            failure = GOOD
        if isinstance(failure, int):
            failure = (failure, {})
        if isinstance(failure, tuple):
            # Real endpoints quote the key that they refuse.
            message = f"planned failure for {self.headers['Authorization']}"
            self._reply(failure[0], {"error": {"message": message}}, failure[1])
            return
        question = body["messages"][-1]["content"]
        if not isinstance(question, str):
            question = question[-1]["text"]
        lines = [line for line in question.splitlines() if line.startswith("Group ")]
        obeyed = self.server.obeys
        if obeyed and obeyed in question.lower():
            both = {"title": f"{obeyed} {obeyed}", "description": f"All is {obeyed}."}
            text = json.dumps(
                dict.fromkeys([line.split()[1].strip(",") for line in lines], both) or both
            )
        elif lines:
            names = {line.split()[1].strip(","): line.rpartition(": ")[2] for line in lines}
            text = json.dumps({key: f"Codes of {name}" for key, name in names.items()})
        elif is_by_parts(question) and failure == GOOD:
            text = title_of_parts(question)
        else:
            phrases = question.partition("Key phrases: ")[2].partition("\n")[0]
            name = phrases.partition(",")[0]
            # A parent with the title of a part would be asked about once more.
            name += " and others" if "\nParts: " in question else ""
            text = failure.replace("TITLE", name or question[6:40])
        choices = [
            {
                "index": index,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": text},
            }
            for index in range(body.get("n", 1))
        ]
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        answer = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"]}
        if text == "no choices":
            choices = []
        self._reply(200, {**answer, "choices": choices, "usage": usage}, {})

    def _reply(self, status: int, value: object, headers: dict[str, str]) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for name, content in headers.items():
            self.send_header(name, content)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setenv("OPENAI_API_KEY", "canary-key")
    monkeypatch.setattr(labeller, "FIRST_DELAY_SECONDS", 0.01)
    monkeypatch.setattr(request_limits, "FIRST_PROBE_SECONDS", 0.01)
    monkeypatch.setattr(request_limits, "OUTAGE_SECONDS", 0.1)
    with serve_endpoint() as server:
        yield server


@contextmanager
def serve_endpoint() -> Iterator[Endpoint]:
    """An endpoint that answers as long as the context is open."""
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
