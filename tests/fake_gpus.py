"""A platform of vLLM that runs on CPUs and places its workers on what Ray counts as GPUs.

vLLM loads it into its processes by the entry point that ``install`` writes; all else is vLLM's own,
its Ray executor among it.
"""

from __future__ import annotations

import os
from pathlib import Path

from vllm.platforms.cpu import CpuPlatform

ENTRY_POINTS = """[vllm.platform_plugins]
fake_gpus = tests.fake_gpus:platform
"""


class FakeGpus(CpuPlatform):
    """CPUs that say they are GPUs."""

    ray_device_key = "GPU"


def platform() -> str:
    """Return the name of the platform's class, as vLLM asks for it."""
    return f"{__name__}.FakeGpus"


def install(folder: Path) -> dict[str, str]:
    """Write a distribution with the entry point, and return the environment that finds it."""
    metadata = folder / "fake_gpus-1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-gpus\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    return {
        **os.environ,
        "PYTHONPATH": f"{folder}:{Path(__file__).parents[1]}",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
