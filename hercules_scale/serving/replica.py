"""Set-up of a vLLM replica: the model's files on its node, and its end with the job."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from contextlib import suppress

import ray
from ray import serve
from ray.llm._internal.common.callbacks.base import CallbackBase
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hercules_scale.config.resources import StorageConfig
from hercules_scale.models.names import resolve_chat_model
from hercules_scale.runtime.waiting import job_has_ended
from hercules_scale.storage.stored_models import local_model

WATCH_SECONDS = 10.0


class ReplicaSetup(CallbackBase):  # type: ignore[misc]
    """Prepares a replica before vLLM looks for its model.

    ``LLMConfig.callback_config`` names this class, with these arguments:

    - ``model``: the model as the run names it, unpacked or copied once on each node of a replica;
    - ``storage``: options of the storage that it may lie on;
    - ``application``, ``job``: the Serve application, and the Ray job with which it ends, if any.
    """

    async def on_before_node_init(self) -> None:
        """Copy the model to each node of the replica, and let vLLM read the folder of this node.

        Raises:
            ConfigError: The alias's package is not installed here, or there is no such folder.
        """
        if self.kwargs["job"] is not None:
            watched = (self.kwargs["application"], self.kwargs["job"])
            threading.Thread(target=_end_with_job, args=watched, daemon=True).start()
        asked = (self.kwargs["model"], self.kwargs["storage"])
        source = await asyncio.to_thread(_model_here, *asked)
        if not os.path.isdir(source):
            return
        placed = ray.util.placement_group_table(self.ctx.placement_group)["bundles_to_node_id"]
        others = {*placed.values()} - {ray.get_runtime_context().get_node_id()}
        resolve = ray.remote(num_cpus=0)(_model_here)
        await asyncio.gather(
            *(
                resolve.options(
                    scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
                ).remote(*asked)
                for node in others
            )
        )
        self.llm_config.get_engine_config().hf_model_id = source
        # Ray's own step would import all of vLLM in a process, only to look for files to fetch.
        self.ctx.run_init_node = False


def _model_here(name: str, storage: StorageConfig) -> str:
    return local_model(resolve_chat_model(name), storage)


def _end_with_job(application: str, job: str) -> None:
    """Delete a Serve application once its job has ended.

    Serve keeps an application until it is deleted, and a job that is killed deletes nothing.
    """
    while True:
        # Ray's and Serve's controllers may be away for a moment.
        with suppress(Exception):
            if job_has_ended(job):
                serve.delete(application, _blocking=False)
                return
        time.sleep(WATCH_SECONDS)
