"""Titles of the clusters of a level: chosen, covering their children, distinct among siblings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hercules_scale.clustering.nearest_centroids import Float32
from hercules_scale.stages.label_options import (
    Words,
    is_asked_about,
    is_decorated,
    title_options,
)
from hercules_scale.stages.level_choice import Level, choose
from hercules_scale.storage.schemas import PARTS
from hercules_scale.summarization.candidates import Candidates
from hercules_scale.summarization.distinct_titles import alike_titles, told_apart
from hercules_scale.summarization.grounding import LEAST_OF_TITLE
from hercules_scale.summarization.labeller import Labeller
from hercules_scale.summarization.parent_titles import (
    COVERED,
    coverage,
    names_a_part,
    names_several_parts,
    resembles_a_part,
    small_children,
    title_of_parts,
)

PARTS_LISTED = "the title lists the largest parts: no title of the model covers all parts"


async def choose_titles(
    level: Level, found: list[Candidates], labeller: Labeller | None
) -> list[Words]:
    """Return a title for each cluster, distinct among siblings.

    Args:
        level: The level.
        found: Answers of the model about each cluster.
        labeller: Asks the model; None for key phrases alone.

    Raises:
        StageError: The model answers no question, or the budget is spent.
    """
    facts = level.facts
    options = [
        title_options(own, each, *level.choice) for own, each in zip(found, facts, strict=True)
    ]
    if labeller is None:
        chosen, _ = choose(level, options)
    else:
        usable, doubtful = _covering(level, options)
        if doubtful:
            asked = [facts[cluster] for cluster in doubtful]
            if _added(level, options, await labeller.name_parents(asked)):
                usable, _ = _covering(level, options)
        chosen, _ = choose(level, usable)
        groups = _to_name(level, [each.text for each in chosen])
        named = await labeller.name_siblings(
            [[(facts[each], chosen[each].text) for each in group] for group in groups]
        )
        # Each cluster is in one group at most.
        if _added(level, options, {key: title for each in named for key, title in each.items()}):
            usable, _ = _covering(level, options)
            chosen, _ = choose(level, usable)
    titles = told_apart([each.text for each in chosen], facts, level.groups)
    return [
        Words(title, each.source, each.error) for title, each in zip(titles, chosen, strict=True)
    ]


def _added(level: Level, options: list[list[Words]], titles: dict[int, str]) -> bool:
    """Add usable new titles to the options of their clusters; return whether there were any."""
    any_new = False
    for cluster, title in titles.items():
        known = {each.text for each in options[cluster]}
        usable = title not in known and not is_decorated(title, known)
        if usable and not _problem_of(level, cluster, title):
            options[cluster].append(Words(title, "model"))
            any_new = True
    return any_new


def _covering(level: Level, options: list[list[Words]]) -> tuple[list[list[Words]], list[int]]:
    """Return the titles of each cluster that may be chosen, and the clusters without a title by
    the model that covers their children and is the title of none.

    These clusters get a title that lists their largest children, if it covers more of the items.
    """
    parents = [each.cluster_id for each in level.facts if is_asked_about(each) and each.children]
    own = {each: [one for one in options[each] if one.source == "model"] for each in parents}
    own = {cluster: titles for cluster, titles in own.items() if titles}
    if not own:
        return options, []
    shares = _shares(level, options, own)
    usable, doubtful = list(options), []
    for cluster, titles in own.items():
        covering = [
            title
            for title, share in zip(titles, shares[cluster], strict=True)
            if np.isnan(share) or share >= COVERED
        ]
        if covering:
            others = [each for each in options[cluster] if each.source != "model"]
            usable[cluster] = [*covering, *others]
            continue
        doubtful.append(cluster)
        listed = title_of_parts(level.facts[cluster])
        if listed is not None and listed[1] > shares[cluster].max():
            usable[cluster] = [Words(listed[0], PARTS, PARTS_LISTED)]
    return usable, doubtful


def _shares(
    level: Level, options: list[list[Words]], own: dict[int, list[Words]]
) -> dict[int, NDArray[np.float64]]:
    """Return the share of the items that each title of some clusters covers: 0 if it says the same
    as the title of a small child, NaN where it is unknown."""
    _, rivals = choose(level, options)
    titles = _encoded(level, {each: [one.text for one in own[each]] for each in own})
    children = _encoded(
        level,
        {each: [child.title for child in small_children(level.facts[each])] for each in own},
    )
    below = np.concatenate(list(children.values()))
    shares = {each: np.full(len(vectors), np.nan) for each, vectors in titles.items()}
    if level.parts is not None:
        shares |= coverage(titles, rivals, level.parts, level.groups)
    for cluster, vectors in titles.items():
        facts, texts = level.facts[cluster], [each.text for each in own[cluster]]
        same = resembles_a_part(vectors, children[cluster], below)
        same &= [not names_several_parts(facts, text) for text in texts]
        same |= [names_a_part(facts, text) for text in texts]
        shares[cluster][same] = 0.0
    return shares


def _encoded(level: Level, texts: dict[int, list[str]]) -> dict[int, Float32]:
    """Return the vectors of the texts of each cluster."""
    flat = [text for own in texts.values() for text in own]
    vectors = level.encode(flat) if flat else np.zeros((0, 1), np.float32)
    ends = np.cumsum([len(own) for own in texts.values()])[:-1]
    return dict(zip(texts, np.split(vectors, ends), strict=True))


def _to_name(level: Level, titles: list[str]) -> list[list[int]]:
    """Return groups of siblings that the model names together."""
    shown = np.array([is_asked_about(each) for each in level.facts])
    groups = [group[shown[group]] for group in level.groups]
    if not level.names_siblings:
        return [same for group in groups for same in alike_titles(titles, group)]
    # Sorted, so that similar titles share a request.
    return [
        sorted(group.tolist(), key=lambda each: titles[each]) for group in groups if len(group) > 1
    ]


def _problem_of(level: Level, cluster: int, title: str) -> str:
    if level.grounding is None:
        return ""
    return level.grounding.problem(cluster, "title", title, LEAST_OF_TITLE)
