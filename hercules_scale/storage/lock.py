"""One run at a time on an output: a lock that its owner keeps fresh, and loses when it is dead.

Locks are numbered, and the highest number is the one that holds, so that a dead owner's is taken
over with nothing but the conditional creation of the next: of two that try, one wins. The highest
is never deleted, and who ends leaves one without a holder, so that neither an owner before it nor
what an owner has left at work can take the output for its own again.
"""

from __future__ import annotations

import calendar
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

import psutil

from hercules_scale.errors import StorageError
from hercules_scale.storage import layout
from hercules_scale.storage.json_records import TIME_FORMAT, timestamp, to_json
from hercules_scale.storage.store import Store

HEARTBEAT_SECONDS = 30.0
# Longer than an outage is waited for, in which no heartbeat can be written.
STALE_SECONDS = 300.0
# Time after which both of two writers have written, if creation is not conditional.
READ_BACK_SECONDS = 3.0
TURNS = 5

Record = dict[str, Any]


class Lock:
    """The lock of one output, held by this process.

    Attributes:
        store: The output, to write to under this lock.
    """

    def __init__(self, store: Store, number: int, owner: Record) -> None:
        self.store = Store(store.uri, store.options, number)
        self._number, self._owner = number, owner
        self._lost: Record | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_fresh, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Make sure that the output is still this run's.

        Raises:
            StorageError: Another run took it over.
        """
        if self._lost is None:
            self._refresh()
        if self._lost is not None:
            by = f", {_describe(self._lost)}," if self._lost else " that has removed its lock"
            raise StorageError(
                f"{self.store.uri}: was taken over by another run{by} since nothing was heard of "
                f"this one for {STALE_SECONDS / 60:.0f} minutes; let that one finish"
            )

    def release(self) -> None:
        """Let others have it; workers that are still busy for this owner write no more."""
        self._ended.set()
        self._thread.join()
        if self._lost is None and self._create_released():
            plain = Store(self.store.uri, self.store.options)
            plain.hasty.delete_files(layout.lock(self._number))

    def _create_released(self) -> bool:
        """Create the next lock, without a holder; return whether this call made it."""
        store, name = self.store.hasty, layout.lock(self._number + 1)
        released = self._owner | {"seen_at": timestamp(), "released": True}
        try:
            return store.create(name, to_json(released))
        except (StorageError, OSError):
            # A full disk has room for an empty file, which names no holder either.
            return store.create(name, b"")

    def _keep_fresh(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS):
            # The storage may be away for a while; whoever needs it next will say so.
            with suppress(Exception):
                self._refresh()

    def _refresh(self) -> None:
        newest = _newest(self.store)
        if newest is None or newest[1]["token"] != self._owner["token"]:
            self._lost = {} if newest is None else newest[1]
        else:
            name = layout.lock(self._number)
            self.store.write_bytes(name, to_json(self._owner | {"seen_at": timestamp()}))


@contextmanager
def hold_lock(store: Store, warn: Callable[[str], object]) -> Iterator[Lock]:
    """Hold the lock of an output.

    Args:
        store: The output.
        warn: Called where the storage cannot create a file on condition that there is none.

    Raises:
        StorageError: Another run holds it; the message names it.
    """
    owner = _this_process()
    conditional = store.creates_conditionally
    if not conditional:
        warn(
            f"{store.uri}: the storage has no conditional creation of files, so two runs that "
            "start at once on this output may not notice each other; start one at a time"
        )
    number = _acquire(store, owner)
    if not conditional:
        time.sleep(READ_BACK_SECONDS)
        held = _newest(store)
        if held is None or held[1]["token"] != owner["token"]:
            raise StorageError(_refusal(store, {} if held is None else held[1]))
    lock = Lock(store, number, owner)
    try:
        yield lock
    finally:
        with suppress(StorageError, OSError):
            lock.release()


def held_by(store: Store) -> tuple[str, bool] | None:
    """Return the holder of an output's lock, in words, and whether it is alive; None if there is
    none."""
    newest = _newest(store)
    if newest is None or newest[1].get("released") or newest[1]["token"] is None:
        return None
    return _describe(newest[1]), not _is_dead(newest[1])


def _acquire(store: Store, owner: Record) -> int:
    """Return the number of the lock that was created."""
    data = to_json(owner)
    for _ in range(TURNS):
        newest = _newest(store)
        number = 1
        if newest is not None:
            if not _is_dead(newest[1]):
                raise StorageError(_refusal(store, newest[1]))
            number = int(PurePosixPath(newest[0]).stem) + 1
        name = layout.lock(number)
        # An answer that was lost may have been a yes.
        if store.create(name, data) or store.read_bytes(name) == data:
            for older in store.lock_names():
                if older < name:
                    store.delete_files(older)
            return number
    raise StorageError(f"{store.uri}: other runs start here again and again; start one alone")


def _newest(store: Store) -> tuple[str, Record] | None:
    """Return the lock that holds, by name, and what it says; nothing where there is none."""
    for _ in range(TURNS):
        names = store.lock_names()
        if not names:
            return None
        try:
            data = store.read_bytes(names[-1])
        except FileNotFoundError:
            # Taken over a moment ago.
            continue
        held: Record = {"token": None}
        with suppress(ValueError, TypeError):
            held |= json.loads(data)
        return names[-1], held
    return None


def _refusal(store: Store, held: Record) -> str:
    return (
        f"{store.uri}: another run is writing here, {_describe(held)}; wait for it or stop it, or "
        "give another output.path (after a machine died, it is taken over "
        f"{STALE_SECONDS / 60:.0f} minutes after it was last heard of)"
    )


def _describe(held: Record) -> str:
    return (
        f"host {held.get('host')}, pid {held.get('pid')}, started {held.get('started_at')}, last "
        f"heard of {held.get('seen_at')}"
    )


def _this_process() -> Record:
    return {
        "token": uuid.uuid4().hex,
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": os.getpid(),
        "process_created": psutil.Process().create_time(),
        "started_at": timestamp(),
        "seen_at": timestamp(),
    }


def _machine() -> str | None:
    """Return the name of the space of process ids that this process can look up; nothing where not
    known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _is_dead(held: Record) -> bool:
    """Return whether the process is known to have ended, or nothing was heard of it for long."""
    if held.get("released"):
        return True
    machine = _machine()
    try:
        if machine is None or held.get("machine") != machine:
            seen = calendar.timegm(time.strptime(held["seen_at"], TIME_FORMAT))
            return time.time() - seen > STALE_SECONDS
        process = psutil.Process(held["pid"])
        same = abs(process.create_time() - held["process_created"]) < 1
        return not same or process.status() == psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, KeyError, ValueError, TypeError):
        # Gone; or it lost power while it wrote, and the lock is empty or cut off.
        return True
