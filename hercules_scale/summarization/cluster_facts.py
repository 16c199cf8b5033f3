"""Facts about a cluster, from which prompts and fallback titles are made."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field

from hercules_scale.sanitize import joiners
from hercules_scale.summarization.words import composed, is_run, is_word, tokens

_MARKS = re.compile(
    r"<\|[^|<>]{0,40}\|>|<\||\|>|</?\s*(?:s|item)\s*>|\[/?INST\]|<</?SYS>>|</?(?:start|end)_of_turn>",
    re.I,
)
# Every mark has one or more of these characters. Nested marks, as in <<s>s>, take several passes.
_CHARACTERS_OF_MARKS = str.maketrans(dict.fromkeys("<>[]|", " "))
_PASSES = 8
# Characters of a text that are searched for words.
_CHARACTERS_LOOKED_AT = 4_000


@dataclass(frozen=True)
class Child:
    """A cluster of the level below, as its parent's prompt shows it.

    Attributes:
        title: Title.
        description: Description.
        n_items: Number of its items.
        source: Source of the title, as in the table ``clusters``.
        error: Reason why title or description is not the model's; None where both are.
    """

    title: str
    description: str
    n_items: int
    source: str = "model"
    error: str | None = None


@dataclass(frozen=True)
class ClusterFacts:
    """Facts about a cluster before it has a title.

    Attributes:
        level: Level, from 1; 0 for an item.
        cluster_id: Id within the level; for an item its row.
        n_items: Number of items.
        keyphrases: Key phrases, the most distinctive first.
        exemplars: Texts of exemplars.
        children: Children, the largest first; none at level 1.
        contrast: Key phrases of the nearest clusters outside it, nearest first.
        statistics: Numeric variables in words, the most distinctive first.
        images: Images of exemplars as PNG or JPEG, for a vision model.
        withheld: Reason why it is withheld from people and models; empty where it is not.
    """

    level: int
    cluster_id: int
    n_items: int
    keyphrases: list[str] = field(default_factory=list)
    exemplars: list[str] = field(default_factory=list)
    children: list[Child] = field(default_factory=list)
    contrast: list[list[str]] = field(default_factory=list)
    statistics: list[str] = field(default_factory=list)
    images: list[bytes] = field(default_factory=list)
    withheld: str = ""

    @property
    def name(self) -> str:
        """``level/id``, as commands and messages name clusters."""
        return f"{self.level}/{self.cluster_id}"

    @property
    def same_below(self) -> Child | None:
        """The child that has all items of the cluster, if there is one."""
        same = [child for child in self.children if child.n_items == self.n_items]
        return same[0] if same else None

    @property
    def own_texts(self) -> list[str]:
        """Key phrases, exemplars and titles of children."""
        return [*self.keyphrases, *self.exemplars, *(child.title for child in self.children)]

    @property
    def wordless(self) -> bool:
        """Whether it has neither words nor images, such as vectors with row numbers as ids."""
        texts = [*self.own_texts, *self.statistics]
        return not self.images and not any(
            is_word(token) or is_run(token)
            for text in texts
            for token in tokens(composed(text[:_CHARACTERS_LOOKED_AT]))
        )


def plain_text(text: str) -> str:
    """Return text on one line, without control characters, item marks and chat-template tokens."""
    text = composed(text)
    kept = joiners(text)
    if kept or not text.isprintable():
        text = "".join(
            " " if unicodedata.category(char)[0] == "C" and place not in kept else char
            for place, char in enumerate(text)
        )
    for _ in range(_PASSES):
        # Removing a mark can form another one.
        cleaned = " ".join(_MARKS.sub(" ", text).split())
        if cleaned == text:
            return text
        text = cleaned
    return " ".join(text.translate(_CHARACTERS_OF_MARKS).split())
