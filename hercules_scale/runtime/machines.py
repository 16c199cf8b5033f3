"""The machines of the Ray cluster that this process belongs to."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ray
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray.autoscaler._private.util import format_readonly_node_type
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply
from ray.experimental import internal_kv
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hercules_scale.config.resolved import ResolvedConfig
from hercules_scale.config.resources import StorageConfig
from hercules_scale.config.section import names_function
from hercules_scale.errors import ConfigError, InputError
from hercules_scale.models.aliases import (
    IMAGE_ALIASES,
    embedding_aliases,
)
from hercules_scale.models.names import (
    check_chat_model,
    resolve_embedding_model,
    resolve_image_model,
)
from hercules_scale.models.packages import check_vllm
from hercules_scale.reading.sources import SourceFile
from hercules_scale.runtime.context import RunContext
from hercules_scale.runtime.resources import (
    GIB,
    Machines,
    Node,
    Pool,
    check_resources,
    embedding_pool,
    fill,
    fits,
    label_encoder_pool,
    pools_of,
    usable_gpus,
)
from hercules_scale.runtime.waiting import POLL_SECONDS, Room
from hercules_scale.storage import layout
from hercules_scale.storage.file_systems import split_uri
from hercules_scale.storage.store import Store
from hercules_scale.storage.stored_models import check_source, model_gib

# Label that names the group of a node.
NODE_GROUP = "ray.io/node-group"
STATUS_SECONDS = 10
CHECKED_NODES = 16
MARK = layout.stage_file("probe", "nodes")


def find_machines() -> Machines:
    """Return machines of the cluster, and whether an autoscaler adds more."""
    machines = Machines.of([_size(node) for node in _alive_nodes()])
    # A cluster without processors must grow, since nothing could run on it.
    return replace(machines, grows=not machines.n_cpus or _has_autoscaler())


def _alive_nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _size(node: dict[str, Any]) -> Node:
    has = node["Resources"]
    return Node(has.get("CPU", 0.0), int(has.get("GPU", 0)), has.get("memory", 0.0) / GIB)


def _has_autoscaler() -> bool:
    """Return whether an autoscaler starts the nodes.

    Ray runs an autoscaler on every cluster. If it cannot start nodes, its first version reports a
    kind for each node, and in its second version nodes belong to no group.
    """
    status = internal_kv._internal_kv_get(DEBUG_AUTOSCALING_STATUS)
    report = (json.loads(status).get("autoscaler_report") or {}) if status else {}
    kinds = {*report.get("active_nodes", ()), *report.get("pending_launches", ())}
    if any(not kind.startswith(format_readonly_node_type("")) for kind in kinds):
        return True
    if not any(node["Labels"].get(NODE_GROUP) for node in _alive_nodes()):
        return False
    client = internal_kv.internal_kv_get_gcs_client()
    reply = GetClusterStatusReply.FromString(client.get_cluster_status(timeout_s=STATUS_SECONDS))
    return bool(reply.autoscaling_state.autoscaler_state_version > 0)


def _await_machines(context: RunContext, pool: Pool, machines: Machines) -> Machines:
    """Wait until a node has room for one process of a pool.

    A task of that size asks the autoscaler for the node, and ends if this process is killed.

    Raises:
        StageError: No node has had room for ``resources.wait_seconds``.
    """
    if machines.have(pool):
        return machines
    room = Room(context, "start", pool.asked, loads=False)
    task = ray.remote(_there).options(**pool.of_node.options).remote()
    try:
        while not ray.wait([task], timeout=POLL_SECONDS)[0]:
            room.look(lambda: False)
    except BaseException:
        # The task is cancelled only here: Ray dies if a task is cancelled while it ends.
        ray.cancel(task, force=True)
        raise
    ray.get(task)
    return find_machines()


def _there() -> None:
    """Do nothing, once there is room for the task."""


def check_nodes(
    config: ResolvedConfig, store: Store, sources: Sequence[SourceFile], pools: list[Pool]
) -> None:
    """Check before the first stage that nodes can read what later stages need.

    Args:
        config: The run.
        store: Output of the run.
        sources: Files that nodes will read.
        pools: Processes that nodes will run.

    Raises:
        InputError: A node lacks a model's files, or does not share the output or the input.
    """
    marks = bool(sources) and store.is_local
    if marks:
        store.write_bytes(MARK, b"")
    seen = [source.uri for source in sources[:1] if split_uri(source.uri)[0] == "file"]
    lacking = ray.remote(num_cpus=0)(_lacking)
    asked = {
        node["NodeID"]: [pool.key for pool in pools if fits(pool.of_node, _size(node))]
        for node in _alive_nodes()
        if node["Resources"].get("CPU")
    }
    try:
        found = {
            node: lacking.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=True)
            ).remote(config, store if marks else None, seen, keys)
            for node, keys in [*asked.items()][:CHECKED_NODES]
        }
        for reason in ray.get([*found.values()]):
            if reason:
                raise InputError(reason)
    finally:
        if marks:
            store.delete_files(MARK)


def _lacking(
    config: ResolvedConfig, output: Store | None, seen: list[str], keys: list[str]
) -> str | None:
    """Return a sentence on what the node of this process lacks, or None."""
    here = f"on the node {ray.util.get_node_ip_address()} of the Ray cluster"
    shared = "give one that all nodes share, such as s3://"
    if output is not None and not output.exists(MARK):
        return f"output.path {config.output.path}: is another folder {here}; {shared}"
    for uri in seen:
        if not os.path.exists(split_uri(uri)[1]):
            return f"input.path {uri}: is not there {here}; {shared}"
    try:
        check_models(config, keys)
    except ConfigError as error:
        return f"{error} ({here})"
    return None


def check_models(config: ResolvedConfig, keys: list[str]) -> None:
    """Refuse models that this machine needs for some pools, and cannot load.

    Raises:
        ConfigError: A model's files are not here, and no hub gives them.
    """
    if "resources.embed" in keys:
        _check_encoder(config)
    if "resources.llm_replicas" in keys:
        check_chat_model(config.summaries.model)
        check_source("summaries.model", config.summaries.model, config.storage)


def _check_encoder(config: ResolvedConfig) -> None:
    if not config.loads_encoder:
        return
    if config.embedding.engine == "vllm":
        check_vllm()
    # A missing folder is reported before a hub is asked for its name.
    if config.input.modality == "image":
        key, model = "embedding.model", config.image_embedding.model
        resolve_image_model(model)
    else:
        key, model = config.text_model_key, config.text_embedding.model
        if names_function(model):
            return
        resolve_embedding_model(model, key)
    check_source(key, model, config.storage)


def with_absolute_folders(config: ResolvedConfig) -> ResolvedConfig:
    """Return a configuration with absolute paths, since workers have other working directories.

    Paths of models, of the cache and of images are changed.
    """
    named = config.embedding
    aliases = {*embedding_aliases(), *IMAGE_ALIASES}
    changed = {
        key: os.path.abspath(os.path.expanduser(name))
        for key, name in (("model", named.model), ("text_model", named.text_model))
        if name is not None and name not in aliases and os.path.isdir(os.path.expanduser(name))
    }
    if named.cache is not None and split_uri(named.cache)[0] == "file":
        changed["cache"] = split_uri(named.cache)[1]
    places = [
        place if "://" in place else os.path.abspath(os.path.expanduser(place))
        for place in config.input.image_sources
    ]
    return config.model_copy(
        update={
            "embedding": named.model_copy(update=changed),
            "input": config.input.model_copy(update={"image_sources": places}),
        }
    )


def _with_encoder_memory(config: ResolvedConfig, n_gpus: int) -> ResolvedConfig:
    """Return a configuration that reserves memory for a large encoder on CPUs."""
    embed = config.resources.embed
    pool = embedding_pool(config.resources, n_gpus, config.loads_encoder)
    if pool.gpus or embed.memory_gib or not config.loads_encoder:
        return config
    if config.input.modality == "image" or names_function(config.text_embedding.model):
        return config
    model = config.text_embedding.model
    changed = {
        "embed": embed.model_copy(update={"memory_gib": encoder_gib(model, config.storage) or None})
    }
    return config.model_copy(update={"resources": config.resources.model_copy(update=changed)})


def label_encoder_gib(config: ResolvedConfig) -> float:
    """Return the memory of the process that embeds titles, in GiB; see ``model_gib``."""
    embedding = config.text_embedding
    model = embedding.model
    if embedding.engine == "openai" or names_function(model):
        return 0.0
    return encoder_gib(model, config.storage)


def encoder_gib(model: str, storage: StorageConfig) -> float:
    """Return the memory of a process with a text encoder, in GiB; see ``model_gib``."""
    # Models of packages are small.
    if model in embedding_aliases():
        return 0.0
    return model_gib(resolve_embedding_model(model), storage)


def take_resources(
    context: RunContext, sources: Sequence[SourceFile] = (), labels: bool = True
) -> RunContext:
    """Fit a run to the machines, and check that nodes can read what it needs.

    Args:
        context: The run.
        sources: Files that nodes will read.
        labels: Whether a process embeds titles.

    Returns:
        The run with the numbers that its profile leaves to the machines, with absolute folders, and
        with the number of GPUs that it may use.

    Raises:
        InputError: The machines lack resources or files that the run needs.
        StageError: The cluster grows, and has not grown within ``resources.wait_seconds``.
    """
    machines = find_machines()
    if machines.grows:
        # Later stages ask when it is their turn, so that no GPU waits for the language model.
        n_gpus = usable_gpus(context.config, machines)
        asked = _with_encoder_memory(context.config, n_gpus)
        first = embedding_pool(asked.resources, n_gpus, asked.loads_encoder)
        machines = _await_machines(context, first, machines)
    config, n_gpus, notes = fit(context.config, machines, labels)
    for note in notes:
        context.reporter.say(note)
    pools = pools_of(config, n_gpus)
    if machines.grows or len(machines.nodes) > 1:
        check_nodes(config, context.store, sources, pools)
    elif sources:
        check_models(config, [pool.key for pool in pools])
    return replace(context, config=config, n_gpus=n_gpus)


def fit(
    config: ResolvedConfig, machines: Machines, labels: bool = True
) -> tuple[ResolvedConfig, int, list[str]]:
    """Fit a configuration to machines.

    Args:
        config: The run.
        machines: Machines of the cluster.
        labels: Whether a process embeds titles.

    Returns:
        The configuration with its numbers for the machines, the number of GPUs that it may use, and
        notes on work that will be slower than asked for.

    Raises:
        InputError: The machines lack resources that the run asks for.
    """
    n_gpus = usable_gpus(config, machines)
    config = with_absolute_folders(fill(config, machines))
    config = _with_encoder_memory(config, n_gpus)
    pools = pools_of(config, n_gpus)
    if labels:
        pools.append(label_encoder_pool(config, n_gpus, label_encoder_gib(config)))
    return config, n_gpus, check_resources(config, machines, n_gpus, pools)
