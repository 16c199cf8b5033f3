"""The machines of the Ray cluster that this process belongs to."""

from __future__ import annotations

from dataclasses import replace

import ray

from hercules_scale.resources import (
    GIB,
    Machines,
    Node,
    check_resources,
    fill,
    usable_gpus,
)
from hercules_scale.stages.context import RunContext


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


def take_resources(context: RunContext) -> tuple[RunContext, int]:
    """A run with the numbers that its profile leaves to the machines, and the GPUs it may use.

    Raises:
        InputError: The machines lack what it asks for.
    """
    machines = find_machines()
    n_gpus = usable_gpus(context.config, machines)
    config = fill(context.config, machines)
    for note in check_resources(config, machines, n_gpus):
        context.reporter.say(note)
    return replace(context, config=config), n_gpus
