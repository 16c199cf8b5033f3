"""Language models behind one small interface."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Protocol

from hercules_scale.config import SummariesConfig
from hercules_scale.errors import ConfigError
from hercules_scale.summarization.prompts import ANSWER_SCHEMA, Message


@dataclass(frozen=True)
class ChatRequest:
    """One question.

    Attributes:
        messages: The conversation so far.
        temperature: 0 is the likeliest answer.
        max_tokens: Tokens of the answer, at most.
        seed: Seed of the draw.
    """

    messages: list[Message]
    temperature: float
    max_tokens: int
    seed: int

    def payload(self, model: str) -> dict[str, Any]:
        """The request as OpenAI's chat completions API takes it."""
        return {
            "model": model,
            "messages": self.messages,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "summary", "schema": ANSWER_SCHEMA, "strict": True},
            },
        }


@dataclass(frozen=True)
class ChatReply:
    """One answer, and what it took."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


class ModelUnavailableError(Exception):
    """The model could not be reached or refused; the request may be sent again."""


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

    async def answer(self, request: ChatRequest) -> ChatReply:
        """Answer one question.

        Raises:
            ModelUnavailableError: The endpoint failed, refused or timed out.
        """
        try:
            completion = await self._client.chat.completions.create(**request.payload(self._model))
        except self._openai.OpenAIError as error:
            raise ModelUnavailableError(f"{type(error).__name__}: {error}") from error
        if not completion.choices:
            raise ModelUnavailableError("the endpoint answered without choices")
        choice, usage = completion.choices[0], completion.usage
        return ChatReply(
            choice.message.content or "",
            choice.finish_reason or "",
            usage.prompt_tokens if usage else 0,
            usage.completion_tokens if usage else 0,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()
