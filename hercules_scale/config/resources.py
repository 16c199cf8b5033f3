"""Sections about resources and storage."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator, model_validator

from hercules_scale.config.section import Section, key, without_secret


class StageResources(Section):
    """Number of actors of one stage, and resources of each."""

    workers: int | None = key(
        tables=False,
        browser=True,
        default=None,
        ge=1,
        le=100_000,
        description="actors; left out: resources.workers",
    )
    cpus: float = key(
        tables=False,
        browser=True,
        default=1.0,
        gt=0,
        le=1024,
        description="logical CPUs of an actor",
    )
    gpus: float | None = key(
        tables=False,
        browser=True,
        default=None,
        ge=0,
        le=1,
        description="GPUs of an actor, or a share such as 0.5; left out: 1 where the profile "
        "takes GPUs",
    )
    memory_gib: float | None = key(
        tables=False,
        browser=True,
        default=None,
        gt=0,
        description="memory that its node sets aside for an actor",
    )


class EmbedResources(StageResources):
    """Resources of embedding, where the number of actors may grow."""

    max_workers: int | None = key(
        tables=False,
        browser=True,
        default=None,
        ge=1,
        le=100_000,
        description="actors where shards wait and nodes can be had; left out: workers",
    )


class ResourcesConfig(Section):
    """Resources that a run may take on a machine or a cluster."""

    profile: Literal["auto", "cpu", "gpu", "gpus", "tensor_parallel"] = key(
        tables=False,
        browser=True,
        default="auto",
        description="auto takes the GPUs that the Ray cluster has, where workers is given so "
        "many, cpu none; gpu needs one; gpus needs one and puts actors and vLLM replicas on all, "
        "tensor_parallel shares a node's in one replica",
    )
    workers: int = key(
        tables=False,
        browser=True,
        default=2,
        ge=1,
        le=100_000,
        description="actors that embed, and that cluster, of one CPU (or GPU) each",
    )
    tasks: int | None = key(
        tables=False,
        browser=True,
        default=None,
        ge=1,
        le=100_000,
        description="tasks at a time where no model is needed, of one CPU each; left out: workers "
        "where that is given, else as many as the Ray cluster has CPUs, or 64 where it grows",
    )
    embed: EmbedResources = EmbedResources()
    cluster: StageResources = StageResources()
    llm_replicas: int | None = key(
        tables=False,
        browser=True,
        default=None,
        ge=1,
        le=10_000,
        description="vLLM replicas, at least; left out: 1, or with profile gpus as many as fit",
    )
    llm_max_replicas: int | None = key(
        tables=False,
        browser=True,
        default=None,
        ge=1,
        le=10_000,
        description="vLLM replicas where requests wait; left out: llm_replicas",
    )
    llm_tensor_parallel: int | None = key(
        tables=False,
        browser=True,
        default=None,
        ge=1,
        le=64,
        description="GPUs that share one replica; left out: 1, or with profile tensor_parallel "
        "all of a node",
    )
    llm_pipeline_parallel: int = key(
        tables=False,
        browser=True,
        default=1,
        ge=1,
        le=64,
        description="groups of GPUs, of one node or several, that share one replica's layers",
    )
    llm_accelerator: str | None = key(
        tables=False,
        browser=True,
        default=None,
        min_length=1,
        description="kind of GPU for the replicas as Ray names it, such as A100 or L4",
    )
    wait_seconds: float = key(
        tables=False,
        browser=True,
        default=1800,
        gt=0,
        description="wait for room on a Ray cluster that others share; then the run ends, and "
        "resumes when it is run again",
    )

    @model_validator(mode="after")
    def _more_is_not_less(self) -> ResourcesConfig:
        pairs = (
            ("llm_max_replicas", self.llm_max_replicas, "llm_replicas", self.replicas),
            ("embed.max_workers", self.embed.max_workers, "embed.workers", self.embed_workers),
        )
        for name, most, other, least in pairs:
            if most is not None and most < least:
                raise ValueError(f"{name} must be at least {other} ({least}), got {most}")
        return self

    @property
    def embed_workers(self) -> int:
        """Number of actors that embed."""
        return self.embed.workers or self.workers

    @property
    def cluster_workers(self) -> int:
        """Number of actors that cluster."""
        return self.cluster.workers or self.workers

    @property
    def n_tasks(self) -> int:
        """Number of concurrent tasks in stages without a model."""
        return self.tasks or self.workers

    @property
    def replicas(self) -> int:
        """Least number of vLLM replicas."""
        return self.llm_replicas or 1

    @property
    def tensor_parallel(self) -> int:
        """Number of GPUs that share one replica."""
        return self.llm_tensor_parallel or 1


class StorageConfig(Section):
    """Access to object stores; credentials come from the environment alone."""

    endpoint: str | None = key(
        tables=False,
        default=None,
        description="base URL of an S3-compatible server (left out: AWS_ENDPOINT_URL) or of "
        "another host of Google's or Azure's storage",
    )
    region: str | None = key(
        tables=False,
        default=None,
        min_length=1,
        max_length=100,
        description="of S3; left out: AWS_DEFAULT_REGION",
    )
    project: str | None = key(
        tables=False,
        default=None,
        min_length=1,
        max_length=100,
        description="of Google Cloud, for gs://",
    )
    account: str | None = key(
        tables=False,
        default=None,
        min_length=1,
        max_length=100,
        description="storage account, for az://",
    )
    anonymous: bool = key(
        tables=False, default=False, description="read public data without credentials"
    )
    virtual_hosts: bool = key(
        tables=False,
        default=False,
        description="name the bucket in the host, where an S3-compatible server asks for it",
    )
    retry_seconds: float = key(
        tables=False,
        default=120,
        ge=0,
        le=3600,
        description="how long an outage, time-outs and throttling are waited out",
    )

    @field_validator("endpoint")
    @classmethod
    def _endpoint_holds_no_secret(cls, value: str | None) -> str | None:
        return without_secret(value, "give credentials in the environment")
