"""vLLM on Ray Serve, for the time of a run."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray import serve
from ray.serve.schema import ApplicationStatus

from hercules_scale.config.run import RunConfig
from hercules_scale.errors import ConfigError, StageError
from hercules_scale.runtime.resources import replica_pool
from hercules_scale.runtime.waiting import job_has_ended
from hercules_scale.serving.engine import (
    CPU_SEQUENCES,
    GPU_REQUESTS,
    replica_hardware,
    requests_in_flight,
)
from hercules_scale.summarization.chat import (
    ChatReply,
    ChatRequest,
    Model,
    ModelUnavailableError,
    read_completion,
)
from hercules_scale.summarization.tokens import ModelTokens

# Name of an application that serves an endpoint; the job follows.
ENDPOINT = "hercules_scale_endpoint_"
REPLICA_SETUP = "hercules_scale.serving.replica.ReplicaSetup"
# Small models fall into loops: without a penalty, 4 to 45% of their answers are cut off or loop.
REPETITION_PENALTY = 1.1
POLL_SECONDS = 0.5

Look = Callable[[Callable[[], bool]], None]
"""Called repeatedly while something starts, with a function that returns whether it has room."""


class ServeClient:
    """Asks the deployment through its handle, without HTTP.

    Args:
        handle: Handle of the application that ``serve_vllm`` starts.
        model: Name of the model.
        seeded: Whether requests carry seeds. On a CPU they must not: vLLM 0.32 crashes at a prompt
            with a seed that is read in parts, since it moves a random generator back by an offset
            that torch's CPU generators do not have.
    """

    def __init__(self, handle: Any, model: str, seeded: bool) -> None:
        self._chat = handle.options(stream=True).chat
        self._model, self._seeded = model, seeded

    def n_prompts(self, request: ChatRequest) -> int:
        """Return 1: the prompt is read once for all answers."""
        return 1

    async def answer(self, request: ChatRequest) -> ChatReply:
        """Answer one question.

        Raises:
            ModelUnavailableError: The replica died or refused the request.
        """
        from ray.serve.llm.openai_api_models import ChatCompletionRequest, ErrorResponse

        payload = request.payload(self._model)
        if not self._seeded:
            del payload["seed"]
        asked = ChatCompletionRequest(**payload, repetition_penalty=REPETITION_PENALTY)
        try:
            async for response in self._chat.remote(asked):
                if isinstance(response, ErrorResponse):
                    raise ModelUnavailableError(f"vLLM: {response}"[:300])
                return read_completion(response.model_dump())
        except (ray.exceptions.RayError, serve.exceptions.RayServeException) as error:
            reason = str(error).strip().splitlines()[-1]
            raise ModelUnavailableError(f"{type(error).__name__}: {reason}") from error
        raise ModelUnavailableError("vLLM gave no response")

    async def close(self) -> None:
        """Do nothing: the handle holds nothing open."""


@contextmanager
def serve_vllm(
    config: RunConfig, source: str, n_gpus: int, app: str, look: Look = lambda has_room: None
) -> Iterator[Model]:
    """Deploy the model, and take the deployment down at the end.

    Args:
        config: The run.
        source: Folder or model-hub id of the model.
        n_gpus: GPUs of the cluster that may be used; 0 serves on CPUs.
        app: Name of the Serve application; each of several runs on a cluster needs its own.
        look: Called while the model starts, with a function that returns whether a replica has
            room.

    Raises:
        StageError: The model does not start.
    """
    from ray.serve.llm import build_llm_deployment

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    llm = _llm_config(config, source, n_gpus, app)
    if not serve.status().proxies and not serve.status().applications:
        # Requests come through the handle alone, so no proxy has to listen.
        serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING"})
    with _running(config, build_llm_deployment(llm), app, None, look) as handle:
        client = ServeClient(handle, _model_id(config), n_gpus > 0)
        sequences = (GPU_REQUESTS if n_gpus else CPU_SEQUENCES) * replica_pool(
            config.resources, n_gpus
        ).least
        yield Model(
            client,
            ModelTokens(source),
            requests_in_flight(config, n_gpus),
            max(sequences // config.summaries.candidates, 1),
        )


@contextmanager
def serve_endpoint(
    config: RunConfig, source: str, n_gpus: int, port: int, look: Look
) -> Iterator[str]:
    """Serve the model to others, as an endpoint that ``engine: openai`` can ask.

    It asks for no key, so it listens on the head node alone, where the drivers of jobs run.

    Args:
        config: A run that names the model and its resources.
        source: Folder or model-hub id of the model.
        n_gpus: GPUs of the cluster that may be used; 0 serves on CPUs.
        port: Port of the head node.
        look: See ``serve_vllm``.

    Yields:
        The endpoint's base URL.

    Raises:
        ConfigError: The cluster serves another model, or Ray Serve listens elsewhere for others.
        StageError: The model does not start.
    """
    from ray.serve.llm import build_openai_app

    _delete_orphans()
    _start_http(port)
    name = f"{ENDPOINT}{ray.get_runtime_context().get_job_id()}"
    llm = _llm_config(config, source, n_gpus, name)
    if not n_gpus:
        # Other clients send seeds, which work with whole prompts alone; see ServeClient.
        llm.engine_kwargs["enable_chunked_prefill"] = False
    app = build_openai_app({"llm_configs": [llm]})
    with _running(config, app, name, "/", look):
        yield f"http://127.0.0.1:{port}/v1"


def _delete_orphans() -> None:
    """Delete endpoints of jobs that have ended, which a replica does only after a while.

    Raises:
        ConfigError: A job that goes on serves one.
    """
    for name in serve.status().applications:
        if name.startswith(ENDPOINT):
            job = name.removeprefix(ENDPOINT)
            if not job_has_ended(job):
                raise ConfigError(
                    f"job {job} of this Ray cluster serves a model already, and a cluster serves "
                    "one at a time; ask that one, or stop it first"
                )
            serve.delete(name)


def _start_http(port: int) -> None:
    """Make Ray Serve listen on the head node.

    Raises:
        ConfigError: It already runs other applications, and does not listen on this port.
    """
    http = {"host": "127.0.0.1", "port": port}
    serve.start(proxy_location="HeadOnly", http_options=http)
    # A Serve that already runs keeps its options.
    if (listens := _address_of_serve()) != http:
        if others := serve.status().applications:
            place = "nowhere" if listens is None else "at {host}:{port}".format(**listens)
            raise ConfigError(
                f"--port must be free for Ray Serve, which already runs on this cluster and "
                f"listens {place}, for {', '.join(sorted(others))}; got {port}; stop these, or "
                "wait for their end"
            )
        serve.shutdown()
        serve.start(proxy_location="HeadOnly", http_options=http)


def _address_of_serve() -> dict[str, Any] | None:
    """Return host and port that Ray Serve listens on; None where it does not listen."""
    if not serve.status().proxies:
        return None
    http = serve.context._get_global_client().http_config
    return {"host": http.host, "port": http.port}


@contextmanager
def _running(
    config: RunConfig, app: Any, name: str, route_prefix: str | None, look: Look
) -> Iterator[Any]:
    """Provide a Serve application, taken down at the end."""
    target = serve.RunTarget(app, name=name, route_prefix=route_prefix)
    try:
        (handle,) = serve.run_many([target], wait_for_applications_running=False)
        # Serve itself would wait for room silently and forever.
        while (found := serve.status().applications[name]).status != ApplicationStatus.RUNNING:
            if found.status == ApplicationStatus.DEPLOY_FAILED:
                # The application's own message says that a deployment failed, but not why.
                said = [each.message for each in found.deployments.values() if each.message]
                reason = (said or [found.message])[0].strip().splitlines()[-1][:300]
                raise StageError(
                    f"summaries.model {config.summaries.model!r} did not start in vLLM "
                    f"({reason}); see Ray's logs, or take summaries.engine keyphrases",
                    stage="summarize",
                )
            look(lambda: _has_room(name))
            time.sleep(POLL_SECONDS)
        yield handle
    finally:
        serve.delete(name)


def _has_room(app: str) -> bool:
    """Return whether a replica of an application has the resources that it asked for."""
    actors = ray._private.state.state.actor_table(None).values()
    return any(
        actor["State"] != "DEAD"
        and actor["ActorClassName"].startswith(f"ServeReplica:{app}:")
        and actor["Address"]["Port"] != 0
        for actor in actors
    )


def _model_id(config: RunConfig) -> str:
    return config.summaries.model.replace("://", "--").replace("/", "--")


def _llm_config(config: RunConfig, source: str, n_gpus: int, app: str) -> Any:
    from ray.serve.llm import LLMConfig

    job = ray.get_runtime_context().get_job_id()
    return LLMConfig(
        model_loading_config={"model_id": _model_id(config), "model_source": source},
        callback_config={
            "callback_class": REPLICA_SETUP,
            "callback_kwargs": {
                "model": config.summaries.model,
                "storage": config.storage,
                "application": app,
                # A run within another's detached actor, such as a replica, outlives that job.
                "job": None if job_has_ended(job) else job,
            },
        },
        log_engine_metrics=False,
        accelerator_type=config.resources.llm_accelerator if n_gpus else None,
        **replica_hardware(config, n_gpus),
    )
