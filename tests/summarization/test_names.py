from __future__ import annotations

import pytest

from hercules_scale.summarization.names import is_form_of, names_and_numbers


@pytest.mark.parametrize(
    ("text", "names", "numbers"),
    [
        # The first word of a sentence has a capital for its place.
        ("Ferries to Mull. Fares rise: Islanders object.", ["Mull"], []),
        ("The 3rd ferry of 2017", [], ["3rd", "2017"]),
        ("Talks of Kim Jong-nam and the EU", ["Kim", "Jong-nam", "EU"], []),
        ("“Home?” Asked by crews in Århus", ["Århus"], []),
        ("大阪の天気", [], []),
        ("", [], []),
    ],
)
def test_names_have_a_capital_within_a_sentence(
    text: str, names: list[str], numbers: list[str]
) -> None:
    assert names_and_numbers(text, "en") == (names, numbers)


@pytest.mark.parametrize(
    ("title", "names"),
    [
        # All longer words of it have capitals.
        ("Ferries to Mull", []),
        ("Ferries and the harbours of Mull", ["Mull"]),
        ("Ferries and Harbours of the Islands", []),
        ("Ferries and Harbours of the EU", ["EU"]),
        ("LGBTQ+ films and stars", ["LGBTQ"]),
    ],
)
def test_in_a_title_of_capitals_only_abbreviations_are_names(title: str, names: list[str]) -> None:
    assert names_and_numbers(title, "en", of_title=True) == (names, [])


def test_german_nouns_are_no_names_and_numbers_are_numbers() -> None:
    assert names_and_numbers("Die Fähren nach Mull im Jahr 2017", "de") == ([], ["2017"])


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("iranian", "iran", True),
        ("africa", "african", True),
        ("chines", "china", True),
        ("spain", "spanish", False),
        ("sri", "sri", False),
        ("scottish", "scotland", True),
        ("constantinople", "construction", False),
    ],
)
def test_forms_of_a_name_begin_alike(name: str, known: str, expected: bool) -> None:
    assert is_form_of(name, ["mull", known]) is expected
