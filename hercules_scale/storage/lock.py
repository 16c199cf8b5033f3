"""Lock that allows one run at a time on an output; its owner keeps it fresh, or loses it.

Locks are numbered, and the highest number holds. To take over from a dead owner, a run creates the
next number, on condition that it does not exist: of two runs that try, one wins. The highest number
is never deleted, and an owner that ends leaves a lock without a holder. So neither an earlier owner
nor workers that it left behind can write to the output again.
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
# Longer than the wait for an outage, during which no heartbeat can be written.
STALE_SECONDS = 300.0
# Time after which both of two competing writers have written, if creation is not conditional.
READ_BACK_SECONDS = 3.0
TURNS = 5

Record = dict[str, Any]


class Lock:
    """Lock of one output, held by this process.

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
        """Check that this run still owns the output.

        Raises:
            StorageError: Another run took it over.
        """
        if self._lost is None:
            self._refresh()
        if self._lost is not None:
            known = self._lost.get("token") is not None
            by = f", {_describe(self._lost)}," if known else " that has removed its lock"
            raise StorageError(
                f"{self.store.uri}: was taken over by another run{by} since nothing was heard of "
                f"this one for {STALE_SECONDS / 60:.0f} minutes; let that one finish"
            )

    def release(self) -> None:
        """Release the lock; workers that are still busy for this owner can write no more."""
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
            # The storage may be unavailable for a while; the next call that needs it reports it.
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
        warn: Called with a message if the storage has no conditional creation of files.

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
    """Return the holder of a lock in words, and whether it is alive; None without a holder."""
    newest = _newest(store)
    if newest is None or newest[1].get("released") or newest[1]["token"] is None:
        return None
    return _describe(newest[1]), not _is_dead(newest[1])


def _acquire(store: Store, owner: Record) -> int:
    """Create the next lock, and return its number."""
    data = to_json(owner)
    for _ in range(TURNS):
        newest = _newest(store)
        number = 1
        if newest is not None:
            if not _is_dead(newest[1]):
                raise StorageError(_refusal(store, newest[1]))
            number = int(PurePosixPath(newest[0]).stem) + 1
        name = layout.lock(number)
        # The lock may have been created although the storage's answer was lost.
        if store.create(name, data) or store.read_bytes(name) == data:
            for older in store.lock_names():
                if older < name:
                    store.delete_files(older)
            return number
    raise StorageError(f"{store.uri}: other runs start here again and again; start one alone")


def _newest(store: Store) -> tuple[str, Record] | None:
    """Return the name and the record of the lock that holds; None if there is none."""
    for _ in range(TURNS):
        names = store.lock_names()
        if not names:
            return None
        try:
            data = store.read_bytes(names[-1])
        except FileNotFoundError:
            # The lock was taken over a moment ago.
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
    """Return a name for the process ids that this process can look up; None if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _is_dead(held: Record) -> bool:
    """Return whether the holder has ended, or has not been heard of for too long."""
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
        # The process is gone, or a loss of power left the lock empty or cut off.
        return True
