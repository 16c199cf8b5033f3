"""GPUs as Ray counts them, on a machine that may have none: pools, threads and the same tables."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from hercules_scale import Hierarchy
from hercules_scale.config.file import parse_config
from hercules_scale.jobs.cluster import run
from tests.conftest import small_config

pytestmark = [pytest.mark.ray, pytest.mark.slow]
PROGRAM = """
import sys, ray, yaml
from hercules_scale.config.file import parse_config
from hercules_scale.jobs.cluster import run
ray.init(address="local", num_cpus=2, num_gpus=2, include_dashboard=False)
run(parse_config(yaml.safe_load(open(sys.argv[1]))))
"""


def test_a_run_on_gpus_of_ray_makes_the_same_tables(
    icd: pa.Table, local_ray: None, tmp_path: Path
) -> None:
    pq.write_table(icd.slice(0, 600), tmp_path / "icd.parquet", row_group_size=100)
    for name in ("gpus", "cpus"):
        config = small_config(
            tmp_path / "icd.parquet",
            tmp_path / name,
            hierarchy={"levels": [8, 3]},
            summaries={"engine": "keyphrases"},
        )
        # Of float32, and by the same kernels, whatever the machine has.
        config["embedding"] = {"precision": "float32"}
        if name == "cpus":
            run(parse_config(config))
            continue
        config["resources"] = {"profile": "gpus"}
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path / "run.yaml")],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
    on_gpus, on_cpus = (Hierarchy.open(str(tmp_path / name)) for name in ("gpus", "cpus"))
    assert on_gpus.memberships().equals(on_cpus.memberships())
    titles = [found.clusters()["title"].tolist() for found in (on_gpus, on_cpus)]
    assert titles[0] == titles[1]
