"""The model's files on the node of a replica, which may be another than the driver's."""

from __future__ import annotations

import asyncio
import os

import ray
from ray.llm._internal.common.callbacks.base import CallbackBase
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hercules_scale.config.resources import StorageConfig
from hercules_scale.models import resolve_chat_model
from hercules_scale.storage.store import use_options
from hercules_scale.storage.stored_models import local_model


class ModelOfNode(CallbackBase):  # type: ignore[misc]
    """Unpacks or copies a model once on each node of a replica, before vLLM looks for it.

    ``LLMConfig.callback_config`` names this class, with the model as the run names it, and the
    options of the storage that it may lie on.
    """

    async def on_before_node_init(self) -> None:
        """Let vLLM read the folder of this node.

        Raises:
            ConfigError: The alias's package is not installed here, or there is no such folder.
        """
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
        # Ray would look for files to fetch in a process that imports all of vLLM for it.
        self.ctx.run_init_node = False


def _model_here(name: str, storage: StorageConfig) -> str:
    use_options(storage)
    return local_model(resolve_chat_model(name))
