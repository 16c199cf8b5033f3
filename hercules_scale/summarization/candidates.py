"""Titles and descriptions of a cluster from a model's answers, checked against its items."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from hercules_scale.errors import SummaryError
from hercules_scale.summarization.grounding import (
    LEAST_OF_DESCRIPTION,
    LEAST_OF_TITLE,
    Grounding,
    stems_of,
)
from hercules_scale.summarization.parsing import Summary, listed
from hercules_scale.summarization.prompts import TOPICS

LEAST_TYPICAL_OF_TOPIC = 0.4


@dataclass
class Candidates:
    """Usable titles and descriptions of one cluster; each is chosen from its own list.

    Attributes:
        titles: Distinct titles, in the order of the answers.
        descriptions: Distinct descriptions, in the order of the answers.
        problem: Reason why there is no title or no description.
        topics: Grounded topics of all answers that describe the cluster by topics.
    """

    titles: list[str] = field(default_factory=list)
    descriptions: list[str] = field(default_factory=list)
    problem: str = ""
    topics: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether there are both a title and a description."""
        return bool(self.titles and self.descriptions)

    def add(self, answer: Summary, cluster: int, grounding: Grounding | None) -> None:
        """Keep the title and the description of an answer, if its items support them.

        Raises:
            SummaryError: They do not support one or both; a supported one is kept.
        """
        problems = []
        if answer.topics and grounding is not None:
            topics = [
                each
                for each in answer.topics
                if not grounding.problem(cluster, "topic", each, LEAST_OF_DESCRIPTION)
            ]
            self.topics += topics
            # A name from one item is in few others.
            topics = [
                each
                for each in topics
                if grounding.typicality(cluster, each) >= LEAST_TYPICAL_OF_TOPIC
            ] or topics
            topics = _apart(topics)
            answer = replace(answer, description=listed(topics)) if topics else answer
        for kept, name, text, least in (
            (self.titles, "title", answer.title, LEAST_OF_TITLE),
            (self.descriptions, "description", answer.description, LEAST_OF_DESCRIPTION),
        ):
            problem = "" if grounding is None else grounding.problem(cluster, name, text, least)
            if problem:
                problems.append(problem)
            elif text not in kept:
                kept.append(text)
        if problems:
            raise SummaryError("; ".join(problems))

    def add_of_all(self, cluster: int, grounding: Grounding | None) -> None:
        """Add a description by the most typical topics of all answers, and drop descriptions of
        a single topic."""
        if grounding is None or not self.topics:
            return
        # The typicality of a topic without content words is NaN.
        typical = {each: grounding.typicality(cluster, each) for each in self.topics}
        kept = _apart(sorted(typical, key=lambda each: -np.nan_to_num(typical[each])))
        if len(kept) > 1:
            # A single topic says little of a cluster.
            lone = {listed([each]) for each in self.topics}
            several = [each for each in self.descriptions if each not in lone]
            self.descriptions = list(dict.fromkeys([*several, listed(kept)]))


def _apart(topics: list[str]) -> list[str]:
    """Return topics with at least half of their stems new, in their order, up to ``TOPICS``."""
    kept: list[str] = []
    said: set[str] = set()
    for topic in topics:
        stems = set(stems_of(topic))
        if len(stems & said) * 2 <= len(stems):
            kept.append(topic)
            said |= stems
    return kept[:TOPICS]
