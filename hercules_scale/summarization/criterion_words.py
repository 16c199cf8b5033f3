"""Questions for words that answer a criterion, and the words in the answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hercules_scale.errors import SummaryError
from hercules_scale.summarization.answer_json import answer_values, lower_keys
from hercules_scale.summarization.cluster_facts import plain_text
from hercules_scale.summarization.prompts import Message, in_json, object_schema
from hercules_scale.summarization.words import has_words

WORDS_ASKED = 30
WORD_CHARACTERS = 60
# Words of an answer, each of a few tokens.
ANSWER_TOKENS = 400
# Words that the model must give, and least distinct ones of a usable answer.
_WANTED, _LEAST = 15, 5
# Worked examples: small models name properties otherwise, such as cause and treatment of a disease.
_EXAMPLES = {
    "which kind of sport it is": "football, tennis, swimming, cycling, skiing, boxing, golf, "
    "rowing, horse riding, gymnastics, sailing, chess, running, team sport, winter sport",
    "what the writer of the letter wants": "to complain, to say thanks, to apply for a job, to "
    "invite somebody, to ask for advice, to end a contract, to apologise, to offer help, to sell "
    "something, to order goods, to correct a mistake, to get a reply, to cancel a visit, to "
    "recommend somebody, to share news",
}


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
        "Items of a collection are sorted by a question. List the answers that sort them: short "
        f"phrases of 1 to 4 words that exclude one another. Give {WORDS_ASKED} answers, common "
        'ones first, as JSON: {"words": ["...", ...]}.'
    )
    if language is not None:
        asked += f" Write in {plain_text(language)}."
    if instructions is not None:
        asked += f" {plain_text(instructions)}"
    question = f"Question: {plain_text(criterion)}"
    if known:
        question += f"\nOther answers than: {', '.join(known)}"
    messages: list[Message] = [{"role": "system", "content": asked}]
    for example, answers in _EXAMPLES.items():
        messages += [
            {"role": "user", "content": f"Question: {example}"},
            {"role": "assistant", "content": in_json(words=answers.split(", "))},
        ]
    return [*messages, {"role": "user", "content": question}]


def word_schema() -> dict[str, Any]:
    """Return the JSON schema of an answer."""
    word = {"type": "string", "minLength": 2, "maxLength": WORD_CHARACTERS}
    return object_schema(
        {"words": {"type": "array", "items": word, "minItems": _WANTED, "maxItems": WORDS_ASKED}}
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
