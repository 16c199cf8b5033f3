"""The language model, the style of its prompts, and the encoder of labels, opened for a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray

from hercules_scale.clustering.nearest_centroids import Float32, to_unit
from hercules_scale.config.resolved import EncoderConfig
from hercules_scale.config.resources import StorageConfig
from hercules_scale.config.section import names_function
from hercules_scale.endpoint import endpoint_key
from hercules_scale.errors import StageError
from hercules_scale.models.names import resolve_chat_model
from hercules_scale.runtime.context import RunContext
from hercules_scale.runtime.event_loop import run_coroutine
from hercules_scale.runtime.machines import label_encoder_gib
from hercules_scale.runtime.resources import Pool, label_encoder_pool, replica_pool
from hercules_scale.runtime.waiting import DEATHS, POLL_SECONDS, Room, is_placed, still_waiting
from hercules_scale.stages.encoders import load_encoder
from hercules_scale.storage.stored_models import local_model
from hercules_scale.summarization import clients
from hercules_scale.summarization.chat import Model
from hercules_scale.summarization.clients import OpenAIClient
from hercules_scale.summarization.endpoint_features import EndpointFeatures
from hercules_scale.summarization.function import function_model
from hercules_scale.summarization.prompts import PromptStyle
from hercules_scale.summarization.tokens import EstimatedTokens, Tokens

# The stage that gives clusters their titles.
LABELLING = "summarize"
# Plural nouns for items by modality, as prompts name them.
KINDS = {"text": "texts", "image": "images", "numeric": "rows of numbers", "embedding": "items"}
# Niceness of the label encoder.
NICE = 10


Encode = Callable[[list[str]], Float32]


@dataclass(frozen=True)
class LanguageModel:
    """Way to the language model of a run.

    Attributes:
        open: Function that provides the model, ready to answer, or None if the run asks no model;
            see ``open_model``. It is called only if there are questions.
    """

    open: Callable[[], AbstractContextManager[Model | None]]


@dataclass(frozen=True)
class LabelEncoder:
    """Encoder of labels.

    Attributes:
        encode: Function from texts to unit vectors, shape (n, d).
        close: Function that ends the encoder's process, so that others can have its resources; it
            may be called again.
    """

    encode: Encode
    close: Callable[[], None]


def probe_endpoint(context: RunContext) -> RunContext:
    """Ask the endpoint of a run one small question, before anything is written.

    Returns:
        The run, with the features that the endpoint supports.

    Raises:
        ConfigError: The endpoint refuses every form of the question, or does not answer.
    """

    async def probe() -> EndpointFeatures:
        client = OpenAIClient(context.config.summaries)
        try:
            await client.probe(context.reporter.say)
        finally:
            await client.close()
        return client.features

    return replace(context, endpoint_features=run_coroutine(probe()))


@contextmanager
def open_model(context: RunContext) -> Iterator[Model | None]:
    """Provide the language model that a configuration names, ready to answer, or None."""
    config, n_gpus = context.config, context.n_gpus
    if config.summaries.engine == "keyphrases":
        yield None
        return
    if config.summaries.engine == "openai":
        endpoint = OpenAIClient(config.summaries, context.endpoint_features)
        yield Model(endpoint, EstimatedTokens(), clients.requests_in_flight(config.summaries))
        return
    if config.summaries.engine == "callable":
        yield function_model(context.functions.llm, config.summaries)
        return
    # Ray Serve and torch take seconds to load.
    from hercules_scale.serving.vllm import serve_vllm

    source = local_model(
        resolve_chat_model(config.summaries.model), config.storage, with_weights=False
    )
    # An earlier job of the run may have been killed, and its replicas not yet have ended.
    app = f"hercules_scale_{context.fingerprint}_{ray.get_runtime_context().get_job_id()}"
    room = Room(context, LABELLING, replica_pool(config.resources, n_gpus).asked)
    with serve_vllm(config, source, n_gpus, app, room.look) as model:
        yield model


def prompt_style(context: RunContext, tokens: Tokens, n_levels: int = 1) -> PromptStyle:
    """Return the style of a run's prompts."""
    config = context.config.summaries
    examples = None
    if config.examples is not None:
        examples = tuple((each.items, each.title, each.description) for each in config.examples)
    return PromptStyle(
        tokens,
        config.max_prompt_tokens,
        config.exemplar_tokens,
        config.topic,
        context.config.hierarchy.criterion,
        config.prompt_size,
        config.instructions,
        config.language,
        examples,
        KINDS[context.config.input.modality],
        n_levels,
    )


@ray.remote(max_restarts=-1, max_task_retries=-1)
class _Encoder:
    """Encoder of labels, which are few texts."""

    def __init__(self, config: EncoderConfig, storage: StorageConfig, key: str | None) -> None:
        # It is needed late, and it must not slow down the work beside which it loads.
        os.nice(NICE)
        self._encoder = load_encoder(config, storage, key)

    def encode(self, texts: list[str]) -> Float32:
        return to_unit(self._encoder.encode(texts))


@contextmanager
def open_label_encoder(context: RunContext) -> Iterator[LabelEncoder]:
    """Provide the encoder of labels: the user's function, or a model; see ``open_encoder``."""
    embed, config = context.functions.embed, context.config.text_embedding
    if embed is not None and names_function(config.model):
        yield LabelEncoder(lambda texts: to_unit(embed.encode(texts, LABELLING)), lambda: None)
        return
    memory_gib = label_encoder_gib(context.config)
    pool = label_encoder_pool(context.config, context.n_gpus, memory_gib)
    room = Room(context, LABELLING, pool.asked)
    with ExitStack() as stack:
        encoder = open_encoder(config, context.config.storage, pool, room)
        yield LabelEncoder(stack.enter_context(encoder), stack.close)


@contextmanager
def open_encoder(
    config: EncoderConfig, storage: StorageConfig, pool: Pool, room: Room | None = None
) -> Iterator[Encode]:
    """Provide a function that embeds texts as unit vectors, in its own process.

    On a CPU the process loads its model, which takes seconds, while the caller does other work.
    With a GPU or a large model it starts at the first call, since its resources are free only then.

    Args:
        config: The encoder.
        storage: Access to its model if that lies on an object store.
        pool: Resources of the process.
        room: Reports the wait for these resources, and limits it.

    Raises:
        StageError: The process died repeatedly; the function raises it.
    """
    actors: list[Any] = []

    def start() -> Any:
        if not actors:
            remote = _Encoder.options(**pool.options)  # type: ignore[attr-defined]
            actors.append(remote.remote(config, storage, endpoint_key()))
        return actors[0]

    def encode(texts: list[str]) -> Float32:
        actor = start()
        vectors = actor.encode.remote(texts)
        for dying in still_waiting([vectors], [actor], POLL_SECONDS):
            if room is not None:
                room.look(lambda: is_placed(actor))
            if dying is not None:
                raise StageError(
                    f"{DEATHS} processes died one after another as they embedded {len(texts):,} "
                    "titles and descriptions, most likely out of memory; give the machine more, "
                    "or take fewer workers (resources.workers); run again, it resumes",
                    stage=LABELLING,
                )
        return np.asarray(ray.get(vectors))

    if not pool.gpus and not pool.memory_gib:
        start()
    try:
        yield encode
    finally:
        for actor in actors:
            ray.kill(actor)
