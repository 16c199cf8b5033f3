"""What a run asks of machines, and what it is told where they lack it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hercules_scale.config.resolved import ResolvedConfig
from hercules_scale.errors import InputError
from hercules_scale.runtime.machines import fit, label_encoder_gib
from hercules_scale.runtime.resources import (
    Machines,
    Node,
    check_resources,
    describe_resources,
    embedding_pool,
    fill,
    label_encoder_pool,
    pools_of,
    replica_pool,
    usable_gpus,
)
from hercules_scale.storage.stored_models import model_gib
from tests.conftest import resolved

LAPTOP = Machines.of([Node(2, 0, 8)])
TWO_BY_FOUR = Machines.of([Node(32, 4, 200), Node(32, 4, 200), Node(16, 0, 64)])


def configured(engine: str = "vllm", **resources: Any) -> ResolvedConfig:
    values = {"input": {"path": "a"}, "output": {"path": "b"}, "summaries": {"engine": engine}}
    return resolved({**values, "resources": resources})


def notes_on(config: ResolvedConfig, machines: Machines, n_gpus: int) -> list[str]:
    return check_resources(config, machines, n_gpus, pools_of(config, n_gpus))


@pytest.mark.parametrize(
    ("resources", "machines", "taken"),
    [
        ({}, LAPTOP, "embedding 2 of 1 CPU, clustering 2 of 1 CPU, language model 1 of 1 CPU"),
        (
            {"profile": "cpu", "workers": 8, "embed": {"max_workers": 16, "cpus": 2}},
            TWO_BY_FOUR,
            "embedding 8 to 16 of 2 CPUs, clustering 8 of 1 CPU, language model 1 of 1 CPU",
        ),
        (
            {"profile": "gpu"},
            Machines.of([Node(8, 1)]),
            "embedding 1 of 1 CPU and 1 GPU, clustering 1 of 1 CPU and 1 GPU, "
            "language model 1 of 1 GPU",
        ),
        (
            {"profile": "gpus", "embed": {"gpus": 0.5}},
            TWO_BY_FOUR,
            "embedding 16 of 1 CPU and 0.5 GPUs, clustering 8 of 1 CPU and 1 GPU, "
            "language model 7 of 1 GPU",
        ),
        (
            {"profile": "tensor_parallel", "embed": {"gpus": 0, "memory_gib": 4.0}},
            TWO_BY_FOUR,
            "embedding 2 of 1 CPU and 4.0 GiB, clustering 8 of 1 CPU and 1 GPU, "
            "language model 2 of 4 GPUs",
        ),
        (
            {"profile": "gpus", "llm_tensor_parallel": 2, "llm_max_replicas": 5},
            TWO_BY_FOUR,
            "embedding 8 of 1 CPU and 1 GPU, clustering 8 of 1 CPU and 1 GPU, "
            "language model 4 to 5 of 2 GPUs",
        ),
    ],
)
def test_a_profile_says_what_each_stage_takes(
    resources: dict[str, Any], machines: Machines, taken: str
) -> None:
    config = configured(**resources)
    assert f": {taken}, other stages " in describe_resources(config, machines)
    filled = fill(config, machines)
    assert notes_on(filled, machines, usable_gpus(filled, machines)) == []


CLUSTERS = {
    "none yet": Machines((), 0, 0, grows=True),
    "one of CPUs": Machines.of([Node(2, 0, 8)]),
    "one of 8 GPUs": Machines.of([Node(64, 8, 500)]),
    "two of 4 GPUs": Machines.of([Node(32, 4, 200), Node(32, 4, 200), Node(16, 0, 64)]),
    "no GPU yet": Machines((Node(4, 0, 16),), 4, 0, grows=True),
    "1, 2, 4 GPUs": Machines.of([Node(8, 1, 60), Node(16, 2, 120), Node(32, 4, 200)]),
}
REFUSED = "needs a GPU, and the Ray cluster has none; take auto or cpu"
# Of each profile and cluster: embedding, clustering, language model, tasks of the other stages.
TAKEN = [
    ("auto", "none yet", "2 of 1 CPU, 2 of 1 CPU, 1 of 1 CPU, 64"),
    ("auto", "one of CPUs", "2 of 1 CPU, 2 of 1 CPU, 1 of 1 CPU, 2"),
    ("auto", "one of 8 GPUs", "8 of 1 CPU and 1 GPU, 8 of 1 CPU and 1 GPU, 7 of 1 GPU, 64"),
    ("auto", "two of 4 GPUs", "8 of 1 CPU and 1 GPU, 8 of 1 CPU and 1 GPU, 7 of 1 GPU, 80"),
    ("auto", "no GPU yet", "2 of 1 CPU, 2 of 1 CPU, 1 of 1 CPU, 64"),
    ("auto", "1, 2, 4 GPUs", "7 of 1 CPU and 1 GPU, 7 of 1 CPU and 1 GPU, 6 of 1 GPU, 56"),
    ("cpu", "none yet", "2 of 1 CPU, 2 of 1 CPU, 1 of 1 CPU, 64"),
    ("cpu", "one of CPUs", "2 of 1 CPU, 2 of 1 CPU, 1 of 1 CPU, 2"),
    ("cpu", "one of 8 GPUs", "2 of 1 CPU, 2 of 1 CPU, 1 of 1 CPU, 64"),
    ("cpu", "two of 4 GPUs", "2 of 1 CPU, 2 of 1 CPU, 1 of 1 CPU, 80"),
    ("cpu", "no GPU yet", "2 of 1 CPU, 2 of 1 CPU, 1 of 1 CPU, 64"),
    ("cpu", "1, 2, 4 GPUs", "2 of 1 CPU, 2 of 1 CPU, 1 of 1 CPU, 56"),
    ("gpu", "none yet", "1 of 1 CPU and 1 GPU, 1 of 1 CPU and 1 GPU, 1 of 1 GPU, 64"),
    ("gpu", "one of CPUs", REFUSED),
    ("gpu", "one of 8 GPUs", "2 of 1 CPU and 1 GPU, 2 of 1 CPU and 1 GPU, 1 of 1 GPU, 64"),
    ("gpu", "two of 4 GPUs", "2 of 1 CPU and 1 GPU, 2 of 1 CPU and 1 GPU, 1 of 1 GPU, 80"),
    ("gpu", "no GPU yet", "1 of 1 CPU and 1 GPU, 1 of 1 CPU and 1 GPU, 1 of 1 GPU, 64"),
    ("gpu", "1, 2, 4 GPUs", "2 of 1 CPU and 1 GPU, 2 of 1 CPU and 1 GPU, 1 of 1 GPU, 56"),
    ("gpus", "none yet", "1 of 1 CPU and 1 GPU, 1 of 1 CPU and 1 GPU, 1 of 1 GPU, 64"),
    ("gpus", "one of CPUs", REFUSED),
    ("gpus", "one of 8 GPUs", "8 of 1 CPU and 1 GPU, 8 of 1 CPU and 1 GPU, 7 of 1 GPU, 64"),
    ("gpus", "two of 4 GPUs", "8 of 1 CPU and 1 GPU, 8 of 1 CPU and 1 GPU, 7 of 1 GPU, 80"),
    ("gpus", "no GPU yet", "1 of 1 CPU and 1 GPU, 1 of 1 CPU and 1 GPU, 1 of 1 GPU, 64"),
    ("gpus", "1, 2, 4 GPUs", "7 of 1 CPU and 1 GPU, 7 of 1 CPU and 1 GPU, 6 of 1 GPU, 56"),
    ("tensor_parallel", "none yet", "1 of 1 CPU and 1 GPU, 1 of 1 CPU and 1 GPU, 1 of 1 GPU, 64"),
    ("tensor_parallel", "one of CPUs", REFUSED),
    (
        "tensor_parallel",
        "one of 8 GPUs",
        "8 of 1 CPU and 1 GPU, 8 of 1 CPU and 1 GPU, 1 of 8 GPUs, 64",
    ),
    (
        "tensor_parallel",
        "two of 4 GPUs",
        "8 of 1 CPU and 1 GPU, 8 of 1 CPU and 1 GPU, 2 of 4 GPUs, 80",
    ),
    ("tensor_parallel", "no GPU yet", "1 of 1 CPU and 1 GPU, 1 of 1 CPU and 1 GPU, 1 of 1 GPU, 64"),
    (
        "tensor_parallel",
        "1, 2, 4 GPUs",
        "7 of 1 CPU and 1 GPU, 7 of 1 CPU and 1 GPU, 1 of 4 GPUs, 56",
    ),
]


@pytest.mark.parametrize(("profile", "cluster", "taken"), TAKEN)
def test_every_profile_on_every_kind_of_cluster(profile: str, cluster: str, taken: str) -> None:
    config, machines = configured(profile=profile), CLUSTERS[cluster]
    if taken == REFUSED:
        with pytest.raises(InputError, match=REFUSED):
            usable_gpus(config, machines)
        return
    embedding, clustering, model, tasks = taken.split(", ")
    assert describe_resources(config, machines).endswith(
        f": embedding {embedding}, clustering {clustering}, language model {model}, other stages "
        f"{tasks} tasks of 1 CPU"
    )
    filled = fill(config, machines)
    notes = notes_on(filled, machines, usable_gpus(filled, machines))
    assert bool(notes) == (profile == "auto" and machines.grows)


def test_workers_that_are_given_are_all_there_are() -> None:
    for machines in (CLUSTERS["one of 8 GPUs"], CLUSTERS["two of 4 GPUs"]):
        assert describe_resources(configured(workers=4), machines).endswith(
            ": embedding 4 of 1 CPU and 1 GPU, clustering 4 of 1 CPU and 1 GPU, language model "
            "1 of 1 GPU, other stages 4 tasks of 1 CPU"
        )
    assert fill(configured(workers=4, tasks=9), LAPTOP).resources.n_tasks == 9


@pytest.mark.parametrize(
    ("resources", "n_gpus", "gpus"),
    [
        ({}, 0, 0.0),
        # The replica has the only one.
        ({"profile": "gpu"}, 1, 0.0),
        ({"profile": "gpu"}, 2, 1.0),
        ({"profile": "gpus"}, 8, 1.0),
        ({"profile": "gpus", "embed": {"gpus": 0.5, "memory_gib": 20.0}}, 8, 0.5),
        ({"profile": "gpus", "embed": {"gpus": 0}}, 8, 0.0),
        ({"profile": "gpus", "llm_replicas": 8}, 8, 0.0),
        ({"profile": "tensor_parallel"}, 8, 0.0),
    ],
)
def test_the_encoder_of_titles_takes_what_replicas_leave(
    resources: dict[str, Any], n_gpus: int, gpus: float
) -> None:
    machines = Machines.of([Node(64, n_gpus, 500)])
    filled = fill(configured(**resources), machines)
    pool = label_encoder_pool(filled, n_gpus)
    assert (pool.gpus, pool.memory_gib) == (gpus, filled.resources.embed.memory_gib or 0.0)
    replicas = replica_pool(filled.resources, n_gpus)
    assert replicas.most * replicas.gpus + pool.gpus <= n_gpus


@pytest.mark.parametrize(
    ("resources", "n_gpus", "embed", "labels"),
    [
        ({}, 0, "21.0 GiB", "21.0 GiB"),
        ({"embed": {"memory_gib": 30.0}}, 0, "30.0 GiB", "30.0 GiB"),
        # A GPU's memory is not the machine's; the titles' encoder works beside the replica.
        ({"profile": "gpu"}, 1, "1 GPU", "21.0 GiB"),
        ({"profile": "gpu"}, 2, "1 GPU", "1 GPU"),
    ],
)
def test_a_large_encoder_asks_for_its_memory(
    resources: dict[str, Any], n_gpus: int, embed: str, labels: str, tmp_path: Path
) -> None:
    for name, gib in {"model": 9, "2_Dense/model": 1, "onnx/model": 50}.items():
        weights = tmp_path / f"{name}.safetensors"
        weights.parent.mkdir(exist_ok=True)
        with weights.open("wb") as file:
            file.truncate(gib << 30)
    (tmp_path / "tokenizer.json").write_text("{}")
    config = resolved(
        {
            "input": {"path": "a"},
            "output": {"path": "b"},
            "embedding": {"model": str(tmp_path)},
            "resources": resources,
        }
    )
    machines = Machines.of([Node(64, n_gpus, 500)])
    # A run that puts items into the clusters of another embeds no titles.
    assert fit(config, machines, labels=False)[1] == n_gpus
    fitted, usable, _ = fit(config, machines)
    assert embedding_pool(fitted.resources, usable).described.endswith(embed)
    pool = label_encoder_pool(fitted, usable, label_encoder_gib(fitted))
    assert pool.described.endswith(labels)
    small = Machines.of([Node(2, n_gpus, 16)])
    if "GiB" not in labels:
        fit(config, small)
        return
    with pytest.raises(InputError, match=r"process asks for .* GiB, and no node"):
        fit(config, small)


def test_a_model_of_unknown_size_asks_for_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    # Nothing listens there.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert model_gib("owner/missing") == 0.0


def test_layers_of_a_replica_may_lie_on_several_groups_of_gpus() -> None:
    config = configured(profile="gpus", llm_tensor_parallel=2, llm_pipeline_parallel=2)
    filled = fill(config, TWO_BY_FOUR)
    assert replica_pool(filled.resources, 8).described == "2 of 4 GPUs"


def test_ray_is_asked_for_what_was_configured() -> None:
    config = configured(embed={"cpus": 2, "gpus": 0.25, "memory_gib": 3.0})
    pool = embedding_pool(config.resources, 1)
    assert pool.options == {"num_cpus": 2.0, "num_gpus": 0.25, "memory": 3 << 30}
    assert embedding_pool(config.resources, 1, encodes=False).options["num_gpus"] == 0


def test_more_actors_than_processors_are_told_of() -> None:
    (note, *_) = notes_on(configured("keyphrases", workers=5), LAPTOP, 0)
    assert note == (
        "resources.embed: 5 actors ask for 5 CPUs, the Ray cluster has 2: fewer work at a time"
    )


@pytest.mark.parametrize(
    ("resources", "machines", "message"),
    [
        ({"llm_replicas": 3}, LAPTOP, r"llm_replicas 3 need 3 CPUs \(1 each\), the"),
        (
            {"llm_replicas": 3, "llm_tensor_parallel": 4},
            TWO_BY_FOUR,
            r"need 12 GPUs \(4 each, by .*\), the Ray cluster has 8; ask for",
        ),
        (
            {"profile": "cpu", "embed": {"cpus": 64}},
            TWO_BY_FOUR,
            r"resources.embed: one process asks for 64 CPUs, and no node of the Ray cluster has as "
            r"much \(the largest has 32 CPUs and 4 GPUs and 200.0 GiB\)",
        ),
        ({"cluster": {"memory_gib": 9}}, LAPTOP, "1 CPU and 9.0 GiB, and no node"),
        ({"profile": "gpus"}, LAPTOP, "profile gpus needs a GPU, and the Ray cluster has none"),
    ],
)
def test_what_would_be_waited_for_without_end_is_refused(
    resources: dict[str, Any], machines: Machines, message: str
) -> None:
    config = configured(**resources)
    with pytest.raises(InputError, match=message):
        notes_on(config, machines, usable_gpus(config, machines))


def test_a_cluster_that_grows_is_asked_for_machines_that_it_has_not() -> None:
    growing = Machines((Node(0, 0, 8),), n_cpus=0, n_gpus=0, grows=True)
    config = configured(profile="gpu", workers=32, llm_replicas=4, embed={"gpus": 0})
    assert usable_gpus(config, growing) == 1
    assert notes_on(config, growing, 1) == []
    embed, _, replica = pools_of(config, 1)
    assert not growing.have(embed)
    assert not growing.have(replica)
    (note,) = notes_on(configured(), growing, 0)
    assert "profile auto: the Ray cluster has no GPU now" in note
