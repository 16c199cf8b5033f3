"""A run over hosts that share nothing but a network: namespaces with files of their own."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from hercules_scale.hierarchy import Hierarchy
from hercules_scale.models.names import resolve_embedding_model
from hercules_scale.storage.store import Store
from tests.conftest import small_config
from tests.integration.networks import HERE, NETWORK, namespace, networks
from tests.integration.nodes import NODE_VARIABLE, WAIT_SECONDS, kill_node, start_node, wait_for
from tests.s3_server import S3Server, upload

pytestmark = [pytest.mark.ray, pytest.mark.s3, pytest.mark.slow]
N_TEXTS, PORT = 2_000, 6379
# Lines of text that the head alone has.
ALONE_TEXTS = "/tmp/lines.txt"
HEAD, *WORKERS = HOSTS = ("head", "one", "two")
CHECKOUT = Path(__file__).parents[2]
# Memory that nobody else sees takes the place of what hosts share here: temporary files, among them
# the sockets and sessions of Ray, and its object store. The checkout is seen wherever it lies.
ALONE = """
exec 3<"$0" && mount -t tmpfs none /tmp && mount -t tmpfs none /dev/shm || exit
mkdir -p "$0" && mount --no-canonicalize --bind /proc/self/fd/3 "$0" && cd /tmp && exec "$@" 3<&-
"""


@dataclass
class Hosts:
    """Three hosts with a node of Ray each, the first of which has no processors for work."""

    token: str
    address: str
    nodes: list[subprocess.Popen[bytes]]

    def run(self, config: dict[str, object], ends_with: int = 0, command: str = "run") -> str:
        """Run a configuration on the head, where the file lies, and nowhere else."""
        # What `ip netns` and `unshare` run, they become.
        inside = ["nsenter", f"--target={self.nodes[0].pid}", "--mount", "--net"]
        program = f"exec {sys.executable} -m hercules_scale {command} /tmp/run.yaml"
        environment = {
            **os.environ,
            "RAY_ADDRESS": self.address,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
        }
        done = subprocess.run(
            [
                *inside,
                "sh",
                "-c",
                f"cat >/tmp/run.yaml && cp /tmp/run.yaml {ALONE_TEXTS} && {program}",
            ],
            input=yaml.safe_dump(config),
            env=environment,
            capture_output=True,
            text=True,
            timeout=WAIT_SECONDS,
        )
        assert done.returncode == ends_with, done.stdout + done.stderr
        return done.stderr


@pytest.fixture(scope="module")
def addresses() -> Iterator[dict[str, str]]:
    with networks(HOSTS) as addresses:
        yield addresses


@pytest.fixture(scope="module")
def hosts(addresses: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    server = S3Server(tmp_path_factory.mktemp("s3"), HERE)
    folder = Path(tempfile.mkdtemp(prefix="hs"))
    token = secrets.token_hex(16)
    nodes: list[subprocess.Popen[bytes]] = []

    def start(host: str, n_cpus: int, arguments: Sequence[str]) -> None:
        log = folder / host
        log.mkdir()
        alone = ["unshare", "--mount", "sh", "-c", ALONE, str(CHECKOUT)]
        within = ["ip", "netns", "exec", namespace(host), *alone]
        node = start_node(
            log,
            namespace(host),
            token,
            *arguments,
            address=addresses[host],
            n_cpus=n_cpus,
            within=within,
            HERCULES_SCALE_CACHE="/tmp/models",
            **server.environment,
        )
        nodes.append(node)

        def said() -> str:
            return (log / "log").read_text()

        wait_for(lambda: "Ray runtime started" in said() or node.poll(), "no node")
        assert node.poll() is None, said()

    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        try:
            server.start()
            start(HEAD, 0, ["--head", f"--port={PORT}", "--include-dashboard=false"])
            for host in WORKERS:
                start(host, 1, [f"--address={addresses[HEAD]}:{PORT}"])
            yield Hosts(token, f"{addresses[HEAD]}:{PORT}", nodes)
        finally:
            for host in HOSTS:
                kill_node(namespace(host))
            for node in nodes:
                node.wait()
            server.kill()
            shutil.rmtree(folder, ignore_errors=True)


def at_work() -> set[str]:
    """Hosts with a task or an actor of Ray that does something."""
    found = set()
    for process in psutil.process_iter(["cmdline"]):
        with suppress(psutil.Error):
            title = " ".join(process.info["cmdline"] or [])
            if title.startswith("ray::") and "IDLE" not in title:
                found.add(process.environ().get(NODE_VARIABLE, ""))
    return found


def test_hosts_that_share_only_a_network_and_a_bucket_make_the_tables_of_one_process(
    hosts: Hosts, icd: pa.Table, tmp_path: Path
) -> None:
    source = Store("s3://bucket/input")
    pq.write_table(icd.slice(0, N_TEXTS), source.path("icd.parquet"), filesystem=source.arrow)
    store = Store("s3://bucket/hosts")
    worked: set[str] = set()
    with ThreadPoolExecutor(1) as runner:
        running = runner.submit(hosts.run, small_config(f"{source.uri}/icd.parquet", store.uri))
        while not running.done():
            worked |= at_work()
            time.sleep(0.2)
    assert f"read: {N_TEXTS:,} items of" in running.result()
    assert worked >= {namespace(host) for host in WORKERS}

    alone = tmp_path / "alone"
    (tmp_path / "run.yaml").write_text(
        yaml.safe_dump(small_config(f"{source.uri}/icd.parquet", alone))
    )
    command = [sys.executable, "-m", "hercules_scale", "run", str(tmp_path / "run.yaml")]
    subprocess.run(command, check=True, capture_output=True)
    one, other = Hierarchy.open(store.uri), Hierarchy.open(str(alone))
    assert one.clusters().equals(other.clusters())
    assert one.memberships().equals(other.memberships())

    refused = hosts.run(small_config(f"{source.uri}/icd.parquet", "/tmp/alone"), ends_with=2)
    last = refused.splitlines()[-1]
    assert "output.path /tmp/alone: is another folder on the node 1" in last
    assert "of the Ray cluster; give one that all nodes share, such as s3://" in last

    texts = {"input": {"path": ALONE_TEXTS}, "output": {"path": "s3://bucket/unwritten"}}
    planned = {**texts, "hierarchy": {"levels": [2]}, "summaries": {"engine": "keyphrases"}}
    said = hosts.run(planned, ends_with=2, command="plan").splitlines()[-1]
    assert f"{ALONE_TEXTS}: is not there on the node {NETWORK}." in said


def test_vllm_runs_on_a_host_that_never_saw_the_model(hosts: Hosts, icd: pa.Table) -> None:
    source = Store("s3://bucket/input")
    pq.write_table(icd.slice(0, 200), source.path("icd.parquet"), filesystem=source.arrow)
    encoder = upload(resolve_embedding_model("minilm"), "s3://bucket/models/minilm")
    # The small model would be asked again and again.
    summaries = {"engine": "vllm", "candidates": 1, "max_attempts": 1, "max_answer_tokens": 64}
    config = small_config(
        f"{source.uri}/icd.parquet",
        "s3://bucket/labelled",
        hierarchy={"levels": [4, 2]},
        embedding={"model": encoder, "engine": "vllm"},
        resources={"embed": {"workers": 1}},
        summaries=summaries,
    )
    hosts.run(config)
    hierarchy = Hierarchy.open("s3://bucket/labelled")
    clusters = hierarchy.clusters()
    assert clusters["title"].str.len().min() > 0
    outcomes = hierarchy.table("llm_calls")["outcome"]
    assert outcomes.isin(["ok", "invalid"]).any()
    # The files of each host: the language model where its replica was, the encoder where items were
    # embedded; the head counts tokens and embeds titles.
    copies = [
        {
            path.name.partition("-")[0]
            for path in Path(f"/proc/{node.pid}/root").glob("tmp/models/*/*")
        }
        for node in hosts.nodes[1:]
    ]
    assert set().union(*copies) >= {"smollm2", "stored"}
