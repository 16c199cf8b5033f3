"""Plugin that vLLM loads into each of its processes (``pyproject.toml`` names it)."""

from __future__ import annotations

import os
from functools import partialmethod

# Set for our own replicas on CPUs; any other vLLM of this environment is left alone.
VARIABLE = "HERCULES_SCALE_VLLM_WAITS_ASLEEP"


def wait_asleep() -> None:
    """Let vLLM's processes sleep while they wait for each other.

    After each message they poll for the next one without a pause for a second, and no setting
    changes that. On a CPU, a process that polls takes a processor from the model.
    """
    if not os.environ.get(VARIABLE):
        return
    from vllm.distributed.device_communicators import shm_broadcast

    condition = shm_broadcast.SpinCondition
    setattr(condition, "__init__", partialmethod(condition.__init__, busy_loop_s=0))  # noqa: B010
    _run_in_engine()


def _run_in_engine() -> None:
    """Run the model in the engine's process, and not in another that also imports all of vLLM.

    On a CPU, vLLM starts another process to bind threads to processors, and ours are not bound.
    """
    from vllm.v1.executor.abstract import Executor
    from vllm.v1.executor.uniproc_executor import UniProcExecutor

    setattr(Executor, "get_class", staticmethod(lambda config: UniProcExecutor))  # noqa: B010
