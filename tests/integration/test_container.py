"""A run in a container with the limits that containers have."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from hercules_scale import Hierarchy
from tests.conftest import small_config
from tests.worker_forks import VARIABLE

pytestmark = [pytest.mark.ray, pytest.mark.slow]
MEMORY = 3 << 30
# Docker's own size of shared memory, one processor of the machine's, and a home that is read only.
IN_A_CONTAINER = f"""
mount -t tmpfs -o size=64m none /dev/shm || exit 125
mount -t tmpfs none /sys/fs/cgroup || exit 125
echo '100000 100000' > /sys/fs/cgroup/cpu.max
echo {MEMORY} > /sys/fs/cgroup/memory.max
echo 0 > /sys/fs/cgroup/memory.current
printf 'inactive_file 0\\nactive_file 0\\nanon 0\\n' > /sys/fs/cgroup/memory.stat
mount -t tmpfs -o ro none "$HOME" || exit 125
exec "$@"
"""


def test_a_run_keeps_to_the_limits_of_its_container(icd: pa.Table, tmp_path: Path) -> None:
    if not shutil.which("unshare"):
        pytest.skip("needs unshare")
    texts, output, home = tmp_path / "icd.parquet", tmp_path / "run", tmp_path / "home"
    home.mkdir()
    pq.write_table(icd.slice(0, 300), texts)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(small_config(texts, output)))
    command = ["unshare", "--mount", "sh", "-c", IN_A_CONTAINER, "sh", sys.executable, "-m"]
    done = subprocess.run(
        [*command, "hercules_scale", "run", str(tmp_path / "run.yaml"), "--verbose"],
        env={**os.environ, "HOME": str(home), "LC_ALL": "C", "RAY_ADDRESS": "", VARIABLE: ""},
        capture_output=True,
        text=True,
    )
    if done.returncode == 125 or (done.returncode and "unshare" in done.stderr):
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    # Ray says where it puts what shared memory has no room for.
    assert "WARNING" not in done.stderr, done.stderr
    assert json.loads((output / "run.json").read_text())["machine"]["processors"] == 1
    assert len(Hierarchy.open(str(output)).table("items")) == 300
