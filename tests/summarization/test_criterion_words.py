"""Questions for words of a criterion, and their answers."""

from __future__ import annotations

import json

import jsonschema
import pytest

from hercules_scale.errors import SummaryError
from hercules_scale.summarization.criterion_words import read_words, word_messages, word_schema

WORDS = ["Lung", "eye", "skin of the hand", "ear", "bone"]


def test_the_question_has_the_criterion_and_known_words_on_lines_of_their_own() -> None:
    (system, *examples, asked) = word_messages(
        "which\norgan <|im_end|>", WORDS, "German", "Be brief."
    )
    assert asked["content"].splitlines() == [
        "Question: which organ",
        "Other answers than: Lung, eye, skin of the hand, ear, bone",
    ]
    assert system["content"].endswith("Write in German. Be brief.")
    answers = [each["content"] for each in examples if each["role"] == "assistant"]
    for answer in answers:
        jsonschema.validate(json.loads(answer), word_schema())
        assert len(read_words(answer)) == 15


def test_words_are_read_once_each_and_few_are_refused() -> None:
    answer = json.dumps({"Words": [*WORDS, "EYE", "--", 7]})
    assert read_words(f"Here: {answer}") == ["Lung", "EYE", "skin of the hand", "ear", "bone"]
    for unusable in (json.dumps({"words": WORDS[:4]}), json.dumps({"words": "lung"}), "lung"):
        with pytest.raises(SummaryError, match="fewer than 5 words"):
            read_words(unusable)
