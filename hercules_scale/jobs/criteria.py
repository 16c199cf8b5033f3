"""Trees by several criteria over one embedding, each a run with a folder of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict

import pyarrow as pa

from hercules_scale.config.run import RunConfig
from hercules_scale.errors import StageError
from hercules_scale.jobs.cluster import run
from hercules_scale.jobs.preflight import check
from hercules_scale.runtime.context import RunContext
from hercules_scale.runtime.event_loop import run_coroutine
from hercules_scale.runtime.machines import take_resources
from hercules_scale.runtime.progress import Reporter
from hercules_scale.runtime.ray_session import local_or_cluster_ray
from hercules_scale.stages.judge import ATTEMPTS, Questions
from hercules_scale.stages.language_model import open_model, probe_endpoint, prompt_style
from hercules_scale.storage import layout, schemas
from hercules_scale.storage.json_records import to_json
from hercules_scale.storage.lock import hold_lock
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import write_table
from hercules_scale.summarization.chat import Model
from hercules_scale.summarization.criterion_words import (
    ANSWER_TOKENS,
    read_words,
    word_messages,
    word_schema,
)
from hercules_scale.summarization.ledger import Ledger
from hercules_scale.summarization.model_calls import Asker

STAGE = "criteria"
# File of the proposed words by criterion, and folder of the vectors that the trees share.
WORDS, VECTORS = "criterion_words.json", "vectors"
# Times that the model is asked for words of a criterion, the later times for other words.
ROUNDS = 2
# Words that stand in for those that are not proposed yet, where only their being there counts.
_UNKNOWN = ["a", "b", "c"]


def tree_configs(config: RunConfig, words: Mapping[str, list[str]]) -> dict[str, RunConfig]:
    """Return the configuration of each tree, by the name of its criterion.

    Args:
        config: A configuration with ``criteria``.
        words: Proposed words, by the sentence of their criterion.
    """
    root = config.output.path.rstrip("/")
    cache = config.embedding.cache or f"{root}/{VECTORS}"
    trees = {}
    for name, each in config.criteria.items():
        own = {
            "criterion": each.criterion,
            "criterion_words": each.words or words.get(each.criterion, _UNKNOWN),
        }
        sections = {
            "criteria": {},
            "hierarchy": config.hierarchy.model_copy(update=own),
            "embedding": config.embedding.model_copy(update={"cache": cache}),
            "output": config.output.model_copy(update={"path": f"{root}/{name}"}),
        }
        trees[name] = config.model_copy(update=sections)
    return trees


def unanswered(config: RunConfig) -> list[str]:
    """Return the criteria that the language model proposes words for."""
    return [each.criterion for each in config.criteria.values() if each.words is None]


def most_calls(config: RunConfig) -> int:
    """Return the largest number of calls that propose words."""
    return len(unanswered(config)) * ROUNDS * ATTEMPTS


def run_criteria(
    config: RunConfig, reporter: Reporter | None = None
) -> Iterator[tuple[str, Store]]:
    """Build the tree of each criterion, or what is left of it, and yield its name and output.

    Args:
        config: A configuration with ``criteria``.
        reporter: Shows progress; by default on the terminal.

    Raises:
        HerculesScaleError: A run failed, or the model proposes too few words; the type tells the
            kind of failure. Run again, it resumes.
    """
    reporter = reporter or Reporter()
    for tree in tree_configs(config, {}).values():
        check(tree)
    store = Store(config.output.path, config.storage)
    words = _words(config, store, reporter)
    trees = tree_configs(config, words)
    for name, tree in trees.items():
        reporter.say(f"criterion {name}: {config.criteria[name].criterion}")
        yield name, run(tree, reporter)
    if config.embedding.cache is None:
        store.delete_files(VECTORS)


def _words(config: RunConfig, store: Store, reporter: Reporter) -> dict[str, list[str]]:
    """Return the proposed words by criterion, and keep them in the output."""
    known: dict[str, list[str]] = {}
    if store.exists(WORDS):
        known = json.loads(store.read_bytes(WORDS))
    wanted = [criterion for criterion in unanswered(config) if criterion not in known]
    if wanted:
        with hold_lock(store, reporter.alarm) as lock:
            known |= _propose(config, lock.store, wanted, reporter)
            lock.store.write_bytes(WORDS, to_json(known))
        for criterion in wanted:
            reporter.say(
                f"words of the criterion {criterion!r}: {', '.join(known[criterion])}; where they "
                "miss what the items say, give criteria with words, and another output"
            )
    return known


def _propose(
    config: RunConfig, store: Store, criteria: list[str], reporter: Reporter
) -> dict[str, list[str]]:
    """Ask the language model for words, and write the calls into the table ``llm_calls``.

    Raises:
        StageError: The model gives no usable answer.
    """
    resolved, _, _ = check(next(iter(tree_configs(config, {}).values())))
    ledger = Ledger(store, STAGE)
    summaries = resolved.summaries
    found: dict[str, list[str]] = {}

    async def ask(model: Model, context: RunContext) -> None:
        asker = Asker(model, ledger, summaries, prompt_style(context, model.tokens), stage=STAGE)
        stage = reporter.stage(STAGE, len(criteria) * ROUNDS, "questions")
        try:
            with stage as progress, asker.reporting(progress):
                questions = Questions(asker, progress.advance)
                asked = (_ask(questions, criterion, context) for criterion in criteria)
                found.update(zip(criteria, await asyncio.gather(*asked), strict=True))
        finally:
            await model.client.close()

    with local_or_cluster_ray(resolved, reporter.say):
        context = take_resources(RunContext(resolved, store, STAGE, reporter), labels=False)
        if summaries.engine == "openai":
            context = probe_endpoint(context)
        with open_model(context) as model:
            assert model is not None
            run_coroutine(ask(model, context))
    rows = [asdict(call) for call in ledger.calls]
    calls = pa.Table.from_pylist(rows, schemas.LLM_CALLS)
    write_table(store, layout.part("llm_calls", 0, store.owner), calls)
    return found


async def _ask(questions: Questions, criterion: str, context: RunContext) -> list[str]:
    """Return the words that the model proposes for one criterion."""
    summaries = context.config.summaries
    words: dict[str, str] = {}
    for _ in range(ROUNDS):
        messages = word_messages(
            criterion, list(words.values()), summaries.language, summaries.instructions
        )
        answer = await questions.ask(messages, word_schema(), ANSWER_TOKENS, read_words)
        words |= {each.casefold(): each for each in answer or ()}
    if not words:
        raise StageError(
            f"{summaries.model} proposes no words for the criterion {criterion!r}; give them in "
            "criteria, as words, or take a larger model",
            stage=STAGE,
        )
    return list(words.values())
