"""A plugin of vLLM, which vLLM loads into each of its processes (``pyproject.toml`` names it)."""

from __future__ import annotations

import os
from functools import partialmethod

# Set for our own replicas on CPUs; any other vLLM of this environment is left alone.
VARIABLE = "HERCULES_SCALE_VLLM_WAITS_ASLEEP"


def wait_asleep() -> None:
    """Let vLLM's processes sleep while they wait for each other.

    They look for each other's messages without pause for a second after each, and no setting
    changes that. On a CPU, such a process takes a processor from the model.
    """
    if not os.environ.get(VARIABLE):
        return
    from vllm.distributed.device_communicators import shm_broadcast

    condition = shm_broadcast.SpinCondition
    setattr(condition, "__init__", partialmethod(condition.__init__, busy_loop_s=0))  # noqa: B010
