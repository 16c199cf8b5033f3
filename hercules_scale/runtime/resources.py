"""Resources that a run asks for, compared with the machines.

Ray waits in silence for resources that never become free, so requests are compared with the
machines before anything starts. Stages run in turn, so each may take all resources.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from hercules_scale.config.resolved import ResolvedConfig
from hercules_scale.config.resources import ResourcesConfig, StageResources
from hercules_scale.errors import InputError

GIB = 1 << 30
# Tasks on a cluster that grows: tasks that find no room make it grow.
GROWING_TASKS = 64


@dataclass(frozen=True)
class Node:
    """One machine of a Ray cluster, as Ray counts it."""

    n_cpus: float
    n_gpus: int = 0
    memory_gib: float = 0.0


@dataclass(frozen=True)
class Machines:
    """Machines of a Ray cluster.

    Attributes:
        nodes: Machines that are present.
        n_cpus: Logical CPUs of all machines.
        n_gpus: GPUs of all machines.
        grows: Whether an autoscaler adds machines; Ray does not report their size.
    """

    nodes: tuple[Node, ...]
    n_cpus: float
    n_gpus: int
    grows: bool = False

    @classmethod
    def of(cls, nodes: list[Node]) -> Machines:
        """Return machines that stay as they are."""
        n_cpus, n_gpus = sum(node.n_cpus for node in nodes), sum(node.n_gpus for node in nodes)
        return cls(tuple(nodes), n_cpus, n_gpus)

    @property
    def gpus_of_node(self) -> int:
        """Largest number of GPUs on a node."""
        return max((node.n_gpus for node in self.nodes), default=0) or min(self.n_gpus, 1)

    def have(self, pool: Pool) -> bool:
        """Return whether one process of a pool fits on a node."""
        return any(fits(pool.of_node, node) for node in self.nodes)


@dataclass(frozen=True)
class Pool:
    """Processes of one stage that work at once.

    Attributes:
        key: Section of the configuration that asks for them.
        least: Number of processes from the start.
        most: Largest number of processes, when work waits.
        cpus: Logical CPUs of each process.
        gpus: GPUs of each process.
        memory_gib: Memory reserved for each process, in GiB; 0 if none was asked for.
    """

    key: str
    least: int
    most: int
    cpus: float
    gpus: float = 0.0
    memory_gib: float = 0.0

    @property
    def options(self) -> dict[str, Any]:
        """Ray's arguments for one process."""
        memory = {"memory": int(self.memory_gib * GIB)} if self.memory_gib else {}
        return {"num_cpus": self.cpus, "num_gpus": self.gpus, **memory}

    @property
    def of_node(self) -> Pool:
        """The part of a process that lies on one node: replicas of several GPUs may span nodes."""
        return replace(self, gpus=min(self.gpus, 1.0))

    @property
    def described(self) -> str:
        """Number and size of the processes in words, such as ``2 of 1 CPU``."""
        number = (
            f"{self.least:,}" if self.most == self.least else f"{self.least:,} to {self.most:,}"
        )
        return f"{number} of {_of_one(self.cpus, self.gpus, self.memory_gib)}"

    @property
    def asked(self) -> str:
        """Number and size in words, after the key that asks for them."""
        return f"{self.key} {self.described}"


def embedding_pool(resources: ResourcesConfig, n_gpus: int, encodes: bool = True) -> Pool:
    """Return the pool of actors that embed.

    Args:
        resources: Resources, filled; see ``fill``.
        n_gpus: Number of GPUs that the run may use.
        encodes: Whether a model embeds; numbers need no model, and no GPU.
    """
    asked = resources.embed
    pool = _stage_pool("resources.embed", asked, resources.embed_workers, n_gpus if encodes else 0)
    return Pool(
        pool.key,
        pool.least,
        max(asked.max_workers or pool.least, pool.least),
        pool.cpus,
        pool.gpus,
        pool.memory_gib,
    )


def clustering_pool(resources: ResourcesConfig, n_gpus: int) -> Pool:
    """Return the pool of actors that hold vectors and assign them; see ``embedding_pool``."""
    return _stage_pool("resources.cluster", resources.cluster, resources.cluster_workers, n_gpus)


def _stage_pool(key: str, asked: StageResources, workers: int, n_gpus: int) -> Pool:
    gpus = 0.0
    if n_gpus:
        gpus = 1.0 if asked.gpus is None else asked.gpus
    if gpus:
        workers = max(min(workers, int(n_gpus / gpus)), 1)
    return Pool(key, workers, workers, asked.cpus, gpus, asked.memory_gib or 0.0)


def replica_pool(resources: ResourcesConfig, n_gpus: int) -> Pool:
    """Return the pool of replicas of the language model: on one CPU each, or on GPUs."""
    most = resources.llm_max_replicas or resources.replicas
    gpus = float(resources.tensor_parallel * resources.llm_pipeline_parallel) if n_gpus else 0.0
    return Pool("resources.llm_replicas", resources.replicas, most, 0.0 if gpus else 1.0, gpus)


def label_encoder_pool(config: ResolvedConfig, n_gpus: int, memory_gib: float = 0.0) -> Pool:
    """Return the pool of one process that embeds titles and descriptions.

    It works beside the replicas of the language model: on a GPU if the items' encoder takes one and
    the replicas leave one free, else on CPUs, without reserving any.

    Args:
        config: Configuration, filled; see ``fill``.
        n_gpus: Number of GPUs that the run may use.
        memory_gib: Memory that it takes without a GPU, in GiB.
    """
    embedding = embedding_pool(config.resources, n_gpus, config.loads_encoder)
    taken = 0.0
    if config.summaries.engine == "vllm":
        replicas = replica_pool(config.resources, n_gpus)
        taken = replicas.most * replicas.gpus
    gpus = embedding.gpus if taken + embedding.gpus <= n_gpus else 0.0
    memory_gib = embedding.memory_gib or (0.0 if gpus else memory_gib)
    return Pool("resources.embed", 1, 1, 0.0, gpus, memory_gib)


def usable_gpus(config: ResolvedConfig, machines: Machines) -> int:
    """Return the number of GPUs that a run may use.

    It is 1 on a growing cluster that has no GPU yet, if the run asks for GPUs.

    Raises:
        InputError: The run asks for GPUs, and there are none.
    """
    profile = config.resources.profile
    if profile == "cpu":
        return 0
    if profile != "auto" and machines.n_gpus == 0:
        if machines.grows:
            return 1
        raise InputError(
            f"resources.profile {profile} needs a GPU, and the Ray cluster has none; take auto or "
            "cpu"
        )
    return machines.n_gpus


def fill(config: ResolvedConfig, machines: Machines) -> ResolvedConfig:
    """Return a configuration with the numbers that its profile leaves to the machines."""
    resources = config.resources
    changed: dict[str, Any] = {}
    limited = "workers" in resources.model_fields_set
    if resources.tasks is None and not limited:
        least = GROWING_TASKS if machines.grows else resources.workers
        changed["tasks"] = max(int(machines.n_cpus), least)
    on_all = ("gpus", "tensor_parallel") if limited else ("auto", "gpus", "tensor_parallel")
    if resources.profile in on_all and machines.n_gpus:
        changed |= _on_gpus(config, machines)
    return config.model_copy(update={"resources": resources.model_copy(update=changed)})


def _on_gpus(config: ResolvedConfig, machines: Machines) -> dict[str, Any]:
    """Return the numbers that use all GPUs.

    One GPU is left for the label encoder if replicas take one each.
    """
    resources, n_gpus = config.resources, machines.n_gpus
    shared = machines.gpus_of_node if resources.profile == "tensor_parallel" else 1
    shared = resources.llm_tensor_parallel or shared
    of_replica = shared * resources.llm_pipeline_parallel
    spare = int(of_replica == 1 and config.loads_encoder and resources.embed.gpus != 0)
    changed: dict[str, Any] = {
        "llm_tensor_parallel": shared,
        "llm_replicas": resources.llm_replicas or max((n_gpus - spare) // of_replica, 1),
    }
    for name in ("embed", "cluster"):
        stage = getattr(resources, name)
        gpus = 1.0 if stage.gpus is None else stage.gpus
        if stage.workers is None and gpus:
            changed[name] = stage.model_copy(update={"workers": int(n_gpus / gpus)})
    return changed


def pools_of(config: ResolvedConfig, n_gpus: int) -> list[Pool]:
    """Return the pools of all stages of a filled configuration."""
    resources = config.resources
    pools = [
        embedding_pool(resources, n_gpus, config.loads_encoder),
        clustering_pool(resources, n_gpus),
    ]
    if config.summaries.engine == "vllm":
        pools.append(replica_pool(resources, n_gpus))
    return pools


def check_resources(
    config: ResolvedConfig, machines: Machines, n_gpus: int, pools: list[Pool]
) -> list[str]:
    """Refuse pools that Ray would wait for forever; on a cluster that grows, refuse none.

    Args:
        config: Configuration, filled; see ``fill``.
        machines: Machines of the cluster.
        n_gpus: Number of GPUs that the run may use.
        pools: Processes of the run.

    Returns:
        Notes on work that will be slower than asked for, one line each.

    Raises:
        InputError: A process fits no machine, or there is no room for the language model.
    """
    notes = []
    if machines.grows and config.resources.profile == "auto" and not n_gpus:
        notes.append(
            "resources.profile auto: the Ray cluster has no GPU now, so CPUs do the work; gpu "
            "waits for one"
        )
    for pool in pools:
        if machines.grows:
            continue
        if not machines.have(pool):
            largest = max(
                machines.nodes, key=lambda node: (node.n_gpus, node.n_cpus, node.memory_gib)
            )
            least = _of_one(pool.cpus, pool.gpus, pool.memory_gib)
            most = _of_one(largest.n_cpus, largest.n_gpus, largest.memory_gib)
            raise InputError(
                f"{pool.key}: one process asks for {least}, and no node of the Ray cluster has as "
                f"much (the largest has {most}); ask for less or add nodes"
            )
        for kind, have, each in (
            ("CPU", machines.n_cpus, pool.cpus),
            ("GPU", float(machines.n_gpus), pool.gpus),
        ):
            wanted = pool.least * each
            if wanted <= have:
                continue
            if pool.key.endswith("replicas"):
                by = ", by llm_tensor_parallel and llm_pipeline_parallel" if kind == "GPU" else ""
                raise InputError(
                    f"resources.llm_replicas {pool.least} need {wanted:g} {kind}s ({each:g} each"
                    f"{by}), the Ray cluster has {have:g}; ask for fewer or add nodes"
                )
            notes.append(
                f"{pool.key}: {pool.least:,} actors ask for {wanted:g} {kind}s, the Ray cluster "
                f"has {have:g}: fewer work at a time"
            )
    return notes


def describe_resources(config: ResolvedConfig, machines: Machines) -> str:
    """Return one line on the resources that a run will take."""
    filled = fill(config, machines)
    n_gpus = usable_gpus(config, machines)
    names = ["embedding", "clustering", "language model"]
    pools = zip(names, pools_of(filled, n_gpus), strict=False)
    taken = ", ".join(f"{name} {pool.described}" for name, pool in pools)
    taken += f", other stages {filled.resources.n_tasks:,} tasks of 1 CPU"
    have = _of_one(machines.n_cpus, machines.n_gpus, 0)
    return f"profile {config.resources.profile}, of {have}: {taken}"


def fits(pool: Pool, node: Node) -> bool:
    """Return whether a node has room for one process of a pool."""
    return (
        node.n_cpus >= pool.cpus
        and node.n_gpus >= pool.gpus
        and (node.memory_gib >= pool.memory_gib or not pool.memory_gib)
    )


def _of_one(cpus: float, gpus: float, memory_gib: float) -> str:
    parts = [f"{cpus:g} CPU{'s' * (cpus != 1)}"] if cpus or not gpus else []
    if gpus:
        parts.append(f"{gpus:g} GPU{'s' * (gpus != 1)}")
    if memory_gib:
        parts.append(f"{memory_gib:.1f} GiB")
    return " and ".join(parts)
