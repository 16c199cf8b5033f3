"""The commands of the Dockerfiles, run in a copy-on-write copy of this machine's root."""

from __future__ import annotations

import shlex
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
from dockerfile_parse import DockerfileParser

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).parents[2]
# Writes go to memory; programs that the commands install are taken away before.
IN_A_COPY = """
mount -t tmpfs none /mnt && mkdir /mnt/upper /mnt/work /mnt/root || exit 125
mount -t overlay none -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root || exit 125
for each in proc dev; do mount --rbind /$each /mnt/root/$each || exit 125; done
exec chroot /mnt/root sh -e -c "$@"
"""
# Ray's launchers and KubeRay's probes call these, as the image's user in a login shell.
PROGRAMS = ("ray", "hercules-scale", "rsync", "ssh", "wget")
MODULES = ("boto3", "googleapiclient.discovery", "ray.autoscaler._private.aws.node_provider")
AS_ITS_USER = """cd /home/ray && exec env -i HOME=/home/ray \\
setpriv --reuid=1000 --regid=1000 --clear-groups"""


def steps_of(name: str) -> list[str]:
    """Commands of an image's last part, in their order."""
    text = (REPOSITORY / "cluster_configs" / name).read_bytes()
    parts = DockerfileParser(fileobj=BytesIO(text)).structure
    last = max(place for place, step in enumerate(parts) if step["instruction"] == "FROM")
    return [step["value"] for step in parts[last:] if step["instruction"] == "RUN"]


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.gpu"])
def test_an_image_s_user_finds_what_ray_s_launchers_call(name: str) -> None:
    environment = Path(sys.executable).parents[1]
    if environment.is_relative_to("/opt"):
        pytest.skip("the environment lies where the image's would")
    # Another user may not come to where they lie here.
    parents = {*environment.parents, *Path(sys.executable).resolve().parents}
    checked = f"command -v {' '.join(PROGRAMS)} && python -c 'import {', '.join(MODULES)}'"
    script = [
        f"rm -f {' '.join(f'/usr/bin/{each}' for each in PROGRAMS)}",
        "dpkg --remove --force-all openssh-client rsync wget >/dev/null 2>&1 || true",
        "sed -i '/:1000:/d' /etc/passwd /etc/group",
        *steps_of(name),
        f"chmod o+x {' '.join(map(str, parents))}",
        f"ln -s {environment} /opt/hercules",
        f"{AS_ITS_USER} bash --login -c {shlex.quote(checked)}",
    ]
    done = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "sh", "-c", IN_A_COPY, "sh", "\n".join(script)],
        capture_output=True,
        text=True,
    )
    if done.returncode == 125 or "unshare" in done.stderr:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr
    bins = ["/opt/hercules/bin"] * 2 + ["/usr/bin"] * 3
    found = [f"{folder}/{program}" for folder, program in zip(bins, PROGRAMS, strict=True)]
    assert done.stdout.split()[-len(PROGRAMS) :] == found
