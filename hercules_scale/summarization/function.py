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

# Calls at a time, unless the user says.
FUNCTION_REQUESTS = 4


def function_model(function: Callable[[str], Any] | None, config: SummariesConfig) -> Model:
    """Return a function from a prompt to its answer as a model; its tokens are estimated."""
    assert function is not None
    in_flight = config.requests_in_flight or FUNCTION_REQUESTS
    return Model(FunctionClient(function, config.model, in_flight), EstimatedTokens(), in_flight)


class FunctionClient:
    """Answers questions by calling a function, once for each answer that is wanted.

    The function is never called more often at a time than there are threads: a call that nothing
    waits for any more, since its time is over, keeps its thread until it ends.

    Args:
        function: Function from a prompt to the answer's text, or to an awaitable of it.
        name: Name of the function, for messages.
        n_threads: Calls at a time.
    """

    def __init__(self, function: Callable[[str], Any], name: str, n_threads: int) -> None:
        self._function, self._name = function, name
        self._threads = _Threads(n_threads)
        self._tokens = EstimatedTokens()

    def n_prompts(self, request: ChatRequest) -> int:
        """Return the number of calls for a request: one for each answer."""
        return request.n

    async def answer(self, request: ChatRequest) -> ChatReply:
        """Answer one question; where a call fails, with the answers that came before it.

        Raises:
            ModelUnavailableError: The first call raised an exception.
            StageError: A call returned something else than text.
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
        """Let the threads end; calls that are under way are not waited for."""
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
    # The cause is left out, and the key that it may quote with it.
    reason = without_secrets(f"{type(error).__name__}: {error}")
    # Functions that ask an endpoint may raise what it said of waiting.
    headers = getattr(getattr(error, "response", None), "headers", {})
    return ModelUnavailableError(reason, retry_after(headers))


def as_prompt(messages: list[Message]) -> str:
    """Return one text of a conversation: instructions, worked examples, the question."""
    system, *turns = [str(message["content"]) for message in messages]
    *shown, question = turns
    examples = [
        f"Example:\n{asked}\nAnswer:\n{answer}"
        for asked, answer in zip(shown[::2], shown[1::2], strict=True)
    ]
    return "\n\n".join([system, *examples, f"Answer with JSON alone:\n{question}"])


class _Threads:
    """Calls functions in threads that do not keep the process from ending."""

    def __init__(self, most: int) -> None:
        self._most, self._n_threads = most, 0
        self._todo: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]
        self._todo = queue.SimpleQueue()

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        """Have a function called when a thread is free."""
        future: Future[Any] = Future()
        self._todo.put((future, call))
        if self._n_threads < self._most:
            self._n_threads += 1
            # A function that starts a run of its own must be known to belong to this one.
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
                # Ctrl+C too belongs to whoever waits.
                future.set_exception(error)
