"""Recognition of titles and descriptions without content: blanks, loops and copies."""

from __future__ import annotations

import itertools
import re

from hercules_scale.summarization.cluster_facts import ClusterFacts
from hercules_scale.summarization.prompts import TITLE_CHARACTERS, PromptStyle, fixed_messages
from hercules_scale.summarization.titles import DANGLING
from hercules_scale.summarization.tokens import EstimatedTokens
from hercules_scale.summarization.words import parts
from hercules_scale.summarization.worked_examples import TITLE_WORDS

_CONJUNCTIONS = frozenset(("and", "but", "or", "so", "yet"))
# Marks that end sentences; in some scripts no space follows them.
ENDS = (".", "!", "?", "。", "！", "？", "।", "۔", "؟", "።")
# Placeholders instead of a title or description.
_BLANK = re.compile(
    r"[^\w{}]*(?:n/?a|none|null|unknown|untitled|string|text|title|description"
    r"|your (?:title|description)|<[^<>]*>|\.{2,})[^\w{}]*",
    re.IGNORECASE,
)


def is_blank(text: str) -> bool:
    """Return whether a text is a placeholder."""
    return _BLANK.fullmatch(text) is not None


def is_no_heading(title: str) -> bool:
    """Return whether a new title of a sibling is a sentence or too long for a title.

    Models that name several groups at once write news headlines. Then the draft is a better title
    than the beginning of such a headline.
    """
    words = title.split()
    begins = bool(words) and words[0].lower() in _CONJUNCTIONS
    is_long = len(words) > TITLE_WORDS or len(title) >= TITLE_CHARACTERS
    is_sentence = len(words) > 3 and title.endswith((*ENDS, ",", ":"))
    return begins or is_long or is_sentence


def repeats_itself(text: str) -> bool:
    """Return whether fewer than 60% of the pairs of adjacent words are distinct, as in a loop."""
    words = parts(text)
    pairs = list(itertools.pairwise(words))
    return len(pairs) >= 5 and len(set(pairs)) < 0.6 * len(pairs)


def invents_braces(text: str, facts: ClusterFacts) -> bool:
    """Return whether a text has braces that the cluster's texts do not have, as in quoted JSON."""
    return bool(set("{}") & set(text) - set("".join(facts.own_texts)))


def repeats_prompt(title: str, facts: ClusterFacts) -> bool:
    """Return whether a title has words of the prompt's fixed messages or of other clusters, and
    none of its own cluster.

    Small models copy these if they find no title.
    """
    of_cluster = own_words(facts)
    of_others = content_words(" ".join(phrase for other in facts.contrast for phrase in other))
    words = content_words(title)
    return not words & of_cluster and bool(words & (_FIXED_WORDS | of_others))


def own_words(facts: ClusterFacts) -> set[str]:
    """Return the content words of a cluster's key phrases, exemplars and children."""
    return content_words(" ".join(facts.own_texts))


def content_words(text: str) -> set[str]:
    """Return the content words of a text: in ASCII of three letters or more, else of any length."""
    return {word for word in parts(text) if len(word) > 2 or not word.isascii()} - DANGLING


_STYLE = PromptStyle(EstimatedTokens(), 4000, 96, size="medium")
_FIXED_WORDS = content_words(
    " ".join(
        message["content"]
        for of_item in (False, True)
        for message in fixed_messages(_STYLE, of_item)
    )
)
