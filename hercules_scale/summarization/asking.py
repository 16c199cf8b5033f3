"""Send questions to a model: many at a time, none twice, within a budget, never into an outage."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from hercules_scale.config.summaries import SummariesConfig
from hercules_scale.errors import StageError, SummaryError
from hercules_scale.summarization.chat import (
    ChatReply,
    ChatRequest,
    Model,
    ModelUnavailableError,
    RefusedRequestError,
)
from hercules_scale.summarization.ledger import Call, Ledger
from hercules_scale.summarization.prompts import PromptStyle

# So many failed calls in a row, with no answer between, are an outage and no bad luck.
OUTAGE_CALLS = 20
# An outage of this length is not waited for; a replica that died is back in about a minute.
OUTAGE_SECONDS = 60.0
FIRST_PROBE_SECONDS = 1.0
# However long an endpoint asks to be left alone.
LONGEST_WAIT_SECONDS = 600.0
# Answers in a row after which one more request in flight is tried again from then on.
ANSWERS_PER_SLOT = 10
# Shares of the time limit: an answer that takes less than the first comes soon, one that takes more
# than the second may be late.
SOON, LATE = 0.25, 0.5
# Times that the fastest answer took: below the first, more requests at a time do not slow the model
# down; above the second they do.
UNHARMED, HARMED = 1.25, 1.5
# A person who looks at a run sees within this time that the model still works.
REFRESH_SECONDS = 5.0

T = TypeVar("T")


class _Gate:
    """Limits the number of requests in flight, by how the model copes with them.

    Their number grows by one with each answer that comes soon, or as fast as the fastest did. It
    halves where
    answers take most of the time limit because of others, and where none comes: a slow model with
    one processor is asked little at a time, one with many as much as it takes. Where an endpoint
    says that it is asked too much, all wait as long as it says, and one fewer goes through at a
    time from then on.

    Args:
        limit: Largest number of requests in flight.
        at_first: Their number at first.
        timeout_seconds: Time limit of an answer.
    """

    def __init__(self, limit: int, at_first: int, timeout_seconds: float) -> None:
        self._limit, self._timeout = limit, timeout_seconds
        self._slots = min(limit, at_first)
        self._free = asyncio.Semaphore(self._slots)
        # Slots that are gone, but were in use when they went.
        self._owed = 0
        self._open_at = 0.0
        self._answered = 0
        self._grows_fast = True
        self._shrunk_at = 0.0
        self._fastest = math.inf

    async def __aenter__(self) -> None:
        await self._free.acquire()
        while (wait := self._open_at - time.monotonic()) > 0:
            await asyncio.sleep(wait)

    async def __aexit__(self, *_: object) -> None:
        if self._owed:
            self._owed -= 1
        else:
            self._free.release()

    def close_for(self, seconds: float, started: float) -> None:
        """Let nothing through for a time; one fewer after it, once for all that began before."""
        now = time.monotonic()
        self._open_at = max(self._open_at, now + min(seconds, LONGEST_WAIT_SECONDS))
        if started >= self._shrunk_at:
            self._shrunk_at = now
            self._shrink(1)

    def answered(self, started: float) -> None:
        """Count the answer to a request that began at a time of the monotonic clock."""
        seconds = time.monotonic() - started
        self._fastest = min(self._fastest, seconds)
        if seconds > max(LATE * self._timeout, HARMED * self._fastest):
            self.late(started)
            return
        self._answered += 1
        enough = 1 if self._grows_fast else ANSWERS_PER_SLOT
        soon = max(SOON * self._timeout, UNHARMED * self._fastest)
        if seconds < soon and self._answered >= enough:
            self._answered = 0
            self._grow()

    def late(self, started: float) -> None:
        """Halve the requests in flight, once for all that began before."""
        if started >= self._shrunk_at:
            self._shrunk_at = time.monotonic()
            self._shrink(self._slots // 2)

    def _grow(self) -> None:
        if self._slots < self._limit:
            self._slots += 1
            if self._owed:
                self._owed -= 1
            else:
                self._free.release()

    def _shrink(self, n: int) -> None:
        self._answered, self._grows_fast = 0, False
        n = min(n, self._slots - 1)
        self._slots -= n
        self._owed += n


@dataclass(eq=False)
class _Turn:
    """The time of a request that was sent.

    A model works on requests in about their order, so the clock of one starts when all that were
    ahead of it have ended; until then it is reset by each answer.

    Attributes:
        since: Start of its clock.
        ahead: Requests that were in flight before it and may be worked on first.
    """

    since: float
    ahead: int


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
        # Requests on their way when the outage was seen say nothing new.
        if started < self._open_since or now - self._open_since < OUTAGE_SECONDS:
            return False
        self._open_since = None  # No request waits any longer.
        return True


class Progress(Protocol):
    """Progress of a stage, as people see it.

    Attributes:
        details: Gives what is shown beside the counts.
    """

    details: Callable[[], str]

    def refresh(self) -> None:
        """Show details that have changed."""
        ...


class Asker:
    """A model behind a ledger.

    Args:
        model: The model.
        ledger: Calls of this run and of earlier attempts at it.
        config: The summaries section.
        style: The model's tokenizer.
        spent: Prompt and completion tokens of calls that are in other ledgers.
        stage: The stage that asks.
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
        self._gate = _Gate(model.in_flight, model.at_first, config.timeout_seconds)
        self._breaker = _Breaker()
        self._turns: list[_Turn] = []
        self._stopped = ""
        self._refused_in_a_row = 0
        self._generated_tokens = 0
        prompt, completion = ledger.tokens
        self._prompt_tokens, self._completion_tokens = prompt + spent[0], completion + spent[1]

    @contextmanager
    def reporting(self, progress: Progress) -> Iterator[None]:
        """Show generated tokens a second and requests in flight for as long as the block lasts."""
        started = time.monotonic()
        before = self._generated_tokens

        def details() -> str:
            rate = (self._generated_tokens - before) / max(time.monotonic() - started, 1e-3)
            return f"{rate:,.0f} tokens/s, {len(self._turns)} questions in flight"

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
        """Ask a question, or find its reply in the ledger, and return ``read`` of the reply.

        Raises:
            SummaryError: ``read`` raised it.
            ModelUnavailableError: There was no answer; the call may be made again.
            RefusedRequestError: The model does not take this question.
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
            # A model that ran out of time has read the question.
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
                self._gate.close_for(reply.wait_seconds, started)
        if problem is not None:
            raise problem
        return result

    async def _answer(self, request: ChatRequest) -> ChatReply:
        """Send a request, and wait for as long as the model may take for it.

        Raises:
            TimeoutError: The time limit is over.
        """
        turn = _Turn(time.monotonic(), len(self._turns))
        self._turns.append(turn)
        # Answers that are made one after another each have their time.
        limit = self._config.timeout_seconds * self._client.n_prompts(request)
        answer = asyncio.ensure_future(self._client.answer(request))
        try:
            while not answer.done():
                left = turn.since + limit - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                await asyncio.wait({answer}, timeout=left)
            return answer.result()
        finally:
            came = answer.done() and not answer.cancelled() and answer.exception() is None
            answer.cancel()
            self._turns.remove(turn)
            for other in self._turns:
                if other.ahead:
                    other.ahead -= 1
                    if came:
                        other.since = time.monotonic()

    def _watch(self, problem: Exception | None, outcome: str, started: float) -> None:
        """Let the end of a call change how, and whether, others are sent."""
        if isinstance(problem, ModelUnavailableError):
            if self._breaker.failed(started):
                self._stopped = (
                    f"the model {self._config.model!r} failed {OUTAGE_CALLS} times in a row "
                    f"and for {OUTAGE_SECONDS:g} s after that, last with: "
                    f"{str(problem)[:300]}; run again when it answers, the run resumes"
                )
            if problem.wait_seconds:
                self._gate.close_for(problem.wait_seconds, started)
            elif outcome == "timeout":
                self._gate.late(started)
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
        self._gate.answered(started)

    def _reserve(self, request: ChatRequest, level: int) -> tuple[int, int]:
        """Set aside the most tokens that a call may take, so that a budget is never overrun."""
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
        # The judge's is an option of its command.
        name = f"summaries.{key}" if self._stage == "summarize" else f"--{key.replace('_', '-')}"
        self._stopped = (
            f"{name} {limit} leaves no room for another call; what was made is kept: run "
            "again with more, the run resumes"
        )
        raise StageError(self._stopped, stage=self._stage, level=level)


def _counted(reply: ChatReply, reserved: tuple[int, int]) -> ChatReply:
    """A reply with its tokens; where the model does not say, with those set aside for it."""
    prompt, completion = reply.prompt_tokens, reply.completion_tokens
    return replace(
        reply,
        prompt_tokens=reserved[0] if prompt is None else prompt,
        completion_tokens=reserved[1] if completion is None else completion,
    )
