"""Endpoints as people have them: small servers that take, refuse and answer as the real ones do."""

from __future__ import annotations

import json
import re
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

KEY = "canary-key"
MODEL = "tester"
PAGE = b"<!doctype html><html><head><title>Welcome</title></head><body>It works!</body></html>"
NOT_FOUND = {"detail": "Not Found"}


@dataclass(frozen=True)
class Request:
    """One request: where it went, and with what."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def question(self) -> str:
        """The text of the last message."""
        content = self.body["messages"][-1]["content"]
        return str(content if isinstance(content, str) else content[-1]["text"])


@dataclass(frozen=True)
class Reply:
    """A reply.

    Attributes:
        status: 0 breaks the connection off.
        body: JSON, or bytes that go back as they are.
        content_type: Of the body.
        seconds: How long it takes.
        length: What the header says of the body's length; left out: the truth.
    """

    status: int
    body: Any = b""
    content_type: str = "application/json"
    seconds: float = 0.0
    length: int | None = None
    headers: dict[str, str] = field(default_factory=dict)


def error(status: int, message: str = "planned failure", /, **more: Any) -> Reply:
    """An error as OpenAI words it."""
    values = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return Reply(status, {"error": {**values, **more}})


class Form(ThreadingHTTPServer):
    """An endpoint that takes all that we send; others are made of it.

    Attributes:
        requests: All that came, in order.
        refused: How many of them were answered with an error.
        next: Replies to the next requests, in place of what it would answer.
        always: Reply to every request after these.
    """

    daemon_threads = True
    paths: tuple[str, ...] = ("/v1/chat/completions",)
    base = "/v1"

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler, bind_and_activate=False)
        self.server_bind()
        self.lock = threading.Lock()
        self.requests: list[Request] = []
        self.refused = 0
        self.next: list[Reply] = []
        self.always: Reply | None = None

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @property
    def url(self) -> str:
        """Base URL, as users give it in summaries.endpoint."""
        return f"http://127.0.0.1:{self.port}{self.base}"

    def reply(self, request: Request) -> Reply:
        """The reply to a request."""
        with self.lock:
            self.requests.append(request)
            planned = self.next.pop(0) if self.next else self.always
        reply = planned or self.refusal(request) or self.answer(request)
        with self.lock:
            self.refused += reply.status >= 400
        return reply

    def refusal(self, request: Request) -> Reply | None:
        """The reply to a request that cannot be answered."""
        if request.path not in self.paths:
            return self.nothing_there(request)
        return self.refuse(request)

    def nothing_there(self, request: Request) -> Reply:
        """The reply at a path that is not served."""
        return Reply(404, NOT_FOUND)

    def refuse(self, request: Request) -> Reply | None:
        """The reply to a request with something that is not taken."""
        return None

    def answer(self, request: Request) -> Reply:
        """The completion."""
        choices = [self.choice(request, index) for index in range(self.n_choices(request))]
        return Reply(200, completion(choices, model=request.body["model"]))

    def n_choices(self, request: Request) -> int:
        """How many answers go back."""
        return int(request.body.get("n", 1))

    def choice(self, request: Request, index: int) -> dict[str, Any]:
        """One of the answers."""
        return choice({"role": "assistant", "content": self.dressed(request)}, index)

    def dressed(self, request: Request) -> str:
        """The text of an answer, with what the model puts around it."""
        return title_of(request)


def title_of(request: Request) -> str:
    """A good answer about one cluster or item, about several, or with new titles."""
    question = request.question
    if is_by_parts(question):
        return title_of_parts(question)
    if not question.startswith("Group "):
        return json.dumps(label_of(question))
    if ": " in question.splitlines()[0]:
        heads = [line for line in question.splitlines() if line.startswith("Group ")]
        names = [line[6:].partition(", draft: ") for line in heads]
        # A heading of at most seven words.
        words = {key: rest.rpartition(": ")[2].split()[:5] for key, _, rest in names}
        return json.dumps(
            {key: f"Codes of {' '.join(own).strip(',')}" for key, own in words.items()}
        )
    parts = [part.partition("\n") for part in question[6:].split("\n\nGroup ")]
    return json.dumps({key: label_of(rest) for key, _, rest in parts})


def is_by_parts(question: str) -> bool:
    """Whether a question asks for the title of a cluster by those of its children."""
    return re.match(r"\d+%: ", question) is not None


def title_of_parts(question: str) -> str:
    """An answer that names the two largest children, in at most seven words."""
    titles = [line.rpartition("Codes of ")[2].split()[:2] for line in question.splitlines()]
    return json.dumps({"title": f"Codes of {' and '.join(map(' '.join, titles[:2]))}"})


def label_of(question: str) -> dict[str, str]:
    """A title and a description of the first key phrase, or of the item."""
    phrases = question.partition("Key phrases: ")[2].partition("\n")[0]
    about = phrases.partition(",")[0] or question[6:40]
    return {"title": f"Codes of {about}", "description": f"Items about {about}."}


def choice(message: Any, index: int = 0, finish_reason: str | None = "stop") -> dict[str, Any]:
    return {"index": index, "message": message, "logprobs": None, "finish_reason": finish_reason}


def completion(choices: Any, **more: Any) -> dict[str, Any]:
    """A chat completion; ``more`` replaces its parts."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": choices,
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
        **more,
    }


class Azure(Form):
    """A deployment of Azure OpenAI, with a model that thinks.

    Attributes:
        warm: Whether it takes other temperatures than 1.
        filtered: What questions may not hold.
    """

    paths = ("/openai/deployments/gpt/chat/completions",)
    base = "/openai/deployments/gpt?api-version=2024-10-21"

    def __init__(self) -> None:
        super().__init__()
        self.warm = False
        self.filtered = ""

    def nothing_there(self, request: Request) -> Reply:
        code, message = "404", "Resource not found"
        if request.path.startswith("/openai/deployments/"):
            code = "DeploymentNotFound"
            message = (
                "The API deployment for this resource does not exist. If you created the "
                "deployment within the last 5 minutes, please wait a moment and try again."
            )
        return Reply(404, {"error": {"code": code, "message": message}})

    def refuse(self, request: Request) -> Reply | None:
        if request.query.get("api-version") != "2024-10-21":
            return Reply(404, {"error": {"code": "404", "message": "Resource not found"}})
        if request.headers.get("api-key") != KEY:
            message = "Access denied due to invalid subscription key or wrong API endpoint."
            return Reply(401, {"error": {"code": "401", "message": message}})
        body = request.body
        if "max_tokens" in body:
            return error(
                400,
                "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
                "'max_completion_tokens' instead.",
                param="max_tokens",
                code="unsupported_parameter",
            )
        if not self.warm and body.get("temperature", 1) != 1:
            return error(
                400,
                f"Unsupported value: 'temperature' does not support {body['temperature']} with "
                "this model. Only the default (1) value is supported.",
                param="temperature",
                code="unsupported_value",
            )
        if self.filtered and self.filtered in json.dumps(body["messages"]):
            return error(
                400,
                "The response was filtered due to the prompt triggering Azure OpenAI's content "
                "management policy. Please modify your prompt and retry.",
                type=None,
                param="prompt",
                code="content_filter",
                status=400,
                innererror={
                    "code": "ResponsibleAIPolicyViolation",
                    "content_filter_result": {"violence": {"filtered": True, "severity": "high"}},
                },
            )
        return None

    def answer(self, request: Request) -> Reply:
        reply = super().answer(request)
        safe = {"violence": {"filtered": False, "severity": "safe"}}
        results = [{"prompt_index": 0, "content_filter_results": safe}]
        return Reply(200, {**reply.body, "prompt_filter_results": results})

    def choice(self, request: Request, index: int) -> dict[str, Any]:
        safe = {"violence": {"filtered": False, "severity": "safe"}}
        return {**super().choice(request, index), "content_filter_results": safe}


class Ollama(Form):
    """Ollama with one model: it has never heard of n."""

    def nothing_there(self, request: Request) -> Reply:
        return Reply(404, b"404 page not found", "text/plain")

    def refuse(self, request: Request) -> Reply | None:
        model = request.body["model"]
        if model == MODEL:
            return None
        return error(404, f'model "{model}" not found, try pulling it first', type="api_error")

    def n_choices(self, request: Request) -> int:
        return 1

    def choice(self, request: Request, index: int) -> dict[str, Any]:
        message = {"role": "assistant", "content": title_of(request), "reasoning": "Two words do."}
        return choice(message, index)


class LlamaCpp(Form):
    """A server of llama.cpp, which has one model, by any name.

    Attributes:
        loading: Requests that it is still loading its model at.
        status: Of its refusals; many builds have 500 for them, as for what fails by itself.
    """

    paths = ("/v1/chat/completions", "/chat/completions")

    def __init__(self) -> None:
        super().__init__()
        self.loading = 2
        self.status = 500

    def nothing_there(self, request: Request) -> Reply:
        return error(404, "File Not Found", type="not_found_error", code=404)

    def refuse(self, request: Request) -> Reply | None:
        if len(self.requests) <= self.loading:
            return error(503, "Loading model", type="unavailable_error", code=503)
        if request.body.get("n", 1) != 1:
            kind = "server_error" if self.status == 500 else "invalid_request_error"
            message = "Only one completion choice is allowed"
            return error(self.status, message, type=kind, code=self.status)
        return None

    def dressed(self, request: Request) -> str:
        schema = request.body.get("response_format", {}).get("type") == "json_schema"
        return title_of(request) if schema else f"```json\n{title_of(request)}\n```"


class LiteLLM(Form):
    """A LiteLLM proxy before a model that draws one answer at a time and without a seed."""

    def refuse(self, request: Request) -> Reply | None:
        body = request.body
        names = [name for name in ("n", "seed") if name in body and (name, body[name]) != ("n", 1)]
        if not names:
            return None
        message = (
            f"litellm.UnsupportedParamsError: anthropic does not support parameters: {names}, for "
            "model=claude. To drop these, set `litellm.drop_params=True` or for proxy:\n\n"
            "`litellm_settings:\n drop_params: true`\n. \n If you want to use these params "
            f"dynamically send allowed_openai_params={names} in your request."
        )
        return error(400, message, type=None, code="400")

    def answer(self, request: Request) -> Reply:
        reply = super().answer(request)
        del reply.body["usage"]
        return reply


class DeepSeek(Form):
    """DeepSeek's API.

    Attributes:
        paid: Whether there is money in the account.
    """

    paths = ("/v1/chat/completions", "/chat/completions")

    def __init__(self) -> None:
        super().__init__()
        self.paid = True

    def refuse(self, request: Request) -> Reply | None:
        body = request.body
        kind = body.get("response_format", {}).get("type", "text")
        message = ""
        if not self.paid:
            return error(402, "Insufficient Balance", type="unknown_error")
        if kind == "json_schema":
            message = "This response_format type is unavailable now"
        elif body.get("n", 1) != 1:
            message = "Invalid n value (currently only n = 1 is supported)"
        elif kind == "json_object" and "json" not in json.dumps(body["messages"]).lower():
            message = (
                "Prompt must contain the word 'json' in some form to use 'response_format' of type "
                "'json_object'."
            )
        return error(400, message, code="invalid_request_error") if message else None

    def answer(self, request: Request) -> Reply:
        # It keeps connections open with blank lines while it thinks.
        return Reply(200, b"\n\n\n" + json.dumps(super().answer(request).body).encode())

    def choice(self, request: Request, index: int) -> dict[str, Any]:
        thoughts = 'I may say {"title": "Draft", "description": "A first draft."} here.'
        message = {"content": title_of(request), "reasoning_content": thoughts}
        return choice({"role": "assistant", **message}, index)


class Plain(Form):
    """A server that knows no response_format, with a model that thinks aloud and chats."""

    def refuse(self, request: Request) -> Reply | None:
        if "response_format" not in request.body:
            return None
        problem = {
            "type": "extra_forbidden",
            "loc": ["body", "response_format"],
            "msg": "Extra inputs are not permitted",
            "input": request.body["response_format"],
        }
        return Reply(422, {"detail": [problem]})

    def dressed(self, request: Request) -> str:
        draft = '{"title": "Draft", "description": "A first draft."}'
        return (
            f"<think>\nItems [1] and [2] look alike. Perhaps {draft}?\n</think>\n\n"
            f"Items [1] and [2] say it best. Here is the answer:\n\n{title_of(request)}\n\n"
            "I hope this helps {or not}!"
        )


class Misbehaving(Form):
    """An endpoint that answers by ``next`` and ``always``.

    Real endpoints quote the key that they refuse, as its errors do.
    """

    def fail(self, status: int, **more: Any) -> None:
        """Answer every request with an error from here on."""
        self.always = error(status, f"planned failure for Bearer {KEY}", **more)


class Proxy(Form):
    """An HTTP proxy, which answers for every host itself."""

    def refusal(self, request: Request) -> Reply | None:
        return None


class _Handler(BaseHTTPRequestHandler):
    server: Form

    def do_POST(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        query = dict(urllib.parse.parse_qsl(url.query))
        reply = self.server.reply(Request(url.path, query, headers, body))
        time.sleep(reply.seconds)
        if reply.status == 0:
            self.close_connection = True
            return
        data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(data) if reply.length is None else reply.length))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        # The client may have given up.
        with suppress(OSError):
            self.end_headers()
            self.wfile.write(data)

    def do_CONNECT(self) -> None:
        with self.server.lock:
            self.server.requests.append(Request(self.path, {}, {}, {}))
        self.send_error(502)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


F = TypeVar("F", bound=Form)


@contextmanager
def serve(form: F, after_seconds: float = 0.0) -> Iterator[F]:
    """Let an endpoint answer as long as the context is open.

    Args:
        form: The endpoint.
        after_seconds: For so long connections are refused.
    """

    def listen() -> None:
        if after_seconds:
            time.sleep(after_seconds)
            form.server_activate()
        form.serve_forever(poll_interval=0.05)

    if not after_seconds:
        form.server_activate()
    thread = threading.Thread(target=listen)
    thread.start()
    try:
        yield form
    finally:
        form.shutdown()
        thread.join()
        form.server_close()
