import json
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def test_the_script_for_a_lent_gpu_runs_with_numpy_and_torch_alone(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nfor name in ('ray', 'faiss', 'vllm', 'pyarrow', 'pandas', 'pydantic'):\n"
        "    sys.modules[name] = None\n"
    )
    sizes = ["5000x20", "200000x1000"]
    options = ["--device", "cpu", "--dimension", "16", "--limit", "0"]
    options += ["--json", str(tmp_path / "found.json"), "--sizes", *sizes]
    done = subprocess.run(
        [sys.executable, "benchmarks/gpu_kmeans.py", *options],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{REPOSITORY}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "200000x1000: left out" in done.stdout
    (found,) = json.loads((tmp_path / "found.json").read_text())["sizes"]
    assert found["rows_checked"] == 5_000
    # By another type of product than the CPU that it is compared with.
    assert found["labels_equal"]
    assert found["sums_equal"]
