"""Titles and descriptions of every cluster, level on level from the finest."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hercules_scale import schemas
from hercules_scale.clustering.hashing import uniform
from hercules_scale.config import EmbeddingConfig
from hercules_scale.embedding.encoder import TextEncoder
from hercules_scale.models import resolve_chat_model
from hercules_scale.stages.cluster import Clustering
from hercules_scale.stages.context import RunContext, Shards
from hercules_scale.stages.embed import load_encoder
from hercules_scale.stages.shards import ShardResult, Stage, run_shards
from hercules_scale.storage import layout
from hercules_scale.storage.manifest import Commit, read_commits, write_commit
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import (
    FileRecord,
    column_vectors,
    read_table,
    read_tables,
    vector_column,
    write_table,
)
from hercules_scale.summarization.clients import ChatClient, OpenAIClient
from hercules_scale.summarization.keyphrases import COUNTS, PhraseCounts, count_phrases
from hercules_scale.summarization.label import Labeller, Labelling
from hercules_scale.summarization.parsing import summary_from_keyphrases
from hercules_scale.summarization.prompts import (
    Child,
    ClusterFacts,
    EstimatedTokens,
    ModelTokens,
    Tokens,
)

STAGE = "summarize"
# Items of a finest cluster whose phrases are counted; more change the order of the best little.
SAMPLE_PER_CLUSTER = 500
KEYPHRASES = 8
CHILDREN_SHOWN = 12
PHRASES, SUMMARIES, DESCRIPTIONS = "phrases", "summaries", "description_embeddings"

_SUMMARY_SCHEMA = pa.schema(
    [
        ("level", pa.int16()),
        ("cluster_id", pa.int32()),
        ("title", pa.string()),
        ("description", pa.string()),
        ("summary_status", pa.string()),
        ("summary_error", pa.string()),
        ("keyphrases", pa.list_(pa.string())),
    ]
)


@dataclass(frozen=True)
class Summaries:
    """What summarising came to.

    Attributes:
        table: A row a cluster, in the order of the clusters.
        embeddings: Vectors of the descriptions in the same order, shape (n, d).
        calls: Files of the table ``llm_calls``.
    """

    table: pa.Table
    embeddings: NDArray[np.float32]
    calls: list[FileRecord]


def summarize_clusters(
    context: RunContext, shards: Shards, clustering: Clustering, n_gpus: int
) -> Summaries:
    """Give every cluster a title, a description and a status.

    Raises:
        StageError: The model does not start or does not answer at all.
    """
    phrases = _count_phrases(context, shards, clustering)
    done = read_commits(context.store, STAGE, context.fingerprint)
    levels = range(1, clustering.n_levels + 1)
    n_before = sum(clustering.level(level).num_rows for level in done)
    n_clusters = clustering.clusters.num_rows
    with context.reporter.stage(STAGE, n_clusters, "clusters", n_before) as progress:
        todo = [level for level in levels if level not in done]
        engine = context.config.summaries.engine
        if todo and engine == "keyphrases":
            for level in todo:
                facts = _facts(context, shards, clustering, phrases, level)
                summaries = {each.cluster_id: summary_from_keyphrases(each) for each in facts}
                _commit_level(context, facts, Labelling(summaries))
                progress.advance(len(facts))
        elif todo:
            with _model(context, n_gpus) as (client, tokens):
                seed = context.config.hierarchy.seed
                labeller = Labeller(
                    client, context.config.summaries, tokens, seed, lambda: progress.advance(1)
                )

                async def label() -> None:
                    # One event loop for all levels: connections belong to the loop.
                    for level in todo:
                        facts = _facts(context, shards, clustering, phrases, level)
                        _commit_level(context, facts, await labeller.label(facts))
                    await client.close()

                asyncio.run(label())
        paths = [layout.work_part(SUMMARIES, level) for level in levels]
        table = read_tables(context.store, paths)
        n_ok = pc.sum(pc.equal(table["summary_status"], "ok")).as_py()
        progress.note = f", {n_ok:,} of them ok"
    embeddings = _embed_descriptions(context, clustering, n_gpus)
    commits = read_commits(context.store, STAGE, context.fingerprint)
    calls = [commit.files[1] for commit in commits.values()]
    return Summaries(table, embeddings, calls)


@contextmanager
def _model(context: RunContext, n_gpus: int) -> Iterator[tuple[ChatClient, Tokens]]:
    """The model that a configuration names, ready to answer, and its tokenizer."""
    config = context.config
    if config.summaries.engine == "openai":
        yield OpenAIClient(config.summaries), EstimatedTokens()
        return
    from hercules_scale.serving.vllm import serve_vllm

    source = resolve_chat_model(config.summaries.model)
    app = f"hercules_scale_{context.fingerprint}"
    with serve_vllm(config, source, n_gpus, app) as client:
        yield client, ModelTokens(source)


@dataclass(frozen=True)
class _PhraseWorker:
    """Counts phrases in a sample of one shard's items.

    The sample takes each item with a chance that gives every finest cluster about as many.
    """

    store: Store
    seed: int
    sizes: tuple[int, ...]

    def __call__(self, shard: int) -> ShardResult:
        members = read_table(self.store, layout.part("memberships", shard), ["row", "level_1"])
        clusters = members["level_1"].to_numpy()
        share = SAMPLE_PER_CLUSTER / np.asarray(self.sizes)[clusters]
        chosen = uniform(self.seed, 1, "phrases", 0, members["row"].to_numpy()) < share
        texts = read_table(self.store, layout.part("items", shard), ["text"])["text"]
        sample = texts.filter(pa.array(chosen)).to_pylist()
        counts = count_phrases(sample, clusters[chosen])
        file = write_table(self.store, layout.work_part(PHRASES, shard), counts)
        return ShardResult([file], units=members.num_rows)


def _count_phrases(context: RunContext, shards: Shards, clustering: Clustering) -> PhraseCounts:
    sizes = tuple(clustering.level(1)["n_items"].to_pylist())
    worker = _PhraseWorker(context.store, context.config.hierarchy.seed, sizes)
    stage = Stage(PHRASES, "items", shards.n_items, context.config.resources.workers)
    commits = run_shards(context, stage, len(shards), worker)
    paths = [file.path for commit in commits.values() for file in commit.files]
    counts = pa.concat_tables([COUNTS.empty_table(), read_tables(context.store, paths)])
    return PhraseCounts(counts, len(sizes))


def _facts(
    context: RunContext,
    shards: Shards,
    clustering: Clustering,
    phrases: PhraseCounts,
    level: int,
) -> list[ClusterFacts]:
    """What is known of each cluster of a level, by id."""
    clusters = clustering.level(level)
    keyphrases = phrases.of_level(ancestors(clustering, level), KEYPHRASES)
    texts = _texts(context.store, shards, clusters["exemplar_rows"])
    children = _children(context, clustering, level)
    return [
        ClusterFacts(
            level,
            row["cluster_id"],
            row["n_items"],
            keyphrases[row["cluster_id"]],
            [texts[item] for item in row["exemplar_rows"]],
            children.get(row["cluster_id"], [])[:CHILDREN_SHOWN],
        )
        for row in clusters.select(["cluster_id", "n_items", "exemplar_rows"]).to_pylist()
    ]


def ancestors(clustering: Clustering, level: int) -> NDArray[np.int32]:
    """Cluster of a level that holds each finest cluster, shape (k_1,)."""
    held = np.arange(clustering.level(1).num_rows, dtype=np.int32)
    for below in range(1, level):
        held = clustering.level(below)["parent_cluster_id"].to_numpy().astype(np.int32)[held]
    return held


def _texts(store: Store, shards: Shards, rows: pa.ChunkedArray) -> dict[int, str]:
    """Texts of some items by row."""
    wanted = np.unique(pc.list_flatten(rows).to_numpy())
    texts: dict[int, str] = {}
    for shard in np.unique(wanted // shards.rows).tolist():
        start, stop = shards.bounds(shard)
        here = wanted[(wanted >= start) & (wanted < stop)]
        table = read_table(store, layout.part("items", shard), ["text"])
        texts.update(zip(here.tolist(), table["text"].take(here - start).to_pylist(), strict=True))
    return texts


def _children(context: RunContext, clustering: Clustering, level: int) -> dict[int, list[Child]]:
    """Children of each cluster of a level, largest first; none for the finest level."""
    if level == 1:
        return {}
    below = clustering.level(level - 1)
    summaries = read_table(context.store, layout.work_part(SUMMARIES, level - 1))
    children: dict[int, list[Child]] = {}
    for parent, n_items, title, description in zip(
        below["parent_cluster_id"].to_pylist(),
        below["n_items"].to_pylist(),
        summaries["title"].to_pylist(),
        summaries["description"].to_pylist(),
        strict=True,
    ):
        children.setdefault(parent, []).append(Child(title, description, n_items))
    for siblings in children.values():
        siblings.sort(key=lambda child: -child.n_items)
    return children


def _commit_level(context: RunContext, facts: list[ClusterFacts], labelling: Labelling) -> None:
    """Write the summaries and calls of one level, then its commit record."""
    level = facts[0].level
    rows = []
    for each in facts:
        summary = labelling.summaries[each.cluster_id]
        rows.append(
            {
                "level": level,
                "cluster_id": each.cluster_id,
                "title": summary.title,
                "description": summary.description,
                "summary_status": summary.status,
                "summary_error": summary.error,
                "keyphrases": each.keyphrases,
            }
        )
    table = pa.Table.from_pylist(rows, _SUMMARY_SCHEMA)
    calls = pa.Table.from_pylist([asdict(call) for call in labelling.calls], schemas.LLM_CALLS)
    files = [
        write_table(context.store, layout.work_part(SUMMARIES, level), table),
        write_table(context.store, layout.part("llm_calls", level), calls),
    ]
    write_commit(context.store, STAGE, Commit(level, context.fingerprint, files))


@dataclass(frozen=True)
class _DescriptionWorker:
    """Encodes the descriptions of one level."""

    store: Store
    config: EmbeddingConfig

    @cached_property
    def encoder(self) -> TextEncoder:
        """Loaded at the first level, in the actor."""
        return load_encoder(self.config)

    def __call__(self, shard: int) -> ShardResult:
        path = layout.work_part(SUMMARIES, shard + 1)
        descriptions = read_table(self.store, path, ["description"])["description"].to_pylist()
        vectors = self.encoder.encode(descriptions)
        table = pa.table({"embedding": vector_column(vectors)})
        file = write_table(self.store, layout.work_part(DESCRIPTIONS, shard), table)
        return ShardResult([file], units=len(descriptions))


def _embed_descriptions(
    context: RunContext, clustering: Clustering, n_gpus: int
) -> NDArray[np.float32]:
    n_clusters = clustering.clusters.num_rows
    stage = Stage(DESCRIPTIONS, "clusters", n_clusters, 1, True, 1 if n_gpus else 0)
    worker = _DescriptionWorker(context.store, context.config.embedding)
    commits = run_shards(context, stage, clustering.n_levels, worker)
    paths = [file.path for commit in commits.values() for file in commit.files]
    return column_vectors(read_tables(context.store, paths)["embedding"])
