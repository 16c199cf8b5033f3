"""Candidate titles and descriptions of many clusters from a model, and new titles for siblings."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from hercules_scale.config import SummariesConfig
from hercules_scale.errors import StageError, SummaryError
from hercules_scale.summarization.asking import Asker
from hercules_scale.summarization.chat import (
    WARM_TEMPERATURE,
    ChatReply,
    ChatRequest,
    ModelUnavailableError,
    RefusedRequestError,
)
from hercules_scale.summarization.parsing import (
    Summary,
    parse_answer,
    parse_joint_answer,
    parse_titles,
)
from hercules_scale.summarization.prompts import (
    ClusterFacts,
    PromptLimits,
    answer_schema,
    build_joint_messages,
    build_messages,
    build_rename_messages,
    title_schema,
)

FIRST_DELAY_SECONDS = 1.0
# Clusters whose titles are set against one another in one request.
RENAMED_TOGETHER = 12


@dataclass
class Candidates:
    """What a model answered about a cluster.

    Attributes:
        summaries: Those of its answers that can be used.
        problem: Why there are none.
    """

    summaries: list[Summary] = field(default_factory=list)
    problem: str = ""


class Labeller:
    """Asks a model about clusters, again where it fails.

    Args:
        asker: The model.
        config: The summaries section.
        limits: How long prompts may be.
        seed: Seed of the run.
        on_done: Called after each cluster.
    """

    def __init__(
        self,
        asker: Asker,
        config: SummariesConfig,
        limits: PromptLimits,
        seed: int,
        on_done: Callable[[], None] = lambda: None,
    ) -> None:
        self._asker, self._config, self._limits = asker, config, limits
        self._seed, self._on_done = seed, on_done
        self._batch = config.clusters_per_request

    async def label(self, clusters: list[ClusterFacts]) -> dict[int, Candidates]:
        """Candidates for each of some clusters of one level, by id.

        Raises:
            StageError: The model does not answer at all, or the budget is spent. Calls that were
                in flight have ended and are kept.
        """
        found = {facts.cluster_id: Candidates() for facts in clusters}
        todo = deque(clusters)

        async def work() -> None:
            while todo:
                group = [todo.popleft() for _ in range(min(self._batch, len(todo)))]
                await self._label(group, found)
                for _ in group:
                    self._on_done()

        n_workers = min(self._asker.in_flight, len(clusters))
        ends = await asyncio.gather(*(work() for _ in range(n_workers)), return_exceptions=True)
        _raise_first(ends)
        return found

    async def rename(self, groups: list[list[tuple[ClusterFacts, str]]]) -> list[dict[int, str]]:
        """New titles for groups of clusters of one level whose titles are alike, by id.

        Clusters that the model gives nothing for are left out.

        Raises:
            StageError: As ``label`` does.
        """
        parts = [
            (index, group[start : start + RENAMED_TOGETHER])
            for index, group in enumerate(groups)
            for start in range(0, len(group), RENAMED_TOGETHER)
        ]
        ends = await asyncio.gather(
            *(self._rename(part) for _, part in parts), return_exceptions=True
        )
        _raise_first(ends)
        titles: list[dict[int, str]] = [{} for _ in groups]
        for (index, _), found in zip(parts, ends, strict=True):
            assert isinstance(found, dict)
            titles[index] |= found
        return titles

    async def _label(self, group: list[ClusterFacts], found: dict[int, Candidates]) -> None:
        """Ask about some clusters together; about halves of those that it gave nothing for."""
        if len(group) == 1:
            await self._label_one(group[0], found[group[0].cluster_id])
            return
        config = self._config
        request = ChatRequest(
            build_joint_messages(group, config.topic, self._limits),
            answer_schema([facts.cluster_id for facts in group]),
            self._temperature(1),
            config.max_answer_tokens * len(group),
            self._seed + 1,
            config.candidates,
        )

        def read(reply: ChatReply) -> None:
            problem = "the answer is empty"
            for answer in reply.answers:
                try:
                    entries = parse_joint_answer(answer.text, group)
                except SummaryError as error:
                    problem = str(error)
                    continue
                for cluster_id, entry in entries.items():
                    if isinstance(entry, Summary):
                        found[cluster_id].summaries.append(entry)
                    else:
                        found[cluster_id].problem = str(entry)
            if not any(found[facts.cluster_id].summaries for facts in group):
                raise SummaryError(problem)

        problem = await self._ask_until_answered(request, group, read)
        left = [facts for facts in group if not found[facts.cluster_id].summaries]
        if not left:
            self._batch = min(self._batch + 1, config.clusters_per_request)
            return
        if problem is not None:
            for facts in left:
                found[facts.cluster_id].problem = problem
            return
        self._batch = max(len(group) // 2, 1)
        middle = -(-len(left) // 2)
        for half in (left[:middle], left[middle:]):
            if half:
                await self._label(half, found)

    async def _label_one(self, facts: ClusterFacts, found: Candidates) -> None:
        config = self._config
        messages = build_messages(facts, config.topic, self._limits)
        for attempt in range(1, config.max_attempts + 1):
            # The same question again, at another draw: small models that are told what was wrong
            # make a title of that.
            request = ChatRequest(
                messages,
                answer_schema(),
                self._temperature(attempt),
                config.max_answer_tokens,
                self._seed + attempt,
                config.candidates,
            )
            read = partial(_read_answers, facts=facts)
            try:
                found.summaries = await self._asker.ask(
                    request, facts.level, facts.cluster_id, attempt, read
                )
                return
            except SummaryError as error:
                found.problem = str(error)
            except RefusedRequestError as error:
                found.problem = f"the model refused the question: {error}"[:300]
                return
            except ModelUnavailableError as error:
                found.problem = str(error)[:300]
                await asyncio.sleep(FIRST_DELAY_SECONDS * 2 ** (attempt - 1))

    async def _rename(self, group: list[tuple[ClusterFacts, str]]) -> dict[int, str]:
        config = self._config
        clusters = [facts for facts, _ in group]
        request = ChatRequest(
            build_rename_messages(group, config.topic, self._limits),
            title_schema([facts.cluster_id for facts in clusters]),
            config.temperature,
            config.max_answer_tokens * len(group),
            self._seed,
        )
        titles: dict[int, str] = {}

        def read(reply: ChatReply) -> None:
            titles.update(parse_titles(reply.answers[0].text, clusters))

        await self._ask_until_answered(request, clusters, read)
        return titles

    async def _ask_until_answered(
        self, request: ChatRequest, group: list[ClusterFacts], read: Callable[[ChatReply], None]
    ) -> str | None:
        """Ask about several clusters.

        Returns:
            Why there was no answer; nothing where there was one, usable or not.
        """
        problem = None
        for attempt in range(1, self._config.max_attempts + 1):
            try:
                await self._asker.ask(request, group[0].level, None, attempt, read)
            except (SummaryError, RefusedRequestError):
                return None
            except ModelUnavailableError as error:
                problem = str(error)[:300]
                await asyncio.sleep(FIRST_DELAY_SECONDS * 2 ** (attempt - 1))
            else:
                return None
        return problem

    def _temperature(self, attempt: int) -> float:
        config = self._config
        # Several answers of temperature 0 would all be the same.
        warm = attempt > 1 or config.candidates > 1
        return max(config.temperature, WARM_TEMPERATURE) if warm else config.temperature


def _read_answers(reply: ChatReply, facts: ClusterFacts) -> list[Summary]:
    """The answers that can be used, each once.

    Raises:
        SummaryError: None can; the message says what is wrong with the last.
    """
    found: dict[Summary, None] = {}
    problem = "the model gave no answer"
    for answer in reply.answers:
        try:
            found[parse_answer(answer.text, facts)] = None
        except SummaryError as error:
            problem = str(error)
            if answer.finish_reason == "length":
                problem = "it was too long and was cut off"
    if not found:
        raise SummaryError(problem)
    return list(found)


def _raise_first(ends: Sequence[object]) -> None:
    """The first exception of several tasks, a stage's own before others."""
    errors = [end for end in ends if isinstance(end, BaseException)]
    errors.sort(key=lambda error: not isinstance(error, StageError))
    if errors:
        raise errors[0]
