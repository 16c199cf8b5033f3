"""Real parts for tests: a corpus from an installed package, a local Ray, an S3 server."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from hercules_scale.clustering.nearest_centroids import Float32
from hercules_scale.config.file import parse_config
from hercules_scale.config.resolved import ResolvedConfig
from hercules_scale.runtime.context import Shards
from hercules_scale.storage import layout
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import vector_column, write_table
from tests.cloud_servers import azure_environment
from tests.s3_server import S3Server, free_port
from tests.worker_forks import VARIABLE, forked_workers

# Nothing in a test may look for a model hub.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Two processes of tests share the processors, so threads that wait must not spin.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Ray's workers would have what the rest of the tests leaves of the processors, and run out of time.
os.environ.setdefault("RAY_worker_niceness", "0")
# Begun in the background by a script, this process ignores interrupts, and so would the servers
# that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# They begin first, so that no process has one left when the other has ended.
LONGEST = (
    "test_lost_processes",
    "test_every_engine",
    "test_vllm",
    "test_openai",
    "test_storage_faults",
    "test_submit",
    "test_browser",
    "test_run",
    "test_hostile_run",
    "test_hosts",
    "test_notebook",
    "test_kill",
    "test_autoscaling",
    "test_gpus",
    "test_launcher",
    "test_slurm",
)


LONG_SECONDS = 60


class _AtOnce:
    """Prints each test that failed or took long when it ends: a run that is killed prints no end.

    Args:
        terminal: Where pytest prints.
    """

    def __init__(self, terminal: Any) -> None:
        self._terminal = terminal
        self._started = time.monotonic()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed or report.duration > LONG_SECONDS:
            at = time.monotonic() - self._started
            said = f"{report.outcome} after {report.duration:.0f} s, at {at:.0f} s"
            self._terminal.write_line(f"\n{report.nodeid} {report.when}: {said}")
        if report.failed:
            self._terminal.write_line(report.longreprtext)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_AtOnce(config.pluginmanager.get_plugin("terminalreporter")))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(LONGEST)))


@pytest.fixture(scope="session")
def icd() -> pa.Table:
    """The demo's corpus: about 10,400 short texts with ids and true classes."""
    from hercules_scale.commands.demo import icd_table

    return icd_table()


@pytest.fixture(scope="session")
def worker_program() -> Iterator[str]:
    """Path of a program that Ray starts its workers by, in place of the interpreter."""
    with forked_workers() as (program, _), pytest.MonkeyPatch.context() as patch:
        # For the Rays that tests' processes start.
        patch.setenv(VARIABLE, program)
        patch.setenv("PYTHONPATH", str(Path(program).parent), prepend=os.pathsep)
        yield program


@pytest.fixture(scope="session")
def azure_port() -> int:
    """Where tests start an emulator of Azure's storage."""
    return free_port()


@pytest.fixture(scope="session")
def local_ray(s3: str, azure_port: int, worker_program: str) -> Iterator[None]:
    """One local Ray for all tests of a session; its workers know how object stores are reached."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        for name, value in azure_environment(azure_port).items():
            patch.setenv(name, value)
        patch.setattr("sys.executable", worker_program)
        ray.init(address="local", num_cpus=6, include_dashboard=False, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server, SeaweedFS, with one bucket; the environment names it."""
    server = S3Server(tmp_path_factory.mktemp("seaweedfs"))
    before = {name: os.environ.get(name) for name in server.environment}
    os.environ.update(server.environment)
    try:
        server.start()
        yield server
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        # It has nothing to keep, and a gentle end takes it half a minute.
        server.kill()


@pytest.fixture(scope="session")
def s3(s3_server: S3Server) -> str:
    """The bucket's URI. The environment holds endpoint and credentials, as it would for a user."""
    return "s3://bucket"


def small_config(path: Path | str, output: Path | str, /, **sections: Any) -> dict[str, Any]:
    """A run over ICD codes, with key phrases for titles unless told otherwise."""
    values: dict[str, Any] = {
        "input": {
            "path": str(path),
            "id_column": "code",
            "text_column": "text",
            "label_columns": ["chapter"],
        },
        "hierarchy": {"levels": [12, 4, 2]},
        "summaries": {"engine": "keyphrases"},
        "output": {"path": str(output)},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    return values


def resolved(values: dict[str, Any]) -> ResolvedConfig:
    """A configuration as it is carried out; items are texts unless it says otherwise."""
    config = parse_config(values)
    modality = config.input.modality or "text"
    return ResolvedConfig.of(config, config.input.model_copy(update={"modality": modality}))


def write_embeddings(store: Store, shards: Shards, vectors: Float32) -> None:
    """The table ``embeddings`` as the embedding stage leaves it, with row numbers for ids."""
    for shard in range(len(shards)):
        start, stop = shards.bounds(shard)
        columns = {
            "item_id": pa.array([str(row) for row in range(start, stop)]),
            "embedding": vector_column(vectors[start:stop]),
        }
        write_table(store, layout.part("embeddings", shard), pa.table(columns))
