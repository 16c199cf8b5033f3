"""Language models behind one small interface."""

from __future__ import annotations

import datetime
import email.utils
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from hercules_scale.config import SummariesConfig
from hercules_scale.errors import ConfigError, StageError
from hercules_scale.printable import without_secrets
from hercules_scale.summarization.prompts import Message, Tokens


@dataclass(frozen=True)
class ChatRequest:
    """One question.

    Attributes:
        messages: The conversation so far.
        schema: JSON schema of the answer.
        temperature: 0 is the likeliest answer.
        max_tokens: Tokens of an answer, at most.
        seed: Seed of the draw.
        n: Answers wanted.
    """

    messages: list[Message]
    schema: dict[str, Any]
    temperature: float
    max_tokens: int
    seed: int
    n: int = 1

    def payload(self, model: str) -> dict[str, Any]:
        """The request as OpenAI's chat completions API takes it."""
        return {
            "model": model,
            "messages": self.messages,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
            "n": self.n,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "summary", "schema": self.schema, "strict": True},
            },
        }


@dataclass(frozen=True)
class Answer:
    """One of the answers to a question, and why it ended."""

    text: str
    finish_reason: str


@dataclass(frozen=True)
class ChatReply:
    """The answers to one question, and what they took."""

    answers: list[Answer]
    prompt_tokens: int
    completion_tokens: int


class ModelUnavailableError(Exception):
    """The model could not be reached or refused; the request may be sent again.

    Args:
        message: Why.
        wait_seconds: How long it asked to be left alone.
    """

    def __init__(self, message: str, wait_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.wait_seconds = wait_seconds


class ChatClient(Protocol):
    """Answers questions, many at a time."""

    async def answer(self, request: ChatRequest) -> ChatReply:
        """Answer one question.

        Raises:
            ModelUnavailableError: There was no answer.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


def read_completion(completion: Any) -> ChatReply:
    """A reply out of a chat completion, as OpenAI's or vLLM's package gives it.

    Raises:
        ModelUnavailableError: It holds no answer.
    """
    if not completion.choices:
        raise ModelUnavailableError("the endpoint answered without choices")
    usage = completion.usage
    return ChatReply(
        [
            Answer(choice.message.content or "", choice.finish_reason or "")
            for choice in completion.choices
        ],
        usage.prompt_tokens if usage else 0,
        (usage.completion_tokens or 0) if usage else 0,
    )


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that a reply asks to wait, 0 where it does not.

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


@dataclass(frozen=True)
class Model:
    """A language model that answers.

    Attributes:
        client: Sends requests to it.
        tokens: Its tokenizer, or an estimate.
        in_flight: Requests that it takes at a time.
    """

    client: ChatClient
    tokens: Tokens
    in_flight: int


class OpenAIClient:
    """Any endpoint that speaks OpenAI's chat completions API.

    Args:
        config: The summaries section; ``endpoint`` or OPENAI_BASE_URL says where, the key is
            OPENAI_API_KEY.

    Raises:
        ConfigError: There is no key.
    """

    def __init__(self, config: SummariesConfig) -> None:
        import openai

        key = os.environ.get("OPENAI_API_KEY")
        if not key:
            raise ConfigError(
                "summaries.engine openai needs the key of the endpoint in the environment "
                "variable OPENAI_API_KEY, which is not set; any text does for a local server "
                "without keys"
            )
        self._openai = openai
        self._model = config.model
        # Attempts are counted, and kept in llm_calls, by the caller.
        self._client = openai.AsyncOpenAI(
            api_key=key, base_url=config.endpoint, max_retries=0, timeout=config.timeout_seconds
        )

    @property
    def url(self) -> str:
        """Where the endpoint is."""
        return str(self._client.base_url)

    async def answer(self, request: ChatRequest) -> ChatReply:
        """Answer one question.

        Raises:
            ModelUnavailableError: The endpoint failed, refused or timed out.
            StageError: It does not accept the key.
        """
        try:
            completion = await self._client.chat.completions.create(**request.payload(self._model))
        except (self._openai.AuthenticationError, self._openai.PermissionDeniedError) as error:
            raise StageError(
                f"the endpoint refuses the key of OPENAI_API_KEY ({error.status_code}) for the "
                f"model {self._model!r}; set the right one and run again, it resumes",
                stage="summarize",
            ) from None
        except self._openai.OpenAIError as error:
            wait = retry_after(getattr(getattr(error, "response", None), "headers", {}))
            # The cause is left out, and the key that it may quote with it.
            reason = without_secrets(f"{type(error).__name__}: {error}")
            raise ModelUnavailableError(reason, wait) from None
        return read_completion(completion)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()
