"""Titles and descriptions of clusters from a model."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from hercules_scale.config.summaries import SummariesConfig
from hercules_scale.errors import StageError, SummaryError
from hercules_scale.summarization.candidates import Candidates
from hercules_scale.summarization.chat import (
    WARM_TEMPERATURE,
    ChatReply,
    ChatRequest,
    ModelUnavailableError,
    RefusedRequestError,
)
from hercules_scale.summarization.cluster_facts import ClusterFacts
from hercules_scale.summarization.grounding import Grounding
from hercules_scale.summarization.model_calls import Asker
from hercules_scale.summarization.parsing import (
    parse_answer,
    parse_joint_answer,
    parse_title,
    parse_titles,
)
from hercules_scale.summarization.prompts import (
    PromptStyle,
    answer_schema,
    build_joint_messages,
    build_messages,
)
from hercules_scale.summarization.title_prompts import (
    TITLE_SCHEMA,
    build_parts_messages,
    build_sibling_messages,
    title_schema,
)

FIRST_DELAY_SECONDS = 1.0
# Siblings that share a request for distinct titles.
NAMED_TOGETHER = 12


class Labeller:
    """Asks a model about clusters, and asks again after unusable answers.

    Args:
        asker: The model.
        config: Section ``summaries``.
        style: Style of the prompts.
        seed: Seed of the run.
        on_done: Called after each cluster.
    """

    def __init__(
        self,
        asker: Asker,
        config: SummariesConfig,
        style: PromptStyle,
        seed: int,
        on_done: Callable[[], None] = lambda: None,
    ) -> None:
        self._asker, self._config, self._style = asker, config, style
        self._seed, self._on_done = seed, on_done
        self._batch = config.clusters_per_request

    async def label(
        self, clusters: list[ClusterFacts], grounding: Grounding | None = None
    ) -> dict[int, Candidates]:
        """Return the candidates of some clusters of one level, by id.

        Args:
            clusters: The clusters.
            grounding: Check of answers against the items, where their words are known; after an
                ungrounded answer the model is asked again.

        Raises:
            StageError: The model answers no question, or the budget is spent. Calls in flight have
                ended by then, and their replies are kept.
        """
        found = {facts.cluster_id: Candidates() for facts in clusters}
        todo = deque(clusters)

        async def work() -> None:
            while todo:
                group = [todo.popleft() for _ in range(min(self._batch, len(todo)))]
                await self._label(group, found, grounding)
                for _ in group:
                    self._on_done()

        n_workers = min(self._asker.in_flight, len(clusters))
        ends = await asyncio.gather(*(work() for _ in range(n_workers)), return_exceptions=True)
        _raise_first(ends)
        return found

    async def name_siblings(
        self, groups: list[list[tuple[ClusterFacts, str]]]
    ) -> list[dict[int, str]]:
        """Return distinct titles for the siblings of each group, by id.

        Clusters without a usable title in the answer are left out.

        Args:
            groups: Siblings of one level with their draft titles.

        Raises:
            StageError: As ``label`` does.
        """
        parts = [
            (index, group[start : start + NAMED_TOGETHER])
            for index, group in enumerate(groups)
            for start in range(0, len(group), NAMED_TOGETHER)
        ]
        ends = await asyncio.gather(
            *(self._name_siblings(part) for _, part in parts), return_exceptions=True
        )
        _raise_first(ends)
        titles: list[dict[int, str]] = [{} for _ in groups]
        for (index, _), found in zip(parts, ends, strict=True):
            assert isinstance(found, dict)
            titles[index] |= found
        return titles

    async def name_parents(self, clusters: list[ClusterFacts]) -> dict[int, str]:
        """Return titles of clusters by the titles of their children, by id.

        Clusters without a usable title in the answer are left out.

        Args:
            clusters: Clusters of one level, with children.

        Raises:
            StageError: As ``label`` does.
        """
        ends = await asyncio.gather(*map(self._name_parent, clusters), return_exceptions=True)
        _raise_first(ends)
        return {
            facts.cluster_id: title
            for facts, title in zip(clusters, ends, strict=True)
            if isinstance(title, str) and title
        }

    async def _label(
        self,
        group: list[ClusterFacts],
        found: dict[int, Candidates],
        grounding: Grounding | None,
    ) -> None:
        """Ask about some clusters in one request; ask again in halves about clusters without a
        usable answer."""
        if len(group) == 1:
            await self._label_one(group[0], found[group[0].cluster_id], grounding)
            return
        config = self._config
        request = ChatRequest(
            build_joint_messages(group, self._style),
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
                    try:
                        if isinstance(entry, SummaryError):
                            raise entry
                        found[cluster_id].add(entry, cluster_id, grounding)
                    except SummaryError as error:
                        found[cluster_id].problem = problem = str(error)
            if not any(found[facts.cluster_id].complete for facts in group):
                raise SummaryError(problem)

        problem = await self._ask_until_answered(request, group, read)
        left = [facts for facts in group if not found[facts.cluster_id].complete]
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
                await self._label(half, found, grounding)

    async def _label_one(
        self, facts: ClusterFacts, found: Candidates, grounding: Grounding | None
    ) -> None:
        config = self._config
        messages = build_messages(facts, self._style)

        def read(reply: ChatReply) -> None:
            problem = "the model gave no answer"
            for answer in reply.answers:
                try:
                    found.add(parse_answer(answer.text, facts), facts.cluster_id, grounding)
                except SummaryError as error:
                    problem = str(error)
                    if answer.finish_reason == "length":
                        problem = "it was too long and was cut off"
            if not found.complete:
                raise SummaryError(problem)
            found.add_of_all(facts.cluster_id, grounding)

        for attempt in range(1, config.max_attempts + 1):
            # The question stays the same, with another seed: small models that are shown the
            # problem make a title of it.
            request = ChatRequest(
                messages,
                answer_schema(in_topics=self._style.in_topics and facts.level > 0),
                self._temperature(attempt),
                config.max_answer_tokens,
                self._seed + attempt,
                config.candidates,
            )
            try:
                await self._asker.ask(request, facts.level, facts.cluster_id, attempt, read)
                return
            except SummaryError as error:
                found.problem = str(error)
            except RefusedRequestError as error:
                found.problem = f"the model refused the question: {error}"[:300]
                return
            except ModelUnavailableError as error:
                found.problem = str(error)[:300]
                await asyncio.sleep(FIRST_DELAY_SECONDS * 2 ** (attempt - 1))

    async def _name_siblings(self, group: list[tuple[ClusterFacts, str]]) -> dict[int, str]:
        config = self._config
        clusters = [facts for facts, _ in group]
        request = ChatRequest(
            build_sibling_messages(group, self._style),
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

    async def _name_parent(self, facts: ClusterFacts) -> str:
        config = self._config
        request = ChatRequest(
            build_parts_messages(facts, self._style),
            TITLE_SCHEMA,
            config.temperature,
            config.max_answer_tokens,
            self._seed,
        )
        title = ""

        def read(reply: ChatReply) -> None:
            nonlocal title
            title = parse_title(reply.answers[0].text, facts)

        await self._ask_until_answered(request, [facts], read)
        return title

    async def _ask_until_answered(
        self, request: ChatRequest, group: list[ClusterFacts], read: Callable[[ChatReply], None]
    ) -> str | None:
        """Ask about a cluster or several.

        Returns:
            Reason why there was no answer; None where there was one, usable or not.
        """
        problem = None
        cluster_id = group[0].cluster_id if len(group) == 1 else None
        for attempt in range(1, self._config.max_attempts + 1):
            try:
                await self._asker.ask(request, group[0].level, cluster_id, attempt, read)
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
        # At temperature 0 all answers would be the same.
        warm = attempt > 1 or config.candidates > 1
        return max(config.temperature, WARM_TEMPERATURE) if warm else config.temperature


def _raise_first(ends: Sequence[object]) -> None:
    """Raise the first exception of several tasks, a StageError before others."""
    errors = [end for end in ends if isinstance(end, BaseException)]
    errors.sort(key=lambda error: not isinstance(error, StageError))
    if errors:
        raise errors[0]
