"""GPUs as Ray counts them, on a machine that may have none: pools, replicas and the same tables."""

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
from tests import fake_gpus
from tests.conftest import small_config

pytestmark = [pytest.mark.ray, pytest.mark.llm, pytest.mark.slow]
# Two for replicas of vLLM, one more for what embeds titles.
PROGRAM = """
import sys, threading, ray, yaml
from ray import serve
from hercules_scale.config.file import parse_config
from hercules_scale.jobs.cluster import run

def count_replicas():
    while not ended.wait(0.5):
        for application in serve.status().applications.values():
            for deployment in application.deployments.values():
                counts.append(sum(deployment.replica_states.values()))

counts, ended = [], threading.Event()
ray.init(address="local", num_cpus=2, num_gpus=3, include_dashboard=False, log_to_driver=False)
counter = threading.Thread(target=count_replicas)
counter.start()
try:
    run(parse_config(yaml.safe_load(open(sys.argv[1]))))
finally:
    ended.set()
    counter.join()
print("most replicas:", max(counts))
"""


def test_a_run_on_gpus_grows_its_replicas_and_makes_the_same_clusters(
    icd: pa.Table, local_ray: None, tmp_path: Path
) -> None:
    pq.write_table(icd.slice(0, 300), tmp_path / "icd.parquet", row_group_size=50)

    def config_of(name: str, **summaries: object) -> dict[str, object]:
        config = small_config(
            tmp_path / "icd.parquet",
            tmp_path / name,
            hierarchy={"levels": [32, 2]},
            summaries=summaries,
        )
        # Of float32, and by the same kernels, whatever the machine has.
        return config | {"embedding": {"precision": "float32"}}

    run(parse_config(config_of("cpus")))
    config = config_of(
        "gpus",
        engine="vllm",
        candidates=1,
        max_answer_tokens=64,
        # The small model would be asked again and again.
        max_attempts=1,
        exemplars=2,
        requests_in_flight=16,
        engine_kwargs={"dtype": "float32", "enforce_eager": True, "max_num_seqs": 4},
    )
    config["resources"] = {"profile": "gpus", "llm_replicas": 1, "llm_max_replicas": 2}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "run.yaml")],
        env=fake_gpus.install(tmp_path / "plugin"),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "most replicas: 2" in done.stdout
    on_gpus, on_cpus = (Hierarchy.open(str(tmp_path / name)) for name in ("gpus", "cpus"))
    assert on_gpus.memberships().equals(on_cpus.memberships())
    assert on_gpus.table("llm_calls")["outcome"].isin(["ok", "invalid"]).any()
