"""Embeds the items, shard by shard, on a capped pool of actors."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from hercules_scale.config.reading import EmbeddingConfig
from hercules_scale.config.section import names_function
from hercules_scale.embedding.encoder import ImageEncoder, TextEncoder
from hercules_scale.embedding.endpoint import EndpointEncoder
from hercules_scale.embedding.function import FunctionEncoder
from hercules_scale.endpoint import endpoint_key, endpoint_url
from hercules_scale.errors import StageError
from hercules_scale.models import DEFAULT_TEXT_MODEL, model_identity
from hercules_scale.reading.moments import Moments
from hercules_scale.reading.redact import redacted
from hercules_scale.runtime.context import RunContext
from hercules_scale.runtime.resources import embedding_pool
from hercules_scale.runtime.shards import ShardResult, ShardWorker, Stage, done_shards, run_shards
from hercules_scale.stages.read import Items
from hercules_scale.storage import layout, schemas
from hercules_scale.storage.manifest import Commit, read_commits
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import (
    FileRecord,
    column_numbers,
    column_vectors,
    gathered,
    iterate_rows,
    read_table,
    vector_column,
    write_table,
)

STAGE = "embed"
# While a GPU encodes one shard, another is read and tokenised, and a third is written.
GPU_THREADS = 3

Vectors = np.ndarray[tuple[int, int], np.dtype[np.float32]]


def load_encoder(config: EmbeddingConfig, key: str | None = None) -> TextEncoder:
    """Return the text encoder that a configuration names, loaded.

    Args:
        config: The encoder.
        key: Key of its endpoint, where it has one; by default that of the environment.

    Raises:
        ConfigError: The model cannot be loaded, or there is no key of the endpoint.
    """
    name = config.model or DEFAULT_TEXT_MODEL
    if config.engine == "openai":
        return open_endpoint(config, key)
    # It takes seconds to load.
    from hercules_scale.embedding.sentence_transformer import SentenceTransformerEncoder

    return SentenceTransformerEncoder(
        name,
        config.precision,
        config.long_text,
        prompt=config.prompt,
        dimensions=config.dimensions,
        trust_remote_code=config.trust_remote_code,
    )


def open_endpoint(config: EmbeddingConfig, key: str | None = None) -> EndpointEncoder:
    """Return the text encoder at the endpoint that a configuration names.

    Raises:
        ConfigError: There is no key of it.
    """
    assert config.model is not None
    return EndpointEncoder(config.model, config.endpoint, config.prompt, config.dimensions, key)


def load_image_encoder(config: EmbeddingConfig) -> ImageEncoder:
    """Return the image encoder that a configuration names, loaded.

    Raises:
        ConfigError: The model cannot be loaded.
    """
    from hercules_scale.embedding.image import load_image_encoder

    return load_image_encoder(config.model, config.precision)


E = TypeVar("E")
_loading = threading.Lock()


def loaded_once(load: Callable[..., E], *arguments: Any) -> E:
    """Return an encoder that all threads of this process share."""
    with _loading:
        encoder: E = _loaded(load, *arguments)
        return encoder


@functools.cache
def _loaded(load: Callable[..., Any], *arguments: Any) -> Any:
    return load(*arguments)


@dataclass(frozen=True)
class EmbedWorker:
    """Encodes the texts of one shard of ``items``, or their titles and descriptions."""

    store: Store
    config: EmbeddingConfig
    descriptions: bool = False

    def __call__(self, shard: int) -> ShardResult:
        """Write the shard's vectors."""
        encoder = loaded_once(load_encoder, self.config)
        embed = cached(self.config, lambda items: encoder.encode(_texts(items)))
        return write_embeddings(self.store, shard, _names(self.descriptions), embed)


@dataclass(frozen=True)
class EmbedAtEndpointWorker:
    """Has an endpoint embed the texts of one shard, or their titles and descriptions.

    Attributes:
        store: Output of the run.
        config: The endpoint.
        redact: Name of the function that texts go through before they leave the run's own code.
        descriptions: Whether titles and descriptions are embedded.
        key: Key of the endpoint, since the nodes of a cluster may have none.
    """

    store: Store
    config: EmbeddingConfig
    redact: str | None
    descriptions: bool = False
    key: str | None = field(default_factory=endpoint_key, repr=False)

    def __call__(self, shard: int) -> ShardResult:
        """Write the shard's vectors."""
        encoder = loaded_once(open_endpoint, self.config, self.key)
        embed = cached(
            self.config, lambda items: encoder.encode(redacted(_texts(items), self.redact))
        )
        result = write_embeddings(self.store, shard, _names(self.descriptions), embed)
        return replace(result, info={**result.info, "tokens": encoder.spent()})


@dataclass(frozen=True)
class EmbedHereWorker:
    """The same by a function of the user, in this process.

    Attributes:
        store: Output of the run.
        encoder: The function.
        redact: Name of the function that texts go through before they leave the run's own code.
        descriptions: Whether titles and descriptions are embedded.
    """

    store: Store
    encoder: FunctionEncoder
    redact: str | None
    descriptions: bool = False

    def __call__(self, shard: int) -> ShardResult:
        """Write the shard's vectors."""
        return write_embeddings(
            self.store,
            shard,
            _names(self.descriptions),
            lambda items: self.encoder.encode(redacted(_texts(items), self.redact), STAGE),
        )


@dataclass(frozen=True)
class EmbedImagesWorker:
    """Encodes the images of one shard of ``items``."""

    store: Store
    config: EmbeddingConfig

    def __call__(self, shard: int) -> ShardResult:
        """Write the shard's vectors."""
        encoder = loaded_once(load_image_encoder, self.config)
        embed = cached(self.config, lambda items: encoder.encode(*_lists(items)))
        return write_embeddings(self.store, shard, ["thumbnail"], embed)


# Standard deviations from the mean that float32 holds.
LARGEST = 1e30


@dataclass(frozen=True)
class StandardiseWorker:
    """Sets the variables of one shard of ``items`` to mean 0 and standard deviation 1."""

    store: Store
    columns: tuple[str, ...]
    moments: Moments

    def __call__(self, shard: int) -> ShardResult:
        """Write the shard's vectors."""
        names = list(self.columns)
        return write_embeddings(
            self.store,
            shard,
            names,
            lambda items: np.clip(
                (column_numbers(items, names) - self.moments.mean) / self.moments.std,
                -LARGEST,
                LARGEST,
            ).astype(np.float32),
        )


def _names(descriptions: bool) -> list[str]:
    """Return the columns of ``items`` that the words to embed are in."""
    return ["title", "description"] if descriptions else ["text"]


def _texts(items: pa.Table) -> list[str]:
    return [". ".join(texts) for texts in zip(*_lists(items), strict=True)]


def _lists(items: pa.Table) -> list[list[Any]]:
    return [column.to_pylist() for column in items.columns]


Embed = Callable[[pa.Table], Vectors]


def cached(config: EmbeddingConfig, embed: Embed) -> Embed:
    """Return a function that embeds what the configured cache does not hold, and adds it.

    Vectors are kept by the content of the shard and all that they depend on: the model, its
    version, the precision and the packages that compute.
    """
    if config.cache is None:
        return embed
    cache = Store(config.cache)

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


def _identity(config: EmbeddingConfig) -> str:
    """Return the identity of the vectors' encoder and options, besides the items."""
    assert config.model is not None
    options = [config.model, f"{config.prompt}", f"{config.dimensions}"]
    if config.engine == "openai":
        return "\n".join(["openai", endpoint_url(config.endpoint), *options])
    from hercules_scale.embedding.sentence_transformer import choose_device

    device, precision = choose_device(config.precision)
    versions = [importlib.metadata.version(name) for name in ("torch", "sentence-transformers")]
    # Options that were added later are left out where they are not set, so that caches still serve.
    more = options[1:] if config.prompt is not None or config.dimensions is not None else []
    kept = [model_identity(config.model), device, precision, config.long_text, *versions, *more]
    return "\n".join(kept)


def write_embeddings(store: Store, shard: int, names: list[str], embed: Embed) -> ShardResult:
    """Write the vectors of one shard.

    Reading and writing each wait for the storage, so that no outage has anything embedded twice.

    Args:
        store: Output of the run.
        shard: The shard.
        names: Columns of its items that are embedded.
        embed: Turns these columns into vectors, shape (n, d).

    Raises:
        ValueError: A vector is not finite.
    """
    path, columns = layout.part("items", shard), ["row", "item_id", *names]
    parts = [
        _with_vectors(items, embed(items.select(names)))
        for items in gathered(iterate_rows(store, path, columns))
    ]
    dimension = parts[0].schema.field("embedding").type.list_size
    table = pa.concat_tables(parts).cast(schemas.embeddings(dimension))
    file = store.patiently(lambda: write_table(store, layout.part("embeddings", shard), table))
    return ShardResult([file], {"dimension": dimension}, units=table.num_rows)


def _with_vectors(items: pa.Table, vectors: Vectors) -> pa.Table:
    if not np.isfinite(vectors).all():
        row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise ValueError(
            f"the model gave a vector that is not finite for item "
            f"{items['item_id'][row].as_py()!r}; try embedding.precision float32",
        )
    return items.select(["row", "item_id"]).append_column("embedding", vector_column(vectors))


def embed_items(context: RunContext, items: Items, n_gpus: int) -> tuple[list[FileRecord], int]:
    """Write the table ``embeddings``, unless the user brought the vectors.

    Returns:
        Its files in row order, and the vectors' dimension.
    """
    worker = _worker(context, items)
    if worker is None:
        return items.files["embeddings"], items.layout.dimension
    if isinstance(worker, EmbedHereWorker):
        stage = Stage(STAGE, "items", items.shards.n_items, 1, here=True)
        # Vectors of an earlier attempt give the dimension.
        for commit in done_shards(context, STAGE).values():
            worker.encoder.dimension = int(commit.info["dimension"])
        return _embedded(context, items, stage, worker)
    if isinstance(worker, StandardiseWorker):
        stage = Stage(STAGE, "items", items.shards.n_items, context.config.resources.n_tasks)
        return _embedded(context, items, stage, worker)
    pool = embedding_pool(context.config.resources, n_gpus, context.config.loads_encoder)
    threads = GPU_THREADS if pool.gpus else 1
    stage = Stage(STAGE, "items", items.shards.n_items, pool.least, pool, threads)
    return _embedded(context, items, stage, worker)


def _embedded(
    context: RunContext, items: Items, stage: Stage, worker: ShardWorker
) -> tuple[list[FileRecord], int]:
    limit = context.config.embedding.max_total_tokens
    commits = run_shards(context, stage, len(items.shards), worker, _Budget(limit).spend)
    files = [file for commit in commits.values() for file in commit.files]
    return files, int(next(iter(commits.values())).info["dimension"])


@dataclass
class _Budget:
    """Tokens that an endpoint may still read.

    Attributes:
        limit: ``embedding.max_total_tokens``.
        spent: Tokens of all shards so far.
    """

    limit: int | None
    spent: int = 0

    def spend(self, commit: Commit) -> None:
        """Count a shard's tokens.

        Raises:
            StageError: They are more than the limit.
        """
        self.spent += int(commit.info.get("tokens", 0))
        if self.limit is not None and self.spent > self.limit:
            raise StageError(
                f"the endpoint has read {self.spent:,} tokens, and embedding.max_total_tokens is "
                f"{self.limit:,}; give more, and run again: it resumes",
                stage=STAGE,
            )


def embedding_tokens(context: RunContext) -> int:
    """Return the tokens that an endpoint has read of the items."""
    commits = read_commits(context.store, STAGE, context.fingerprint)
    return sum(int(commit.info.get("tokens", 0)) for commit in commits.values())


def _worker(context: RunContext, items: Items) -> ShardWorker | None:
    config, store = context.config, context.store
    columns = items.layout.columns
    if config.hierarchy.representation == "description":
        return _text_worker(context, descriptions=True)
    if columns.modality == "embedding":
        return None
    if columns.modality == "numeric":
        assert items.moments is not None
        return StandardiseWorker(store, columns.numbers, items.moments)
    if columns.modality == "image":
        return EmbedImagesWorker(store, config.embedding)
    return _text_worker(context)


def _text_worker(context: RunContext, descriptions: bool = False) -> ShardWorker:
    config, store = context.config, context.store
    if names_function(config.text_embedding.model):
        assert context.functions.embed is not None
        return EmbedHereWorker(store, context.functions.embed, config.privacy.redact, descriptions)
    if config.embeds_at_endpoint:
        return EmbedAtEndpointWorker(
            store, config.text_embedding, config.privacy.redact, descriptions
        )
    return EmbedWorker(store, config.text_embedding, descriptions)
