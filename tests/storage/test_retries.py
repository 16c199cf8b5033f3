"""What passes is waited out, the rest is said in one line."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pyarrow as pa
import pytest

from hercules_scale.config.resources import StorageConfig
from hercules_scale.errors import InputError, StorageError
from hercules_scale.storage import lock
from hercules_scale.storage.retries import is_transient, patiently
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import iterate_batches, write_table
from tests.fault_proxy import FaultProxy
from tests.s3_server import (
    READER_KEY,
    READER_SECRET,
    WRITER_KEY,
    WRITER_SECRET,
    S3Server,
    free_port,
)

TABLE = pa.table({"row": list(range(400_000))})
# What the proxy does to six of ten requests.
MANY_FAULTS = {"busy": 0.2, "slow": 0.1, "reset": 0.15, "lost_answer": 0.15}


def failing(times: int, error: Exception) -> tuple[list[int], object]:
    calls: list[int] = []

    def work() -> str:
        calls.append(1)
        if len(calls) <= times:
            raise error
        return "done"

    return calls, work


def test_what_passes_is_tried_again_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    delays: list[float] = []
    monkeypatch.setattr("time.sleep", delays.append)
    calls, work = failing(4, ConnectionResetError("gone"))
    assert patiently(work, 100, "s3://x") == "done"  # type: ignore[arg-type]
    assert len(calls) == 5
    for delay, most in zip(delays, [0.25, 0.5, 1, 2], strict=True):
        assert most / 2 <= delay <= most
    calls, work = failing(1, PermissionError("no"))
    with pytest.raises(PermissionError, match="no"):
        patiently(work, 100, "s3://x")  # type: ignore[arg-type]
    assert len(calls) == 1


def test_an_outage_that_does_not_end_is_one_line() -> None:
    _, work = failing(1000, TimeoutError("late"))
    with pytest.raises(StorageError, match=r"s3://x: the storage has not answered for 0 s \(Time"):
        patiently(work, 0.4, "s3://x")  # type: ignore[arg-type]


def test_no_space_is_one_line_with_a_remedy() -> None:
    _, work = failing(1, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/x"))
    with pytest.raises(StorageError, match=r"/data/x: no space is left there .*; make space and"):
        patiently(work, 10, "/data")  # type: ignore[arg-type]


def test_an_error_that_a_reader_made_of_an_outage_passes() -> None:
    def read() -> None:
        try:
            raise ConnectionResetError("gone")
        except OSError as error:
            raise InputError(f"cannot be read: {error}") from None

    with pytest.raises(InputError, match="cannot be read: gone") as caught:
        read()
    assert is_transient(caught.value)
    assert not is_transient(InputError("cannot be read"))


@pytest.mark.s3
def test_no_fault_of_many_is_seen_by_who_reads_and_writes(s3_server: S3Server) -> None:
    proxy = FaultProxy(s3_server.port, MANY_FAULTS, slow_seconds=0.2)
    with proxy.running():
        store = Store("s3://bucket/faults", StorageConfig(endpoint=proxy.url))
        for number in range(12):
            store.write_bytes(f"small/{number}", b"x" * number)
        assert store.list_sizes("small") == {f"small/{n}": n for n in range(12)}
        assert store.read_bytes("small/7") == b"x" * 7
        assert not store.exists("small/12")
        record = write_table(store, "large.parquet", TABLE)
        rows = [batch.num_rows for batch in iterate_batches(store, "large.parquet")]
        assert sum(rows) == TABLE.num_rows
        assert len(rows) > 20
        store.delete_files("small")
    assert all(proxy.counts[fault] for fault in MANY_FAULTS), proxy.counts
    direct = Store("s3://bucket/faults")
    assert direct.list_sizes("") == {"large.parquet": record.size_bytes}


@pytest.mark.s3
def test_wrong_places_and_rights_are_one_line_at_once(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = StorageConfig(endpoint=f"http://127.0.0.1:{free_port()}", retry_seconds=1)
    with pytest.raises(StorageError, match="has not answered for 1 s"):
        Store("s3://bucket/x", nowhere).write_bytes("a", b"")
    # Another region for each user, so that no connection of another is taken up.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", WRITER_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", WRITER_SECRET)
    # This server lets nobody but an administrator know which buckets there are.
    with pytest.raises(PermissionError, match=r"(?i)access ?denied"):
        Store("s3://no-such-bucket/x", StorageConfig(region="eu-west-2")).write_bytes("a", b"")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", READER_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", READER_SECRET)
    reader = Store("s3://bucket", StorageConfig(region="eu-west-1"))
    assert reader.read_bytes("probe") == b"1"
    with pytest.raises(PermissionError, match=r"(?i)access ?denied"):
        reader.write_bytes("a", b"")


@pytest.mark.s3
def test_who_has_no_credentials_is_told_where_to_give_them(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    # A region that no other test names, so that no connection of another is taken up.
    store = Store("s3://bucket/x", StorageConfig(region="eu-west-4"))
    with pytest.raises(StorageError, match=r"s3://bucket/x: there are no credentials here .*") as e:
        store.write_bytes("a", b"")
    assert "let hercules-scale submit take yours along" in str(e.value)


@pytest.mark.s3
def test_a_store_that_ignores_the_condition_is_noticed(s3_server: S3Server) -> None:
    assert Store("s3://bucket/conditional").creates_conditionally
    proxy = FaultProxy(s3_server.port, drop_header=b"if-none-match")
    with proxy.running():
        store = Store("s3://open/run", StorageConfig(endpoint=proxy.url, anonymous=True))
        assert not store.creates_conditionally
        warnings: list[str] = []
        with lock.hold_lock(store, warnings.append) as held:
            held.check()
            with (
                pytest.raises(StorageError, match="another run is writing here, host"),
                lock.hold_lock(store, warnings.append),
            ):
                pytest.fail("two held it")
    assert "has no conditional creation" in warnings[0]
    assert proxy.counts["dropped"] >= 3
