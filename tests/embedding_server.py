"""An endpoint of OpenAI's embeddings API: a small server that embeds with the real minilm."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from hercules_scale.embedding.sentence_transformer import SentenceTransformerEncoder

MODEL, KEY = "embedder", "canary-key"
LONGEST = 2_000


class EmbeddingServer(ThreadingHTTPServer):
    """Embeds what it is sent, unless a failure is planned.

    Attributes:
        requests: Bodies of all requests.
        failures: Replies to the next requests: a status, and headers.
        counts: Whether it says how many tokens it read.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[dict[str, Any]] = []
        self.failures: list[tuple[int, dict[str, str]]] = []
        self.counts = True
        self.lock = threading.Lock()
        self.encoder = SentenceTransformerEncoder("minilm", "float32", device="cpu")

    @property
    def url(self) -> str:
        """Base URL, as users give it in embedding.endpoint."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def texts(self) -> list[str]:
        """All texts that came."""
        return [text for body in self.requests for text in body["input"]]

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a client that left."""


class _Handler(BaseHTTPRequestHandler):
    server: EmbeddingServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append(body)
            failure = self.server.failures.pop(0) if self.server.failures else None
        if failure is not None:
            self._reply(failure[0], _error("planned failure"), failure[1])
        elif self.headers["Authorization"] != f"Bearer {KEY}":
            self._reply(401, _error(f"incorrect key {self.headers['Authorization']}"))
        elif self.path != "/v1/embeddings" or body["model"] != MODEL:
            self._reply(404, _error(f"the model {body['model']} does not exist"))
        elif not all(body["input"]) or body.get("dimensions", 0) > 384:
            self._reply(400, _error("invalid input"))
        elif max(map(len, body["input"])) > LONGEST:
            self._reply(400, _error("maximum context length exceeded"))
        else:
            self._reply(200, self._embedded(body))

    def _embedded(self, body: dict[str, Any]) -> dict[str, Any]:
        texts, encoder = body["input"], self.server.encoder
        vectors = encoder.encode(texts)[:, : body.get("dimensions")]
        in_base64 = body.get("encoding_format") == "base64"
        data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": base64.b64encode(vector.tobytes()).decode()
                if in_base64
                else vector.tolist(),
            }
            for index, vector in enumerate(vectors)
        ]
        n_tokens = int(encoder.count_tokens(texts).sum()) if self.server.counts else 0
        usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
        # Some servers answer in another order.
        return {"object": "list", "data": data[::-1], "model": MODEL, "usage": usage}

    def _reply(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "code": None}}


@contextmanager
def embedding_server() -> Iterator[EmbeddingServer]:
    """Serve until the end of the block."""
    with EmbeddingServer() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
