"""Arguments of vLLM's engine for a run's model, and the hardware of its replicas."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

import joblib
import ray
from ray.util import accelerators

from hercules_scale.config.run import RunConfig
from hercules_scale.embedding.sentence_transformer import choose_precision
from hercules_scale.errors import ConfigError
from hercules_scale.runtime.resources import replica_pool
from hercules_scale.serving import vllm_plugin

CPU_KV_CACHE_GIB = "2"
# Requests that a replica takes at a time.
CPU_REQUESTS, GPU_REQUESTS = 64, 256
# Answers that a CPU works on at a time; each of several answers to a question counts.
CPU_SEQUENCES = 64
PROMPT_MARGIN_TOKENS = 128


def requests_in_flight(config: RunConfig, n_gpus: int) -> int:
    """Return the number of requests in flight: the replicas' capacity, unless the user sets it."""
    each = GPU_REQUESTS if n_gpus else CPU_REQUESTS
    return config.summaries.requests_in_flight or each * replica_pool(config.resources, n_gpus).most


def engine_arguments(config: RunConfig, n_gpus: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Return vLLM's arguments for a run's model, and the environment that it needs."""
    summaries = config.summaries
    arguments: dict[str, Any] = {
        "max_model_len": (
            summaries.max_prompt_tokens
            + summaries.max_answer_tokens * summaries.clusters_per_request
            + PROMPT_MARGIN_TOKENS
        ),
        "enable_prefix_caching": True,
        # JSON allows any white space between keys, and small models get lost in it.
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
        "disable_log_stats": True,
    }
    environment = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    if n_gpus:
        arguments["tensor_parallel_size"] = config.resources.tensor_parallel
        arguments["pipeline_parallel_size"] = config.resources.llm_pipeline_parallel
        return arguments | summaries.engine_kwargs, environment
    on_cpu = {
        "max_num_seqs": CPU_SEQUENCES,
        # On processors without bfloat16 arithmetic, this type takes 1.5 times as long.
        "dtype": choose_precision("cpu"),
        "enforce_eager": True,
    }
    environment |= {
        "VLLM_CPU_KVCACHE_SPACE": CPU_KV_CACHE_GIB,
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        # Threads that spin while they wait take processors from the threads that they wait for.
        "OMP_WAIT_POLICY": "PASSIVE",
        vllm_plugin.VARIABLE: "1",
    }
    return arguments | on_cpu | summaries.engine_kwargs, environment


def check_arguments(config: RunConfig) -> None:
    """Refuse arguments that vLLM's engine does not have, and kinds of GPU that Ray does not know.

    Raises:
        ConfigError: An argument or the kind of GPU is unknown.
    """
    kind = config.resources.llm_accelerator
    kinds = sorted(value for name, value in vars(accelerators).items() if name.isupper())
    if kind is not None and kind not in kinds:
        raise ConfigError(
            f"resources.llm_accelerator must be one of {', '.join(kinds)}, got {kind!r}"
        )
    try:
        from vllm.engine.arg_utils import AsyncEngineArgs
    except ImportError:
        # This machine only submits the run; the replica reports unknown arguments.
        return
    known = {each.name for each in dataclasses.fields(AsyncEngineArgs)}
    for name in config.summaries.engine_kwargs.keys() - known:
        near = difflib.get_close_matches(name, known, 3)
        hint = f"; near are {', '.join(near)}" if near else ""
        raise ConfigError(
            f"summaries.engine_kwargs: {name!r} is no argument of vLLM's engine{hint}; fix the "
            "name or leave it out"
        )


def replica_hardware(config: RunConfig, n_gpus: int) -> dict[str, Any]:
    """Return the options of ``LLMConfig`` on the replicas and on the resources of each."""
    arguments, environment = engine_arguments(config, n_gpus)
    pool = replica_pool(config.resources, n_gpus)
    least, most = pool.least, pool.most
    n_requests = -(-requests_in_flight(config, n_gpus) // most)
    # Ray's own builder allows a thousand million requests, so that queues never push back.
    deployment: dict[str, Any] = {"max_ongoing_requests": n_requests}
    if most == least:
        deployment["num_replicas"] = least
    else:
        deployment["autoscaling_config"] = {
            "min_replicas": least,
            "max_replicas": most,
            "target_ongoing_requests": max(n_requests // 2, 1),
        }
    found: dict[str, Any] = {
        "engine_kwargs": arguments,
        "deployment_config": deployment,
        "runtime_env": {"env_vars": environment},
    }
    if not n_gpus:
        # Ray would give the engine one thread for its one logical CPU: 0.65 of the speed of two.
        environment["OMP_NUM_THREADS"] = str(_threads_each(most))
        # Only the engine reserves a logical CPU, since the replica around it only waits.
        deployment["ray_actor_options"] = {"num_cpus": 0}
        found["placement_group_config"] = {"bundles": [{"CPU": 1}]}
    return found


def _threads_each(n_replicas: int) -> int:
    """Return the number of threads of a replica on CPUs: its share of all, on any node."""
    cpus = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    if len(cpus) == 1:
        # Ray may count more CPUs than the machine has, and threads that wait for one another take
        # many times as long if they have no processor each.
        cpus = [min(cpus[0], joblib.cpu_count())]
    return max(int(min(min(filter(None, cpus), default=1), sum(cpus) // n_replicas)), 1)
