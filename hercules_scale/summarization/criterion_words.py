"""Questions for words that answer a criterion, and the words in the answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hercules_scale.errors import SummaryError
from hercules_scale.summarization.answer_json import answer_values, lower_keys
from hercules_scale.summarization.cluster_facts import plain_text
from hercules_scale.summarization.prompts import Message, object_schema
from hercules_scale.summarization.words import has_words

WORDS_ASKED = 30
WORD_CHARACTERS = 60
# Words of an answer, each of a few tokens.
ANSWER_TOKENS = 400
_LEAST = 5


def word_messages(
    criterion: str, known: Sequence[str], language: str | None, instructions: str | None
) -> list[Message]:
    """Return the messages that ask for words.

    No item is shown, so that no text leaves the machine.

    Args:
        criterion: The criterion.
        known: Words that the answer must not repeat.
        language: Language of the words, if it is not the criterion's.
        instructions: Further instructions of the user.
    """
    asked = (
        "You list the answers that items of a collection can have to a question. Each answer is a "
        f"noun phrase of 1 to 4 words, and no answer repeats another. Give {WORDS_ASKED} answers, "
        'common ones first, as JSON: {"words": ["...", ...]}.'
    )
    if language is not None:
        asked += f" Write in {plain_text(language)}."
    if instructions is not None:
        asked += f" {plain_text(instructions)}"
    question = f"Question: {plain_text(criterion)}"
    if known:
        question += f"\nOther answers than: {', '.join(known)}"
    return [{"role": "system", "content": asked}, {"role": "user", "content": question}]


def word_schema() -> dict[str, Any]:
    """Return the JSON schema of an answer."""
    word = {"type": "string", "minLength": 2, "maxLength": WORD_CHARACTERS}
    return object_schema(
        {"words": {"type": "array", "items": word, "minItems": _LEAST, "maxItems": WORDS_ASKED}}
    )


def read_words(answer: str) -> list[str]:
    """Return the words of an answer, each once.

    Raises:
        SummaryError: The answer holds fewer than five.
    """
    for value in answer_values(answer):
        value = lower_keys(value)
        entries = value.get("words") if isinstance(value, dict) else None
        if isinstance(entries, list):
            texts = [
                plain_text(each)[:WORD_CHARACTERS] for each in entries if isinstance(each, str)
            ]
            words = {each.casefold(): each for each in texts if has_words(each)}
            if len(words) >= _LEAST:
                return list(words.values())
    raise SummaryError(f"the answer holds fewer than {_LEAST} words")
