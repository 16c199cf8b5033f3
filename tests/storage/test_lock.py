"""One run at a time on an output."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from hercules_scale.errors import StorageError
from hercules_scale.storage import layout, lock
from hercules_scale.storage.json_records import timestamp, to_json
from hercules_scale.storage.lock import held_by, hold_lock
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import write_table

HOLDER = """
import sys, time
from hercules_scale.storage.lock import hold_lock
from hercules_scale.storage.store import Store
with hold_lock(Store(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(60)
"""


def hold_elsewhere(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def write_lock(store: Store, number: int, **values: Any) -> None:
    owner = {
        "token": "theirs",
        "host": "elsewhere",
        "machine": "another",
        "pid": 7,
        "process_created": 0.0,
        "started_at": "2026-01-01T10:00:00Z",
        "seen_at": "2026-01-01T11:00:00Z",
    }
    store.write_bytes(layout.lock(number), to_json(owner | values))


def locks(store: Store) -> list[str]:
    return store.list_files(layout.LOCKS)


def test_a_second_run_is_told_who_writes_and_a_killed_one_is_taken_over_at_once(
    tmp_path: Path,
) -> None:
    store = Store(str(tmp_path))
    holder = hold_elsewhere(tmp_path)
    try:
        host = os.uname().nodename
        match = f"another run is writing here, host {host}, pid {holder.pid}, started 20"
        with pytest.raises(StorageError, match=match), hold_lock(store, print):
            pytest.fail("two held it")
        holder.kill()
        # Nobody has taken its exit status yet, so it is a zombie.
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
        with hold_lock(store, print) as held:
            assert locks(store) == [layout.lock(2)]
            held.check()
    finally:
        holder.kill()
        holder.communicate()
    assert locks(store) == [layout.lock(3)]
    assert held_by(store) is None


def test_one_that_was_not_heard_of_for_long_is_taken_over_and_stops_when_it_wakes(
    tmp_path: Path,
) -> None:
    store = Store(str(tmp_path))
    write_lock(store, 4)
    with hold_lock(store, print) as held:
        assert locks(store) == [layout.lock(5)]
        write_lock(store, 6)
        with pytest.raises(StorageError, match="taken over by another run, host elsewhere, pid 7"):
            held.check()
    assert locks(store) == [layout.lock(5), layout.lock(6)]


def test_one_that_was_taken_over_writes_nothing_though_its_successor_has_ended(
    tmp_path: Path,
) -> None:
    store = Store(str(tmp_path))
    with hold_lock(store, print) as first:
        worker = pickle.loads(pickle.dumps(first.store))
        worker.write_bytes("run.json", b"first")
        write_lock(store, 1)
        with hold_lock(store, print) as second:
            second.store.write_bytes("run.json", b"second")
        assert held_by(store) is None
        with pytest.raises(StorageError, match="was taken over by another run, host"):
            first.check()
        writes: list[Callable[[], object]] = [
            lambda: worker.write_bytes("run.json", b"first"),
            lambda: worker.create("_manifest.json", b"first"),
            lambda: worker.delete_files("run.json"),
            lambda: write_table(worker, "items/part-000000.parquet", pa.table({"row": [1]})),
            worker.hasty.delete_unfinished,
        ]
        for write in writes:
            with pytest.raises(
                StorageError, match=r"taken over by another run, .* \(lock 1 holds no"
            ):
                write()
        with pytest.raises(StorageError, match=r"or this one has ended \(lock 2 holds no more"):
            # Of a task that its owner left at work.
            second.store.write_bytes("run.json", b"late")
    assert store.read_bytes("run.json") == b"second"
    assert store.list_files("") == [layout.lock(3), "run.json"]
    with hold_lock(store, print) as third:
        third.store.write_bytes("run.json", b"third")
        # Who begins there anew removes everything.
        store.delete_files(layout.WORK)
        with pytest.raises(StorageError, match="another run that has removed its lock"):
            third.check()


def test_one_that_was_heard_of_is_not_taken_over_from_another_machine(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    write_lock(store, 1, seen_at=timestamp())
    match = "host elsewhere, pid 7, .*; wait for it or stop it, or give another output.path"
    with pytest.raises(StorageError, match=match), hold_lock(store, print):
        pytest.fail("two held it")
    found = held_by(store)
    assert found is not None
    assert found[1]


def test_a_process_of_the_same_number_is_not_the_owner(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with hold_lock(store, print):
        mine = json.loads(store.read_bytes(layout.lock(1)))
    write_lock(store, 3, **mine | {"process_created": mine["process_created"] - 60})
    with hold_lock(store, print):
        assert locks(store) == [layout.lock(4)]


def test_the_owner_keeps_it_fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(lock, "timestamp", iter(f"time {n}" for n in range(1000)).__next__)
    store = Store(str(tmp_path))
    with hold_lock(store, print):
        first = json.loads(store.read_bytes(layout.lock(1)))["seen_at"]
        while json.loads(store.read_bytes(layout.lock(1)))["seen_at"] == first:
            pass


@pytest.mark.s3
def test_of_many_that_start_at_once_on_s3_one_wins(s3: str) -> None:
    store = Store(f"{s3}/locks-{time.time_ns()}")
    write_lock(store, 1)
    ready, ended = threading.Barrier(6), threading.Event()

    def start(_: int) -> str:
        ready.wait()
        try:
            with hold_lock(Store(store.uri), print):
                ended.wait(60)
                return "won"
        except StorageError as error:
            return str(error)

    with ThreadPoolExecutor(6) as pool:
        runs = [pool.submit(start, number) for number in range(6)]
        done, _ = wait(runs, timeout=60, return_when="FIRST_COMPLETED")
        while len(done) < 5:
            done = {each for each in runs if each.done()}
            time.sleep(0.05)
        ended.set()
    results = sorted(each.result() for each in runs)
    assert results[-1] == "won"
    assert all("another run is writing here, host" in result for result in results[:-1])
    assert locks(store) == [layout.lock(3)]


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b'{"token": "a"}', b'{"pid": "x"}'])
def test_a_lock_that_cannot_be_read_is_taken_over(data: bytes, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write_bytes(layout.lock(3), data)
    with hold_lock(store, print):
        assert store.list_files(layout.LOCKS) == [layout.lock(4)]
