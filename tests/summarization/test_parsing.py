import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hercules_scale.errors import SummaryError
from hercules_scale.summarization.parsing import (
    clean_title,
    parse_answer,
    summary_from_keyphrases,
)
from hercules_scale.summarization.prompts import (
    DESCRIPTION_CHARACTERS,
    TITLE_WORDS,
    ClusterFacts,
    fixed_messages,
)

FACTS = ClusterFacts(1, 4, 1200, ["ferry", "harbour fees"], ["the ferry leaves at nine"])
ANSWER = '{"title": "Ferries and harbours", "description": "When ferries leave."}'


def answer(title: object, description: object = "When ferries leave.") -> str:
    return json.dumps({"title": title, "description": description})


@pytest.mark.parametrize(
    "text",
    [
        ANSWER,
        f"```json\n{ANSWER}\n```",
        f"Sure! Here it is:\n{ANSWER}\nHope that helps.",
        ANSWER.replace("{", '{"note": null, '),
        ANSWER.replace("Ferries and", "Ferries\nand"),
        ANSWER.replace("Ferries and harbours", '\\"Ferries and harbours.\\"'),
    ],
)
def test_an_answer_is_found_in_what_surrounds_it(text: str) -> None:
    summary = parse_answer(text, FACTS)
    assert (summary.title, summary.description) == ("Ferries and harbours", "When ferries leave.")
    assert (summary.status, summary.error) == ("ok", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no JSON object"),
        ("I do not know", "holds no JSON object"),
        ('["title", "description"]', "holds no JSON object"),
        ('{"title": "Ferries", "descr', "cut off"),
        ('{"title": "Ferries",}', "not valid JSON"),
        ("{" * 5000 + "}", "not valid JSON"),
        ("{}", "no title in words"),
        (answer(7), "no title in words"),
        (answer(""), "no title in words"),
        (answer("..."), "no title in words"),
        (answer("Ferries", None), "no description in words"),
        (answer("Ferries", ["a"]), "no description in words"),
        (answer("ferry " * 7), "repeats itself"),
        (answer("Ferries", "the ferry and the ferry and the ferry and the ferry"), "repeats itsel"),
    ],
)
def test_an_answer_that_cannot_be_used_says_why(text: str, message: str) -> None:
    with pytest.raises(SummaryError, match=message):
        parse_answer(text, FACTS)


def test_a_title_copied_from_a_worked_example_is_refused() -> None:
    copied = [m["content"] for m in fixed_messages(None) if m["role"] == "assistant"]
    assert copied
    for text in copied:
        with pytest.raises(SummaryError, match="repeats the instructions"):
            parse_answer(text, FACTS)
        # The same title is right for a cluster that is about it.
        about_it = ClusterFacts(1, 0, 9, exemplars=[json.loads(text)["title"]])
        assert parse_answer(text, about_it).status == "ok"


@pytest.mark.parametrize(
    ("title", "cleaned"),
    [
        ("Ferries", "Ferries"),
        ('  "Ferries."  ', "Ferries"),
        ("One two three four five six seven", "One two three four five six seven"),
        ("One two three four five six seven eight", "One two three four five six seven"),
        ("One two three four five six and seven", "One two three four five six"),
        ("One two three four of the and more", "One two three four"),
        ("Ferries – ", "Ferries"),
    ],
)
def test_a_title_is_short_and_does_not_end_in_the_middle(title: str, cleaned: str) -> None:
    assert clean_title(title) == cleaned


@pytest.mark.parametrize("mark", [".", "!", "?"])
def test_a_long_description_ends_with_a_whole_sentence(mark: str) -> None:
    sentences = " ".join(f"Ferry{number} leaves port{number}{mark}" for number in range(40))
    found = parse_answer(answer("Ferries", sentences), FACTS).description
    assert found.endswith(mark)
    assert sentences.startswith(f"{found} Ferry")
    assert len(found) <= DESCRIPTION_CHARACTERS


def test_a_long_sentence_is_marked_as_cut() -> None:
    words = " ".join(f"word{number}" for number in range(200))
    found = parse_answer(answer("Ferries", words), FACTS).description
    assert found.endswith("…")
    assert len(found) <= DESCRIPTION_CHARACTERS + 1


@given(
    st.one_of(
        st.text(),
        st.builds(answer, st.text(), st.text()),
        st.builds(lambda cut: ANSWER[:cut], st.integers(0, len(ANSWER))),
    )
)
def test_any_answer_gives_a_summary_or_a_summary_error(text: str) -> None:
    try:
        summary = parse_answer(text, FACTS)
    except SummaryError:
        return
    assert 1 <= len(summary.title.split()) <= TITLE_WORDS
    assert 1 <= len(summary.description) <= DESCRIPTION_CHARACTERS + 1
    assert "\n" not in summary.title + summary.description


def test_key_phrases_stand_in_for_a_model() -> None:
    summary = summary_from_keyphrases(FACTS)
    assert summary.title == "Ferry, harbour fees"
    assert summary.description == "1,200 items about ferry and harbour fees."
    assert (summary.status, summary.error) == ("ok", None)


def test_a_failed_model_is_told_in_the_status() -> None:
    summary = summary_from_keyphrases(FACTS, "no answer in time")
    assert (summary.status, summary.error) == ("fallback", "no answer in time")


def test_without_key_phrases_an_example_stands_in() -> None:
    summary = summary_from_keyphrases(ClusterFacts(1, 4, 2, exemplars=["the\nferry <|x|> boat"]))
    assert summary.title == "the ferry boat"
    assert "the ferry boat" in summary.description
    assert summary_from_keyphrases(ClusterFacts(1, 4, 2)).title == "Cluster 1/4"


@given(st.lists(st.sampled_from(["ferry", "harbour fees", "sea"]), min_size=1, max_size=8))
def test_titles_of_key_phrases_are_short(phrases: list[str]) -> None:
    title = summary_from_keyphrases(ClusterFacts(1, 0, 1, phrases)).title
    assert 1 <= len(title.split()) <= TITLE_WORDS
