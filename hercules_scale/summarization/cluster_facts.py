"""Facts about a cluster that prompts and fallbacks are made from, as plain text."""

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
# Each is of one or more of these. Marks within marks, as in <<s>s>, are taken out so many times.
_CHARACTERS_OF_MARKS = str.maketrans(dict.fromkeys("<>[]|", " "))
_PASSES = 8
# Of a text, to see whether it has words.
_CHARACTERS_LOOKED_AT = 4_000


@dataclass(frozen=True)
class Child:
    """A cluster of the level below, as its parent's prompt shows it.

    Attributes:
        title: Its title.
        description: Its description.
        n_items: Items in it.
        source: Source of the title, as in the table ``clusters``.
        error: The reason why title or description is not the model's; None where both are.
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
        level: Its level, from 1; 0 is an item.
        cluster_id: Its id within the level; the row of an item.
        n_items: Items in it.
        keyphrases: Most telling first.
        exemplars: Texts of items that stand for it.
        children: Largest first; none at level 1.
        contrast: Key phrases of the nearest clusters outside it, nearest first.
        statistics: Each variable of numeric items in words, most telling first.
        images: Pictures of items that stand for it, as PNG or JPEG, for a model that sees.
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
        """The cluster of the level below that has the same items, if there is one."""
        same = [child for child in self.children if child.n_items == self.n_items]
        return same[0] if same else None

    @property
    def own_texts(self) -> list[str]:
        """Its key phrases, exemplars and titles of children."""
        return [*self.keyphrases, *self.exemplars, *(child.title for child in self.children)]

    @property
    def wordless(self) -> bool:
        """Whether neither words nor pictures say anything of it, as of vectors with row numbers."""
        texts = [*self.own_texts, *self.statistics]
        return not self.images and not any(
            is_word(token) or is_run(token)
            for text in texts
            for token in tokens(composed(text[:_CHARACTERS_LOOKED_AT]))
        )


def plain_text(text: str) -> str:
    """Return text on one line, without control characters, our marks, or tokens of chat
    templates."""
    text = composed(text)
    kept = joiners(text)
    if kept or not text.isprintable():
        text = "".join(
            " " if unicodedata.category(char)[0] == "C" and place not in kept else char
            for place, char in enumerate(text)
        )
    for _ in range(_PASSES):
        # The rest after a mark went may be a mark.
        cleaned = " ".join(_MARKS.sub(" ", text).split())
        if cleaned == text:
            return text
        text = cleaned
    return " ".join(text.translate(_CHARACTERS_OF_MARKS).split())
