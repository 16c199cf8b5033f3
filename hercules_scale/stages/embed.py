"""Embeds the items, shard by shard, on a capped pool of actors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hercules_scale import schemas
from hercules_scale.config import EmbeddingConfig
from hercules_scale.embedding.encoder import TextEncoder
from hercules_scale.stages.context import RunContext, Shards
from hercules_scale.stages.shards import ShardResult, Stage, run_shards
from hercules_scale.storage import layout
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import FileRecord, read_table, vector_column, write_table


def load_encoder(config: EmbeddingConfig) -> TextEncoder:
    """The encoder that a configuration names, loaded.

    Raises:
        ConfigError: The model cannot be loaded.
    """
    from hercules_scale.embedding.sentence_transformer import SentenceTransformerEncoder

    return SentenceTransformerEncoder(config.model, config.precision)


@dataclass(frozen=True)
class EmbedWorker:
    """Encodes the texts of one shard of ``items``, or their titles and descriptions."""

    store: Store
    config: EmbeddingConfig
    descriptions: bool = False

    @cached_property
    def encoder(self) -> TextEncoder:
        """Loaded at the first shard, in the actor."""
        return load_encoder(self.config)

    def __call__(self, shard: int) -> ShardResult:
        """Write the shard's vectors."""
        names = ["title", "description"] if self.descriptions else ["text"]
        items = read_table(self.store, layout.part("items", shard), ["row", "item_id", *names])
        columns = [items[name].to_pylist() for name in names]
        vectors = self.encoder.encode([". ".join(texts) for texts in zip(*columns, strict=True)])
        if not np.isfinite(vectors).all():
            row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
            raise ValueError(
                f"the model gave a vector that is not finite for item "
                f"{items['item_id'][row].as_py()!r}; try embedding.precision float32",
            )
        dimension = vectors.shape[1]
        table = items.drop_columns(names).append_column("embedding", vector_column(vectors))
        table = table.cast(schemas.embeddings(dimension))
        file = write_table(self.store, layout.part("embeddings", shard), table)
        return ShardResult([file], {"dimension": dimension}, units=items.num_rows)


def embed_items(context: RunContext, shards: Shards, n_gpus: int) -> tuple[list[FileRecord], int]:
    """Write the table ``embeddings``.

    Returns:
        Its files in row order, and the vectors' dimension.
    """
    workers = context.config.resources.workers
    actors = min(workers, n_gpus) if n_gpus else workers
    stage = Stage("embed", "items", shards.n_items, actors, True, 1 if n_gpus else 0)
    described = context.config.hierarchy.representation == "description"
    worker = EmbedWorker(context.store, context.config.embedding, described)
    commits = run_shards(context, stage, len(shards), worker)
    files = [file for commit in commits.values() for file in commit.files]
    return files, int(next(iter(commits.values())).info["dimension"])
