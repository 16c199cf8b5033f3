"""Waits for room on a shared Ray cluster, which are reported and limited.

Ray itself queues work in silence while the processors, GPUs or memory that it asks for are taken.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray

from hercules_scale.errors import HerculesScaleError, StageError
from hercules_scale.runtime.context import RunContext
from hercules_scale.runtime.progress import words
from hercules_scale.sanitize import printable, without_secrets

# Deaths of workers at one shard or call that end the run; a lost node or an accidental kill causes
# one or two.
DEATHS = 5
POLL_SECONDS = 1.0
# Waits are reported after this time, since a process of Ray takes some seconds to start, and longer
# if it loads a model.
SAID_AFTER_SECONDS = 10.0
ALONE_SAID_AFTER_SECONDS = 40.0
LONGEST_STEP_SECONDS = 10.0
CONNECT_SECONDS = 5.0
SHOWN_JOBS = 3

T = TypeVar("T")


class Room:
    """Room on the Ray cluster, as work of one stage needs it.

    Args:
        context: The run.
        stage: Name of the stage.
        wanted: Resources that the work asks for, in words.
        loads: Whether the work may load a model once it has the resources.
    """

    def __init__(self, context: RunContext, stage: str, wanted: str, *, loads: bool = True) -> None:
        self._say, self._limit = context.reporter.say, context.config.resources.wait_seconds
        self._stage, self._wanted, self._loads = stage, wanted, loads
        self.is_there()

    def is_there(self) -> None:
        """Restart the count of the wait, since some of the work has begun or ended."""
        self._seen, self._waited, self._said = time.monotonic(), 0.0, False

    def look(self, begun: Callable[[], bool]) -> None:
        """Report that the work waits, if it does; call this repeatedly.

        A wait is reported after ten seconds, or after forty if the work may be loading a model and
        there are no other jobs.

        Args:
            begun: Returns whether some of the work is under way.

        Raises:
            StageError: The work has waited for ``resources.wait_seconds``.
        """
        # Time in which the driver itself was stopped does not count.
        now = time.monotonic()
        self._waited += min(now - self._seen, LONGEST_STEP_SECONDS)
        self._seen, waited = now, self._waited
        if waited < min(SAID_AFTER_SECONDS, self._limit):
            return
        if begun():
            self.is_there()
            return
        if waited >= self._limit:
            raise StageError(
                f"nothing of it could begin for {waited:,.0f} s: {self._wanted} asked for, "
                f"{describe_taken()}; end other work on the Ray cluster, add nodes, ask for less "
                "by the section resources, or give a higher resources.wait_seconds; run again, it "
                "resumes",
                stage=self._stage,
            )
        if not self._said and not self._loads_alone(waited):
            self._said = True
            self._say(
                f"{words(self._stage)}: not started after {waited:,.0f} s: {self._wanted} asked "
                f"for, {describe_taken()}; the run ends after {self._limit:,.0f} s of waiting "
                "(resources.wait_seconds)"
            )

    def _loads_alone(self, waited: float) -> bool:
        """Return whether the work may still be loading, and no other job takes the room."""
        patience = min(ALONE_SAID_AFTER_SECONDS, self._limit / 2)
        return self._loads and waited < patience and not _other_jobs()


def describe_taken() -> str:
    """Describe free resources of the Ray cluster, and the other jobs on it."""
    total, free = ray.cluster_resources(), ray.available_resources()
    kinds = [name for name in ("CPU", "GPU") if total.get(name)]
    shares = [f"{free.get(name, 0):g} of {total[name]:g} {name}s" for name in kinds]
    jobs = _other_jobs()
    more = f" and {len(jobs) - SHOWN_JOBS:,} more" if len(jobs) > SHOWN_JOBS else ""
    others = ", ".join(jobs[:SHOWN_JOBS]) + more if jobs else "none"
    return f"free are {' and '.join(shares) or 'no processors'}; other jobs there: {others}"


def _other_jobs() -> list[str]:
    """Return the other jobs on the Ray cluster, in words."""
    state = ray._private.state.state
    own = ray.get_runtime_context().get_job_id()
    actors = Counter(actor["JobID"] for actor in state.actor_table(None, None, "ALIVE").values())
    return [
        f"{each['JobID']} ({_command(each['Entrypoint'])} on {each['DriverIPAddress']}, "
        f"{actors[each['JobID']]:,} actors)"
        for each in state.job_table()
        if not each["IsDead"] and each["JobID"] != own and not _is_of_ray(each["Entrypoint"])
    ]


def job_has_ended(job: str) -> bool:
    """Return whether a job of the Ray cluster has ended, by its id."""
    return any(each["JobID"] == job and each["IsDead"] for each in ray._private.state.jobs())


def _command(entrypoint: str) -> str:
    # A process that changed its title leaves empty arguments.
    return without_secrets(printable(entrypoint.replace(' ""', "")))[:80]


def _is_of_ray(entrypoint: str) -> bool:
    """Return whether a job is the dashboard's own."""
    return "ray/dashboard/" in entrypoint or "ray::Dashboard" in entrypoint


def is_placed(actor: Any) -> bool:
    """Return whether an actor has its resources; it may still be starting."""
    record = ray._private.state.state.actor_table(actor._actor_id.hex())
    # The record of a waiting actor already names a node, but no address on it.
    return bool(record) and record["Address"]["Port"] != 0


def still_waiting(
    references: Sequence[Any], actors: Sequence[Any], seconds: float
) -> Iterator[int | None]:
    """Wait for the results of calls to actors, and yield repeatedly while some are missing.

    Ray restarts an actor each time it dies, without a limit.

    Args:
        references: The results.
        actors: The actors; their deaths are counted from the first time that results are missing.
        seconds: Time between two yields.

    Yields:
        The number of an actor that has died ``DEATHS`` times meanwhile; None if none has.
    """
    before: list[int] | None = None
    while ray.wait(list(references), num_returns=len(references), timeout=seconds)[1]:
        starts = [_restarts(actor) for actor in actors]
        before = before or starts
        deaths = [now - then for now, then in zip(starts, before, strict=True)]
        yield next((each for each, count in enumerate(deaths) if count >= DEATHS), None)


def _restarts(actor: Any) -> int:
    record = ray._private.state.state.actor_table(actor._actor_id.hex())
    return int(record["NumRestarts"]) if record else 0


def await_address(address: str, limit: float, say: Callable[[str], object]) -> None:
    """Wait until a server listens at the address of a Ray cluster; Ray itself waits in silence.

    Args:
        address: Address in the form of RAY_ADDRESS; one without a port is left to Ray.
        limit: Longest wait in seconds.
        say: Called with a message after ten seconds.

    Raises:
        HerculesScaleError: No server listens within the limit.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not (host and port.isdigit()):
        return
    started, said = time.monotonic(), False
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
            return
        except OSError as error:
            reason = f"{type(error).__name__}: {error}"
        waited = time.monotonic() - started
        if waited >= limit:
            raise HerculesScaleError(
                f"RAY_ADDRESS {printable(address)}: no Ray cluster has answered for {waited:,.0f} "
                f"s ({reason}); start it, name another, or leave the variable out for a local one; "
                "resources.wait_seconds says how long it is waited for"
            )
        if waited >= SAID_AFTER_SECONDS and not said:
            said = True
            say(
                f"waiting for the Ray cluster at {printable(address)} (RAY_ADDRESS; {reason}), "
                f"for {limit:,.0f} s in all (resources.wait_seconds)"
            )
        time.sleep(min(POLL_SECONDS, limit))


def polled(rows: Iterator[T]) -> Iterator[T | None]:
    """Yield the same rows, and None for each second without a row."""
    found: queue.SimpleQueue[tuple[str, T | BaseException | None]] = queue.SimpleQueue()
    ended = threading.Event()

    def fetch() -> None:
        try:
            for row in rows:
                found.put(("row", row))
                if ended.is_set():
                    return
            found.put(("end", None))
        except BaseException as error:
            found.put(("error", error))

    threading.Thread(target=fetch, daemon=True).start()
    try:
        while True:
            try:
                kind, value = found.get(timeout=POLL_SECONDS)
            except queue.Empty:
                yield None
                continue
            if kind == "end":
                return
            if isinstance(value, BaseException):
                raise value
            yield value
    finally:
        ended.set()
