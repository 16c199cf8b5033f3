"""The client of endpoints that speak OpenAI's chat completions API, more or less."""

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
from hercules_scale.summarization.dialect import Dialect

# Requests that an endpoint is sent at a time, unless the user says.
ENDPOINT_REQUESTS = 32
# Time that an endpoint has to load its model before a run starts.
PROBE_SECONDS = 60.0
PROBE_DELAY_SECONDS = 1.0
# A person hears after this time what a run waits for.
SILENT_SECONDS = 5.0
# Enough for an answer to the probe; a model that thinks first is cut off, which is an answer too.
PROBE_TOKENS = 64
# Draws of one question that are requests of their own have seeds this far apart.
SEED_STEP = 1_000_003
# Servers of files alone answer 405 or 501 to a POST.
_FORBIDDEN = 403
_KEY_REFUSED, _NOT_FOUND, _NO_CREDIT = (401, _FORBIDDEN), (404, 405, 501), 402
_INTERNAL = 500
_NO_MODEL = re.compile(
    r"model[^.]{0,80}\b(?:not found|not exist|does not exist)"
    r"|\b(?:invalid|unknown|no such) model\b(?! param| arg)",
    re.IGNORECASE,
)
# An answer that the endpoint itself could not use; another draw may be better.
_BAD_DRAW = re.compile(r"json_validate_failed|failed to (?:generate|validate) json", re.IGNORECASE)
# A model that thinks ran out of the probe's tokens, which is an answer to the probe.
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
    """Return the seconds that a reply asks to wait, 0 where it does not.

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
    """Return requests that an endpoint is sent at a time, at most."""
    return config.requests_in_flight or ENDPOINT_REQUESTS


class _PermanentError(Exception):
    """The endpoint refuses every request; the message says why and what to change."""


class OpenAIClient:
    """Client of any endpoint that speaks OpenAI's chat completions API.

    Args:
        config: The summaries section; ``endpoint`` or OPENAI_BASE_URL is the base URL, the key is
            OPENAI_API_KEY. A query of the URL, such as Azure's ``api-version``, goes with every
            request.
        dialect: The part of the API that the endpoint takes, as an earlier probe found it.

    Attributes:
        dialect: The part of the API that requests use.

    Raises:
        ConfigError: There is no key.
    """

    def __init__(self, config: SummariesConfig, dialect: Dialect | None = None) -> None:
        openai = import_openai("summaries.engine")
        http_client = openai.DefaultAsyncHttpxClient
        arguments = client_arguments("summaries.engine", config.endpoint, http_client)
        self._openai, self._config = openai, config
        self.dialect = dialect or Dialect()
        self._probed = dialect is not None
        self._free = asyncio.Semaphore(requests_in_flight(config))
        self.url: str = arguments["base_url"]
        # Attempts are counted, and kept in llm_calls, by the caller; so is the time of an answer.
        self._client = openai.AsyncOpenAI(
            **arguments,
            max_retries=0,
            timeout=openai.Timeout(None, connect=CONNECT_SECONDS),
        )

    async def probe(self, say: Callable[[str], object]) -> None:
        """Ask one small question, and learn the part of the API that the endpoint takes.

        Args:
            say: Called with one line where the endpoint does not take all of it.

        Raises:
            ConfigError: The endpoint refuses every form of the question, or does not answer.
        """
        until = time.monotonic() + PROBE_SECONDS
        delay, seconds = PROBE_DELAY_SECONDS, self._config.timeout_seconds
        # As the first question about a cluster is asked.
        n, temperature = self._config.candidates, self._config.temperature
        warm = temperature if n == 1 else max(temperature, WARM_TEMPERATURE)
        request = replace(PROBE, n=n, temperature=warm)
        reply: ChatReply | None = None
        while True:
            try:
                # A server that loads its model when it is first asked answers after that.
                question = asyncio.ensure_future(self._send(request, self.dialect))
                silent = min(SILENT_SECONDS, seconds)
                if not (await asyncio.wait({question}, timeout=silent))[0]:
                    say(f"waiting for the first answer of {self._name}")
                reply = await asyncio.wait_for(question, seconds - silent)
                break
            except RefusedRequestError as error:
                if _CUT_OFF.search(str(error)):
                    break
                simpler = None if _NO_MODEL.search(str(error)) else self.dialect.simpler(str(error))
                if simpler is None:
                    raise ConfigError(self._refused(str(error))) from None
                self.dialect = simpler
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
        if reply is not None and self.dialect.several and len(reply.answers) < request.n:
            self.dialect = replace(self.dialect, several=False)
        missing = self.dialect.describe()
        if missing:
            say(f"{self._name} does not take {missing}")

    def n_prompts(self, request: ChatRequest) -> int:
        """Return the number of requests for a question: one an answer, where one is given."""
        return 1 if self.dialect.several else request.n

    async def answer(self, request: ChatRequest) -> ChatReply:
        """Answer one question.

        Raises:
            ModelUnavailableError: The endpoint failed or is busy.
            RefusedRequestError: It does not take this question.
            SummaryError: It could not use the answer itself.
            StageError: It does not take any.
        """
        try:
            if self.dialect.several or request.n == 1:
                return await self._send(request, self.dialect)
            return await self._send_each(request)
        except _PermanentError as error:
            raise StageError(
                f"{error}; run again when it is corrected, the run resumes", stage="summarize"
            ) from None

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _send_each(self, request: ChatRequest) -> ChatReply:
        """Ask for several answers by as many requests; those that come are the reply.

        Raises:
            Exception: The first failure, where no answer came.
        """
        draws = [
            replace(request, n=1, seed=request.seed + SEED_STEP * draw) for draw in range(request.n)
        ]
        ends = await asyncio.gather(
            *(self._send(draw, self.dialect) for draw in draws), return_exceptions=True
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

    async def _send(self, request: ChatRequest, dialect: Dialect) -> ChatReply:
        """Send one request and read its reply."""
        body = dialect.payload(request, self._config.model)
        completions = self._client.chat.completions.with_raw_response
        try:
            async with self._free:
                response = await completions.create(**body)
        except self._openai.APIStatusError as error:
            raise self._problem(error) from None
        except self._openai.OpenAIError as error:
            # The cause is left out, and the key that it may quote with it.
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
        """Return the exception that an HTTP status other than success is."""
        status = error.status_code
        words = words_of(error.body if error.body is not None else error.response.text)
        if status == _FORBIDDEN and self._probed:
            # The key was good: this is the moderation of one question.
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
        # Some servers call a part of the request that they do not take an internal error.
        unknown_part = status == _INTERNAL and not self._probed and self.dialect.names(words)
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
