"""Judgement of a finished run's clusters by a language model: fit and codebook.

Items are drawn by row with one seed, so that runs over the same input are judged by the same items.
Calls have their own ledger, so that a judgement that was stopped resumes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from hercules_scale.clustering.nearest_centroids import Int64
from hercules_scale.config.reading import InputConfig
from hercules_scale.config.summaries import SummariesConfig
from hercules_scale.errors import InputError, SummaryError
from hercules_scale.evaluation import judge
from hercules_scale.evaluation.internal import Figure
from hercules_scale.evaluation.judge import Category, FitQuestion
from hercules_scale.reading.redact import redacted
from hercules_scale.runtime.context import RunContext, Shards
from hercules_scale.runtime.event_loop import run_coroutine
from hercules_scale.runtime.machines import take_resources
from hercules_scale.stages.cluster import Clusters
from hercules_scale.stages.language_model import open_model, probe_endpoint, prompt_style
from hercules_scale.stages.prompt_facts import ancestors, cells, siblings
from hercules_scale.stages.withheld_clusters import withheld_reasons
from hercules_scale.storage import layout, schemas
from hercules_scale.storage.tables import FileRecord, write_table
from hercules_scale.summarization.chat import (
    ChatReply,
    ChatRequest,
    ModelUnavailableError,
    RefusedRequestError,
)
from hercules_scale.summarization.ledger import Ledger
from hercules_scale.summarization.model_calls import Asker
from hercules_scale.summarization.prompts import Message, PromptStyle

STAGE = "judge"
SEED = 0
# Numbers of a judge's files of ``llm_calls`` begin here, after the files about clusters.
CALLS_FROM = 900
# Most tokens of an answer that is a choice, a codebook, or the categories of some items.
CHOICE_TOKENS, CODEBOOK_TOKENS, CODES_TOKENS = 24, 2_000, 640
ATTEMPTS = 3

T = TypeVar("T")


@dataclass(frozen=True)
class Judgement:
    """Questions to a model, and their criterion.

    Attributes:
        summaries: Engine, model and budget of the judge.
        criterion: One sentence that says how items differ.
        n_fit: Number of items in the questions of fit, at each level.
        n_shown: Number of items that the codebook is made from.
        n_coded: Number of items that are put into its categories.
    """

    summaries: SummariesConfig
    criterion: str = judge.CRITERION
    n_fit: int = 300
    n_shown: int = 300
    n_coded: int = 1_000


@dataclass(frozen=True)
class Judged:
    """Result of a judgement.

    Attributes:
        figures: Figures of each level.
        calls: File of the calls.
        notes: Reasons to doubt the figures, and the names of the codebook's categories.
    """

    figures: list[dict[str, Figure]]
    calls: FileRecord
    notes: list[str]


def check_judgement(own: InputConfig, judgement: Judgement) -> None:
    """Refuse a judgement that no model can make.

    Args:
        own: The section ``input`` of the run.
        judgement: The model, and the questions to it.

    Raises:
        InputError: The items have no words, or the engine asks no model.
    """
    engine = judgement.summaries.engine
    if engine not in ("vllm", "openai"):
        raise InputError(
            f"--judge needs a model, and the engine is {engine!r}; give --judge-engine vllm or "
            "openai, and --judge-model"
        )
    if own.modality in ("numeric", "embedding") and own.text_column is None:
        raise InputError(
            f"--judge reads items, and these of modality {own.modality} have no words; only runs "
            "of texts or of items with input.text_column can be judged"
        )


def judge_clusters(
    context: RunContext, shards: Shards, clustering: Clusters, judgement: Judgement, part: int
) -> Judged:
    """Ask a model about items of a finished run, on Ray.

    Args:
        context: The run.
        shards: Shards of the run's items.
        clustering: Clusters of the run, with titles.
        judgement: The model, and the questions to it.
        part: Number of the part of the table ``llm_calls`` that receives the calls.

    Raises:
        StageError: The model does not answer, or the budget is spent; answers so far are kept.
    """
    summaries = judgement.summaries
    config = context.config.model_copy(update={"summaries": summaries})
    context = take_resources(replace(context, config=config))
    if summaries.engine == "openai":
        context = probe_endpoint(context)
    work = Work(context, shards, clustering, judgement, Ledger(context.store, STAGE))
    with open_model(context) as model:
        assert model is not None
        style = prompt_style(context, model.tokens, clustering.n_levels)
        asker = Asker(model, work.ledger, summaries, style, stage=STAGE)

        async def ask() -> tuple[list[dict[str, Figure]], list[str]]:
            try:
                return await _judge(work, asker, style)
            finally:
                await model.client.close()

        figures, notes = run_coroutine(ask())
    calls = pa.Table.from_pylist([asdict(call) for call in work.ledger.calls], schemas.LLM_CALLS)
    name = layout.part("llm_calls", part, context.store.owner)
    file = write_table(context.store, name, calls)
    return Judged(figures, file, notes)


@dataclass(frozen=True)
class Work:
    """A finished run and the questions about it."""

    context: RunContext
    shards: Shards
    clustering: Clusters
    judgement: Judgement
    ledger: Ledger

    def leaves(self, rows: Int64) -> Int64:
        """Return the finest cluster of each of some items."""
        found = cells(self.context.store, self.shards, [rows.tolist()], "level_1", "memberships")
        return np.array([found[row] for row in rows.tolist()], np.int64)

    def texts(self, rows: Int64) -> list[str]:
        """Return the words of some items, as prompts may show them."""
        config = self.context.config
        found = cells(self.context.store, self.shards, [rows.tolist()], config.input.words_column)
        return redacted([found[row] for row in rows.tolist()], config.privacy.redact)


async def _judge(
    work: Work, asker: Asker, style: PromptStyle
) -> tuple[list[dict[str, Figure]], list[str]]:
    """Return the figures of each level, and notes about them."""
    judgement, clustering = work.judgement, work.clustering
    rows, leaves = draw_items(work)
    n_questions = clustering.n_levels * min(judgement.n_fit, len(rows)) + 1
    n_questions += -(-judgement.n_coded // judge.CODED_TOGETHER)
    stage = work.context.reporter.stage(STAGE, n_questions, "questions")
    with stage as progress, asker.reporting(progress):
        questions = Questions(asker, progress.advance)
        figures: list[dict[str, Figure]] = []
        drawn = slice(0, judgement.n_fit)
        texts = dict(zip(rows[drawn].tolist(), work.texts(rows[drawn]), strict=True))
        for level in range(1, clustering.n_levels + 1):
            labels = ancestors(clustering, level)[leaves].astype(np.int64)
            of_level = judge.fit_questions(
                rows[drawn], labels[drawn], siblings(clustering, level), level, SEED
            )
            titles = clustering.level(level)["title"].to_pylist()
            figures.append(
                await ask_fit(questions, of_level, texts, titles, judgement.criterion, style)
            )
        split = min(judgement.n_shown, len(rows) // 2)
        shown = work.texts(rows[:split])
        coded = slice(split, split + judgement.n_coded)
        codebook = await ask_codebook(questions, shown, judgement.criterion, style)
        if not codebook:
            notes = ["judge: the model gave no codebook that can be used; take a larger model"]
            return figures, notes
        codes = await ask_codes(questions, work.texts(rows[coded]), codebook, style)
        known = codes >= 0
        for level in range(1, clustering.n_levels + 1):
            labels = ancestors(clustering, level)[leaves[coded]].astype(np.int64)
            figures[level - 1] |= judge.codebook_figures(labels[known], codes[known])
        notes = judge.codebook_warnings(codes[known], codebook)
        notes.append("judge: the codebook has " + ", ".join(each.name for each in codebook))
    return figures, notes


def draw_items(work: Work) -> tuple[Int64, Int64]:
    """Draw items that a model may be asked about.

    Returns:
        Rows in the order of the questions, and finest clusters, both of shape (n,).
    """
    judgement, n_items = work.judgement, work.shards.n_items
    wanted = max(judgement.n_fit, judgement.n_shown + judgement.n_coded)
    rng = np.random.default_rng(SEED)
    rows = rng.permutation(rng.choice(n_items, min(2 * wanted, n_items), replace=False))
    leaves = work.leaves(rows)
    withheld = withheld_reasons(work.context, work.shards, work.clustering)[0]
    may = np.array([not withheld[leaf] for leaf in leaves.tolist()], bool)
    return rows[may][:wanted], leaves[may][:wanted]


@dataclass(frozen=True)
class Questions:
    """Asks questions, and asks again with another seed if an answer is unusable."""

    asker: Asker
    advance: Callable[[int], object]

    async def ask(
        self,
        messages: list[Message],
        schema: dict[str, Any],
        n_tokens: int,
        read: Callable[[str], T],
    ) -> T | None:
        """Return the answer as ``read`` returns it; None if no answer is usable."""

        def read_first(reply: ChatReply) -> T:
            return read(reply.answers[0].text)

        try:
            for attempt in range(1, ATTEMPTS + 1):
                warm = 0.0 if attempt == 1 else 0.5
                request = ChatRequest(messages, schema, warm, n_tokens, SEED + attempt)
                try:
                    return await self.asker.ask(request, 0, None, attempt, read_first)
                except SummaryError:
                    continue
                except (ModelUnavailableError, RefusedRequestError):
                    await asyncio.sleep(attempt)
            return None
        finally:
            self.advance(1)


async def ask_fit(
    questions: Questions,
    of_level: list[FitQuestion],
    texts: dict[int, str],
    titles: Sequence[str],
    criterion: str,
    style: PromptStyle,
) -> dict[str, Figure]:
    """Ask which titles fit, and measure the answers."""
    answers = await asyncio.gather(
        *(
            questions.ask(
                question.messages(texts[question.row], titles, style, criterion),
                question.schema,
                CHOICE_TOKENS,
                question.read,
            )
            for question in of_level
        )
    )
    answered = {
        question: right
        for question, right in zip(of_level, answers, strict=True)
        if right is not None
    }
    return judge.fit_figures(list(answered), list(answered.values()))


async def ask_codebook(
    questions: Questions, texts: list[str], criterion: str, style: PromptStyle
) -> list[Category]:
    """Ask for a codebook; return an empty one if no answer is usable."""
    messages = judge.codebook_messages(texts, criterion, style)
    schema = judge.codebook_schema()
    found = await questions.ask(messages, schema, CODEBOOK_TOKENS, judge.read_codebook)
    return found or []


async def ask_codes(
    questions: Questions, texts: list[str], codebook: list[Category], style: PromptStyle
) -> Int64:
    """Return the category of each item, 0 for none and -1 where the model gave no answer."""
    parts = [
        texts[start : start + judge.CODED_TOGETHER]
        for start in range(0, len(texts), judge.CODED_TOGETHER)
    ]

    async def code(part: list[str]) -> list[int]:
        found = await questions.ask(
            judge.coding_messages(part, codebook, style),
            judge.coding_schema(len(part), codebook),
            CODES_TOKENS,
            lambda answer: judge.read_codes(answer, len(part), codebook),
        )
        return found or [-1] * len(part)

    codes = await asyncio.gather(*map(code, parts))
    return np.array([each for part in codes for each in part], np.int64)
