"""Arguments of vLLM's engine that a user may add, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from hercules_scale.config.file import parse_config
from hercules_scale.config.run import RunConfig
from hercules_scale.errors import ConfigError
from hercules_scale.jobs.preflight import check_language_model
from hercules_scale.serving.engine import engine_arguments


def configured(
    engine: str = "vllm", resources: dict[str, Any] | None = None, **given: Any
) -> RunConfig:
    return parse_config(
        {
            "input": {"path": "a"},
            "output": {"path": "b"},
            "summaries": {"engine": engine, "engine_kwargs": given},
            "resources": resources or {},
        }
    )


@pytest.mark.parametrize("n_gpus", [0, 2])
def test_arguments_reach_the_engine_and_win_over_defaults(n_gpus: int) -> None:
    config = configured(quantization="awq", max_num_seqs=3, dtype="float32")
    arguments, _ = engine_arguments(config, n_gpus)
    assert [arguments[name] for name in ("quantization", "max_num_seqs", "dtype")] == [
        "awq",
        3,
        "float32",
    ]
    check_language_model(config)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("tensor_parallel_size", "set resources.llm_tensor_parallel"),
        ("pipeline_parallel_size", "set resources.llm_pipeline_parallel"),
        ("max_model_len", "set summaries.max_prompt_tokens and max_answer_tokens"),
        ("model", "set summaries.model"),
        ("enable_prefix_caching", "leave it out"),
    ],
)
def test_what_is_set_here_is_refused_by_name(name: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=f"must not hold {name}, which is set here; {remedy}"):
        configured("vllm", None, **{name: 2})


def test_an_argument_that_the_engine_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'quantisation' is no argument .*near are quantization"):
        check_language_model(configured(quantisation="awq"))
    with pytest.raises(ConfigError, match="engine_kwargs needs engine vllm, got keyphrases"):
        configured("keyphrases", quantization="awq")


def test_a_kind_of_gpu_is_one_of_rays() -> None:
    check_language_model(configured(resources={"llm_accelerator": "A100"}))
    with pytest.raises(ConfigError, match=r"llm_accelerator must be one of .*A100.*, got 'a-100'"):
        check_language_model(configured(resources={"llm_accelerator": "a-100"}))
