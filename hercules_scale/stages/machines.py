"""The machines of the Ray cluster that this process belongs to."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import ray
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray._raylet import GcsClient
from ray.autoscaler._private.util import format_readonly_node_type
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply
from ray.experimental import internal_kv

from hercules_scale.config import RunConfig
from hercules_scale.models import IMAGE_ALIASES, embedding_aliases
from hercules_scale.resources import (
    GIB,
    Machines,
    Node,
    Pool,
    check_resources,
    fill,
    pools_of,
    usable_gpus,
)
from hercules_scale.stages.context import RunContext
from hercules_scale.stages.waiting import POLL_SECONDS, Room
from hercules_scale.storage.store import split_uri

# Label of the nodes of one kind.
NODE_GROUP = "ray.io/node-group"
STATUS_SECONDS = 10


def find_machines() -> Machines:
    """Machines of the cluster, and whether an autoscaler adds more."""
    nodes = [
        Node(
            node["Resources"].get("CPU", 0.0),
            int(node["Resources"].get("GPU", 0)),
            node["Resources"].get("memory", 0.0) / GIB,
        )
        for node in ray.nodes()
        if node["Alive"]
    ]
    machines = Machines.of(nodes)
    # Nothing at all could run on a cluster without processors that does not grow.
    return replace(machines, grows=not machines.n_cpus or _has_autoscaler())


def _has_autoscaler() -> bool:
    """Whether the nodes are an autoscaler's.

    Ray runs one on every cluster. Without kinds of nodes to start, the first version reports a kind
    for each node, and for the second nodes belong to no group.
    """
    status = internal_kv._internal_kv_get(DEBUG_AUTOSCALING_STATUS)
    report = (json.loads(status).get("autoscaler_report") or {}) if status else {}
    kinds = {*report.get("active_nodes", ()), *report.get("pending_launches", ())}
    if any(not kind.startswith(format_readonly_node_type("")) for kind in kinds):
        return True
    groups = [node["Labels"].get(NODE_GROUP) for node in ray.nodes() if node["Alive"]]
    if not any(groups):
        return False
    client = GcsClient(ray.get_runtime_context().gcs_address)
    reply = GetClusterStatusReply.FromString(client.get_cluster_status(timeout_s=STATUS_SECONDS))
    return bool(reply.autoscaling_state.autoscaler_state_version > 0)


def _await_machines(context: RunContext, pools: list[Pool], machines: Machines) -> Machines:
    """Wait until each pool has a node that one of its processes fits on.

    Tasks of that size ask the autoscaler for it, and are gone should this process be killed.

    Raises:
        StageError: They have waited for ``resources.wait_seconds``.
    """
    missing = [pool for pool in pools if not machines.have(pool)]
    if not missing:
        return machines
    room = Room(context, "start", ", ".join(pool.asked for pool in missing))
    here = ray.remote(_here)
    waiting = [here.options(**pool.of_node.options).remote() for pool in missing]
    try:
        while waiting:
            begun, waiting = ray.wait(waiting, timeout=POLL_SECONDS)
            if begun:
                ray.get(begun)
                room.is_there()
            elif waiting:
                room.look(lambda: False)
    finally:
        for task in waiting:
            ray.cancel(task, force=True)
    return find_machines()


def _here() -> None:
    """What a node runs to show that it is there."""


def with_absolute_folders(config: RunConfig) -> RunConfig:
    """A configuration whose models and cache are the same folders for workers in other ones."""
    named = config.embedding
    aliases = {*embedding_aliases(), *IMAGE_ALIASES}
    changed = {
        key: os.path.abspath(os.path.expanduser(name))
        for key, name in (("model", named.model), ("text_model", named.text_model))
        if name is not None and name not in aliases and os.path.isdir(os.path.expanduser(name))
    }
    if named.cache is not None and split_uri(named.cache)[0] == "file":
        changed["cache"] = split_uri(named.cache)[1]
    return config.model_copy(update={"embedding": named.model_copy(update=changed)})


def take_resources(context: RunContext) -> tuple[RunContext, int]:
    """A run with the numbers that its profile leaves to the machines, and the GPUs it may use.

    Folders in it are the same for all workers.

    Raises:
        InputError: The machines lack what it asks for.
        StageError: The cluster grows, and has not grown within ``resources.wait_seconds``.
    """
    machines = find_machines()
    if machines.grows:
        least = pools_of(context.config, usable_gpus(context.config, machines))
        machines = _await_machines(context, least, machines)
    n_gpus = usable_gpus(context.config, machines)
    config = fill(context.config, machines)
    for note in check_resources(config, machines, n_gpus):
        context.reporter.say(note)
    return replace(context, config=with_absolute_folders(config)), n_gpus
