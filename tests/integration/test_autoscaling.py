"""Clusters that start without a node for work, and grow: Ray's own fake provider of nodes."""

from __future__ import annotations

import json
import os
import re
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
from tests.worker_forks import VARIABLE

pytestmark = [pytest.mark.ray, pytest.mark.slow]
HEAD = "ray.head.default"
# Each version of Ray's autoscaler knows the head by this id.
HEAD_ID = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"
IDLE_MINUTES = 0.1
FOLDER = Path(__file__).parents[2] / "cluster_configs"
# What `ray up` fills in where a file leaves it out.
STEPS = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray")
NOTHING_TO_SET_UP: dict[str, Any] = {
    **{f"{step}_commands": [] for step in (*STEPS, "worker_start_ray")},
    **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
    "docker": {},
    "file_mounts": {},
    "file_mounts_sync_continuously": False,
}


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
        # By its class, since Ray's defaults for it by name are not packaged.
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "gcs_address": address,
        "head_node_id": HEAD_ID,
        "launch_multiple": True,
        # All nodes have this machine's address, and nothing is installed on them.
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    }
    config = {
        "cluster_name": "growing",
        "max_workers": 8,
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
    path.write_text(json.dumps({**NOTHING_TO_SET_UP, **config}))
    variables = {
        "RAY_FAKE_CLUSTER": "1",
        # Forks' Ray has no autoscaler.
        VARIABLE: "",
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


def has_processors(cluster: tuple[str, dict[str, str], Path]) -> bool:
    """Whether there is a node for work, as ``ray status`` has it."""
    command = [str(Path(sys.executable).with_name("ray")), "status", f"--address={cluster[0]}"]
    environment = {**os.environ, **cluster[1]}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "Total Usage" in done.stdout, done.stderr
    return bool(re.search(r"/[1-9][\d.]* CPU", done.stdout))


def kinds_of(name: str) -> dict[str, Any]:
    """Kinds of nodes of a shipped file, without what its cloud alone knows."""
    if name.startswith("kuberay"):
        return kinds_of_groups(name)
    values = yaml.safe_load((FOLDER / name).read_text())
    return {
        kind: {
            "resources": node["resources"],
            "max_workers": node["max_workers"],
            "node_config": {},
        }
        for kind, node in values["available_node_types"].items()
        if kind != values["head_node_type"]
    }


def kinds_of_groups(name: str) -> dict[str, Any]:
    """Kinds of nodes of a KubeRay file, as its operator counts their resources."""
    job = next(
        each for each in yaml.safe_load_all((FOLDER / name).read_text()) if each["kind"] == "RayJob"
    )
    kinds = {}
    for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        (container,) = group["template"]["spec"]["containers"]
        asked = {**container["resources"]["requests"], **container["resources"]["limits"]}
        resources = {"CPU": int(asked["cpu"]), "GPU": int(asked.get("nvidia.com/gpu", 0))}
        kinds[group["groupName"]] = {
            "resources": {kind: n for kind, n in resources.items() if n},
            "max_workers": group["maxReplicas"],
            "node_config": {},
        }
    return kinds


@pytest.mark.parametrize(
    ("name", "v2", "profile"),
    [
        ("aws.yaml", False, "gpu"),
        ("gcp.yaml", True, "auto"),
        ("kuberay-cpu.yaml", True, "auto"),
        ("kuberay-gpu.yaml", True, "gpu"),
    ],
)
def test_a_run_from_no_nodes_grows_and_ends_and_the_cluster_shrinks(
    name: str, v2: bool, profile: str, icd: pa.Table, tmp_path: Path
) -> None:
    texts = tmp_path / "icd.parquet"
    pq.write_table(icd.slice(0, 600), texts)
    output = tmp_path / "run"
    with growing_cluster(kinds_of(name), v2) as cluster:
        done = run_there(
            small_config(texts, output, resources={"wait_seconds": 150, "profile": profile}),
            cluster,
            tmp_path,
        )
        # The head has no processors: the run ended on nodes that it asked for.
        assert done.returncode == 0, done.stdout + done.stderr
        wait_for(lambda: not has_processors(cluster), "the nodes stay")
    assert len(Hierarchy.open(str(output)).clusters())
