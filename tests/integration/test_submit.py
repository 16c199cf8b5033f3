"""A Ray cluster of two nodes, as people start them, that runs are submitted to."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from hercules_scale.commands.cli import main
from hercules_scale.config.file import parse_config
from hercules_scale.hierarchy import Hierarchy
from hercules_scale.jobs.cluster import run
from hercules_scale.storage.store import Store
from hercules_scale.summarization.chat import ChatRequest
from hercules_scale.summarization.clients import OpenAIClient
from hercules_scale.summarization.prompts import Message
from tests.conftest import small_config
from tests.integration.nodes import NODE_VARIABLE, WAIT_SECONDS, kill_node, start_node, wait_for
from tests.s3_server import SECRET, free_port

pytestmark = [pytest.mark.ray, pytest.mark.s3]
N_TEXTS = 2_400
WATCHED = {
    "ray_hercules_units_done",
    "ray_hercules_units_expected",
    "ray_hercules_units_per_second",
    "ray_hercules_rejected_rows",
    "ray_hercules_iterations_total",
    "ray_hercules_objective",
}


@dataclass
class Cluster:
    """Nodes that ``ray start`` started."""

    address: str
    token: str
    folder: Path
    worker: str
    metrics_port: int
    join: Callable[[], None]

    def submit(self, config: str, *arguments: str) -> list[str]:
        command = [sys.executable, "-m", "hercules_scale", "submit", config]
        return [*command, "--address", self.address, *arguments]

    def processes(self) -> Iterator[tuple[psutil.Process, list[str]]]:
        """All processes of the nodes, with their commands."""
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(NODE_VARIABLE, "").startswith(str(self.folder)):
                    yield process, process.cmdline()

    def kill(self, *arguments: str) -> None:
        """Kill the process with these arguments in its command."""
        (found,) = [each for each, command in self.processes() if {*arguments} <= {*command}]
        found.kill()

    def titles(self, part: str) -> list[str]:
        """Titles of processes with a part in them."""
        titles = [" ".join(command) for _, command in self.processes()]
        return [title for title in titles if part in title]

    def job_logs(self) -> str:
        logs = sorted(self.folder.glob("ray/session_latest/logs/job-driver-*.log"))
        return "\n".join(path.read_text(errors="replace") for path in logs)

    def metrics(self) -> set[str]:
        """Names that the head exports to Prometheus now."""
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as page:
            return set(re.findall(r"^ray_hercules_\w+", page.read().decode(), re.MULTILINE))

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}

    def call(self, config: str, *arguments: str) -> str:
        done = subprocess.run(
            self.submit(config, *arguments),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=WAIT_SECONDS,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def cluster(s3: str) -> Iterator[Cluster]:
    # Ray's sockets lie in it, and their paths must be short.
    folder = Path(tempfile.mkdtemp(prefix="hs", dir="/tmp"))
    token, port, dashboard, metrics = secrets.token_hex(16), free_port(), free_port(), free_port()
    names = [f"{folder}/{name}" for name in ("head", "worker", "joined")]
    head = start_node(
        folder,
        names[0],
        token,
        "--head",
        f"--port={port}",
        f"--dashboard-port={dashboard}",
        f"--ray-client-server-port={free_port()}",
        f"--metrics-export-port={metrics}",
        f"--temp-dir={folder / 'ray'}",
    )
    nodes = [head]
    try:

        def log() -> str:
            return (folder / "log").read_text()

        wait_for(lambda: "Ray runtime started" in log() or head.poll(), "the head has not started")
        assert head.poll() is None, log()

        def join(name: str) -> None:
            before = log().count("Ray runtime started")
            # Nodes of one folder replace one another's copy of a job's.
            own = [f"--address=127.0.0.1:{port}", f"--temp-dir={name}"]
            nodes.append(start_node(folder, name, token, *own))
            wait_for(lambda: log().count("Ray runtime started") > before, "no other node")

        join(names[1])
        address = f"http://127.0.0.1:{dashboard}"
        yield Cluster(address, token, folder, names[1], metrics, lambda: join(names[2]))
    finally:
        for name in names:
            kill_node(name)
        for node in nodes:
            node.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_a_submitted_run_that_loses_a_node_and_gets_another_equals_one_on_one_machine(
    cluster: Cluster, s3: str, local_ray: None, icd: pa.Table, tmp_path: Path
) -> None:
    path = tmp_path / "icd.parquet"
    pq.write_table(icd.slice(0, N_TEXTS), path)
    store = Store(f"{s3}/submitted")
    config = str(tmp_path / "run.yaml")
    Path(config).write_text(yaml.safe_dump(small_config(path, store.uri)))

    plan = subprocess.run(
        [sys.executable, "-m", "hercules_scale", "plan", config, "--address", cluster.address],
        env=cluster.environment,
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
    )
    assert f"input: {N_TEXTS:,} rows" in plan.stdout.replace("MiB, ", "MiB\ninput: "), plan
    assert "resources: profile auto, of 2 CPUs: embedding 2 of 1 CPU" in plan.stdout
    first = cluster.call(config, "--no-wait")
    name = first.split()[1].rstrip(":")
    assert f"job {name}: submitted, with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY" in first
    assert SECRET not in first
    assert f"job {name}: the run was submitted before and is" in cluster.call(config, "--no-wait")
    assert f"job {name}: stopped" in cluster.call(config, "--stop"), cluster.job_logs()
    assert "nothing to stop" in cluster.call(config, "--stop")

    def committed() -> int:
        return len(store.list_files("_work/commits/embed"))

    with subprocess.Popen(
        cluster.submit(config), env=cluster.environment, stdout=subprocess.PIPE, text=True
    ) as following:
        try:
            wait_for(lambda: committed() or following.poll(), "nothing was embedded")
            before = committed()
            kill_node(cluster.worker)
            cluster.join()
            metrics: set[str] = set()
            while following.poll() is None:
                metrics |= cluster.metrics()
                time.sleep(0.5)
            printed, _ = following.communicate(timeout=WAIT_SECONDS)
        finally:
            following.kill()
    assert following.returncode == 0, printed
    assert before < N_TEXTS // 1024
    assert f"job {name}-2: submitted" in printed
    assert f"; {name} stopped" in printed
    assert f"read: {N_TEXTS:,} items of" in printed
    assert f"job {name}-2: done" in printed
    assert "finished before, nothing to do" in cluster.call(config)
    assert metrics >= WATCHED
    logs = [path.read_text(errors="replace") for path in cluster.folder.rglob("*.log")]
    assert any("AWS" in text or "submitted" in text for text in logs)
    assert not [text for text in logs if SECRET in text]

    alone = str(tmp_path / "alone")
    run(parse_config(small_config(path, alone)))
    one, other = Hierarchy.open(store.uri), Hierarchy.open(alone)
    assert one.clusters().equals(other.clusters())
    assert one.memberships().equals(other.memberships())

    measured = one.evaluations()
    assert "done" in cluster.call("evaluate", store.uri)
    assert Hierarchy.open(store.uri).evaluations().equals(measured)
    assert "done" in cluster.call("assign", store.uri, str(path), "--output", f"{s3}/assigned")
    again = Hierarchy.open(f"{s3}/assigned").memberships()
    assert again["item_id"].equals(one.memberships()["item_id"])


@pytest.mark.llm
@pytest.mark.slow
def test_a_submitted_server_answers_and_ends_when_its_job_is_killed(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    config = str(tmp_path / "run.yaml")
    values = small_config("unread", str(tmp_path / "unwritten"), summaries={"engine": "vllm"})
    Path(config).write_text(yaml.safe_dump(values))
    server = ("serve", config, "--port", str(port := free_port()))
    assert "submitted" in cluster.call(*server, "--no-wait")
    url = f"http://127.0.0.1:{port}/v1"
    try:
        wait_for(lambda: f"served at {url}" in cluster.job_logs(), cluster.job_logs)
        asyncio.run(ask_at_once(url))
        assert cluster.titles("ServeReplica")
    finally:
        # As a driver that lacks memory; the job itself has no time to delete anything.
        cluster.kill("-m", "hercules_scale", "serve")
    wait_for(lambda: not cluster.titles("ServeReplica"), "a replica outlives its job")
    assert not (tmp_path / "unwritten").exists()


async def ask_at_once(url: str) -> None:
    """Ask questions of more tokens than one step of the model reads, each with its own seed."""
    endpoint = small_config("a", "b", summaries={"engine": "openai", "endpoint": url})
    client = OpenAIClient(parse_config(endpoint).summaries)
    schema = {"type": "object", "properties": {"colour": {"type": "string"}}}
    question: Message = {"role": "user", "content": "Name a colour."}
    asked = []
    for seed in range(8):
        long: Message = {"role": "user", "content": f"{seed} " + "red green blue " * 300}
        asked.append(ChatRequest([long, question], schema, 0.7, max_tokens=8, seed=seed))
    replies = await asyncio.gather(*map(client.answer, asked))
    assert all((each.completion_tokens or 0) > 0 for each in replies)


def test_who_cannot_get_in_is_told_why(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(small_config("s3://bucket/none", "s3://bucket/none")))
    command = cluster.submit(str(config))
    nobody = {**os.environ, "HOME": str(tmp_path), "RAY_AUTH_MODE": "token"}
    for token, expected in ((None, "the cluster wants a token"), ("x" * 32, "refused the token")):
        environment = nobody if token is None else {**nobody, "RAY_AUTH_TOKEN": token}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 2
        assert f"--address {cluster.address}: " in done.stderr
        assert expected in done.stderr
        assert "RAY_AUTH_TOKEN_PATH" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--address", "http://127.0.0.1:1"], "cannot be reached (Connection refused); check that"),
        (["--address", "HEAD:8265"], "must be the URL of a Ray dashboard such as http://HEAD:8265"),
        (["--address", "http://127.0.0.1:1", "--env", "NOT_SET"], "--env NOT_SET: is not set here"),
        (["--address", "http://a:1", "--env", "A", "--no-env"], "exclude one another"),
    ],
)
def test_a_wrong_address_or_variable_ends_with_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(small_config("s3://bucket/none", "s3://bucket/none")))
    assert main(["submit", str(config), *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
