"""Prompts that ask for titles alone: of siblings, and of a cluster by its children."""

from __future__ import annotations

from typing import Any

from hercules_scale.summarization.cluster_facts import Child, ClusterFacts, plain_text
from hercules_scale.summarization.prompts import (
    MESSAGE_TOKENS,
    TITLE,
    Message,
    PromptStyle,
    in_json,
    object_schema,
    phrases_in_words,
    shown_item,
    that_fit,
    wishes,
    with_examples,
)
from hercules_scale.summarization.worked_examples import PARENT_EXAMPLES, PARTS, SIBLINGS

# Items that a prompt about siblings shows of each cluster.
SIBLING_ITEMS = 2
# Schema of an answer with the title of one cluster.
TITLE_SCHEMA = object_schema({"title": TITLE})


def title_schema(ids: list[int]) -> dict[str, Any]:
    """Return the JSON schema of an answer with titles by id."""
    return object_schema(dict.fromkeys(map(str, ids), TITLE))


def build_sibling_messages(
    group: list[tuple[ClusterFacts, str]], style: PromptStyle
) -> list[Message]:
    """Return the messages that ask for distinct titles of siblings.

    Args:
        group: The clusters and their draft titles.
        style: Style of the prompts.
    """
    messages = [{"role": "system", "content": SIBLINGS + wishes(style)}]
    left = style.prompt - style.count(messages) - MESSAGE_TOKENS
    of_each = left // len(group)
    parts = []
    for facts, title in group:
        # The head always fits; then come items while they fit.
        head = f"Group {facts.cluster_id}, draft: {plain_text(title)}"
        head = f"{head}. Key phrases: {phrases_in_words(facts.keyphrases)}"
        lines = [style.tokens.cut(head, max(of_each - 1, 1))]
        lines += [
            shown_item(text, style.tokens, style.exemplar)
            for text in facts.exemplars[:SIBLING_ITEMS]
        ]
        parts.append("\n".join(that_fit(lines, style.tokens, of_each)))
    return [*messages, {"role": "user", "content": "\n".join(parts)}]


def build_parts_messages(facts: ClusterFacts, style: PromptStyle) -> list[Message]:
    """Return the messages that ask for the title of a cluster by the titles of its children.

    Small models that see items as well repeat the title of the largest child.
    """
    has_examples = style.size != "large" and style.examples is None
    examples = [
        ("\n".join(_lines(example.children)), in_json(title=title))
        for example, title, *_ in PARENT_EXAMPLES
        if has_examples
    ]
    instructions = PARTS.replace("{kind}", style.kind) + wishes(style)
    messages = with_examples(instructions, examples, style)
    left = style.prompt - style.count(messages) - MESSAGE_TOKENS
    lines = [style.tokens.cut(line, max(left - 1, 1)) for line in _lines(facts.children)]
    question = "\n".join(that_fit(lines, style.tokens, left))
    return [*messages, {"role": "user", "content": question}]


def _lines(children: list[Child]) -> list[str]:
    """Return the share and the title of each child, the largest first."""
    total = max(sum(child.n_items for child in children), 1)
    return [
        f"{max(round(100 * child.n_items / total), 1)}%: {plain_text(child.title)}"
        for child in sorted(children, key=lambda child: -child.n_items)
    ]
