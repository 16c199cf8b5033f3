"""Embeds the items, shard by shard, on a capped pool of actors."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from hercules_scale.config.resolved import EncoderConfig
from hercules_scale.config.section import names_function
from hercules_scale.embedding.function import FunctionEncoder
from hercules_scale.endpoint import endpoint_key
from hercules_scale.errors import StageError
from hercules_scale.reading.column_statistics import Moments
from hercules_scale.reading.redact import redacted
from hercules_scale.runtime.context import RunContext
from hercules_scale.runtime.pipeline import Product
from hercules_scale.runtime.resources import embedding_pool
from hercules_scale.runtime.shard_tasks import ShardResult, ShardWorker
from hercules_scale.runtime.shards import Stage, done_shards, run_shards
from hercules_scale.stages.describe import Descriptions
from hercules_scale.stages.encoders import (
    Embed,
    Vectors,
    by_criterion,
    cached,
    load_image_encoder,
    load_item_encoder,
    loaded_once,
    open_endpoint,
)
from hercules_scale.stages.read import Items
from hercules_scale.stages.vectors import ShardTiles
from hercules_scale.storage import layout, schemas
from hercules_scale.storage.commits import Commit
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import (
    FileRecord,
    column_numbers,
    gathered,
    iterate_rows,
    vector_column,
    write_table,
)

STAGE = "embed"
# While a GPU encodes one shard, another is read and tokenised, and a third is written.
GPU_THREADS = 3


@dataclass(frozen=True)
class Embeddings(Product):
    """Vectors of the items.

    Attributes:
        vectors: The vectors, by tile.
        files: Files of the table ``embeddings``.
        tokens: Number of tokens that an endpoint has read to embed the items; None if no endpoint
            is asked.
    """

    vectors: ShardTiles
    files: list[FileRecord]
    tokens: int | None = None

    @property
    def tables(self) -> dict[str, list[FileRecord]]:
        """Files of the table ``embeddings``."""
        return {"embeddings": self.files}

    @property
    def record(self) -> dict[str, Any]:
        """Tokens that an endpoint has read, if one is asked."""
        return {} if self.tokens is None else {"embedding_tokens": self.tokens}


@dataclass(frozen=True)
class EmbedWorker:
    """Encodes the texts of one shard of ``items``, or its titles and descriptions."""

    store: Store
    config: EncoderConfig
    names: tuple[str, ...] = ("text",)

    def __call__(self, shard: int) -> ShardResult:
        """Write the shard's vectors."""
        options = self.store.options
        encoder = loaded_once(load_item_encoder, self.config, options)
        embed = cached(self.config, options, lambda items: encoder.encode(_texts(items)))
        embed = by_criterion(self.config, encoder.encode, embed)
        return write_embeddings(self.store, shard, list(self.names), embed)


@dataclass(frozen=True)
class EmbedAtEndpointWorker:
    """Embeds the texts of one shard, or its titles and descriptions, at an endpoint.

    Attributes:
        store: Output of the run.
        config: The endpoint.
        redact: Name of the function that redacts texts before they leave the run's own code.
        names: Columns of ``items`` that hold the words to embed.
        key: Key of the endpoint; it is sent along, since the nodes of a cluster may have none.
    """

    store: Store
    config: EncoderConfig
    redact: str | None
    names: tuple[str, ...] = ("text",)
    key: str | None = field(default_factory=endpoint_key, repr=False)

    def __call__(self, shard: int) -> ShardResult:
        """Write the shard's vectors."""
        encoder = loaded_once(open_endpoint, self.config, self.key)
        # The cache is keyed by the redacted texts that are sent.
        embed = cached(self.config, self.store.options, lambda sent: encoder.encode(_texts(sent)))
        embed = by_criterion(self.config, encoder.encode, embed)
        result = write_embeddings(
            self.store,
            shard,
            list(self.names),
            lambda items: embed(pa.table({"text": redacted(_texts(items), self.redact)})),
        )
        return replace(result, info={**result.info, "tokens": encoder.spent()})


@dataclass(frozen=True)
class EmbedHereWorker:
    """Embeds the texts of one shard, or its titles and descriptions, by the user's function.

    Attributes:
        store: Output of the run.
        encoder: The function, which runs in this process.
        redact: Name of the function that redacts texts before they leave the run's own code.
        names: Columns of ``items`` that hold the words to embed.
    """

    store: Store
    encoder: FunctionEncoder
    redact: str | None
    names: tuple[str, ...] = ("text",)

    def __call__(self, shard: int) -> ShardResult:
        """Write the shard's vectors."""
        return write_embeddings(
            self.store,
            shard,
            list(self.names),
            lambda items: self.encoder.encode(redacted(_texts(items), self.redact), STAGE),
        )


@dataclass(frozen=True)
class EmbedImagesWorker:
    """Encodes the images of one shard of ``items``."""

    store: Store
    config: EncoderConfig

    def __call__(self, shard: int) -> ShardResult:
        """Write the shard's vectors."""
        options = self.store.options
        encoder = loaded_once(load_image_encoder, self.config, options)
        embed = cached(self.config, options, lambda items: encoder.encode(*_lists(items)))
        if self.config.words:
            # Without words no torch is loaded here.
            from hercules_scale.embedding.image import SharedSpaceEncoder

            assert isinstance(encoder, SharedSpaceEncoder)
            embed = by_criterion(self.config, encoder.encode_texts, embed)
        return write_embeddings(self.store, shard, ["thumbnail"], embed)


# Standardised values are cut at this number of standard deviations, which float32 holds.
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


def _texts(items: pa.Table) -> list[str]:
    return [". ".join(texts) for texts in zip(*_lists(items), strict=True)]


def _lists(items: pa.Table) -> list[list[Any]]:
    return [column.to_pylist() for column in items.columns]


def write_embeddings(store: Store, shard: int, names: list[str], embed: Embed) -> ShardResult:
    """Write the vectors of one shard.

    Reads and writes each wait out an outage of the storage, so that nothing is embedded twice.

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


def embed_items(context: RunContext, items: Items, described: Descriptions) -> Embeddings:
    """Write the table ``embeddings``, unless given vectors are clustered.

    Args:
        context: The run.
        items: Layout and moments of the items, and the given vectors.
        described: The items, with the words that are embedded.
    """
    shards, config = described.shards, context.config
    commits: list[Commit] = []
    files, dimension = items.files["embeddings"], items.layout.dimension
    worker = _worker(context, items)
    if worker is not None:
        limit = config.embedding.max_total_tokens
        look = None if limit is None else _Budget(limit).spend
        stage = _stage(context, shards.n_items, worker)
        commits += run_shards(context, stage, len(shards), worker, look).values()
        files = [file for commit in commits for file in commit.files]
        dimension = int(commits[0].info["dimension"])
    tokens = sum(int(commit.info.get("tokens", 0)) for commit in commits)
    vectors = ShardTiles(context.store, shards, dimension)
    return Embeddings(vectors, files, tokens if config.embeds_at_endpoint else None)


def _stage(context: RunContext, n_items: int, worker: ShardWorker) -> Stage:
    if isinstance(worker, EmbedHereWorker):
        # The vectors of an earlier attempt give the dimension.
        for commit in done_shards(context, STAGE).values():
            worker.encoder.dimension = int(commit.info["dimension"])
        return Stage(STAGE, "items", n_items, 1, here=True)
    resources = context.config.resources
    if isinstance(worker, StandardiseWorker):
        return Stage(STAGE, "items", n_items, resources.n_tasks)
    pool = embedding_pool(resources, context.n_gpus, context.config.loads_encoder)
    return Stage(STAGE, "items", n_items, pool.least, pool, GPU_THREADS if pool.gpus else 1)


@dataclass
class _Budget:
    """Budget of tokens that an endpoint may read.

    Attributes:
        limit: ``embedding.max_total_tokens``.
        spent: Tokens of all shards so far.
    """

    limit: int
    spent: int = 0

    def spend(self, commit: Commit) -> None:
        """Count a shard's tokens.

        Raises:
            StageError: All shards so far have used more than the limit.
        """
        self.spent += int(commit.info.get("tokens", 0))
        if self.spent > self.limit:
            raise StageError(
                f"the endpoint has read {self.spent:,} tokens, and embedding.max_total_tokens is "
                f"{self.limit:,}; give more, and run again: it resumes",
                stage=STAGE,
            )


def _worker(context: RunContext, items: Items) -> ShardWorker | None:
    config, store = context.config, context.store
    columns = items.layout.columns
    if config.clusters_descriptions:
        # Without a model's answers, titles repeat the descriptions or are ids.
        described = ("title", "description") if config.describes_items else ("description",)
        return _text_worker(context, described)
    if columns.modality == "embedding":
        return None
    if columns.modality == "numeric":
        assert items.moments is not None
        return StandardiseWorker(store, columns.numbers, items.moments)
    if columns.modality == "image":
        return EmbedImagesWorker(store, config.image_embedding)
    return _text_worker(context)


def _text_worker(context: RunContext, names: tuple[str, ...] = ("text",)) -> ShardWorker:
    config, store = context.config, context.store
    if names_function(config.text_embedding.model):
        assert context.functions.embed is not None
        return EmbedHereWorker(store, context.functions.embed, config.privacy.redact, names)
    if config.embeds_at_endpoint:
        return EmbedAtEndpointWorker(store, config.text_embedding, config.privacy.redact, names)
    return EmbedWorker(store, config.text_embedding, names)
