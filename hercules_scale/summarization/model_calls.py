"""Calls to a model: concurrent, never repeated, within a budget, and paused during an outage."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol, TypeVar

from hercules_scale.config.summaries import SummariesConfig
from hercules_scale.errors import StageError, SummaryError
from hercules_scale.summarization import request_limits
from hercules_scale.summarization.chat import (
    ChatReply,
    ChatRequest,
    Model,
    ModelUnavailableError,
    RefusedRequestError,
)
from hercules_scale.summarization.ledger import Call, Ledger
from hercules_scale.summarization.prompts import PromptStyle
from hercules_scale.summarization.request_limits import (
    OUTAGE_CALLS,
    CircuitBreaker,
    ConcurrencyLimit,
    RequestClock,
)

# Interval at which the progress display is refreshed.
REFRESH_SECONDS = 5.0

T = TypeVar("T")


class Progress(Protocol):
    """Progress display of a stage.

    Attributes:
        details: Returns the text shown beside the counts.
    """

    details: Callable[[], str]

    def refresh(self) -> None:
        """Show the current details."""
        ...


class Asker:
    """Asks a model, and keeps its replies in a ledger.

    Args:
        model: The model.
        ledger: Calls of this run and of its earlier attempts.
        config: Section ``summaries``.
        style: Style of the prompts, which counts their tokens.
        spent: Prompt and completion tokens of calls in other ledgers.
        stage: Name of the stage that asks, for messages.
    """

    def __init__(
        self,
        model: Model,
        ledger: Ledger,
        config: SummariesConfig,
        style: PromptStyle,
        spent: tuple[int, int] = (0, 0),
        stage: str = "summarize",
    ) -> None:
        self._client, self._ledger, self._stage = model.client, ledger, stage
        self._config, self._style = config, style
        self.in_flight = model.in_flight
        self._concurrency = ConcurrencyLimit(
            model.in_flight, model.at_first, config.timeout_seconds
        )
        self._breaker = CircuitBreaker()
        self._clocks: list[RequestClock] = []
        self._stopped = ""
        self._refused_in_a_row = 0
        self._generated_tokens = 0
        prompt, completion = ledger.tokens
        self._prompt_tokens, self._completion_tokens = prompt + spent[0], completion + spent[1]

    @contextmanager
    def reporting(self, progress: Progress) -> Iterator[None]:
        """Show tokens per second and requests in flight while the block runs."""
        started = time.monotonic()
        before = self._generated_tokens

        def details() -> str:
            rate = (self._generated_tokens - before) / max(time.monotonic() - started, 1e-3)
            return f"{rate:,.0f} tokens/s, {len(self._clocks)} questions in flight"

        async def refresh() -> None:
            while True:
                await asyncio.sleep(REFRESH_SECONDS)
                progress.refresh()

        progress.details = details
        task = asyncio.ensure_future(refresh())
        try:
            yield
        finally:
            task.cancel()
            progress.details = lambda: ""

    async def ask(
        self,
        request: ChatRequest,
        level: int,
        cluster_id: int | None,
        attempt: int,
        read: Callable[[ChatReply], T],
    ) -> T:
        """Ask a question, or take its reply from the ledger, and return ``read(reply)``.

        Raises:
            SummaryError: ``read`` raised it.
            ModelUnavailableError: There was no answer; the caller may try again.
            RefusedRequestError: The model refuses this question.
            StageError: The model answers no question, or the budget is spent.
        """
        payload = json.dumps(request.payload(self._config.model), sort_keys=True)
        prompt_hash = hashlib.sha256(payload.encode()).hexdigest()
        known = self._ledger.find(prompt_hash)
        if known is not None:
            return read(known)
        async with self._concurrency, self._breaker.passage():
            reserved = self._reserve(request, level)
            started = time.monotonic()
            reply: ChatReply | None = None
            problem: SummaryError | ModelUnavailableError | RefusedRequestError | None = None
            outcome = "ok"
            try:
                reply = _counted(await self._answer(request), reserved)
                result = read(reply)
            except TimeoutError:
                seconds = self._config.timeout_seconds
                outcome = "timeout"
                problem = ModelUnavailableError(f"no answer in {seconds:g} s")
            except ModelUnavailableError as error:
                outcome, problem = "error", error
            except RefusedRequestError as error:
                outcome, problem = "refused", error
            except SummaryError as error:
                outcome, problem = "invalid", error
            except StageError as error:
                self._stopped = self._stopped or str(error)
                raise
            finally:
                self._prompt_tokens -= reserved[0]
                self._completion_tokens -= reserved[1]
            # A model that ran out of time has read the prompt.
            unanswered = (reserved[0] if outcome == "timeout" else 0, 0)
            prompt, completion = (
                (reply.prompt_tokens, reply.completion_tokens) if reply else unanswered
            )
            assert prompt is not None
            assert completion is not None
            self._prompt_tokens += prompt
            self._completion_tokens += completion
            self._generated_tokens += completion
            keep = self._config.record_prompts
            call = Call(
                level,
                cluster_id,
                attempt,
                prompt_hash,
                self._config.model,
                prompt,
                completion,
                time.monotonic() - started,
                outcome,
                json.dumps(request.messages, ensure_ascii=False) if keep else None,
                json.dumps([each.text for each in reply.answers], ensure_ascii=False)
                if keep and reply
                else None,
            )
            await self._ledger.add(call, reply)
            self._watch(problem, outcome, started)
            if reply is not None and reply.wait_seconds:
                self._concurrency.close_for(reply.wait_seconds, started)
        if problem is not None:
            raise problem
        return result

    async def _answer(self, request: ChatRequest) -> ChatReply:
        """Send a request and wait for its reply.

        Raises:
            TimeoutError: The reply took longer than the time limit.
        """
        clock = RequestClock(time.monotonic(), len(self._clocks))
        self._clocks.append(clock)
        # A client that makes the answers one after another has the time limit for each.
        limit = self._config.timeout_seconds * self._client.n_prompts(request)
        answer = asyncio.ensure_future(self._client.answer(request))
        try:
            while not answer.done():
                left = clock.since + limit - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                await asyncio.wait({answer}, timeout=left)
            return answer.result()
        finally:
            came = answer.done() and not answer.cancelled() and answer.exception() is None
            answer.cancel()
            self._clocks.remove(clock)
            for other in self._clocks:
                if other.ahead:
                    other.ahead -= 1
                    if came:
                        other.since = time.monotonic()

    def _watch(self, problem: Exception | None, outcome: str, started: float) -> None:
        """Adapt the concurrency and the breaker to the outcome of a call."""
        if isinstance(problem, ModelUnavailableError):
            if self._breaker.failed(started):
                self._stopped = (
                    f"the model {self._config.model!r} failed {OUTAGE_CALLS} times in a row "
                    f"and for {request_limits.OUTAGE_SECONDS:g} s after that, last with: "
                    f"{str(problem)[:300]}; run again when it answers, the run resumes"
                )
            if problem.wait_seconds:
                self._concurrency.close_for(problem.wait_seconds, started)
            elif outcome == "timeout":
                self._concurrency.late(started)
            return
        self._breaker.answered()
        if isinstance(problem, RefusedRequestError):
            self._refused_in_a_row += 1
            if self._refused_in_a_row >= OUTAGE_CALLS:
                self._stopped = (
                    f"the model {self._config.model!r} refused {OUTAGE_CALLS} requests in a row, "
                    f"last with: {str(problem)[:300]}; correct what it names and run again, the "
                    "run resumes"
                )
            return
        self._refused_in_a_row = 0
        self._concurrency.answered(started)

    def _reserve(self, request: ChatRequest, level: int) -> tuple[int, int]:
        """Reserve the most tokens that a call can take, so that it cannot exceed the budget.

        Returns:
            Prompt and completion tokens.

        Raises:
            StageError: The budget has no room for them, or calls have stopped.
        """
        if self._stopped:
            raise StageError(self._stopped, stage=self._stage, level=level)
        config = self._config
        prompt = self._style.count(request.messages) * self._client.n_prompts(request)
        completion = request.n * request.max_tokens
        spent = self._prompt_tokens + self._completion_tokens
        most = config.max_total_tokens
        if most is not None and spent + prompt + completion > most:
            self._stop_for("max_total_tokens", f"{most:,}", level)
        if config.max_cost is not None and config.price is not None:
            cost = config.price.of(
                self._prompt_tokens + prompt, self._completion_tokens + completion
            )
            if cost > config.max_cost:
                self._stop_for("max_cost", f"{config.max_cost:g}", level)
        self._prompt_tokens += prompt
        self._completion_tokens += completion
        return prompt, completion

    def _stop_for(self, key: str, limit: str, level: int) -> None:
        # The judge has command-line options in place of configuration keys.
        name = f"summaries.{key}" if self._stage == "summarize" else f"--{key.replace('_', '-')}"
        self._stopped = (
            f"{name} {limit} leaves no room for another call; what was made is kept: run "
            "again with more, the run resumes"
        )
        raise StageError(self._stopped, stage=self._stage, level=level)


def _counted(reply: ChatReply, reserved: tuple[int, int]) -> ChatReply:
    """Return a reply with token counts; the reserved ones where the model gives none."""
    prompt, completion = reply.prompt_tokens, reply.completion_tokens
    return replace(
        reply,
        prompt_tokens=reserved[0] if prompt is None else prompt,
        completion_tokens=reserved[1] if completion is None else completion,
    )
