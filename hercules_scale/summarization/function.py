"""The user's own function as a language model."""

from __future__ import annotations

import asyncio
import inspect
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from functools import partial
from typing import Any

from hercules_scale.config.summaries import SummariesConfig
from hercules_scale.errors import StageError
from hercules_scale.sanitize import without_secrets
from hercules_scale.summarization.chat import (
    Answer,
    ChatReply,
    ChatRequest,
    Model,
    ModelUnavailableError,
)
from hercules_scale.summarization.clients import retry_after
from hercules_scale.summarization.prompts import Message
from hercules_scale.summarization.tokens import EstimatedTokens

# Concurrent calls, unless the user sets them.
FUNCTION_REQUESTS = 4


def function_model(function: Callable[[str], Any] | None, config: SummariesConfig) -> Model:
    """Return a model that calls a function from prompt to answer; its tokens are estimated."""
    assert function is not None
    in_flight = config.requests_in_flight or FUNCTION_REQUESTS
    return Model(FunctionClient(function, config.model, in_flight), EstimatedTokens(), in_flight)


class FunctionClient:
    """Client that calls a function, once for each answer.

    There are never more concurrent calls than threads: a call that exceeded the time limit keeps
    its thread until it ends.

    Args:
        function: Function from a prompt to the text of the answer, or to an awaitable of it.
        name: Name of the function, for messages.
        n_threads: Largest number of concurrent calls.
    """

    def __init__(self, function: Callable[[str], Any], name: str, n_threads: int) -> None:
        self._function, self._name = function, name
        self._threads = _Threads(n_threads)
        self._tokens = EstimatedTokens()

    def n_prompts(self, request: ChatRequest) -> int:
        """Return the number of calls for a request: one for each answer."""
        return request.n

    async def answer(self, request: ChatRequest) -> ChatReply:
        """Answer one question; after a failed call, return the answers before it.

        Raises:
            ModelUnavailableError: The first call raised an exception.
            StageError: A call did not return text.
        """
        prompt = as_prompt(request.messages)
        texts: list[str] = []
        while len(texts) < request.n:
            try:
                texts.append(await self._call(prompt))
            except ModelUnavailableError:
                if not texts:
                    raise
                break
        return ChatReply(
            [Answer(text, "stop") for text in texts],
            len(texts) * self._tokens.count(prompt),
            sum(map(self._tokens.count, texts)),
        )

    async def close(self) -> None:
        """End the threads, without waiting for running calls."""
        self._threads.close()

    async def _call(self, prompt: str) -> str:
        def call() -> Any:
            try:
                return self._function(prompt)
            except (Exception, asyncio.CancelledError) as error:
                raise _unavailable(error) from None

        found = await asyncio.wrap_future(self._threads.submit(call))
        if inspect.isawaitable(found):
            try:
                found = await found
            except Exception as error:
                raise _unavailable(error) from None
        if not isinstance(found, str):
            raise StageError(
                f"llm ({self._name}) must return the answer as text (str), got "
                f"{str(found)[:50]!r} ({type(found).__name__}); where there is no answer it must "
                "raise an exception, which is tried again",
                stage="summarize",
            )
        return found


def _unavailable(error: BaseException) -> ModelUnavailableError:
    # The cause is left out, since it may quote a key.
    reason = without_secrets(f"{type(error).__name__}: {error}")
    # The exception of a function that asks an endpoint may hold the endpoint's Retry-After.
    headers = getattr(getattr(error, "response", None), "headers", {})
    return ModelUnavailableError(reason, retry_after(headers))


def as_prompt(messages: list[Message]) -> str:
    """Return a conversation as one text: instructions, worked examples, question."""
    system, *turns = [str(message["content"]) for message in messages]
    *shown, question = turns
    examples = [
        f"Example:\n{asked}\nAnswer:\n{answer}"
        for asked, answer in zip(shown[::2], shown[1::2], strict=True)
    ]
    return "\n\n".join([system, *examples, f"Answer with JSON alone:\n{question}"])


class _Threads:
    """Pool of daemon threads, which do not keep the process alive."""

    def __init__(self, most: int) -> None:
        self._most, self._n_threads = most, 0
        self._todo: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]
        self._todo = queue.SimpleQueue()

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        """Call a function as soon as a thread is free."""
        future: Future[Any] = Future()
        self._todo.put((future, call))
        if self._n_threads < self._most:
            self._n_threads += 1
            # The context marks a run that the function itself starts as part of this run.
            work = partial(copy_context().run, self._work)
            threading.Thread(target=work, name="hercules-llm", daemon=True).start()
        return future

    def close(self) -> None:
        for _ in range(self._n_threads):
            self._todo.put(None)

    def _work(self) -> None:
        while (next_one := self._todo.get()) is not None:
            future, call = next_one
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except BaseException as error:
                # The waiting caller also gets KeyboardInterrupt.
                future.set_exception(error)
