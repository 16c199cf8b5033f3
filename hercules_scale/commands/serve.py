"""The command ``serve``: a configuration's language model as an endpoint for other runs."""

from __future__ import annotations

import threading

from hercules_scale.config.resolved import ResolvedConfig
from hercules_scale.config.run import RunConfig
from hercules_scale.models.names import check_chat_model, resolve_chat_model
from hercules_scale.runtime.context import RunContext
from hercules_scale.runtime.machines import take_resources
from hercules_scale.runtime.progress import Reporter
from hercules_scale.runtime.ray_session import local_or_cluster_ray
from hercules_scale.runtime.resources import replica_pool
from hercules_scale.runtime.waiting import Room
from hercules_scale.serving.vllm import serve_endpoint
from hercules_scale.storage.store import Store
from hercules_scale.storage.stored_models import local_model


def serve_model(config: RunConfig, port: int, reporter: Reporter | None = None) -> None:
    """Serve the model until this process is stopped.

    Args:
        config: Configuration of the model and its resources; its output is not touched.
        port: Port on the head node.
        reporter: Reporter of messages; by default on the terminal.

    Raises:
        HerculesScaleError: The model or its resources are not available.
    """
    check_chat_model(config.summaries.model)
    own = config.model_copy(
        update={"summaries": config.summaries.model_copy(update={"engine": "vllm"})}
    )
    # This modality needs no encoder; there are no items to embed.
    alone = ResolvedConfig.of(own, own.input.model_copy(update={"modality": "embedding"}))
    reporter = reporter or Reporter()
    with local_or_cluster_ray(alone):
        store = Store(config.output.path, config.storage)
        context = take_resources(RunContext(alone, store, "serve", reporter), labels=False)
        source = local_model(
            resolve_chat_model(config.summaries.model), config.storage, with_weights=False
        )
        room = Room(context, "serve", replica_pool(context.config.resources, context.n_gpus).asked)
        with serve_endpoint(context.config, source, context.n_gpus, port, room.look) as url:
            reporter.say(f"{config.summaries.model}: served at {url}")
            threading.Event().wait()
