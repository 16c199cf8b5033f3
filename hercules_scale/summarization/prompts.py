"""Prompts that ask for titles and descriptions of clusters and items.

Items are data, never instructions: each has one line between marks, as plain text without control
characters and chat-template tokens.

Source: HERCULES, section 3.4 and Appendix A.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from hercules_scale.summarization.cluster_facts import ClusterFacts, plain_text
from hercules_scale.summarization.tokens import CHARACTERS_PER_TOKEN, Tokens
from hercules_scale.summarization.words import cut
from hercules_scale.summarization.worked_examples import (
    EXAMPLES,
    INSTRUCTIONS,
    INSTRUCTIONS_FOR_TOPICS,
    ITEM,
    ITEM_EXAMPLES,
    PARENT_EXAMPLES,
    SEVERAL,
)

TITLE_CHARACTERS = 60
DESCRIPTION_CHARACTERS = 240
TOPICS, TOPIC_CHARACTERS = 4, 48
# Upper bound of the tokens that a chat template puts around a message.
MESSAGE_TOKENS = 8
ITEM_MARK_TOKENS = 8
# Shares of the tokens that the fixed messages leave; items take the rest.
PHRASES_SHARE, PARTS_SHARE, CONTRAST_SHARE, VALUES_SHARE = 0.25, 0.35, 0.2, 0.35
# Tokens of a thumbnail in vision models, and the share of a prompt that images may take.
IMAGE_TOKENS, IMAGES_SHARE = 256, 0.7
# Share of a prompt that instructions and worked examples may take.
EXAMPLES_SHARE = 0.6
PHRASE_CHARACTERS = 60
# Key phrases that a prompt shows of each cluster outside.
CONTRAST_PHRASES = 4


def object_schema(properties: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON schema of an object with exactly these properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


TITLE = {"type": "string", "minLength": 2, "maxLength": TITLE_CHARACTERS}
_ANSWER = object_schema(
    {
        "title": TITLE,
        "description": {
            "type": "string",
            "minLength": 10,
            "maxLength": DESCRIPTION_CHARACTERS,
        },
    }
)

_ANSWER_IN_TOPICS = object_schema(
    {
        "title": TITLE,
        "topics": {
            "type": "array",
            "items": {"type": "string", "minLength": 3, "maxLength": TOPIC_CHARACTERS},
            "minItems": 2,
            "maxItems": TOPICS,
        },
    }
)

# A message has a role and a content: text, or with images a list of parts as in OpenAI's API.
Message = dict[str, Any]


@dataclass(frozen=True)
class PromptStyle:
    """Style of a run's prompts.

    Attributes:
        tokens: Tokenizer of the model.
        prompt: Largest number of tokens of a prompt.
        exemplar: Largest number of tokens of an item.
        topic: The paper's topic seed.
        criterion: Criterion by which the items are grouped.
        size: ``small`` shows worked examples, titles of children and items, since small models
            copy other facts, and asks for topics, which make the description; ``medium`` shows
            worked examples and all facts about a cluster; ``large`` shows no worked examples.
        instructions: Further instructions of the user.
        language: Language of the answers; None for that of the items.
        examples: The user's worked examples in place of the built-in ones: items, title,
            description.
        kind: A plural noun for the items, such as texts.
        n_levels: Levels of the hierarchy.
    """

    tokens: Tokens
    prompt: int
    exemplar: int
    topic: str | None = None
    criterion: str | None = None
    size: Literal["small", "medium", "large"] = "large"
    instructions: str | None = None
    language: str | None = None
    examples: tuple[tuple[list[str], str, str], ...] | None = None
    kind: str = "items"
    n_levels: int = 1

    @property
    def in_topics(self) -> bool:
        """Whether the model describes clusters by topics, not by sentences."""
        return self.size == "small" and self.examples is None

    def count(self, messages: list[Message]) -> int:
        """Return an upper bound of a prompt's tokens."""
        return sum(self._of_content(each["content"]) + MESSAGE_TOKENS for each in messages)

    def _of_content(self, content: str | list[dict[str, Any]]) -> int:
        if isinstance(content, str):
            return self.tokens.count(content)
        return sum(
            self.tokens.count(part["text"]) if part["type"] == "text" else IMAGE_TOKENS
            for part in content
        )


def answer_schema(ids: list[int] | None = None, in_topics: bool = False) -> dict[str, Any]:
    """Return the JSON schema of an answer about one cluster, or with ids about several."""
    if in_topics:
        return _ANSWER_IN_TOPICS
    return _ANSWER if ids is None else object_schema(dict.fromkeys(map(str, ids), _ANSWER))


def build_messages(facts: ClusterFacts, style: PromptStyle) -> list[Message]:
    """Return the messages that ask for the title and description of one cluster or item.

    Each part of a cluster's facts keeps to its share of the tokens, and items that do not fit into
    the rest are left out. An item that is asked about is cut to fit.
    """
    of_item = facts.level == 0
    messages = fixed_messages(style, of_item, bool(facts.children))
    left = style.prompt - style.count(messages) - MESSAGE_TOKENS
    images = facts.images[: max(int(left * IMAGES_SHARE) // IMAGE_TOKENS, 0)]
    left -= len(images) * IMAGE_TOKENS
    if of_item:
        question = shown_item(facts.exemplars[0], style.tokens, left - ITEM_MARK_TOKENS)
    else:
        question = _question(facts, style, left)
    if not images:
        return [*messages, {"role": "user", "content": question}]
    parts = [*(_image_part(image) for image in images), {"type": "text", "text": question}]
    return [*messages, {"role": "user", "content": parts}]


def _image_part(image: bytes) -> dict[str, Any]:
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    url = f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def build_joint_messages(group: list[ClusterFacts], style: PromptStyle) -> list[Message]:
    """Return the messages that ask for titles and descriptions of several clusters at once."""
    messages = [{"role": "system", "content": SEVERAL + wishes(style)}]
    left = style.prompt - style.count(messages) - MESSAGE_TOKENS
    heads = [f"Group {facts.cluster_id}" for facts in group]
    left -= sum(style.tokens.count(head) + 2 for head in heads)
    parts = [
        f"{head}\n{_question(facts, style, left // len(group))}"
        for head, facts in zip(heads, group, strict=True)
    ]
    return [*messages, {"role": "user", "content": "\n\n".join(parts)}]


def fixed_messages(
    style: PromptStyle, of_item: bool = False, of_parent: bool = False
) -> list[Message]:
    """Return the first messages, which all prompts about items, about clusters with children or
    about other clusters share, so that they can be cached."""
    examples: tuple[tuple[str, str], ...]
    if of_item:
        instructions = ITEM
        examples = () if style.size == "large" else ITEM_EXAMPLES
    else:
        wanted = INSTRUCTIONS_FOR_TOPICS if style.in_topics else INSTRUCTIONS
        instructions = wanted.replace("{kind}", style.kind)
        examples = tuple(
            (_question(facts, style, style.prompt), answer)
            for facts, answer in _worked_examples(style, of_parent)
        )
    return with_examples(instructions + wishes(style), examples, style)


def with_examples(
    instructions: str, examples: Iterable[tuple[str, str]], style: PromptStyle
) -> list[Message]:
    """Return instructions and those examples, as questions and answers, that fit into a prompt."""
    messages: list[Message] = [{"role": "system", "content": instructions}]
    for question, answer in examples:
        example = [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
        if style.count([*messages, *example]) <= EXAMPLES_SHARE * style.prompt:
            messages += example
    return messages


def _worked_examples(style: PromptStyle, of_parent: bool) -> Iterator[tuple[ClusterFacts, str]]:
    """Yield the clusters of worked examples with the answers about them."""
    if style.examples is not None:
        for items, title, description in style.examples:
            facts = ClusterFacts(1, 0, len(items), exemplars=items)
            yield facts, in_json(title=title, description=description)
    elif style.size != "large":
        for facts, title, description, topics in PARENT_EXAMPLES if of_parent else EXAMPLES:
            if style.in_topics:
                yield facts, in_json(title=title, topics=topics)
            else:
                yield facts, in_json(title=title, description=description)


def words_of_examples() -> str:
    """Return the words of the built-in worked examples that small models copy: titles,
    descriptions, topics, and names in items."""
    words = []
    for facts, title, description, topics in (*EXAMPLES, *PARENT_EXAMPLES):
        words += [title, description, *topics]
        for text in facts.exemplars:
            words += [word for word in text.split()[1:] if word[:1].isupper()]
    return " ".join(words)


def in_json(**answer: str | list[str]) -> str:
    """Return an answer as the JSON that a model is to write."""
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":"))


def wishes(style: PromptStyle) -> str:
    """Return the user's criterion or topic, language and instructions as sentences."""
    said = ""
    if style.criterion:
        said += (
            f" The groups are made by this criterion: {plain_text(style.criterion)}. Write titles "
            "and descriptions that say how the items meet it, and leave the rest out."
        )
    if style.topic:
        topic = plain_text(style.topic)[:200]
        said += f" The groups are looked at with this topic in mind: {topic}."
    if style.language:
        said += f" Write in {plain_text(style.language)}."
    else:
        said += " Write in the language of the items."
    if style.instructions:
        said += f" {plain_text(style.instructions)}"
    return said


def phrases_in_words(phrases: list[str]) -> str:
    """Return key phrases on one line, each cut to length."""
    return ", ".join(
        cut(plain_text(phrase[: 2 * PHRASE_CHARACTERS]), PHRASE_CHARACTERS) for phrase in phrases
    )


def _question(facts: ClusterFacts, style: PromptStyle, budget: int) -> str:
    """Return the facts about a cluster, in at most ``budget`` tokens."""
    tokens = style.tokens
    contrast = "; ".join(
        phrases_in_words(other[:CONTRAST_PHRASES]) for other in facts.contrast if other
    )
    known = [
        ("Values", plain_text("; ".join(facts.statistics)), VALUES_SHARE),
        ("Parts", _parts(facts, style), PARTS_SHARE),
    ]
    lines = []
    if style.size != "small":
        place = f"level {facts.level} of {style.n_levels} (1 is the finest)"
        lines.append(f"{facts.n_items:,} {style.kind}, {place}")
        known.insert(0, ("Key phrases", phrases_in_words(facts.keyphrases), PHRASES_SHARE))
        known.append(("Not about", contrast, CONTRAST_SHARE))
    elif not (facts.exemplars or facts.statistics):
        known.insert(0, ("Key phrases", phrases_in_words(facts.keyphrases), PHRASES_SHARE))
    lines += [
        f"{name}: {tokens.cut(text, max(int(budget * share), 1))}"
        for name, text, share in known
        if text
    ]
    lines += [shown_item(text, tokens, style.exemplar) for text in facts.exemplars]
    return "\n".join(that_fit(lines, tokens, budget))


def _parts(facts: ClusterFacts, style: PromptStyle) -> str:
    """Return the titles of a cluster's children as text, in large prompts with descriptions."""
    parts = []
    for child in facts.children:
        share = max(round(100 * child.n_items / max(facts.n_items, 1)), 1)
        part = plain_text(child.title)
        if style.size != "small":
            part += f" ({share}%)"
        if style.size == "large":
            part += f": {plain_text(child.description)}"
        parts.append(part)
    return (" " if style.size == "large" else "; ").join(parts)


def that_fit(lines: list[str], tokens: Tokens, budget: int) -> list[str]:
    """Return the first lines that take at most ``budget`` tokens."""
    kept = []
    for line in lines:
        budget -= tokens.count(line) + 1
        if budget < 0:
            break
        kept.append(line)
    return kept


def shown_item(text: str, tokens: Tokens, n_tokens: int) -> str:
    """Return an item between marks, cut to ``n_tokens`` tokens."""
    # `plain_text` may drop as many characters again.
    start = text[: 2 * CHARACTERS_PER_TOKEN * n_tokens]
    return f"<item>{tokens.cut(plain_text(start), n_tokens)}</item>"
