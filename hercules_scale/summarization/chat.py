"""Requests to a language model, its replies, and the interface of clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from hercules_scale.sanitize import without_secrets
from hercules_scale.summarization.prompts import Message
from hercules_scale.summarization.tokens import Tokens

# Characters of an endpoint's error that a message quotes.
QUOTED_CHARACTERS = 300
# Lowest temperature at which several answers to one question differ.
WARM_TEMPERATURE = 0.6
# Status codes of requests that the endpoint would refuse again.
REFUSED = (400, 413, 415, 422)


@dataclass(frozen=True)
class ChatRequest:
    """One request.

    Attributes:
        messages: The conversation so far.
        schema: JSON schema of the answer.
        temperature: Sampling temperature; 0 gives the likeliest answer.
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
        """Return the request as OpenAI's chat completions API takes it."""
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
    """One answer to a question, and the reason why generation ended."""

    text: str
    finish_reason: str


@dataclass(frozen=True)
class ChatReply:
    """The answers to one question, and their cost.

    Attributes:
        answers: At least one answer.
        prompt_tokens: Tokens of the question; None where the model gives no count.
        completion_tokens: Tokens of all answers; None where the model gives no count.
        wait_seconds: Pause that the model asked for with its answers.
    """

    answers: list[Answer]
    prompt_tokens: int | None
    completion_tokens: int | None
    wait_seconds: float = 0.0


class ModelUnavailableError(Exception):
    """The model gave no answer; the request may be sent again.

    Args:
        message: The reason.
        wait_seconds: Pause that the model asked for.
    """

    def __init__(self, message: str, wait_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.wait_seconds = wait_seconds


class NoJsonError(ModelUnavailableError):
    """The endpoint did not answer with JSON, but for example with a proxy's HTML page."""


class RefusedRequestError(Exception):
    """The model refuses this request, and would refuse it again."""


class ChatClient(Protocol):
    """Client that answers many questions at a time."""

    def n_prompts(self, request: ChatRequest) -> int:
        """Return the number of prompts that a request is charged for."""
        ...

    async def answer(self, request: ChatRequest) -> ChatReply:
        """Answer one question.

        Raises:
            ModelUnavailableError: There was no answer; another attempt may succeed.
            RefusedRequestError: The model refuses this question.
            StageError: The model refuses every question.
        """
        ...

    async def close(self) -> None:
        """Close connections."""
        ...


@dataclass(frozen=True)
class Model:
    """A language model that is ready to answer.

    Attributes:
        client: Client that sends requests to it.
        tokens: Its tokenizer, or an estimate.
        in_flight: Largest number of concurrent requests.
        at_first: Number of concurrent requests at the start; it adapts to the time of answers.
    """

    client: ChatClient
    tokens: Tokens
    in_flight: int
    at_first: int = 8


def read_completion(completion: Any) -> ChatReply:
    """Read a chat completion; accept the deviations of known endpoints from the API.

    Args:
        completion: The completion, parsed from JSON.

    Raises:
        ModelUnavailableError: It holds no answer.
        RefusedRequestError: It holds an error with one of the codes in ``REFUSED``.
    """
    if not isinstance(completion, dict):
        raise ModelUnavailableError("the endpoint answered with JSON that is no chat completion")
    if error := completion.get("error"):
        words = f"the endpoint answered with an error: {words_of(completion)}"
        refused = isinstance(error, dict) and error.get("code") in REFUSED
        raise RefusedRequestError(words) if refused else ModelUnavailableError(words)
    choices = completion.get("choices")
    choices = choices if isinstance(choices, list) else []
    answers = [_answer(each) for each in choices if isinstance(each, dict)]
    if not answers:
        raise ModelUnavailableError("the endpoint answered without choices")
    usage = completion.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    return ChatReply(answers, _count(counts, "prompt_tokens"), _count(counts, "completion_tokens"))


def _answer(choice: dict[str, Any]) -> Answer:
    message = choice.get("message")
    message = message if isinstance(message, dict) else {}
    content = message.get("content") or message.get("refusal")
    if isinstance(content, list):
        parts = [each.get("text") if isinstance(each, dict) else each for each in content]
        content = "".join(part for part in parts if isinstance(part, str))
    text = content if isinstance(content, str) else ""
    return Answer(text, str(choice.get("finish_reason") or ""))


def _count(usage: dict[str, Any], name: str) -> int | None:
    value = usage.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def words_of(body: Any) -> str:
    """Return the text of an endpoint's error on one line, shortened and without secrets."""
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error
    return without_secrets(" ".join(str(error).split()))[:QUOTED_CHARACTERS]
