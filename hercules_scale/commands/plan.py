"""Estimate of a run's tokens, time, memory and cost, before it starts.

Rates of encoders are measured on a sample of the input; rates of the language model come from
``docs/benchmarks.md``.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass

import joblib
import pyarrow as pa

from hercules_scale.clustering.choose_k import check_score, k_range, largest_counts
from hercules_scale.clustering.tiles import TILE_ROWS
from hercules_scale.config.resolved import ResolvedConfig
from hercules_scale.config.run import RunConfig
from hercules_scale.config.summaries import SummariesConfig
from hercules_scale.errors import InputError
from hercules_scale.jobs.criteria import most_calls, tree_configs
from hercules_scale.jobs.disk_space import check_space
from hercules_scale.jobs.preflight import check
from hercules_scale.reading.file_rows import estimate_rows
from hercules_scale.reading.items import Layout, read_piece
from hercules_scale.reading.numbers_in_words import verbalise_rows
from hercules_scale.reading.sources import SourceFile
from hercules_scale.reading.survey import Survey
from hercules_scale.runtime.machines import check_nodes, find_machines, fit
from hercules_scale.runtime.ray_session import local_or_cluster_ray
from hercules_scale.runtime.resources import (
    Machines,
    Node,
    describe_resources,
    pools_of,
)
from hercules_scale.sanitize import printable, without_secrets
from hercules_scale.stages.encoders import load_encoder, load_image_encoder, open_endpoint
from hercules_scale.stages.read import listed_reasons
from hercules_scale.storage.store import Store
from hercules_scale.summarization.prompts import PromptStyle, fixed_messages
from hercules_scale.summarization.tokens import EstimatedTokens

SAMPLE_TEXTS, SAMPLE_IMAGES = 128, 32
# Largest input that is read to count its rows.
SMALL_BYTES = 8 * 2**20
# SmolLM2-135M in vLLM on two cores: seconds until the replica answers, tokens per second.
LLM_START_SECONDS, LLM_PROMPT_RATE, LLM_ANSWER_RATE = 90, 660, 86
ANSWER_TOKENS = 65
# Devices of NVIDIA's and AMD's drivers, and of GPUs in the Windows Subsystem for Linux.
DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
FACTS_TOKENS = 60
CHILDREN_TOKENS = 120
CONTRAST_TOKENS = 12


@dataclass(frozen=True)
class _Sample:
    """Items from the beginning of the input.

    Attributes:
        items: Items as the scan stores them.
        words: Text of each item, or a numeric item in words; empty texts for other items.
        n_rows: Rows of the input; None unless all were read.
        dimension: Length of vectors in the input, or number of numeric columns.
        warnings: Warnings about rows that cannot be used and values that look wrong.
    """

    items: pa.Table
    words: list[str]
    n_rows: int | None
    dimension: int
    warnings: list[str]


def make_plan(config: RunConfig) -> str:
    """Check the configuration, the input and the output, and estimate the run.

    Returns:
        Lines for a terminal.

    Raises:
        HerculesScaleError: The run itself would raise it.
    """
    if config.criteria:
        return _plan_of_criteria(config)
    config, sources, taken = check(config)
    sample = _sample(config, taken)
    n_rows, counted = taken.n_rows if sample.n_rows is None else sample.n_rows, True
    if n_rows is None:
        n_rows, counted = estimate_rows(config.input, sources), False
    levels, described = _levels(config, n_rows, counted)
    if levels[0] > n_rows and counted:
        raise InputError(
            f"hierarchy.levels asks for {levels[0]:,} clusters at level 1, but the input has "
            f"{n_rows:,} rows; give at most that many"
        )
    dimension, embedding = _embedding(config, sample, n_rows)
    tile = TILE_ROWS * dimension * 4
    centroids = 12 * levels[0] * dimension
    tokens_per_item = sum(map(EstimatedTokens().count, sample.words)) / len(sample.words)
    lines = [
        *(printable(line) for line in taken.lines),
        *([] if taken.n_rows else [f"input: {'' if counted else 'about '}{n_rows:,} rows"]),
        *(f"input: {printable(each)}" for each in (*taken.alarms, *sample.warnings)),
        f"embedding: {embedding}",
        f"clusters per level: {described}",
        f"memory: {n_rows * dimension * 4 / 2**20:,.0f} MiB of temporary disk for vectors, "
        f"{(3 * tile + centroids) / 2**20:,.0f} MiB for a tile and the centroids",
        *_language_model(config, levels, n_rows, tokens_per_item),
        f"disk: at least {check_space(config, sources, n_rows, dimension)}",
        f"resources: {_resources(config, sources)}",
        f"output: {config.output.path}, can be written",
    ]
    return "\n".join(lines)


def _plan_of_criteria(config: RunConfig) -> str:
    """Return the plan of one tree, after a line about all of them."""
    trees, names = tree_configs(config, {}), ", ".join(config.criteria)
    calls = most_calls(config)
    proposed = f"at most {calls:,} calls propose words" if calls else "all words are given"
    line = (
        f"criteria: {len(trees):,} trees over one embedding ({names}); {proposed}; the items are "
        "embedded once, and the rest of this plan is of each tree"
    )
    return "\n".join([line, make_plan(next(iter(trees.values())))])


def _resources(config: ResolvedConfig, sources: list[SourceFile]) -> str:
    """Return the resources of each stage, on the cluster at RAY_ADDRESS or on this machine.

    Raises:
        InputError: The cluster lacks resources, or a node lacks files or models.
    """
    if not os.environ.get("RAY_ADDRESS"):
        machines = Machines.of([Node(joblib.cpu_count(), _count_gpus())])
        return f"{describe_resources(config, machines)}; as many logical CPUs as asked for"
    with local_or_cluster_ray(config):
        machines = find_machines()
        config, n_gpus, notes = fit(config, machines)
        check_nodes(
            config, Store(config.output.path, config.storage), sources, pools_of(config, n_gpus)
        )
    return "; ".join([describe_resources(config, machines), *notes])


def _count_gpus() -> int:
    """Return the number of GPUs that PyTorch sees; without a driver it is not imported."""
    if not any(map(os.path.exists, DRIVERS)):
        return 0
    import torch

    return torch.cuda.device_count()


def _embedding(config: ResolvedConfig, sample: _Sample, n_rows: int) -> tuple[int, str]:
    """Return the length of the vectors, and a description with rates measured on the sample."""
    modality, workers = config.input.modality, config.resources.embed_workers
    by_text = config.labels_share_space
    if not by_text and modality != "image":
        made = "standardised variables" if modality == "numeric" else "vectors of the input"
        return sample.dimension, f"{made}, {sample.dimension} dimensions"
    if config.embeds_at_endpoint:
        return _at_endpoint(config, sample, n_rows)
    import torch

    torch.set_num_threads(1)  # the number of threads of a worker
    n_sampled = len(sample.words)
    if by_text:
        encoder = load_encoder(config.text_embedding, config.storage)
        n_units, unit = int(encoder.count_tokens(sample.words).sum()), "tokens"
        name = config.text_embedding.model
        dimension = encoder.dimension
        started = time.monotonic()
        encoder.encode(sample.words)
    else:
        images = load_image_encoder(config.image_embedding, config.storage)
        n_units, unit = n_sampled, "images"
        name = config.image_embedding.model
        dimension = images.dimension
        started = time.monotonic()
        images.encode(sample.items["thumbnail"].to_pylist())
    rate = n_units / (time.monotonic() - started)
    total = n_units * n_rows // n_sampled
    seconds = total / (rate * workers)
    return dimension, (
        f"{name}, {dimension} dimensions, about {total:,} {unit}; {_duration(seconds)} on "
        f"{workers} workers ({rate:,.0f} {unit}/s each, measured here)"
    )


def _at_endpoint(config: ResolvedConfig, sample: _Sample, n_rows: int) -> tuple[int, str]:
    """Return the length of the endpoint's vectors, and a description with tokens and cost."""
    encoder, price = open_endpoint(config.text_embedding), config.embedding.price
    total = int(encoder.count_tokens(sample.words).sum()) * n_rows // len(sample.words)
    cost = "" if price is None else f", about {total * price / 1e6:,.4f} at the price given"
    return encoder.dimension, (
        f"{config.text_embedding.model} at {without_secrets(encoder.url)}, {encoder.dimension} "
        f"dimensions, about {total:,} tokens{cost}"
    )


def _levels(config: ResolvedConfig, n_rows: int, counted: bool) -> tuple[list[int], str]:
    """Return the clusters per level, upper bounds with ``levels: auto``, and a description."""
    hierarchy = config.hierarchy
    if isinstance(hierarchy.levels, list):
        return hierarchy.levels, str(hierarchy.levels)
    if counted:
        check_score(hierarchy, n_rows)
    smallest, largest = k_range(n_rows, 1, hierarchy.max_k)
    return largest_counts(n_rows, hierarchy.max_k), (
        f"chosen from the data by {hierarchy.k_score}, from {smallest:,} to {largest:,} at level 1"
    )


def _sample(config: ResolvedConfig, taken: Survey) -> _Sample:
    """Return usable items from the beginning of the input."""
    of_items = Layout.of(taken)
    n_wanted = SAMPLE_IMAGES if of_items.columns.modality == "image" else SAMPLE_TEXTS
    parts: list[pa.Table] = []
    warnings: list[str] = []
    reasons: Counter[str] = Counter()
    n_seen = n_items = 0
    whole = of_items.columns.modality != "image" and taken.size_bytes <= SMALL_BYTES
    batches = (
        batch
        for piece in taken.pieces
        for batch in read_piece(config.input, of_items, piece, warnings)
    )
    for batch in batches:
        if n_items < n_wanted:
            parts.append(batch.items)
        n_seen += batch.n_rows
        n_items += batch.items.num_rows
        reasons.update(batch.rejected["reason"].to_pylist())
        if n_items >= n_wanted and not whole:
            break
    else:
        whole = True
    items = pa.concat_tables([of_items.schema.empty_table(), *parts]).slice(0, n_wanted)
    if not n_seen:
        raise InputError("input.path: the input holds no row; give files with at least one")
    if not items.num_rows:
        raise InputError("input.path: the first rows hold no item that can be used; check columns")
    columns = of_items.columns
    if columns.text:
        words = items["text"].to_pylist()
    elif columns.modality == "numeric":
        words = verbalise_rows(items, columns.numbers, config.input.metadata)
    else:
        words = [""] * items.num_rows
    dimension = of_items.dimension or len(columns.numbers)
    if reasons:
        listed = listed_reasons(reasons, n_most=5)
        seen = f"{n_seen:,} rows" if whole else f"the first {n_seen:,} rows"
        rejected = f"of {seen} {reasons.total():,} cannot be used: {listed}"
        warnings.insert(0, rejected)
    return _Sample(items, words, n_seen if whole else None, dimension, warnings)


def _fixed_tokens(summaries: SummariesConfig, of_item: bool) -> int:
    style = PromptStyle(
        EstimatedTokens(), summaries.max_prompt_tokens, 96, size=summaries.prompt_size
    )
    messages = fixed_messages(style, of_item)
    return sum(EstimatedTokens().count(message["content"]) for message in messages)


def _language_model(
    config: ResolvedConfig, levels: list[int], n_rows: int, tokens_per_item: float
) -> list[str]:
    summaries = config.summaries
    if summaries.engine == "keyphrases":
        return ["language model: none, titles are key phrases"]
    fixed = _fixed_tokens(summaries, of_item=False)
    shown = summaries.exemplars * min(tokens_per_item, summaries.exemplar_tokens)
    contrast = CONTRAST_TOKENS * summaries.contrast
    finest = min(fixed + shown + FACTS_TOKENS + contrast, summaries.max_prompt_tokens)
    upper = min(finest + CHILDREN_TOKENS, summaries.max_prompt_tokens)
    n_clusters = sum(levels)
    prompt = int(levels[0] * finest + sum(levels[1:]) * upper)
    answer = n_clusters * ANSWER_TOKENS * summaries.candidates
    n_calls = -(-n_clusters // summaries.clusters_per_request)
    if config.describes_items:
        of_item = min(
            _fixed_tokens(summaries, of_item=True) + tokens_per_item, summaries.max_prompt_tokens
        )
        n_calls += -(-n_rows // summaries.clusters_per_request)
        prompt += int(n_rows * of_item)
        answer += n_rows * ANSWER_TOKENS
    about = "at most about" if config.hierarchy.levels == "auto" else "about"
    line = (
        f"language model: {summaries.model}, {about} {n_calls:,} calls, {prompt:,} prompt and "
        f"{answer:,} generated tokens"
    )
    if summaries.engine == "vllm":
        seconds = LLM_START_SECONDS + prompt / LLM_PROMPT_RATE + answer / LLM_ANSWER_RATE
        line += f"; {_duration(seconds)} with SmolLM2-135M on 2 cores"
    lines = [line]
    if summaries.price:
        cost = summaries.price.of(prompt, answer)
        lines.append(f"cost: {about} {cost:,.4f} at the price given")
    return lines


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"about {seconds:.0f} s"
    if seconds < 7200:
        return f"about {seconds / 60:.0f} min"
    return f"about {seconds / 3600:.1f} h"
