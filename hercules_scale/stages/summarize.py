"""Titles and descriptions of every cluster, level by level from the finest.

A model's answers are kept one by one in a ledger, in one event loop for all levels, so this stage
keeps its own commits; ``run_shards`` would ask about a whole level again.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hercules_scale.clustering.nearest_centroids import Float32
from hercules_scale.errors import InputError
from hercules_scale.evaluation.label_quality import Measured, groundedness_metrics
from hercules_scale.models.names import resolve_chat_model
from hercules_scale.runtime.context import RunContext, Shards
from hercules_scale.runtime.event_loop import run_coroutine
from hercules_scale.runtime.pipeline import Product
from hercules_scale.runtime.progress import StageProgress
from hercules_scale.runtime.prometheus import call_recorder
from hercules_scale.runtime.shards import done_shards
from hercules_scale.stages.cluster import Clustering, Clusters
from hercules_scale.stages.describe import Descriptions
from hercules_scale.stages.label_items import LabelItems, draw_label_items
from hercules_scale.stages.label_level import Labels, label_level
from hercules_scale.stages.label_options import WORDLESS, is_asked_about
from hercules_scale.stages.language_model import (
    LABELLING,
    Encode,
    LabelEncoder,
    LanguageModel,
    prompt_style,
)
from hercules_scale.stages.level_choice import Level
from hercules_scale.stages.numeric_statistics import Statistics, statistics_of
from hercules_scale.stages.prompt_facts import (
    FactsSource,
    ancestors,
    cluster_facts,
    facts_source,
    labelled_files,
    siblings,
)
from hercules_scale.stages.read import run_moments
from hercules_scale.storage import layout, schemas
from hercules_scale.storage.commits import Commit, read_commits, write_commit
from hercules_scale.storage.stored_models import local_model
from hercules_scale.storage.tables import (
    FileRecord,
    column_vectors,
    read_tables,
    vector_column,
    write_table,
)
from hercules_scale.summarization.chat import Model
from hercules_scale.summarization.grounding import Grounding
from hercules_scale.summarization.label_choice import label_accuracy
from hercules_scale.summarization.labeller import Labeller
from hercules_scale.summarization.ledger import Ledger
from hercules_scale.summarization.model_calls import Asker
from hercules_scale.summarization.parent_titles import Parts
from hercules_scale.summarization.prompts import Message, build_messages
from hercules_scale.summarization.tokens import EstimatedTokens, ModelTokens, Tokens

LABELLED = "summaries"
# An alarm is raised if the model gave a smaller share of the titles.
FEW_BY_MODEL = 0.5

_SUMMARY_SCHEMA = pa.schema([("level", pa.int16()), ("cluster_id", pa.int32()), *schemas.LABEL])


@dataclass(frozen=True)
class Summaries(Product):
    """Result of summarising.

    Attributes:
        table: One row per cluster, in the order of the clusters.
        embeddings: Vectors of "title. description" in the same order, shape (n, d).
        calls: Files of the table ``llm_calls``.
        items: Items that labels are measured on.
        measured: Metrics of each level that were measured while it was labelled.
    """

    table: pa.Table
    embeddings: Float32
    calls: list[FileRecord]
    items: LabelItems
    measured: list[Measured]

    @property
    def tables(self) -> dict[str, list[FileRecord]]:
        """Files of the table ``llm_calls``."""
        return {"llm_calls": self.calls}

    @property
    def record(self) -> dict[str, Any]:
        """Numbers of clusters by status and by source of the title."""
        names = ("summary_status", "summary_source")
        counts = {name: pc.value_counts(self.table[name]).to_pylist() for name in names}
        return {
            name: {pair["values"]: pair["counts"] for pair in pairs}
            for name, pairs in counts.items()
        }


def summarize_clusters(
    context: RunContext,
    descriptions: Descriptions,
    clustering: Clustering,
    statistics: Statistics,
    model: LanguageModel,
    encoder: LabelEncoder,
) -> Summaries:
    """Give every cluster a title, a description and a status; then close the encoder of labels.

    Args:
        context: The run.
        descriptions: Items that prompts show, and the tokens that were spent on them.
        clustering: Clusters of the run.
        statistics: Their statistics.
        model: The language model.
        encoder: Encoder of labels.

    Raises:
        StageError: The model does not start or does not answer at all, or the budget is spent.
    """
    shards = descriptions.shards
    source = facts_source(context, shards, clustering, statistics)
    items = draw_label_items(context, shards, clustering)
    levels = range(1, clustering.n_levels + 1)
    done = done_shards(context, LABELLING)
    todo = [level for level in levels if level not in done]
    n_before = sum(clustering.level(level).num_rows for level in done)
    n_clusters = clustering.clusters.num_rows
    with context.reporter.stage(LABELLING, n_clusters, "clusters", n_before) as progress:
        if todo:
            with model.open() as opened:
                spent, encode = descriptions.spent, encoder.encode
                work = _Work(context, shards, clustering, source, items, encode, spent)
                run_coroutine(_label_levels(work, todo, opened, progress))
        files = labelled_files(context)
        table = read_tables(context.store, [files[level] for level in levels])
        by_model = pc.sum(pc.equal(table["summary_source"], "model")).as_py()
        n_shown = pc.sum(pc.not_equal(table["summary_source"], schemas.WITHHELD)).as_py()
        progress.note = f", {by_model:,} titles by the model"
    encoder.close()
    asked = context.config.summaries.engine != "keyphrases"
    if asked and by_model < FEW_BY_MODEL * n_shown:
        context.reporter.alarm(
            f"only {by_model:,} of {n_shown:,} titles are the model's, the others are key phrases "
            "or titles of parts; summary_error of the table clusters has the reasons"
        )
    commits = read_commits(context.store, LABELLING, context.fingerprint)
    return Summaries(
        table.drop_columns(["embedding"]),
        column_vectors(table["embedding"]),
        [commit.files[1] for commit in commits.values()],
        items,
        measured_labels(context),
    )


def measured_labels(context: RunContext) -> list[Measured]:
    """Return the metrics of each labelled level: groundedness and topic alignment."""
    commits = read_commits(context.store, LABELLING, context.fingerprint)
    return [
        {name: (value, n) for name, (value, n) in commit.info.get("measured", {}).items()}
        for commit in commits.values()
    ]


@dataclass(frozen=True)
class _Work:
    """Data that labels are made from."""

    context: RunContext
    shards: Shards
    clustering: Clusters
    source: FactsSource
    items: LabelItems
    encode: Encode
    spent: tuple[int, int]


async def _label_levels(
    work: _Work,
    levels: list[int],
    model: Model | None,
    progress: StageProgress,
) -> None:
    """Label level by level in one event loop, since connections belong to it."""
    context = work.context
    ledger = Ledger(context.store)
    ledger.on_call = call_recorder(context.reporter.measure, LABELLING)
    labeller = None
    if model is not None:
        config = context.config.summaries
        style = prompt_style(context, model.tokens, work.clustering.n_levels)
        asker = Asker(model, ledger, config, style, work.spent)
        seed = context.config.hierarchy.seed
        labeller = Labeller(asker, config, style, seed, lambda: progress.advance(1))
    try:
        for number in levels:
            level = _level(work, number)
            with nullcontext() if labeller is None else asker.reporting(progress):
                labels = await label_level(level, labeller)
            _commit_level(work, number, level, labels, ledger)
            n_asked = sum(map(is_asked_about, level.facts))
            progress.advance(len(level.facts) - (n_asked if labeller is not None else 0))
            n_wordless = sum(each.wordless and not each.withheld for each in level.facts)
            if labeller is not None and n_wordless:
                context.reporter.alarm(
                    f"level {number}: the model was not asked about {n_wordless:,} of "
                    f"{len(level.facts):,} clusters, since {WORDLESS}"
                )
    finally:
        if model is not None:
            await model.client.close()


def _level(work: _Work, number: int) -> Level:
    """Return the clusters of a level, and the data for choosing their labels."""
    context, config = work.context, work.context.config.summaries
    facts = cluster_facts(context, work.shards, work.clustering, work.source, number)
    of_leaves = ancestors(work.clustering, number)
    said = work.source.said_words(work.clustering, number)
    # A label in another language does not share its words with the items.
    grounding = None
    if said is not None and config.language is None:
        grounding = Grounding(said, facts, work.encode)
    shared, criterion = context.config.labels_share_space, context.config.criterion
    return Level(
        facts,
        siblings(work.clustering, number),
        work.items.of_level(of_leaves).to_choose if shared else None,
        _parts(work, number) if shared and number > 1 else None,
        grounding,
        work.encode,
        work.encode([criterion])[0] if criterion else None,
        config.candidates,
        config.prompt_size == "large",
    )


def _parts(work: _Work, number: int) -> Parts:
    """Return the clusters below those of a level."""
    below = work.clustering.level(number - 1)
    items = work.items.of_level(ancestors(work.clustering, number - 1)).to_choose
    return Parts(
        items.means(below.num_rows, items.vectors.shape[1]),
        below["parent_cluster_id"].to_numpy(),
        below["n_items"].to_numpy(),
    )


def prompt_of(
    context: RunContext, shards: Shards, clustering: Clusters, level: int, cluster_id: int
) -> tuple[list[Message], int]:
    """Return the messages that ask about one cluster, and their number of tokens.

    Raises:
        InputError: The level below has no titles yet, or the cluster is withheld from the model.
    """
    config = context.config.summaries
    below = level - 1
    if below and below not in labelled_files(context):
        raise InputError(
            f"{context.store.uri}: prompts of level {level} show the titles of level {below}, "
            "which the run does not have yet; look at level 1, or run it on"
        )
    moments = run_moments(context)
    statistics = statistics_of(context, shards, clustering, moments)
    source = facts_source(context, shards, clustering, statistics)
    facts = cluster_facts(context, shards, clustering, source, level)[cluster_id]
    if facts.withheld:
        raise InputError(
            f"{context.store.uri}: the model is asked nothing about {facts.name}, which has "
            f"{facts.withheld}"
        )
    tokens: Tokens = EstimatedTokens()
    if config.engine == "vllm":
        tokens = ModelTokens(
            local_model(resolve_chat_model(config.model), context.store.options, with_weights=False)
        )
    style = prompt_style(context, tokens, clustering.n_levels)
    messages = build_messages(facts, style)
    return messages, style.count(messages)


def _commit_level(work: _Work, number: int, level: Level, labels: Labels, ledger: Ledger) -> None:
    """Write the summaries and calls of one level, then its commit record."""
    context = work.context
    scores = np.full(len(labels.summaries), np.nan)
    if level.items is not None:
        scores = label_accuracy(labels.vectors, level.items, level.groups)
    rows = [
        {
            "level": number,
            "cluster_id": each.cluster_id,
            "title": summary.title,
            "description": summary.description,
            "summary_status": summary.status,
            "summary_error": summary.error,
            "summary_source": summary.source,
            "summary_score": None if np.isnan(score) else float(score),
            "groundedness": None if np.isnan(share) else float(share),
            "keyphrases": each.keyphrases,
        }
        for each, summary, score, share in zip(
            level.facts, labels.summaries, scores, labels.groundedness[:, 2], strict=True
        )
    ]
    table = pa.Table.from_pylist(rows, _SUMMARY_SCHEMA)
    table = table.append_column("embedding", vector_column(labels.vectors))
    own = sorted(
        (call for call in ledger.calls if call.level == number),
        key=lambda call: (call.cluster_id is None, call.cluster_id or 0, call.attempt),
    )
    calls = pa.Table.from_pylist([asdict(call) for call in own], schemas.LLM_CALLS)
    # The owner is in the names, since another owner's model may have answered otherwise.
    owner = None if context.config.summaries.engine == "keyphrases" else context.store.owner
    files = [
        write_table(context.store, layout.work_part(LABELLED, number, owner), table),
        write_table(context.store, layout.part("llm_calls", number, owner), calls),
    ]
    measured = groundedness_metrics(labels.groundedness)
    if level.criterion is not None:
        alignment = float((labels.vectors @ level.criterion).mean())
        measured["topic_alignment"] = (alignment, len(level.groups))
    info = {"measured": measured}
    write_commit(context.store, LABELLING, Commit(number, context.fingerprint, files, info))
