import pytest

from hercules_scale.errors import SummaryError
from hercules_scale.summarization.cluster_facts import ClusterFacts
from hercules_scale.summarization.copied_phrases import without_copied_phrases
from hercules_scale.summarization.parsing import parse_answer

PHRASES = ["winter storm", "Oroville dam", "million people", "snow", "northeast", "winds"]
COPY = "Topics include winter storms, the Oroville dam, millions hit, snow, northeast and winds."
OWN = "Storms and floods that drove people out of their homes."


@pytest.mark.parametrize(
    ("description", "kept"),
    [
        (f"{OWN} {COPY}", OWN),
        (OWN, OWN),
        (f"{OWN} Topics are snow, winds and flights that were cancelled.", None),
        ("Snow, hail, fog, frost, heat, winds.", None),
        (COPY, ""),
    ],
)
def test_a_line_of_key_phrases_is_left_out(description: str, kept: str | None) -> None:
    expected = description if kept is None else kept
    assert without_copied_phrases(description, PHRASES) == expected


def test_an_answer_that_is_a_line_of_key_phrases_is_asked_for_again() -> None:
    facts = ClusterFacts(1, 0, 9, PHRASES)
    answer = f'{{"title": "Winter storms", "description": "{COPY}"}}'
    with pytest.raises(SummaryError, match="the list of key phrases"):
        parse_answer(answer, facts)
