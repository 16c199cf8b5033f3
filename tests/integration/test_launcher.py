"""Ray's launcher with our file for machines of one's own: hosts that are reached by ssh."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from hercules_scale.hierarchy import Hierarchy
from tests.conftest import small_config
from tests.integration.networks import HERE, ip, namespace, networks
from tests.integration.nodes import wait_for
from tests.s3_server import free_port

pytestmark = [pytest.mark.ray, pytest.mark.slow]
CHECKOUT = Path(__file__).parents[2]
HOSTS = ("head", "worker")
# Hosts share the checkout and $1. What they write to their home goes to memory.
ALONE = """
exec 3<"$0" 4<"$1" && mkdir -p /run/sshd && mount -t tmpfs none /mnt || exit
mkdir /mnt/upper /mnt/work && for each in /tmp /dev/shm; do mount -t tmpfs none $each || exit; done
home="lowerdir=$HOME,upperdir=/mnt/upper,workdir=/mnt/work"
mount -t overlay none -o "$home" "$HOME" && rm -rf ~/.ssh ~/.ray || exit
mkdir -p "$0" "$1" ~/.ssh && mount --no-canonicalize --bind /proc/self/fd/3 "$0" || exit
mount --no-canonicalize --bind /proc/self/fd/4 "$1" && cd "$0" && shift && exec "$@" 3<&- 4<&-
"""
DAEMON = """
HostKey {folder}/key
AuthorizedKeysFile {folder}/key.pub
PidFile none
StrictModes no
PermitRootLogin yes
SetEnv RAY_raylet_start_wait_time_s=120
"""


@dataclass
class Person:
    """One who types commands, on a machine beside two that have sshd."""

    addresses: dict[str, str]
    folder: Path
    within: list[str]

    def call(self, *command: str) -> str:
        done = subprocess.run([*self.within, *command], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def person() -> Iterator[Person]:
    sshd = shutil.which("sshd", path="/usr/sbin:/usr/bin")
    if not sshd or not all(map(shutil.which, ("ssh", "rsync", "ssh-keygen"))):
        pytest.skip("needs sshd, ssh and rsync (Debian: openssh-server, rsync)")
    with networks(HOSTS) as addresses, tempfile.TemporaryDirectory(prefix="hs") as name:
        folder = Path(name)
        for host in HOSTS:
            # Ray takes the address by which a machine would reach others.
            ip("-n", namespace(host), "route", "add", "default", "via", HERE)
        keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key")]
        subprocess.run(keygen, check=True)
        (folder / "sshd.conf").write_text(DAEMON.format(folder=folder))
        alone = ["sh", "-c", ALONE, str(CHECKOUT), name]
        # The launcher ends all of Ray's processes that a machine has.
        apart = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", *alone]
        daemon = [*apart, sshd, "-D", "-e", "-f", str(folder / "sshd.conf")]
        processes = [
            subprocess.Popen(
                ["ip", "netns", "exec", namespace(host), *daemon],
                stderr=(folder / host).open("wb"),
            )
            for host in HOSTS
        ]
        here = subprocess.Popen(["unshare", "--mount", *alone, "sleep", "infinity"])
        processes.append(here)
        try:
            inside = ["nsenter", f"--target={here.pid}", "--mount", f"--wdns={CHECKOUT}"]
            wait_for(
                lambda: all("listening" in (folder / host).read_text() for host in HOSTS),
                "no sshd",
            )
            person = Person(addresses, folder, inside)
            person.call("sh", "-c", f"cp {folder}/key ~/.ssh/id_ed25519")
            yield person
        finally:
            for process in processes:
                process.kill()
                process.wait()


def test_ray_up_starts_the_machines_of_local_yaml(person: Person, icd: pa.Table) -> None:
    folder, programs = person.folder, Path(sys.executable).parent
    text = (CHECKOUT / "cluster_configs" / "local.yaml").read_text()
    for name, value in {
        "HEAD_ADDRESS": person.addresses["head"],
        "WORKER_ADDRESS": person.addresses["worker"],
        "ssh_user: USER": "ssh_user: root",
        "REPOSITORY/.venv/bin": str(programs),
    }.items():
        assert name in text
        text = text.replace(name, value)
    cluster, config, output = folder / "cluster.yaml", folder / "run.yaml", folder / "run"
    cluster.write_text(text)
    pq.write_table(icd.slice(0, 600), folder / "icd.parquet")
    config.write_text(yaml.safe_dump(small_config(folder / "icd.parquet", output)))
    ray, port = str(programs / "ray"), free_port()
    person.call(ray, "get-auth-token", "--generate")
    person.call(ray, "up", "--yes", "--no-config-cache", str(cluster))
    status = f"RAY_AUTH_MODE=token PATH={programs}:$PATH ray status"

    def n_nodes() -> int:
        shown = person.call(ray, "exec", str(cluster), status)
        return sum(map(int, re.findall(r"^ (\d+) local\.cluster\.node", shown, re.MULTILINE)))

    wait_for(lambda: n_nodes() > 1, "the worker is not there")
    dashboard = subprocess.Popen(
        [*person.within, ray, "dashboard", f"--port={port}", str(cluster)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(lambda: listens(port), "the dashboard is not there")
        person.call(
            sys.executable, "-m", "hercules_scale", "submit", str(config), "--address", address
        )
    finally:
        dashboard.kill()
        dashboard.wait()
    assert len(Hierarchy.open(str(output)).table("items")) == 600
    person.call(ray, "down", "--yes", str(cluster))


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
