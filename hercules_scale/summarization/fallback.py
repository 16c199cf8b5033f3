"""Titles and descriptions from key phrases, without a model."""

from __future__ import annotations

from hercules_scale.storage.schemas import WITHHELD
from hercules_scale.summarization.cluster_facts import ClusterFacts, plain_text
from hercules_scale.summarization.parsing import Summary
from hercules_scale.summarization.prompts import TITLE_CHARACTERS
from hercules_scale.summarization.titles import clean_title
from hercules_scale.summarization.words import cut, n_letters, prose
from hercules_scale.summarization.worked_examples import TITLE_WORDS

# Characters of an exemplar from which a title is cut.
EXEMPLAR_CHARACTERS = 4_000


def summary_from_keyphrases(facts: ClusterFacts, reason: str) -> Summary:
    """Return a title and a description from key phrases, or without these from an exemplar.

    Args:
        facts: The cluster.
        reason: Reason why no model wrote them.
    """
    phrases = facts.keyphrases
    if not phrases:
        exemplar = facts.exemplars[0][:EXEMPLAR_CHARACTERS] if facts.exemplars else ""
        exemplar = plain_text(prose(exemplar))
        title = clean_title(cut(exemplar, TITLE_CHARACTERS)) or f"Cluster {facts.name}"
        description = f"{facts.n_items:,} items such as: {cut(exemplar, 200)}"
        return Summary(title, description, "keyphrases", "keyphrases", reason)
    names: list[str] = []
    for phrase in phrases[:4]:
        longer = ", ".join([*names, phrase])
        if len(longer.split()) <= TITLE_WORDS and n_letters(longer) <= TITLE_CHARACTERS:
            names.append(phrase)
    listed = ", ".join(phrases[:-1]) + " and " + phrases[-1] if len(phrases) > 1 else phrases[0]
    heading = ", ".join(names) or cut(phrases[0], TITLE_CHARACTERS)
    if heading.partition(" ")[0].islower():
        heading = heading[:1].upper() + heading[1:]
    return Summary(
        heading,
        f"{facts.n_items:,} items {'with' if facts.statistics else 'about'} {listed}.",
        "keyphrases",
        "keyphrases",
        reason,
    )


def withheld_summary(facts: ClusterFacts) -> Summary:
    """Return the title and the description of a cluster that privacy withholds."""
    return Summary(
        "Small cluster",
        f"{facts.n_items:,} items; their texts are withheld.",
        WITHHELD,
        WITHHELD,
        facts.withheld,
    )
