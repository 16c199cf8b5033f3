"""Sends questions to a model: many at a time, none twice, within a budget, never into an outage."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from hercules_scale.config import SummariesConfig
from hercules_scale.errors import StageError, SummaryError
from hercules_scale.summarization.clients import (
    ChatClient,
    ChatReply,
    ChatRequest,
    ModelUnavailableError,
)
from hercules_scale.summarization.ledger import Call, Ledger
from hercules_scale.summarization.prompts import PromptLimits

# So many failed calls in a row, with no answer between, are an outage and no bad luck.
OUTAGE_CALLS = 20
# An outage of this length is not waited for; a replica that died is back in about a minute.
OUTAGE_SECONDS = 60.0
FIRST_PROBE_SECONDS = 1.0
# However long an endpoint asks to be left alone.
LONGEST_WAIT_SECONDS = 600.0
# Answers in a row after which one more request in flight is tried again.
ANSWERS_PER_SLOT = 10

T = TypeVar("T")


class _Gate:
    """Lets so many requests through at a time.

    Where an endpoint says that it is asked too much, all wait as long as it says, and one fewer
    goes through at a time from then on; answers bring it back.
    """

    def __init__(self, limit: int) -> None:
        self._limit = self._slots = limit
        self._free = asyncio.Semaphore(limit)
        self._open_at = 0.0
        self._answered = 0

    async def __aenter__(self) -> None:
        await self._free.acquire()
        while (wait := self._open_at - time.monotonic()) > 0:
            await asyncio.sleep(wait)

    async def __aexit__(self, *_: object) -> None:
        self._free.release()

    async def close_for(self, seconds: float) -> None:
        """Let nothing through for a time, and one fewer after it."""
        self._answered = 0
        wait = min(seconds, LONGEST_WAIT_SECONDS)
        self._open_at = max(self._open_at, time.monotonic() + wait)
        if self._slots > 1:
            self._slots -= 1
            await self._free.acquire()

    def answered(self) -> None:
        """Count an answer."""
        self._answered += 1
        if self._slots < self._limit and self._answered >= ANSWERS_PER_SLOT:
            self._answered = 0
            self._slots += 1
            self._free.release()


class _Breaker:
    """Holds calls back from a model that has stopped answering.

    After some failures in a row calls go one at a time and after growing delays. The first answer
    ends that.
    """

    def __init__(self) -> None:
        self._failed_in_a_row = 0
        self._delay = FIRST_PROBE_SECONDS
        self._open_since: float | None = None
        self._one = asyncio.Lock()

    @asynccontextmanager
    async def passage(self) -> AsyncIterator[None]:
        """Wait for a call's turn."""
        if self._open_since is None:
            yield
            return
        async with self._one:
            if self._open_since is not None:
                await asyncio.sleep(self._delay)
                self._delay *= 2
            yield

    def answered(self) -> None:
        """Count an answer."""
        self._failed_in_a_row, self._open_since = 0, None
        self._delay = FIRST_PROBE_SECONDS

    def failed(self, started: float) -> bool:
        """Count a call that failed; True where the model has been out for too long."""
        now = time.monotonic()
        if self._open_since is None:
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= OUTAGE_CALLS:
                self._open_since = now
            return False
        # What was on its way when the outage was seen says nothing new.
        if started < self._open_since or now - self._open_since < OUTAGE_SECONDS:
            return False
        self._open_since = None  # Nobody waits any longer.
        return True


class Asker:
    """A model behind a ledger.

    Args:
        client: The model.
        ledger: Calls of this run and of earlier attempts at it.
        config: The summaries section.
        limits: The model's tokenizer.
        in_flight: Requests sent and not yet answered, at most.
        spent: Prompt and completion tokens of calls that are in other ledgers.
    """

    def __init__(
        self,
        client: ChatClient,
        ledger: Ledger,
        config: SummariesConfig,
        limits: PromptLimits,
        in_flight: int,
        spent: tuple[int, int] = (0, 0),
    ) -> None:
        self._client, self._ledger = client, ledger
        self._config, self._limits = config, limits
        self.in_flight = in_flight
        self._gate = _Gate(in_flight)
        self._breaker = _Breaker()
        self._stopped = ""
        prompt, completion = ledger.tokens
        self._prompt_tokens, self._completion_tokens = prompt + spent[0], completion + spent[1]

    async def ask(
        self,
        request: ChatRequest,
        level: int,
        cluster_id: int | None,
        attempt: int,
        read: Callable[[ChatReply], T],
    ) -> T:
        """What ``read`` makes of the reply to a question, asked now or in an earlier attempt.

        Raises:
            SummaryError: ``read`` raised it.
            ModelUnavailableError: There was no answer; the call may be made again.
            StageError: The model does not answer at all, or the budget is spent.
        """
        payload = json.dumps(request.payload(self._config.model), sort_keys=True)
        prompt_hash = hashlib.sha256(payload.encode()).hexdigest()
        known = self._ledger.find(prompt_hash)
        if known is not None:
            return read(known)
        async with self._gate, self._breaker.passage():
            reserved = self._reserve(request, level)
            started = time.monotonic()
            reply: ChatReply | None = None
            problem: SummaryError | ModelUnavailableError | None = None
            outcome = "ok"
            try:
                reply = await asyncio.wait_for(
                    self._client.answer(request), self._config.timeout_seconds
                )
                result = read(reply)
            except TimeoutError:
                seconds = self._config.timeout_seconds
                outcome = "timeout"
                problem = ModelUnavailableError(f"no answer in {seconds:g} s")
            except ModelUnavailableError as error:
                outcome, problem = "error", error
            except SummaryError as error:
                outcome, problem = "invalid", error
            finally:
                self._prompt_tokens -= reserved[0]
                self._completion_tokens -= reserved[1]
            if reply is not None:
                self._prompt_tokens += reply.prompt_tokens
                self._completion_tokens += reply.completion_tokens
            keep = self._config.record_prompts
            call = Call(
                level,
                cluster_id,
                attempt,
                prompt_hash,
                self._config.model,
                reply.prompt_tokens if reply else 0,
                reply.completion_tokens if reply else 0,
                time.monotonic() - started,
                outcome,
                json.dumps(request.messages, ensure_ascii=False) if keep else None,
                json.dumps([each.text for each in reply.answers], ensure_ascii=False)
                if keep and reply
                else None,
            )
            await self._ledger.add(call, reply)
            if isinstance(problem, ModelUnavailableError):
                if self._breaker.failed(started):
                    self._stopped = (
                        f"the model {self._config.model!r} failed {OUTAGE_CALLS} times in a row "
                        f"and for {OUTAGE_SECONDS:g} s after that, last with: "
                        f"{str(problem)[:300]}; run again when it answers, the run resumes"
                    )
            else:
                self._breaker.answered()
        if isinstance(problem, ModelUnavailableError):
            if problem.wait_seconds:
                await self._gate.close_for(problem.wait_seconds)
        else:
            self._gate.answered()
        if problem is not None:
            raise problem
        return result

    def _reserve(self, request: ChatRequest, level: int) -> tuple[int, int]:
        """Set aside the most tokens that a call may take, so that a budget is never overrun."""
        if self._stopped:
            raise StageError(self._stopped, stage="summarize", level=level)
        config = self._config
        prompt = self._limits.count(request.messages)
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
        self._stopped = (
            f"summaries.{key} {limit} leaves no room for another call; what was made is kept: run "
            "again with more, the run resumes"
        )
        raise StageError(self._stopped, stage="summarize", level=level)
