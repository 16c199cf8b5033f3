"""Nodes of a Ray cluster, as people start them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from tests.s3_server import free_port

# Marks the processes of a node, which nothing else tells apart from those of another Ray.
NODE_VARIABLE = "HERCULES_TEST_NODE"
WAIT_SECONDS = 600.0


def start_node(
    folder: Path,
    name: str,
    token: str,
    *arguments: str,
    address: str = "127.0.0.1",
    n_cpus: int = 1,
    within: Sequence[str] = (),
    **variables: str,
) -> subprocess.Popen[bytes]:
    """A node, with ports of its own and none of the S3 credentials that this process has.

    Args:
        folder: Of its log.
        name: What its processes are known by.
        token: Of the cluster.
        arguments: For ``ray start``.
        address: Of the node.
        n_cpus: That it offers.
        within: Command that runs the node's.
        variables: Of its environment.
    """
    ports = {
        name: free_port()
        for name in (
            "dashboard-agent-listen-port",
            "dashboard-agent-grpc-port",
            "runtime-env-agent-port",
        )
    }
    bare = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    # A job's command finds the environment by the PATH of the node, as where it is activated.
    own = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_metrics_report_interval_ms": "1000",
        "RAY_raylet_start_wait_time_s": "120",
        NODE_VARIABLE: name,
    }
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [
                *within,
                str(Path(sys.executable).with_name("ray")),
                "start",
                "--block",
                f"--node-ip-address={address}",
                f"--num-cpus={n_cpus}",
                "--object-store-memory=200000000",
                *(f"--{name}={port}" for name, port in ports.items()),
                *arguments,
            ],
            env=bare | own | variables,
            cwd=folder,
            stdout=log,
            stderr=log,
        )


def kill_node(name: str) -> None:
    """Kill a node and all that runs on it, as a machine that is taken away."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(NODE_VARIABLE) == name:
                process.kill()


def wait_for(what: Callable[[], object], description: str | Callable[[], str]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not what():
        said = description if isinstance(description, str) else description()
        assert time.monotonic() < deadline, said
        time.sleep(0.3)
