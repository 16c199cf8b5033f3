"""The Slurm script on a real Slurm: two hosts that share a file system."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from hercules_scale.hierarchy import Hierarchy
from tests.conftest import small_config
from tests.integration.networks import HERE, namespace, networks
from tests.integration.nodes import wait_for
from tests.s3_server import free_port
from tests.worker_forks import VARIABLE

pytestmark = [pytest.mark.ray, pytest.mark.slow]
CHECKOUT = Path(__file__).parents[2]
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
CONFIGURATION = """
ClusterName=test
SlurmctldHost=controller({here})
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/%n.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
MpiDefault=none
{nodes}
PartitionName=all Nodes=ALL Default=YES
"""
# A host by its name: as the script, Slurm asks the machine for its name and that name's address.
NAMED = 'hostname "$1" && mount --bind "$2" /etc/hosts && shift 2 && exec "$@"'
HOSTS = ("one", "two")


@pytest.fixture
def slurm() -> Iterator[Callable[..., str]]:
    """Calls a command of Slurm's and returns its output."""
    if not all(map(shutil.which, PROGRAMS)):
        pytest.skip(f"needs {', '.join(PROGRAMS)} (Debian: slurm-wlm, munge)")
    with networks(HOSTS) as addresses, tempfile.TemporaryDirectory(prefix="hs") as name:
        folder = Path(name)
        # As Slurm's daemons ask of the folder of their socket.
        folder.chmod(0o755)
        nodes = [
            f"NodeName={host} NodeAddr={address} CPUs=2 RealMemory=4000"
            for host, address in addresses.items()
        ]
        ports = {"controller_port": free_port(), "node_port": free_port()}
        file, names = folder / "slurm.conf", folder / "hosts"
        file.write_text(
            CONFIGURATION.format(here=HERE, folder=folder, nodes="\n".join(nodes), **ports)
        )
        # The second version asks for a file system of its own, which not every machine has.
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        lines = [f"{address} {host}" for host, address in addresses.items()]
        names.write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
        for each in ("state", *HOSTS):
            (folder / each).mkdir()
        key = folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        # Forks would be of this machine, and not of the hosts.
        environment = {**os.environ, "SLURM_CONF": str(file), VARIABLE: ""}
        environment["RAY_raylet_start_wait_time_s"] = "120"
        daemons: list[subprocess.Popen[bytes]] = []

        def start(*command: str) -> None:
            with (folder / "log").open("ab") as log:
                daemons.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))

        def call(*command: str) -> str:
            done = subprocess.run(
                command, env=environment, cwd=CHECKOUT, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        def named(host: str) -> list[str]:
            return ["unshare", "--uts", "--mount", "sh", "-c", NAMED, "sh", host, str(names)]

        try:
            files = ("socket", "key-file", "pid-file", "log-file", "seed-file")
            munge = [f"--{each}={folder}/munge.{each.partition('-')[0]}" for each in files]
            start("munged", "--foreground", "--force", *munge)
            start(*named("controller"), "slurmctld", "-D")
            for host in HOSTS:
                inside = ["ip", "netns", "exec", namespace(host), *named(host)]
                start(*inside, "slurmd", "-D", "-N", host)
            ready = ["sinfo", "--noheader", "--Node", "--format=%T"]
            wait_for(
                lambda: (
                    subprocess.run(
                        ready, env=environment, capture_output=True, text=True
                    ).stdout.split()
                    == ["idle"] * len(HOSTS)
                ),
                (folder / "log").read_text,
            )
            yield call
        finally:
            for daemon in reversed(daemons):
                daemon.terminate()
            for daemon in daemons:
                daemon.wait()


def test_a_run_on_slurm_waits_for_both_hosts_and_ends(
    slurm: Callable[..., str], icd: pa.Table, tmp_path: Path
) -> None:
    texts, output, config = tmp_path / "icd.parquet", tmp_path / "run", tmp_path / "run.yaml"
    pq.write_table(icd.slice(0, 600), texts)
    config.write_text(yaml.safe_dump(small_config(texts, output)))
    log = tmp_path / "log"
    submitted = slurm(
        "sbatch",
        "--nodes=2",
        "--cpus-per-task=2",
        "--mem=2000",
        f"--output={log}",
        "--parsable",
        "cluster_configs/slurm.sh",
        str(config),
    )

    def state() -> str:
        found = re.search(r"JobState=(\w+)", slurm("scontrol", "show", "job", submitted.strip()))
        assert found
        return found[1]

    goes_on = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING")
    wait_for(lambda: state() not in goes_on, "the job goes on")
    assert state() == "COMPLETED", log.read_text()
    assert "read: 600 items of" in log.read_text()
    assert len(Hierarchy.open(str(output)).table("items")) == 600
