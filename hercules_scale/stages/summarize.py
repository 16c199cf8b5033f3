"""Titles and descriptions of every cluster, level on level from the finest."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from numpy.typing import NDArray

from hercules_scale import schemas
from hercules_scale.clustering.assign import Float32, to_unit
from hercules_scale.config import EmbeddingConfig
from hercules_scale.errors import InputError
from hercules_scale.models import resolve_chat_model
from hercules_scale.progress import StageProgress
from hercules_scale.stages.cluster import Clustering
from hercules_scale.stages.context import RunContext, Shards
from hercules_scale.stages.embed import load_encoder
from hercules_scale.stages.event_loop import run_coroutine
from hercules_scale.stages.facts import (
    LABELLED,
    FactsSource,
    ancestors,
    cluster_facts,
    facts_source,
    siblings,
)
from hercules_scale.stages.label_items import LabelItems, draw_label_items
from hercules_scale.stages.metrics import call_recorder
from hercules_scale.stages.read import run_moments
from hercules_scale.stages.shards import done_shards
from hercules_scale.stages.statistics import Statistics, measure_statistics
from hercules_scale.storage import layout
from hercules_scale.storage.manifest import Commit, read_commits, write_commit
from hercules_scale.storage.tables import (
    FileRecord,
    column_vectors,
    read_tables,
    vector_column,
    write_table,
)
from hercules_scale.summarization import clients
from hercules_scale.summarization.asking import Asker
from hercules_scale.summarization.chat import Model
from hercules_scale.summarization.choosing import (
    Items,
    choose_labels,
    label_accuracy,
    reading_penalty,
)
from hercules_scale.summarization.clients import OpenAIClient
from hercules_scale.summarization.dialect import Dialect
from hercules_scale.summarization.distinct import alike_titles, told_apart
from hercules_scale.summarization.function import function_model
from hercules_scale.summarization.label import Candidates, Labeller
from hercules_scale.summarization.ledger import Ledger
from hercules_scale.summarization.parsing import (
    Summary,
    summary_from_keyphrases,
    withheld_summary,
)
from hercules_scale.summarization.prompts import (
    ClusterFacts,
    EstimatedTokens,
    Message,
    ModelTokens,
    PromptLimits,
    Tokens,
    build_messages,
)

STAGE = "summarize"
# What a badly reading title is held to cost, in nats of the mean log-likelihood of its items.
READING_WEIGHT = 1.0

# How far the encoder of labels stands back for other processes.
NICE = 10
# Reasons why no answer of a model was used.
NO_MODEL = "no model was asked (summaries.engine keyphrases)"
WORDLESS = (
    "their items have no words; name input.text_column, an input.id_column that says something, or "
    "for images summaries.show_images"
)
TITLE_LOST = "the title is from key phrases: it fits the items better than the model's titles"
DESCRIPTION_LOST = (
    "the description is from key phrases: it fits the items better than the model's descriptions"
)
# Share of titles below which a person who asked a model must hear of it.
FEW_BY_MODEL = 0.5
# Statistics of a cluster that its label is compared with, the most telling ones.
STATISTICS_COMPARED = 8

_SUMMARY_SCHEMA = pa.schema(
    [
        ("level", pa.int16()),
        ("cluster_id", pa.int32()),
        ("title", pa.string()),
        ("description", pa.string()),
        ("summary_status", pa.string()),
        ("summary_error", pa.string()),
        ("summary_source", pa.string()),
        ("summary_score", pa.float32()),
        ("keyphrases", pa.list_(pa.string())),
    ]
)


Encode = Callable[[list[str]], Float32]


@dataclass(frozen=True)
class Summaries:
    """What summarising came to.

    Attributes:
        table: A row a cluster, in the order of the clusters.
        embeddings: Vectors of "title. description" in the same order, shape (n, d).
        calls: Files of the table ``llm_calls``.
        items: Items that labels are measured on.
        topic_alignment: Of each level, mean cosine of the labels to the topic; none without one.
    """

    table: pa.Table
    embeddings: Float32
    calls: list[FileRecord]
    items: LabelItems
    topic_alignment: list[float]


def summarize_clusters(
    context: RunContext,
    shards: Shards,
    clustering: Clustering,
    model: AbstractContextManager[Model | None],
    encode: Encode,
    spent: tuple[int, int] = (0, 0),
    statistics: Statistics | None = None,
) -> Summaries:
    """Give every cluster a title, a description and a status.

    Args:
        context: The run.
        shards: Its items.
        clustering: Its clusters.
        model: The language model, started where something is left to ask; see ``open_model``.
        encode: Embeds labels; see ``open_encoder``.
        spent: Prompt and completion tokens that the run has taken before.
        statistics: Figures of the clusters of numeric items.

    Raises:
        StageError: The model does not start or does not answer at all, or the budget is spent.
    """
    source = facts_source(context, shards, clustering, statistics)
    items = draw_label_items(context, shards, clustering)
    levels = range(1, clustering.n_levels + 1)
    done = done_shards(context, STAGE)
    todo = [level for level in levels if level not in done]
    n_before = sum(clustering.level(level).num_rows for level in done)
    n_clusters = clustering.clusters.num_rows
    with context.reporter.stage(STAGE, n_clusters, "clusters", n_before) as progress:
        if todo:
            with model as opened:
                work = _Work(context, shards, clustering, source, items, encode, spent)
                run_coroutine(_label_levels(work, todo, opened, progress))
        table = read_tables(context.store, [layout.work_part(LABELLED, level) for level in levels])
        by_model = pc.sum(pc.equal(table["summary_source"], "model")).as_py()
        progress.note = f", {by_model:,} titles by the model"
    asked = context.config.summaries.engine != "keyphrases"
    if asked and by_model < FEW_BY_MODEL * n_clusters:
        context.reporter.alarm(
            f"only {by_model:,} of {n_clusters:,} titles are the model's, the others are key "
            "phrases; summary_error of the table clusters has the reasons"
        )
    commits = read_commits(context.store, STAGE, context.fingerprint)
    return Summaries(
        table.drop_columns(["embedding"]),
        column_vectors(table["embedding"]),
        [commit.files[1] for commit in commits.values()],
        items,
        topic_alignment(context),
    )


def topic_alignment(context: RunContext) -> list[float]:
    """Of each level that is labelled, mean cosine of the labels to the topic; none without one."""
    commits = read_commits(context.store, STAGE, context.fingerprint)
    return [commit.info["topic"] for commit in commits.values() if "topic" in commit.info]


def probe_endpoint(context: RunContext) -> RunContext:
    """Ask the endpoint of a run one small question, before anything is written.

    Returns:
        The run with the part of the API that the endpoint takes.

    Raises:
        ConfigError: The endpoint refuses every form of the question, or does not answer.
    """

    async def probe() -> Dialect:
        client = OpenAIClient(context.config.summaries)
        try:
            await client.probe(context.reporter.say)
        finally:
            await client.close()
        return client.dialect

    return replace(context, dialect=run_coroutine(probe()))


@contextmanager
def open_model(context: RunContext, n_gpus: int) -> Iterator[Model | None]:
    """The model that a configuration names, ready to answer, and its tokenizer."""
    config = context.config
    if config.summaries.engine == "keyphrases":
        yield None
        return
    if config.summaries.engine == "openai":
        endpoint = OpenAIClient(config.summaries, context.dialect)
        yield Model(endpoint, EstimatedTokens(), clients.requests_in_flight(config.summaries))
        return
    if config.summaries.engine == "callable":
        yield function_model(context.functions.llm, config.summaries)
        return
    from hercules_scale.serving.vllm import requests_in_flight, serve_vllm

    source = resolve_chat_model(config.summaries.model)
    app = f"hercules_scale_{context.fingerprint}"
    with serve_vllm(config, source, n_gpus, app) as client:
        yield Model(client, ModelTokens(source), requests_in_flight(config, n_gpus))


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class _Encoder:
    """The model that embedded the items, for the few texts that labels are."""

    def __init__(self, config: EmbeddingConfig) -> None:
        # It is needed late, and what it is loaded beside is waited for.
        os.nice(NICE)
        self._encoder = load_encoder(config)

    def encode(self, texts: list[str]) -> Float32:
        return to_unit(self._encoder.encode(texts))


@contextmanager
def open_encoder(config: EmbeddingConfig) -> Iterator[Encode]:
    """Embeds texts in a process of its own, with vectors of unit length.

    It loads its model, which takes seconds, while the caller does other work.
    """
    actor = _Encoder.remote(config)  # type: ignore[attr-defined]
    try:
        yield lambda texts: np.asarray(ray.get(actor.encode.remote(texts)))
    finally:
        ray.kill(actor)


@dataclass(frozen=True)
class _Work:
    """What labels are made from."""

    context: RunContext
    shards: Shards
    clustering: Clustering
    source: FactsSource
    items: LabelItems
    encode: Encode
    spent: tuple[int, int]


@dataclass(frozen=True)
class _Level:
    """The clusters of one level, which of them are siblings, and items to choose labels by."""

    number: int
    facts: list[ClusterFacts]
    groups: list[NDArray[np.int64]]
    to_choose: Items


async def _label_levels(
    work: _Work,
    levels: list[int],
    model: Model | None,
    progress: StageProgress,
) -> None:
    """Label level on level; one event loop for all, since connections belong to it."""
    context = work.context
    ledger = Ledger(context.store)
    ledger.on_call = call_recorder(context.reporter.measure, STAGE)
    labeller = None
    if model is not None:
        config = context.config.summaries
        limits = prompt_limits(context, model.tokens)
        asker = Asker(model.client, ledger, config, limits, model.in_flight, work.spent)
        seed = context.config.hierarchy.seed
        labeller = Labeller(asker, config, limits, seed, lambda: progress.advance(1))
    try:
        for level in levels:
            facts = cluster_facts(context, work.shards, work.clustering, work.source, level)
            to_choose = work.items.of_level(ancestors(work.clustering, level)).to_choose
            of_level = _Level(level, facts, siblings(work.clustering, level), to_choose)
            found = {each.cluster_id: Candidates(problem=NO_MODEL) for each in facts}
            asked = [] if labeller is None else [each for each in facts if not _unasked(each)]
            if labeller is not None:
                for each in facts:
                    found[each.cluster_id].problem = _unasked(each)
                with asker.reporting(progress):
                    found |= await labeller.label(asked)
            labels = _choose(work, of_level, found)
            labels = await _tell_apart(work, of_level, labels, labeller)
            _commit_level(work, of_level, labels, ledger)
            progress.advance(len(facts) - len(asked))
            n_wordless = sum(each.wordless and not each.withheld for each in facts)
            if labeller is not None and n_wordless:
                context.reporter.alarm(
                    f"level {level}: the model was not asked about {n_wordless:,} of "
                    f"{len(facts):,} clusters, since {WORDLESS}"
                )
    finally:
        if model is not None:
            await model.client.close()


def _unasked(facts: ClusterFacts) -> str:
    """The reason why the model is not asked about a cluster; empty where it is."""
    return facts.withheld or (WORDLESS if facts.wordless else "")


def prompt_of(
    context: RunContext, shards: Shards, clustering: Clustering, level: int, cluster_id: int
) -> tuple[list[Message], int]:
    """The messages that ask about one cluster, and how many tokens they are.

    Raises:
        InputError: The level below has no titles yet, or the model is asked nothing about it.
    """
    config = context.config.summaries
    below = level - 1
    if below and below not in read_commits(context.store, STAGE, context.fingerprint):
        raise InputError(
            f"{context.store.uri}: prompts of level {level} show the titles of level {below}, "
            "which the run does not have yet; look at level 1, or run it on"
        )
    moments = run_moments(context)
    statistics = measure_statistics(context, shards, clustering, moments)
    source = facts_source(context, shards, clustering, statistics)
    facts = cluster_facts(context, shards, clustering, source, level)[cluster_id]
    if facts.withheld:
        raise InputError(
            f"{context.store.uri}: the model is asked nothing about {facts.name}, which has "
            f"{facts.withheld}"
        )
    tokens: Tokens = EstimatedTokens()
    if config.engine == "vllm":
        tokens = ModelTokens(resolve_chat_model(config.model))
    limits = prompt_limits(context, tokens)
    messages = build_messages(facts, config.topic, limits)
    return messages, limits.count(messages)


def prompt_limits(context: RunContext, tokens: Tokens) -> PromptLimits:
    """How long the prompts of a run may be."""
    config = context.config.summaries
    return PromptLimits(tokens, config.max_prompt_tokens, config.exemplar_tokens)


@dataclass(frozen=True)
class _Labels:
    """The labels of a level, by cluster."""

    summaries: list[Summary]
    vectors: Float32


def _choose(work: _Work, level: _Level, found: dict[int, Candidates]) -> _Labels:
    """Choose the best candidate of each cluster."""
    config, facts = work.context.config, level.facts
    options = label_options if config.labels_share_space else first_options
    several = config.summaries.candidates > 1
    candidates = [options(found[each.cluster_id], each, several) for each in facts]
    vectors = work.encode([label_text(each) for options in candidates for each in options])
    ends = np.cumsum([len(options) for options in candidates])
    by_cluster = np.split(vectors, ends[:-1])
    penalties = [
        READING_WEIGHT * np.array([reading_penalty(option, each) for option in options])
        for options, each in zip(candidates, facts, strict=True)
    ]
    items = level.to_choose
    if not config.labels_share_space:
        items = _texts_of(facts, work.encode, vectors.shape[1])
    chosen = choose_labels(by_cluster, penalties, items, level.groups)
    return _Labels(
        [options[index] for options, index in zip(candidates, chosen, strict=True)],
        np.stack([own[index] for own, index in zip(by_cluster, chosen, strict=True)]),
    )


def _texts_of(facts: list[ClusterFacts], encode: Encode, dimension: int) -> Items:
    """Texts about each cluster in the place of its items, embedded as labels are.

    Numbers, images and vectors of the user's are in another space than labels; their statistics,
    captions and texts are not.
    """
    texts = [
        [*each.own_texts, *each.statistics[:STATISTICS_COMPARED]] if not each.withheld else []
        for each in facts
    ]
    flat = [text for own in texts for text in own]
    labels = np.repeat(np.arange(len(facts)), [len(own) for own in texts])
    vectors = encode(flat) if flat else np.zeros((0, dimension), np.float32)
    return Items(vectors, labels, np.ones(len(flat)), np.arange(len(flat)))


def label_options(found: Candidates, facts: ClusterFacts, several: bool) -> list[Summary]:
    """Candidates for the label of a cluster of items that labels can be compared with.

    Args:
        found: Answers of the model.
        facts: The cluster.
        several: Whether there is a choice: of the model's titles and descriptions, and of key
            phrases in the place of either. Else the first answer is taken.
    """
    answers = first_options(found, facts, several)
    if not several or not found.summaries or facts.withheld:
        return answers
    phrases = summary_from_keyphrases(facts, f"{TITLE_LOST}; {DESCRIPTION_LOST}")
    return [
        *answers,
        *(
            replace(
                answer,
                description=phrases.description,
                description_source=phrases.source,
                error=DESCRIPTION_LOST,
            )
            for answer in answers
        ),
        *(
            replace(answer, title=phrases.title, source=phrases.source, error=TITLE_LOST)
            for answer in answers
        ),
        phrases,
    ]


def first_options(found: Candidates, facts: ClusterFacts, several: bool) -> list[Summary]:
    """Answers of the model about a cluster, or the one label that takes their place."""
    if facts.withheld:
        return [withheld_summary(facts)]
    if not found.summaries:
        return [summary_from_keyphrases(facts, found.problem)]
    return found.summaries if several else found.summaries[:1]


def label_text(summary: Summary) -> str:
    """What stands for a label when it is embedded."""
    return f"{summary.title}. {summary.description}"


async def _tell_apart(
    work: _Work, level: _Level, labels: _Labels, labeller: Labeller | None
) -> _Labels:
    """Labels of which no two siblings have the same title."""
    facts, groups = level.facts, level.groups
    summaries = list(labels.summaries)
    if labeller is not None:
        titles = [summary.title for summary in summaries]
        shown = np.array([not _unasked(each) for each in facts])
        alike = [same for group in groups for same in alike_titles(titles, group[shown[group]])]
        asked = [[(facts[each], titles[each]) for each in same] for same in alike]
        for answer in await labeller.rename(asked):
            for cluster, title in answer.items():
                old = summaries[cluster]
                error = None
                if old.description_source != "model":
                    error = (old.error or DESCRIPTION_LOST).removeprefix(f"{TITLE_LOST}; ")
                renamed = replace(old, title=title, source="model", error=error)
                if reading_penalty(renamed, facts[cluster]) <= reading_penalty(old, facts[cluster]):
                    summaries[cluster] = renamed
    titles = told_apart([summary.title for summary in summaries], facts, groups)
    summaries = [
        replace(summary, title=title) for summary, title in zip(summaries, titles, strict=True)
    ]
    changed = [
        index
        for index, (old, new) in enumerate(zip(labels.summaries, summaries, strict=True))
        if old != new
    ]
    vectors = labels.vectors.copy()
    if changed:
        vectors[changed] = work.encode([label_text(summaries[index]) for index in changed])
    return _Labels(summaries, vectors)


def _commit_level(work: _Work, of_level: _Level, labels: _Labels, ledger: Ledger) -> None:
    """Write the summaries and calls of one level, then its commit record."""
    context, level = work.context, of_level.number
    scores = np.full(len(labels.summaries), np.nan)
    if context.config.labels_share_space:
        scores = label_accuracy(labels.vectors, of_level.to_choose, of_level.groups)
    rows = [
        {
            "level": level,
            "cluster_id": each.cluster_id,
            "title": summary.title,
            "description": summary.description,
            "summary_status": summary.status,
            "summary_error": summary.error,
            "summary_source": summary.source,
            "summary_score": None if np.isnan(score) else float(score),
            "keyphrases": each.keyphrases,
        }
        for each, summary, score in zip(of_level.facts, labels.summaries, scores, strict=True)
    ]
    table = pa.Table.from_pylist(rows, _SUMMARY_SCHEMA)
    table = table.append_column("embedding", vector_column(labels.vectors))
    own = sorted(
        (call for call in ledger.calls if call.level == level),
        key=lambda call: (call.cluster_id is None, call.cluster_id or 0, call.attempt),
    )
    calls = pa.Table.from_pylist([asdict(call) for call in own], schemas.LLM_CALLS)
    files = [
        write_table(context.store, layout.work_part(LABELLED, level), table),
        write_table(context.store, layout.part("llm_calls", level), calls),
    ]
    info = {}
    if context.config.summaries.topic:
        topic = work.encode([context.config.summaries.topic])[0]
        info["topic"] = float((labels.vectors @ topic).mean())
    write_commit(context.store, STAGE, Commit(level, context.fingerprint, files, info))
