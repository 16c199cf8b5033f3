"""The client of endpoints that are compatible with OpenAI's chat completions API."""

from __future__ import annotations

import asyncio
import datetime
import email.utils
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from hercules_scale.config.summaries import SummariesConfig
from hercules_scale.endpoint import CONNECT_SECONDS, client_arguments, import_openai
from hercules_scale.errors import ConfigError, StageError, SummaryError
from hercules_scale.sanitize import without_secrets
from hercules_scale.summarization.chat import (
    REFUSED,
    WARM_TEMPERATURE,
    ChatReply,
    ChatRequest,
    ModelUnavailableError,
    NoJsonError,
    RefusedRequestError,
    read_completion,
    words_of,
)
from hercules_scale.summarization.endpoint_features import EndpointFeatures

# Concurrent requests to an endpoint, unless the user sets them.
ENDPOINT_REQUESTS = 32
# Time that an endpoint has to load its model before a run starts.
PROBE_SECONDS = 60.0
PROBE_DELAY_SECONDS = 1.0
# Time after which a message says what the run waits for.
SILENT_SECONDS = 5.0
# Enough for the answer to the probe. A model that thinks first is cut off, which is enough too.
PROBE_TOKENS = 64
# Distance between the seeds of requests for several answers to one question.
SEED_STEP = 1_000_003
# Plain file servers answer 405 or 501 to a POST.
_FORBIDDEN = 403
_KEY_REFUSED, _NOT_FOUND, _NO_CREDIT = (401, _FORBIDDEN), (404, 405, 501), 402
_INTERNAL = 500
_NO_MODEL = re.compile(
    r"model[^.]{0,80}\b(?:not found|not exist|does not exist)"
    r"|\b(?:invalid|unknown|no such) model\b(?! param| arg)",
    re.IGNORECASE,
)
# The endpoint rejected the model's output; another draw may be valid.
_BAD_DRAW = re.compile(r"json_validate_failed|failed to (?:generate|validate) json", re.IGNORECASE)
# A model that thinks first ran out of the probe's tokens, which is enough for the probe.
_CUT_OFF = re.compile(r"could not finish|output limit was reached", re.IGNORECASE)
PROBE = ChatRequest(
    [
        {"role": "system", "content": "Answer with a JSON object."},
        {"role": "user", "content": 'Answer with {"title": "Ready", "description": "Ready."}'},
    ],
    {
        "type": "object",
        "properties": {"title": {"type": "string"}, "description": {"type": "string"}},
        "required": ["title", "description"],
        "additionalProperties": False,
    },
    temperature=0.0,
    max_tokens=PROBE_TOKENS,
    seed=1,
)


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the pause in seconds that a reply's headers ask for; 0 without such a header.

    Source: RFC 9110, section 10.2.3; ``retry-after-ms`` as OpenAI's own client reads it.
    """
    try:
        if "retry-after-ms" in headers:
            return max(float(headers["retry-after-ms"]) / 1000, 0.0)
        value = headers.get("retry-after", "0")
        if value.replace(".", "", 1).isdigit():
            return float(value)
        when = email.utils.parsedate_to_datetime(value)
        return max((when - datetime.datetime.now(datetime.UTC)).total_seconds(), 0.0)
    except (TypeError, ValueError):
        return 0.0


def requests_in_flight(config: SummariesConfig) -> int:
    """Return the largest number of concurrent requests to an endpoint."""
    return config.requests_in_flight or ENDPOINT_REQUESTS


class _PermanentError(Exception):
    """The endpoint refuses every request; the message has the reason and the remedy."""


class OpenAIClient:
    """Client of an endpoint that is compatible with OpenAI's chat completions API.

    Args:
        config: Section ``summaries``; ``endpoint`` or OPENAI_BASE_URL is the base URL, the key is
            OPENAI_API_KEY. A query in the URL, such as Azure's ``api-version``, goes with every
            request.
        features: Features of the endpoint, as an earlier probe found them.

    Attributes:
        features: Features that requests use.

    Raises:
        ConfigError: There is no key.
    """

    def __init__(self, config: SummariesConfig, features: EndpointFeatures | None = None) -> None:
        openai = import_openai("summaries.engine")
        http_client = openai.DefaultAsyncHttpxClient
        arguments = client_arguments("summaries.engine", config.endpoint, http_client)
        self._openai, self._config = openai, config
        self.features = features or EndpointFeatures()
        self._probed = features is not None
        self._free = asyncio.Semaphore(requests_in_flight(config))
        self.url: str = arguments["base_url"]
        # The caller repeats failed requests, records each attempt and limits its time.
        self._client = openai.AsyncOpenAI(
            **arguments,
            max_retries=0,
            timeout=openai.Timeout(None, connect=CONNECT_SECONDS),
        )

    async def probe(self, say: Callable[[str], object]) -> None:
        """Ask one small question to find the features of the endpoint.

        Args:
            say: Shows a message about a slow endpoint, or about missing parts of the API.

        Raises:
            ConfigError: The endpoint refuses every form of the question, or does not answer.
        """
        until = time.monotonic() + PROBE_SECONDS
        delay, seconds = PROBE_DELAY_SECONDS, self._config.timeout_seconds
        # The same parameters as in the first question about a cluster.
        n, temperature = self._config.candidates, self._config.temperature
        warm = temperature if n == 1 else max(temperature, WARM_TEMPERATURE)
        request = replace(PROBE, n=n, temperature=warm)
        reply: ChatReply | None = None
        while True:
            try:
                # Some servers load their model at the first request.
                question = asyncio.ensure_future(self._send(request, self.features))
                silent = min(SILENT_SECONDS, seconds)
                if not (await asyncio.wait({question}, timeout=silent))[0]:
                    say(f"waiting for the first answer of {self._name}")
                reply = await asyncio.wait_for(question, seconds - silent)
                break
            except RefusedRequestError as error:
                if _CUT_OFF.search(str(error)):
                    break
                simpler = (
                    None if _NO_MODEL.search(str(error)) else self.features.simpler(str(error))
                )
                if simpler is None:
                    raise ConfigError(self._refused(str(error))) from None
                self.features = simpler
            except _PermanentError as error:
                raise ConfigError(str(error)) from None
            except NoJsonError as error:
                raise ConfigError(f"{self._place}: {error}; correct {self._check_url}") from None
            except (ModelUnavailableError, SummaryError, TimeoutError) as error:
                wait = max(delay, getattr(error, "wait_seconds", 0.0))
                if time.monotonic() + wait > until:
                    reason = str(error) or f"no answer in {seconds:g} s"
                    raise ConfigError(
                        f"{self._place}: the endpoint does not answer ({reason}); start it or "
                        "correct summaries.endpoint"
                    ) from None
                await asyncio.sleep(wait)
                delay *= 2
        self._probed = True
        if reply is not None and self.features.several and len(reply.answers) < request.n:
            self.features = replace(self.features, several=False)
        missing = self.features.describe()
        if missing:
            say(f"{self._name} does not take {missing}")

    def n_prompts(self, request: ChatRequest) -> int:
        """Return the number of HTTP requests for a question: one, or one for each answer."""
        return 1 if self.features.several else request.n

    async def answer(self, request: ChatRequest) -> ChatReply:
        """Answer one question.

        Raises:
            ModelUnavailableError: The endpoint failed or is busy.
            RefusedRequestError: The endpoint refuses this question.
            SummaryError: The endpoint rejected the model's output.
            StageError: The endpoint refuses every question.
        """
        try:
            if self.features.several or request.n == 1:
                return await self._send(request, self.features)
            return await self._send_each(request)
        except _PermanentError as error:
            raise StageError(
                f"{error}; run again when it is corrected, the run resumes", stage="summarize"
            ) from None

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _send_each(self, request: ChatRequest) -> ChatReply:
        """Ask for several answers by one request each; failed ones are left out of the reply.

        Raises:
            Exception: The first failure, where every request failed.
        """
        draws = [
            replace(request, n=1, seed=request.seed + SEED_STEP * draw) for draw in range(request.n)
        ]
        ends = await asyncio.gather(
            *(self._send(draw, self.features) for draw in draws), return_exceptions=True
        )
        replies = [end for end in ends if isinstance(end, ChatReply)]
        waits = [end.wait_seconds for end in ends if isinstance(end, ModelUnavailableError)]
        if not replies:
            raise next(end for end in ends if isinstance(end, BaseException))
        return ChatReply(
            [answer for reply in replies for answer in reply.answers],
            _sum([reply.prompt_tokens for reply in replies]),
            _sum([reply.completion_tokens for reply in replies]),
            max(waits, default=0.0),
        )

    async def _send(self, request: ChatRequest, features: EndpointFeatures) -> ChatReply:
        """Send one request and read its reply."""
        body = features.payload(request, self._config.model)
        completions = self._client.chat.completions.with_raw_response
        try:
            async with self._free:
                response = await completions.create(**body)
        except self._openai.APIStatusError as error:
            raise self._problem(error) from None
        except self._openai.OpenAIError as error:
            # The cause is left out, since it may quote the key.
            reason = without_secrets(f"{type(error).__name__}: {error}")
            raise ModelUnavailableError(reason) from None
        text = response.http_response.text
        try:
            completion = json.loads(text)
        except (ValueError, RecursionError):
            raise NoJsonError(
                f"the endpoint answered with no JSON, but {words_of(text)[:80]!r}"
            ) from None
        return read_completion(completion)

    def _problem(self, error: Any) -> Exception:
        """Return the exception for an HTTP status other than success."""
        status = error.status_code
        words = words_of(error.body if error.body is not None else error.response.text)
        if status == _FORBIDDEN and self._probed:
            # The key worked before, so the endpoint's moderation refused this question.
            return RefusedRequestError(words or str(status))
        if status in _KEY_REFUSED:
            return _PermanentError(
                f"{self._place}: the endpoint refuses the key of OPENAI_API_KEY ({status}: "
                f"{words}); set the right one"
            )
        if status in _NOT_FOUND:
            return _PermanentError(
                f"{self._place}: not found ({words or status}); correct summaries.model or "
                f"{self._check_url}"
            )
        if status == _NO_CREDIT or "insufficient_quota" in str(error.body):
            return _PermanentError(
                f"{self._place}: the account has no credit ({status}: {words}); add some, or name "
                "another endpoint"
            )
        if status in REFUSED and _BAD_DRAW.search(words):
            return SummaryError(words)
        # Some servers answer an unsupported part of the request with an internal error.
        unknown_part = status == _INTERNAL and not self._probed and self.features.names(words)
        if status in REFUSED or unknown_part:
            return RefusedRequestError(words or str(status))
        return ModelUnavailableError(f"{status}: {words}", retry_after(error.response.headers))

    @property
    def _name(self) -> str:
        return f"{self._config.model} at {without_secrets(self.url)}"

    @property
    def _place(self) -> str:
        return f"summaries.model {self._config.model!r} at {without_secrets(self.url)}"

    @property
    def _check_url(self) -> str:
        url = without_secrets(self.url).rstrip("/")
        if url.endswith("/v1") or "/openai/" in url:
            return "summaries.endpoint"
        return f"summaries.endpoint (most servers want {url}/v1)"

    def _refused(self, words: str) -> str:
        return (
            f"{self._place}: the endpoint refuses every form of the request ({words}); correct "
            "summaries.model or summaries.endpoint"
        )


def _sum(counts: list[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
