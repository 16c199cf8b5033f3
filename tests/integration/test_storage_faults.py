"""Runs whose storage fails under them: the tables are those of a run that nobody disturbs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.chaos import DIMENSION, commit_times, write_items
from hercules_scale.clustering.nearest_centroids import Float32
from hercules_scale.commands.cli import main
from hercules_scale.config.file import parse_config
from hercules_scale.errors import StorageError
from hercules_scale.jobs.cluster import run
from hercules_scale.runtime.progress import Reporter, StageProgress
from hercules_scale.stages.vectors import open_vectors
from hercules_scale.storage import layout
from hercules_scale.storage.lock import held_by, hold_lock
from hercules_scale.storage.manifest import published_files
from hercules_scale.storage.run_file import read_record
from hercules_scale.storage.store import Store
from tests.fault_proxy import FaultProxy
from tests.s3_server import READER_KEY, READER_SECRET, WRITER_KEY, WRITER_SECRET, S3Server

pytestmark = [pytest.mark.ray, pytest.mark.s3, pytest.mark.slow]
# Three shards of vectors.
N_ROWS = 20_000
OUTAGE_SECONDS = 10
# Vectors of the input are kept twice.
SURE_BYTES = 2 * N_ROWS * DIMENSION * 4


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("items") / "items"
    write_items(path, N_ROWS)
    return path


def configure(items: Path | str, output: Path | str, **storage: Any) -> dict[str, Any]:
    return {
        "input": {
            "path": str(items),
            "modality": "embedding",
            "embedding_column": "embedding",
            "text_column": "text",
            "label_columns": ["group"],
        },
        "hierarchy": {"levels": [40, 10, 3]},
        "summaries": {"engine": "keyphrases"},
        "storage": storage,
        "output": {"path": str(output)},
    }


def tables(output: Path | str) -> dict[str, str]:
    """Checksum of every published file; those of the files as they are now are the same."""
    files = [file for files in published_files(Store(str(output))).values() for file in files]
    return {file.path: file.sha256 for file in files}


def start_beside(folder: Path, config: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """A second run of the same configuration, as a user would start it."""
    path = folder / "second.yaml"
    path.write_text(json.dumps(config))
    command = [sys.executable, "-m", "hercules_scale", "run", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


class Meeting(Reporter):
    """Has something happen when a run begins a stage."""

    def __init__(self, stage: str, happen: Callable[[], object]) -> None:
        super().__init__()
        self._stage, self._happen = stage, happen
        self.n_met = 0

    @contextmanager
    def stage(self, name: str, *values: Any) -> Iterator[StageProgress]:
        with super().stage(name, *values) as progress:
            if name == self._stage and not self.n_met:
                self.n_met += 1
                self._happen()
            yield progress


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A disk of its own, in memory."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    refused = subprocess.run(mount, capture_output=True, text=True, check=False)
    if refused.returncode:
        pytest.skip(f"a disk cannot be mounted here: {refused.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path: Path) -> None:
    """Write to a file until its disk refuses."""
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


@pytest.fixture(scope="module")
def undisturbed(
    items: Path, local_ray: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, str]]:
    """A finished run, beside which a second was started, and the checksums of its tables."""
    folder = tmp_path_factory.mktemp("undisturbed")
    config = configure(items, folder / "run")
    second = Meeting("cluster", lambda: assert_refused(start_beside(folder, config)))
    run(parse_config(config), second)
    assert second.n_met
    return folder / "run", tables(folder / "run")


def assert_refused(second: subprocess.CompletedProcess[str]) -> None:
    assert second.returncode == 1, second.stderr
    line = second.stderr.strip().splitlines()[-1]
    assert "another run is writing here, host " in line
    assert f", pid {os.getpid()}, started 20" in line


def test_a_server_that_is_killed_for_ten_seconds_costs_a_run_nothing(
    s3_server: S3Server, items: Path, undisturbed: tuple[Path, dict[str, str]]
) -> None:
    output = f"s3://bucket/outage-{time.time_ns()}"

    def start_again() -> None:
        time.sleep(OUTAGE_SECONDS)
        s3_server.start()

    thread = threading.Thread(target=start_again)

    def outage() -> None:
        s3_server.kill()
        thread.start()

    meeting = Meeting("number", outage)
    try:
        run(parse_config(configure(items, output)), meeting)
    finally:
        if meeting.n_met:
            thread.join()
    assert tables(output) == undisturbed[1]
    assert read_record(Store(output))["attempts"] == 1


def test_errors_resets_lost_answers_and_a_second_run_change_nothing(
    s3_server: S3Server,
    items: Path,
    undisturbed: tuple[Path, dict[str, str]],
    tmp_path: Path,
) -> None:
    folder = f"s3://bucket/faults-{time.time_ns()}"
    store = Store(folder)
    for file in items.iterdir():
        store.write_bytes(f"in/{file.name}", file.read_bytes())
    shares = {"busy": 0.05, "slow": 0.03, "reset": 0.04, "lost_answer": 0.04}
    proxy = FaultProxy(s3_server.port, shares, slow_seconds=1)
    with proxy.running():
        # Nothing but the configuration knows of the proxy.
        config = configure(f"{folder}/in", f"{folder}/run", endpoint=proxy.url)
        second = Meeting("cluster", lambda: assert_refused(start_beside(tmp_path, config)))
        run(parse_config(config), second)
    assert second.n_met
    assert all(proxy.counts[fault] > 2 for fault in shares), proxy.counts
    assert proxy.counts["requests"] > 200, proxy.counts
    assert tables(f"{folder}/run") == undisturbed[1]


def test_a_full_disk_is_one_error_and_the_run_goes_on_where_it_was(
    items: Path, undisturbed: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, "64m"):
        config = parse_config(configure(items, disk / "run"))
        ballast = disk / "ballast"
        # Enough for what is sure to be written, and too little for the rest.
        sure = SURE_BYTES + (1 << 19)
        ballast.write_bytes(bytes(shutil.disk_usage(disk).free - sure))
        with pytest.raises(StorageError, match=r"disk/run.*no space is left .*make space and run"):
            run(config)
        before = commit_times(disk / "run")
        assert any(path.startswith("scan/") for path in before)
        ballast.unlink()
        run(config)
        assert tables(disk / "run") == undisturbed[1]
        after = commit_times(disk / "run")
        assert {path: after.get(path, written) for path, written in before.items()} == before


def test_a_full_disk_leaves_no_lock_behind(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, "1m"):
        store = Store(str(disk / "run"))
        with hold_lock(store, pytest.fail), pytest.raises(OSError, match="No space left"):
            fill(disk / "ballast")
        assert held_by(store) is None
        (disk / "ballast").unlink()
        with hold_lock(store, pytest.fail):
            pass


def test_committed_files_that_are_gone_or_cut_are_made_again(
    items: Path, undisturbed: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    finished, wanted = undisturbed
    output = tmp_path / "run"
    shutil.copytree(finished, output)
    for name in (layout.SUCCESS, layout.MANIFEST):
        (output / name).unlink()
    (output / layout.part("embeddings", 1)).unlink()
    cut = output / layout.part("reductions", 2)
    cut.write_bytes(cut.read_bytes()[:-1])
    before = commit_times(output)
    run(parse_config(configure(items, output)))
    assert tables(output) == wanted
    after = commit_times(output)
    # A commit has the number of its shard and that of its owner.
    again = {path.rpartition("-")[0] for path in after.keys() - before.keys()}
    assert again == {"number/000001", "memberships/000002", "cluster/000000"}
    assert all(after.get(path, written) == written for path, written in before.items())


def test_a_place_that_cannot_be_written_is_one_line_before_anything_starts(
    s3_server: S3Server,
    items: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(output: Path | str, **storage: Any) -> str:
        path = tmp_path / "config.yaml"
        path.write_text(json.dumps(configure(items, output, **storage)))
        for command in ("plan", "run"):
            assert main([command, str(path)]) == 2
            (line,) = capsys.readouterr().err.strip().splitlines()
        return line

    # Another region for each user, so that no connection of another is taken up.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", WRITER_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", WRITER_SECRET)
    line = refused("s3://no-such-bucket/run", region="eu-west-2")
    # This server lets nobody but an administrator know which buckets there are.
    assert "output.path s3://no-such-bucket/run: cannot be written (PermissionError: " in line
    assert line.endswith("check the path, the bucket, the credentials and storage.endpoint")
    with small_disk(tmp_path / "disk", "1m"):
        line = refused(tmp_path / "disk/run")
        wanted = f"the run writes about {SURE_BYTES / 2**20:.1f} MiB there, and 1.0 MiB are free"
        assert f"{wanted}; make space or give another output.path" in line
        remount = ["mount", "-o", "remount,ro", str(tmp_path / "disk")]
        subprocess.run(remount, check=True)
        line = refused(tmp_path / "disk/other")
        assert "cannot be written (OSError: [Errno 30] Read-only file system" in line
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", READER_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", READER_SECRET)
    line = refused("s3://bucket/run", region="eu-west-1")
    assert "output.path s3://bucket/run: cannot be written (PermissionError: " in line
    assert READER_SECRET not in line


class Zeros:
    """Vectors that take 6 MB."""

    n_rows, dimension = 100_000, 16

    def read(self, tile: int, out: Float32) -> None:
        out[:] = 0


def test_a_temporary_folder_without_space_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, "1m"):
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
        with (
            pytest.raises(StorageError, match=rf"^{disk}: no space is left there"),
            open_vectors(Zeros(), "squared_l2", 1),
        ):
            pytest.fail("it held them")
        assert list(disk.iterdir()) == []
