"""vLLM on Ray Serve, for the time of a run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray import serve

from hercules_scale.config import RunConfig
from hercules_scale.errors import StageError
from hercules_scale.summarization.clients import (
    ChatReply,
    ChatRequest,
    ModelUnavailableError,
)

CPU_KV_CACHE_GIB = "2"
PROMPT_MARGIN_TOKENS = 128


class ServeClient:
    """Asks the deployment through its handle, without HTTP.

    Args:
        handle: Handle of the application that ``serve_vllm`` starts.
        model: Name of the model.
    """

    def __init__(self, handle: Any, model: str) -> None:
        self._chat = handle.options(stream=True).chat
        self._model = model

    async def answer(self, request: ChatRequest) -> ChatReply:
        """Answer one question.

        Raises:
            ModelUnavailableError: The replica died or refused the request.
        """
        from ray.serve.llm.openai_api_models import ChatCompletionRequest, ErrorResponse

        asked = ChatCompletionRequest(**request.payload(self._model))
        try:
            async for response in self._chat.remote(asked):
                if isinstance(response, ErrorResponse):
                    raise ModelUnavailableError(f"vLLM: {response}"[:300])
                choice = response.choices[0]
                return ChatReply(
                    choice.message.content or "",
                    choice.finish_reason or "",
                    response.usage.prompt_tokens,
                    response.usage.completion_tokens or 0,
                )
        except (ray.exceptions.RayError, serve.exceptions.RayServeException) as error:
            reason = str(error).strip().splitlines()[-1]
            raise ModelUnavailableError(f"{type(error).__name__}: {reason}") from error
        raise ModelUnavailableError("vLLM gave no response")

    async def close(self) -> None:
        """The handle holds nothing open."""


@contextmanager
def serve_vllm(config: RunConfig, source: str, n_gpus: int, app: str) -> Iterator[ServeClient]:
    """Deploy the model, and take the deployment down at the end.

    Args:
        config: The run.
        source: Folder or model-hub id of the model.
        n_gpus: GPUs of the cluster that may be used; 0 serves on CPUs.
        app: Name of the Serve application; runs at once on one cluster need their own.

    Raises:
        StageError: The cluster lacks what the replicas need, or the model does not start.
    """
    from ray.serve.llm import LLMConfig, build_llm_deployment

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    _check_resources(config, n_gpus)
    model = config.summaries.model.replace("/", "--")
    llm = LLMConfig(
        model_loading_config={"model_id": model, "model_source": source},
        log_engine_metrics=False,
        **_hardware(config, n_gpus),
    )
    if not serve.status().proxies and not serve.status().applications:
        # Requests come through the handle alone, so nothing listens.
        serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING"})
    try:
        handle = serve.run(build_llm_deployment(llm), name=app, route_prefix=None)
    except RuntimeError as error:
        serve.delete(app)
        reason = str(error).strip().splitlines()[-1][:300]
        raise StageError(
            f"summaries.model {config.summaries.model!r} did not start in vLLM ({reason}); see "
            "Ray's logs, or take summaries.engine keyphrases",
            stage="summarize",
        ) from None
    try:
        yield ServeClient(handle, model)
    finally:
        serve.delete(app)


def _hardware(config: RunConfig, n_gpus: int) -> dict[str, Any]:
    """What differs between CPU and GPU replicas."""
    summaries, resources = config.summaries, config.resources
    engine: dict[str, Any] = {
        "max_model_len": (
            summaries.max_prompt_tokens + summaries.max_answer_tokens + PROMPT_MARGIN_TOKENS
        ),
        "enable_prefix_caching": True,
        # White space between keys is free in JSON, and small models get lost in it.
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
        "disable_log_stats": True,
    }
    # Ray's own builder allows a thousand million requests, so that queues never push back.
    deployment: dict[str, Any] = {
        "num_replicas": resources.llm_replicas,
        "max_ongoing_requests": summaries.requests_in_flight,
    }
    environment = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    if n_gpus:
        engine["tensor_parallel_size"] = resources.llm_tensor_parallel
        return {
            "engine_kwargs": engine,
            "deployment_config": deployment,
            "runtime_env": {"env_vars": environment},
        }
    engine |= {
        "max_num_seqs": min(summaries.requests_in_flight, 64),
        "dtype": "bfloat16",
        "enforce_eager": True,
    }
    # One logical CPU in all, that of the engine; the replica around it only waits.
    deployment["ray_actor_options"] = {"num_cpus": 0}
    environment |= {
        "VLLM_CPU_KVCACHE_SPACE": CPU_KV_CACHE_GIB,
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    return {
        "engine_kwargs": engine,
        "deployment_config": deployment,
        "placement_group_config": {"bundles": [{"CPU": 1}]},
        "runtime_env": {"env_vars": environment},
    }


def _check_resources(config: RunConfig, n_gpus: int) -> None:
    """Refuse what would wait for ever: Serve says nothing while it waits for resources."""
    resources = config.resources
    have = ray.cluster_resources()
    kind, need = "CPU", float(resources.llm_replicas)
    if n_gpus:
        kind, need = "GPU", float(resources.llm_replicas * resources.llm_tensor_parallel)
    if have.get(kind, 0.0) < need:
        raise StageError(
            f"resources.llm_replicas {resources.llm_replicas} and llm_tensor_parallel "
            f"{resources.llm_tensor_parallel} need {need:.0f} {kind}s, the Ray cluster has "
            f"{have.get(kind, 0):.0f}; ask for fewer or add nodes",
            stage="summarize",
        )
