"""Labels of the clusters of one level: requested, chosen and made distinct.

The title is chosen first, then a description that matches it, among the model's answers. Key
phrases replace either only if the model's answers are missing, wrong, or fit the items far worse.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hercules_scale.clustering.nearest_centroids import Float32
from hercules_scale.stages.label_options import (
    NO_MODEL,
    Words,
    description_options,
    is_asked_about,
    unasked_reason,
)
from hercules_scale.stages.label_titles import choose_titles
from hercules_scale.stages.level_choice import Level, choose
from hercules_scale.summarization.candidates import Candidates
from hercules_scale.summarization.labeller import Labeller
from hercules_scale.summarization.parsing import Summary

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Labels:
    """Labels of a level, by cluster.

    Attributes:
        summaries: Titles and descriptions.
        vectors: Vectors of "title. description", shape (k, d).
        groundedness: Share of the content words of the title, the description and both that occur
            in the items, shape (k, 3); NaN where it is unknown.
    """

    summaries: list[Summary]
    vectors: Float32
    groundedness: Float64


async def label_level(level: Level, labeller: Labeller | None) -> Labels:
    """Return titles and descriptions of the clusters of a level.

    Args:
        level: The level.
        labeller: Asks the model; None for key phrases alone.

    Raises:
        StageError: The model does not answer at all, or the budget is spent.
    """
    facts = level.facts
    if labeller is None:
        found = {each.cluster_id: Candidates(problem=each.withheld or NO_MODEL) for each in facts}
    else:
        found = {each.cluster_id: Candidates(problem=unasked_reason(each)) for each in facts}
        asked = [each for each in facts if is_asked_about(each)]
        found |= await labeller.label(asked, level.grounding)
    titles = await choose_titles(level, [found[each.cluster_id] for each in facts], labeller)
    heads = [f"{title.text}. " for title in titles]
    options = [description_options(found[each.cluster_id], each, *level.choice) for each in facts]
    descriptions, vectors = choose(level, options, heads)
    summaries = [
        _joined(title, description) for title, description in zip(titles, descriptions, strict=True)
    ]
    return Labels(summaries, vectors, _groundedness(level, summaries))


def _joined(title: Words, description: Words) -> Summary:
    errors = dict.fromkeys(each.error for each in (title, description) if each.error)
    return Summary(
        title.text, description.text, title.source, description.source, "; ".join(errors) or None
    )


def _groundedness(level: Level, summaries: list[Summary]) -> Float64:
    """Return the groundedness of each title, each description, and both."""
    shares = np.full((len(summaries), 3), np.nan)
    if level.grounding is not None:
        for cluster, summary in enumerate(summaries):
            texts = (summary.title, summary.description, label_text(summary))
            shares[cluster] = [level.grounding.share(cluster, text) for text in texts]
    return shares


def label_text(summary: Summary) -> str:
    """Return the text that a label is embedded as."""
    return f"{summary.title}. {summary.description}"
