"""The table ``items``, with titles and descriptions by a language model if the user asks for them.

A model's answers are kept one by one in a ledger, in one event loop for all shards, so this stage
keeps its own commits; ``run_shards`` would ask about a whole shard again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from hercules_scale.reading.redact import redacted
from hercules_scale.runtime.context import RunContext, Shards
from hercules_scale.runtime.event_loop import run_coroutine
from hercules_scale.runtime.pipeline import Product
from hercules_scale.runtime.progress import StageProgress
from hercules_scale.runtime.prometheus import call_recorder
from hercules_scale.runtime.shard_tasks import ShardResult
from hercules_scale.runtime.shards import Stage, done_shards, run_shards
from hercules_scale.stages.language_model import LanguageModel, prompt_style
from hercules_scale.stages.read import Items
from hercules_scale.storage import layout, schemas
from hercules_scale.storage.commits import Commit, read_commits, write_commit
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import FileRecord, read_table, write_table
from hercules_scale.summarization.chat import Model
from hercules_scale.summarization.cluster_facts import ClusterFacts
from hercules_scale.summarization.labeller import Labeller
from hercules_scale.summarization.ledger import Ledger
from hercules_scale.summarization.model_calls import Asker

STAGE, PUT = "describe", "put_descriptions"
DESCRIBED = "described"
DESCRIBED_COLUMNS = ["title", "description"]
# Among the files of ``llm_calls``, calls about items follow the calls about clusters.
FIRST_CALLS_PART = 1_000


@dataclass(frozen=True)
class Descriptions(Product):
    """Items with titles and descriptions, from their own words or by a model.

    Attributes:
        shards: Shards of the items.
        files: Files of the table ``items``.
        calls: Files of the table ``llm_calls``; none if no model was asked.
        n_kept: Number of items that keep the title from their own text, since the model's answers
            were unusable.
        spent: Prompt and completion tokens.
    """

    shards: Shards
    files: list[FileRecord]
    calls: list[FileRecord] = field(default_factory=list)
    n_kept: int = 0
    spent: tuple[int, int] = (0, 0)

    @property
    def tables(self) -> dict[str, list[FileRecord]]:
        """Files of the table ``items``, and of ``llm_calls`` if a model was asked."""
        return {"items": self.files, **({"llm_calls": self.calls} if self.calls else {})}

    @property
    def record(self) -> dict[str, Any]:
        """Number of items that a model was asked about and that keep their own words."""
        return {"described_items": {"not_described": self.n_kept}} if self.calls else {}


def describe_items(context: RunContext, items: Items, model: LanguageModel) -> Descriptions:
    """Write the table ``items``, with a model's titles and descriptions if they are asked for.

    Shards are described one by one and the items of a shard in parallel, so that memory does not
    grow with the number of items.

    Raises:
        StageError: The model does not answer at all, or the budget is spent.
    """
    shards = items.shards
    if not context.config.describes_items:
        return Descriptions(shards, items.files[items.table])
    done = done_shards(context, STAGE)
    todo = [shard for shard in range(len(shards)) if shard not in done]
    n_before = sum(commit.info["n_items"] for commit in done.values())
    with context.reporter.stage(STAGE, shards.n_items, "items", n_before) as progress:
        if todo:
            with model.open() as opened:
                assert opened is not None
                spent = _spent(done)
                run_coroutine(_describe(context, items.table, opened, todo, spent, progress))
        done = read_commits(context.store, STAGE, context.fingerprint)
        n_kept = sum(commit.info["n_kept"] for commit in done.values())
        progress.note = f", {n_kept:,} keep their own words" if n_kept else ""
    stage = Stage(PUT, "items", shards.n_items, context.config.resources.n_tasks)
    described = {shard: commit.files[0].path for shard, commit in done.items()}
    worker = _PutWorker(context.store, items.table, described)
    put = run_shards(context, stage, len(shards), worker)
    return Descriptions(
        shards,
        [commit.files[0] for commit in put.values()],
        [commit.files[1] for commit in done.values()],
        n_kept,
        _spent(done),
    )


def _spent(commits: dict[int, Commit]) -> tuple[int, int]:
    return (
        sum(commit.info["prompt_tokens"] for commit in commits.values()),
        sum(commit.info["completion_tokens"] for commit in commits.values()),
    )


async def _describe(
    context: RunContext,
    table: str,
    model: Model,
    shards: list[int],
    spent: tuple[int, int],
    progress: StageProgress,
) -> None:
    config = context.config.summaries
    style = prompt_style(context, model.tokens)
    try:
        for shard in shards:
            ledger = Ledger(context.store, f"items-{shard:06d}")
            ledger.on_call = call_recorder(context.reporter.measure, STAGE)
            asker = Asker(model, ledger, config, style, spent)
            seed = context.config.hierarchy.seed
            labeller = Labeller(asker, config.for_items, style, seed, lambda: progress.advance(1))
            with asker.reporting(progress):
                commit = await _describe_shard(context, table, shard, labeller, ledger)
            spent = (spent[0] + ledger.tokens[0], spent[1] + ledger.tokens[1])
            write_commit(context.store, STAGE, commit)
    finally:
        await model.client.close()


async def _describe_shard(
    context: RunContext, table: str, shard: int, labeller: Labeller, ledger: Ledger
) -> Commit:
    items = read_table(context.store, layout.part(table, shard))
    words = items[context.config.input.words_column].to_pylist()
    pictures: list[list[bytes]] = [[] for _ in range(items.num_rows)]
    if context.config.summaries.show_images:
        pictures = [[data] for data in items["thumbnail"].to_pylist()]
    facts = [
        ClusterFacts(0, row, 1, exemplars=[text], images=images)
        for row, text, images in zip(
            items["row"].to_pylist(),
            redacted(words, context.config.privacy.redact),
            pictures,
            strict=True,
        )
    ]
    found = await labeller.label(facts)
    titles, descriptions = items["title"].to_pylist(), items["description"].to_pylist()
    n_kept = 0
    for place, row in enumerate(items["row"].to_pylist()):
        if found[row].complete:
            titles[place], descriptions[place] = found[row].titles[0], found[row].descriptions[0]
        else:
            n_kept += 1
    words_found = [pa.array(values, pa.string()) for values in (titles, descriptions)]
    described = pa.table(words_found, DESCRIBED_COLUMNS)
    calls = pa.Table.from_pylist([asdict(call) for call in ledger.calls], schemas.LLM_CALLS)
    # The owner is in the names, since another owner's model may have answered otherwise.
    owner = context.store.owner
    names = [
        layout.work_part(DESCRIBED, shard, owner),
        layout.part("llm_calls", FIRST_CALLS_PART + shard, owner),
    ]
    files = [
        write_table(context.store, name, made)
        for name, made in zip(names, (described, calls), strict=True)
    ]
    prompt, completion = ledger.tokens
    info = {
        "n_items": len(facts),
        "n_kept": n_kept,
        "prompt_tokens": prompt,
        "completion_tokens": completion,
    }
    return Commit(shard, context.fingerprint, files, info)


@dataclass(frozen=True)
class _PutWorker:
    """Writes one shard of ``items`` with the model's titles and descriptions.

    Attributes:
        store: Output of the run.
        table: Name of the table of the items without them.
        described: Files of the titles and descriptions, by shard.
    """

    store: Store
    table: str
    described: dict[int, str]

    def __call__(self, shard: int) -> ShardResult:
        items = read_table(self.store, layout.part(self.table, shard))
        described = read_table(self.store, self.described[shard])
        for column in DESCRIBED_COLUMNS:
            place = items.schema.get_field_index(column)
            items = items.set_column(place, items.schema.field(place), described[column])
        file = write_table(self.store, layout.part("items", shard), items)
        return ShardResult([file], units=items.num_rows)
