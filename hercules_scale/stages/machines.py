"""The machines of the Ray cluster that this process belongs to."""

from __future__ import annotations

import os
from dataclasses import replace

import ray

from hercules_scale.config import RunConfig
from hercules_scale.models import IMAGE_ALIASES, embedding_aliases
from hercules_scale.resources import (
    GIB,
    Machines,
    Node,
    check_resources,
    fill,
    usable_gpus,
)
from hercules_scale.stages.context import RunContext
from hercules_scale.storage.store import split_uri


def find_machines() -> Machines:
    """What the cluster has, or may grow to where an autoscaler says so."""
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
    most = ray._private.state.state.get_max_resources_from_cluster_config()
    if most is None:
        return machines
    return Machines(
        machines.nodes,
        max(machines.n_cpus, most.get("CPU", 0)),
        max(machines.n_gpus, int(most.get("GPU", 0))),
        grows=True,
    )


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
    """
    machines = find_machines()
    n_gpus = usable_gpus(context.config, machines)
    config = fill(context.config, machines)
    for note in check_resources(config, machines, n_gpus):
        context.reporter.say(note)
    return replace(context, config=with_absolute_folders(config)), n_gpus
