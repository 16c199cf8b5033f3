"""Limits on requests in flight, and the pause during an outage of the model."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

# Failed calls in a row from which the model counts as out.
OUTAGE_CALLS = 20
# Longest outage that a run waits out. A replica that died is back in about a minute.
OUTAGE_SECONDS = 60.0
FIRST_PROBE_SECONDS = 1.0
# Longest pause, even where an endpoint asks for more.
LONGEST_WAIT_SECONDS = 600.0
# Answers for each further request in flight, once the number has shrunk.
ANSWERS_PER_SLOT = 10
# Shares of the time limit: an answer below the first is soon, one above the second may be late.
SOON, LATE = 0.25, 0.5
# Multiples of the fastest answer's time: below the first, concurrent requests do not slow the model
# down; above the second they do.
UNHARMED, HARMED = 1.25, 1.5


class ConcurrencyLimit:
    """Limits the number of requests in flight by the time that answers take.

    The number grows by one after each answer that comes soon or about as fast as the fastest one;
    once it has shrunk, after every ten answers. It halves when an answer takes most of the time
    limit because of others, or does not come. So a slow model on one processor gets few requests
    at a time, a fast one as many as it can take. When an endpoint asks for a pause, all requests
    wait for it, and the number falls by one.

    Args:
        limit: Largest number of requests in flight.
        at_first: Number at the start.
        timeout_seconds: Time limit of an answer.
    """

    def __init__(self, limit: int, at_first: int, timeout_seconds: float) -> None:
        self._limit, self._timeout = limit, timeout_seconds
        self._slots = min(limit, at_first)
        self._free = asyncio.Semaphore(self._slots)
        # Slots that were removed while in use; they are not released again.
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
        """Hold requests back for some seconds, then allow one fewer.

        The number falls once for all requests that began before it fell.
        """
        now = time.monotonic()
        self._open_at = max(self._open_at, now + min(seconds, LONGEST_WAIT_SECONDS))
        if started >= self._shrunk_at:
            self._shrunk_at = now
            self._shrink(1)

    def answered(self, started: float) -> None:
        """Count an answer; its request began at ``started`` on the monotonic clock."""
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
        """Halve the number in flight, once for all requests that began before it fell."""
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
class RequestClock:
    """Clock of a request in flight.

    A model answers requests in about their order. So each answer to a request ahead of this one
    resets its clock.

    Attributes:
        since: Start of the clock.
        ahead: Number of earlier requests that are still in flight.
    """

    since: float
    ahead: int


class CircuitBreaker:
    """Slows calls to a model that has stopped answering.

    After ``OUTAGE_CALLS`` failures in a row calls go one at a time, with growing delays, until the
    first answer.
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
        """Count a failed call; return whether the outage has lasted too long."""
        now = time.monotonic()
        if self._open_since is None:
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= OUTAGE_CALLS:
                self._open_since = now
            return False
        # Requests that were sent before the outage began do not count.
        if started < self._open_since or now - self._open_since < OUTAGE_SECONDS:
            return False
        self._open_since = None  # No request waits any longer.
        return True
