"""Any OpenAI-compatible endpoint, here a small server that fails in the ways endpoints do."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hercules_scale import Hierarchy
from hercules_scale.config import parse_config
from hercules_scale.errors import ConfigError, StageError
from hercules_scale.pipeline import check, run
from hercules_scale.summarization import label
from tests.conftest import small_config

pytestmark = pytest.mark.ray
ANSWER = json.dumps({"title": "Codes of diseases", "description": "Codes of several diseases."})


class Endpoint(ThreadingHTTPServer):
    """Answers chat completions; the first requests with the failures it is given."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.failures: list[int | str] = []
        self.requests: list[dict[str, object]] = []
        self.keys: set[str] = set()
        self.lock = threading.Lock()


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append(body)
            self.server.keys.add(self.headers["Authorization"])
            failure = self.server.failures.pop(0) if self.server.failures else ANSWER
        if isinstance(failure, int):
            self._reply(failure, {"error": {"message": "planned failure"}})
            return
        choice = {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": failure},
        }
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        answer = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"]}
        self._reply(200, {**answer, "choices": [choice], "usage": usage})

    def _reply(self, status: int, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setenv("OPENAI_API_KEY", "canary-key")
    monkeypatch.setattr(label, "FIRST_DELAY_SECONDS", 0.01)
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def values(icd: pa.Table, tmp_path: Path, endpoint: Endpoint) -> dict[str, object]:
    pq.write_table(icd.slice(0, 80), tmp_path / "icd.parquet")
    url = f"http://127.0.0.1:{endpoint.server_address[1]}/v1"
    summaries = {"engine": "openai", "model": "tester", "endpoint": url}
    return small_config(
        tmp_path / "icd.parquet",
        tmp_path / "run",
        hierarchy={"levels": [5, 2]},
        summaries=summaries,
    )


def test_failures_are_retried_and_kept_in_the_ledger(
    values: dict[str, object], endpoint: Endpoint, local_ray: None, tmp_path: Path
) -> None:
    endpoint.failures = [429, 500, "no JSON here", '{"title": "cut']
    run(parse_config(values))
    hierarchy = Hierarchy.open(str(tmp_path / "run"))
    assert set(hierarchy.clusters()["summary_status"]) == {"ok"}
    outcomes = hierarchy.table("llm_calls")["outcome"].value_counts().to_dict()
    assert outcomes == {"ok": 7, "error": 2, "invalid": 2}
    assert len(endpoint.requests) == 11
    assert endpoint.keys == {"Bearer canary-key"}
    for path in (tmp_path / "run").rglob("*"):
        assert not path.is_file() or b"canary-key" not in path.read_bytes(), path


def test_a_model_that_never_makes_sense_leaves_key_phrases_and_the_reason(
    values: dict[str, object], endpoint: Endpoint, local_ray: None, tmp_path: Path
) -> None:
    endpoint.failures = ["nonsense"] * 100
    run(parse_config(values))
    clusters = Hierarchy.open(str(tmp_path / "run")).clusters()
    assert set(clusters["summary_status"]) == {"fallback"}
    assert set(clusters["summary_error"]) == {"the answer holds no JSON object"}
    assert clusters["title"].str.len().min() > 0
    assert len(endpoint.requests) == 7 * 4


def test_an_outage_stops_the_run_and_a_second_call_ends_it(
    values: dict[str, object], endpoint: Endpoint, local_ray: None, tmp_path: Path
) -> None:
    endpoint.failures = [503] * 1000
    values["summaries"] = {**values["summaries"], "max_attempts": 20}  # type: ignore[dict-item]
    config = parse_config(values)
    with pytest.raises(StageError, match=r"'tester' failed 20 times in a row.*the run resumes"):
        run(config)
    assert len(endpoint.requests) <= 30
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"
    endpoint.failures = []
    run(config)
    assert set(Hierarchy.open(str(tmp_path / "run")).clusters()["summary_status"]) == {"ok"}


def test_a_missing_key_is_refused_before_anything_starts(
    values: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ConfigError, match="OPENAI_API_KEY, which is not set"):
        check(parse_config(values))
