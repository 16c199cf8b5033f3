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
        description="number of actors; default: resources.workers, or one per GPU where the "
        "profile takes all GPUs",
    )
    cpus: float = key(
        tables=False,
        browser=True,
        default=1.0,
        gt=0,
        le=1024,
        description="number of logical CPUs of an actor",
    )
    gpus: float | None = key(
        tables=False,
        browser=True,
        default=None,
        ge=0,
        le=1,
        description="share of a GPU for an actor, such as 0.5; default: 1 where the profile "
        "takes GPUs",
    )
    memory_gib: float | None = key(
        tables=False,
        browser=True,
        default=None,
        gt=0,
        description="memory that Ray sets aside for an actor, in GiB",
    )


class EmbedResources(StageResources):
    """Resources of embedding, where the number of actors may grow."""

    max_workers: int | None = key(
        tables=False,
        browser=True,
        default=None,
        ge=1,
        le=100_000,
        description="maximum number of actors, for which shards must wait and nodes be free; "
        "default: workers",
    )


class ResourcesConfig(Section):
    """Resources that a run may take on a machine or a cluster."""

    profile: Literal["auto", "cpu", "gpu", "gpus", "tensor_parallel"] = key(
        tables=False,
        browser=True,
        default="auto",
        description="use of GPUs: auto takes all GPUs of the Ray cluster, or as many as workers "
        "where that is given; cpu takes none; gpu needs one and takes as many as "
        "workers; gpus needs one and takes all; tensor_parallel also takes all, with "
        "one vLLM replica on all GPUs of a node",
    )
    workers: int = key(
        tables=False,
        browser=True,
        default=2,
        ge=1,
        le=100_000,
        description="number of actors for embedding, and for clustering, with one CPU or GPU each",
    )
    tasks: int | None = key(
        tables=False,
        browser=True,
        default=None,
        ge=1,
        le=100_000,
        description="maximum number of concurrent tasks without a model, with one CPU each; "
        "default: workers where that is given, else the number of CPUs of the Ray "
        "cluster, and at least 64 where it grows",
    )
    embed: EmbedResources = EmbedResources()
    cluster: StageResources = StageResources()
    llm_replicas: int | None = key(
        tables=False,
        browser=True,
        default=None,
        ge=1,
        le=10_000,
        description="minimum number of vLLM replicas; default: 1, or as many as fit where the "
        "profile takes all GPUs",
    )
    llm_max_replicas: int | None = key(
        tables=False,
        browser=True,
        default=None,
        ge=1,
        le=10_000,
        description="maximum number of vLLM replicas, for which requests must wait; default: "
        "llm_replicas",
    )
    llm_tensor_parallel: int | None = key(
        tables=False,
        browser=True,
        default=None,
        ge=1,
        le=64,
        description="number of GPUs that share each layer of a replica; default: 1, or with "
        "profile tensor_parallel all of a node",
    )
    llm_pipeline_parallel: int = key(
        tables=False,
        browser=True,
        default=1,
        ge=1,
        le=64,
        description="number of groups of GPUs, on one node or several, that share a replica's "
        "layers",
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
        description="time limit of a wait for room on a shared Ray cluster, in seconds; then the "
        "run ends, and resumes when it is run again",
    )

    @model_validator(mode="after")
    def _more_is_not_less(self) -> ResourcesConfig:
        pairs = (
            ("llm_max_replicas", self.llm_max_replicas, "llm_replicas", self.replicas),
            ("embed.max_workers", self.embed.max_workers, "embed.workers", self.embed_workers),
        )
        for name, most, other, least in pairs:
            if most is not None and most < least:
                raise ValueError(
                    f"{name} must be at least {other} ({least}), got {most}; give at least {least}"
                )
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
        description="base URL of an S3-compatible server (default: AWS_ENDPOINT_URL), or of "
        "another host of Google's or Azure's storage",
    )
    region: str | None = key(
        tables=False,
        default=None,
        min_length=1,
        max_length=100,
        description="region of S3; default: AWS_DEFAULT_REGION",
    )
    project: str | None = key(
        tables=False,
        default=None,
        min_length=1,
        max_length=100,
        description="project of Google Cloud, for gs://",
    )
    account: str | None = key(
        tables=False,
        default=None,
        min_length=1,
        max_length=100,
        description="storage account of Azure, for az://",
    )
    anonymous: bool = key(
        tables=False, default=False, description="whether public data is read without credentials"
    )
    virtual_hosts: bool = key(
        tables=False,
        default=False,
        description="whether requests name the bucket in the host, as some S3-compatible servers "
        "ask",
    )
    retry_seconds: float = key(
        tables=False,
        default=120,
        ge=0,
        le=3600,
        description="time limit of retries after outages, time-outs and throttling, in seconds",
    )

    @field_validator("endpoint")
    @classmethod
    def _endpoint_holds_no_secret(cls, value: str | None) -> str | None:
        return without_secret(value, "give credentials in the environment")
