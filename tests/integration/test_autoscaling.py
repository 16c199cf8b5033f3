"""Clusters that start without a node for work, and grow: Ray's own fake provider of nodes."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from hercules_scale.hierarchy import Hierarchy
from tests.conftest import small_config
from tests.integration.nodes import kill_node, start_node, wait_for
from tests.s3_server import free_port

pytestmark = [pytest.mark.ray, pytest.mark.slow]
HEAD = "ray.head.default"
# Each version of Ray's autoscaler knows the head by this id.
HEAD_ID = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"
IDLE_MINUTES = 0.1


@contextmanager
def growing_cluster(kinds: dict[str, Any], v2: bool) -> Iterator[tuple[str, dict[str, str], Path]]:
    """A cluster of a head without processors.

    Args:
        kinds: Of nodes that the autoscaler starts, as launcher files name them.
        v2: Whether the second version of the autoscaler starts them.

    Yields:
        Address; variables for who joins; folder.
    """
    folder = Path(tempfile.mkdtemp(prefix="hs", dir="/tmp"))
    port, token = free_port(), secrets.token_hex(16)
    address = f"127.0.0.1:{port}"
    provider = {
        "type": "fake_multinode",
        "gcs_address": address,
        "head_node_id": HEAD_ID,
        "launch_multiple": True,
    }
    config = {
        "cluster_name": "growing",
        "max_workers": 4,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": IDLE_MINUTES,
        "provider": provider,
        "auth": {},
        "head_node_type": HEAD,
        "available_node_types": {
            HEAD: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            **kinds,
        },
    }
    path = folder / "cluster.json"
    path.write_text(json.dumps(config))
    variables = {
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_NODE_TYPE_NAME": HEAD,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
        "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
    }
    if v2:
        variables["RAY_enable_autoscaler_v2"] = "1"
    head = start_node(
        folder,
        str(folder),
        token,
        "--head",
        f"--port={port}",
        f"--dashboard-port={free_port()}",
        f"--ray-client-server-port={free_port()}",
        f"--temp-dir={folder / 'ray'}",
        f"--autoscaling-config={path}",
        n_cpus=0,
        **variables,
    )
    try:

        def log() -> str:
            return (folder / "log").read_text()

        wait_for(lambda: "Ray runtime started" in log() or head.poll(), "the head has not started")
        assert head.poll() is None, log()
        yield address, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}, folder
    finally:
        # The nodes that the autoscaler started have its variables.
        kill_node(str(folder))
        head.wait()
        shutil.rmtree(folder, ignore_errors=True)


def run_there(
    config: dict[str, Any], cluster: tuple[str, dict[str, str], Path], tmp_path: Path
) -> subprocess.CompletedProcess[str]:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config))
    return subprocess.run(
        [sys.executable, "-m", "hercules_scale", "run", str(path)],
        env={**os.environ, **cluster[1], "RAY_ADDRESS": cluster[0]},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("v2", [False, True], ids=["first", "second"])
def test_a_run_from_no_nodes_grows_and_ends_and_the_cluster_shrinks(
    v2: bool, icd: pa.Table, tmp_path: Path
) -> None:
    texts = tmp_path / "icd.parquet"
    pq.write_table(icd.slice(0, 600), texts)
    kinds = {"cpu": {"resources": {"CPU": 2}, "node_config": {}, "max_workers": 2}}
    output = tmp_path / "run"
    with growing_cluster(kinds, v2) as cluster:
        done = run_there(small_config(texts, output), cluster, tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        status = [str(Path(sys.executable).with_name("ray")), "status", f"--address={cluster[0]}"]

        def has_shrunk() -> bool:
            said = subprocess.run(
                status, env={**os.environ, **cluster[1]}, capture_output=True, text=True
            ).stdout
            return " 1 cpu" not in said and " 2 cpu" not in said

        wait_for(has_shrunk, "the nodes stay")
    assert len(Hierarchy.open(str(output)).clusters())
