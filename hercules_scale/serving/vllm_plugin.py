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
    _run_in_engine()


def _run_in_engine() -> None:
    """Let the model run in the process of the engine, and not in one that imports all of vLLM too.

    On a CPU vLLM has another process so that threads can be bound to processors, and ours are not.
    """
    from vllm.v1.executor.abstract import Executor
    from vllm.v1.executor.uniproc_executor import UniProcExecutor

    setattr(Executor, "get_class", staticmethod(lambda config: UniProcExecutor))  # noqa: B010
