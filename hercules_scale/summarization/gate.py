"""The number of requests in flight, and the pause during an outage."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

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


class Gate:
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
class Turn:
    """The time of a request that was sent.

    A model works on requests in about their order, so the clock of one starts when all that were
    ahead of it have ended; until then it is reset by each answer.

    Attributes:
        since: Start of its clock.
        ahead: Requests that were in flight before it and may be worked on first.
    """

    since: float
    ahead: int


class Breaker:
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
