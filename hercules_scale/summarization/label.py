"""Asks a model for the titles and descriptions of many clusters at a time."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from hercules_scale.config import SummariesConfig
from hercules_scale.errors import StageError, SummaryError
from hercules_scale.summarization.clients import (
    ChatClient,
    ChatReply,
    ChatRequest,
    ModelUnavailableError,
)
from hercules_scale.summarization.parsing import (
    Summary,
    parse_answer,
    summary_from_keyphrases,
)
from hercules_scale.summarization.prompts import ClusterFacts, Tokens, build_messages

# So many failed calls in a row, with no answer between, are an outage and no bad luck.
OUTAGE_CALLS = 20
FIRST_DELAY_SECONDS = 1.0
RETRY_TEMPERATURE = 0.3


@dataclass(frozen=True)
class Call:
    """One attempt, a row of ``llm_calls``."""

    level: int
    cluster_id: int
    attempt: int
    prompt_hash: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    outcome: str
    prompt: str | None
    response: str | None


@dataclass
class Labelling:
    """What one level's clusters are called, and every call that was made for it."""

    summaries: dict[int, Summary] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)


class Labeller:
    """Titles and descriptions from a model, with retries, and key phrases where it fails.

    Args:
        client: The model.
        config: The summaries section.
        tokens: The model's tokenizer.
        seed: Seed of the run.
        on_done: Called after each cluster.
    """

    def __init__(
        self,
        client: ChatClient,
        config: SummariesConfig,
        tokens: Tokens,
        seed: int,
        on_done: Callable[[], None] = lambda: None,
    ) -> None:
        self._client, self._config, self._tokens = client, config, tokens
        self._seed, self._on_done = seed, on_done
        self._failed_in_a_row = 0

    async def label(self, clusters: list[ClusterFacts]) -> Labelling:
        """Label the clusters of one level; each gets a title and a description.

        Raises:
            StageError: The model does not answer at all; what was asked can be asked again.
        """
        labelling = Labelling()
        gate = asyncio.Semaphore(self._config.requests_in_flight)

        async def label_one(facts: ClusterFacts) -> None:
            async with gate:
                labelling.summaries[facts.cluster_id] = await self._label(facts, labelling.calls)
            self._on_done()

        try:
            async with asyncio.TaskGroup() as group:
                for facts in clusters:
                    group.create_task(label_one(facts))
        except* StageError as errors:
            raise errors.exceptions[0] from None
        labelling.calls.sort(key=lambda call: (call.level, call.cluster_id, call.attempt))
        return labelling

    async def _label(self, facts: ClusterFacts, calls: list[Call]) -> Summary:
        config = self._config
        messages = build_messages(
            facts, config.topic, self._tokens, config.exemplar_tokens, config.max_prompt_tokens
        )
        problem = ""
        for attempt in range(1, config.max_attempts + 1):
            # The same question again, at another draw: small models that are told what was wrong
            # make a title of that.
            request = ChatRequest(
                messages,
                config.temperature if attempt == 1 else max(config.temperature, RETRY_TEMPERATURE),
                config.max_answer_tokens,
                self._seed + attempt,
            )
            started = time.monotonic()
            reply: ChatReply | None = None
            unavailable = False
            try:
                reply = await asyncio.wait_for(self._client.answer(request), config.timeout_seconds)
                self._failed_in_a_row = 0
                summary = parse_answer(reply.text, facts)
            except SummaryError as error:
                outcome, problem = "invalid", str(error)
                if reply is not None and reply.finish_reason == "length":
                    problem = "it was too long and was cut off"
            except TimeoutError:
                outcome, problem, unavailable = "timeout", "no answer in time", True
            except ModelUnavailableError as error:
                outcome, problem, unavailable = "error", str(error)[:300], True
            else:
                outcome = "ok"
            calls.append(self._call(facts, attempt, request, reply, started, outcome))
            if outcome == "ok":
                return summary
            if unavailable:
                self._count_failure(facts, problem)
                await asyncio.sleep(FIRST_DELAY_SECONDS * 2 ** (attempt - 1))
        return summary_from_keyphrases(facts, problem)

    def _count_failure(self, facts: ClusterFacts, problem: str) -> None:
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= OUTAGE_CALLS:
            raise StageError(
                f"the model {self._config.model!r} failed {OUTAGE_CALLS} times in a row, "
                f"last with: {problem}; run again when it answers, the run resumes",
                stage="summarize",
                level=facts.level,
            )

    def _call(
        self,
        facts: ClusterFacts,
        attempt: int,
        request: ChatRequest,
        reply: ChatReply | None,
        started: float,
        outcome: str,
    ) -> Call:
        prompt = json.dumps(request.payload(self._config.model), sort_keys=True)
        keep = self._config.record_prompts
        return Call(
            facts.level,
            facts.cluster_id,
            attempt,
            hashlib.sha256(prompt.encode()).hexdigest(),
            self._config.model,
            reply.prompt_tokens if reply else 0,
            reply.completion_tokens if reply else 0,
            time.monotonic() - started,
            outcome,
            json.dumps(request.messages, ensure_ascii=False) if keep else None,
            reply.text if keep and reply else None,
        )
