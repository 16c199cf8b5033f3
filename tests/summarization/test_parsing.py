import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hercules_scale.errors import SummaryError
from hercules_scale.summarization.cluster_facts import ClusterFacts
from hercules_scale.summarization.fallback import summary_from_keyphrases
from hercules_scale.summarization.parsing import (
    Summary,
    parse_answer,
    parse_joint_answer,
    parse_titles,
)
from hercules_scale.summarization.prompts import DESCRIPTION_CHARACTERS, PromptStyle, fixed_messages
from hercules_scale.summarization.titles import clean_title
from hercules_scale.summarization.tokens import EstimatedTokens
from hercules_scale.summarization.worked_examples import TITLE_WORDS

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
        ANSWER.replace("}", ",}"),
        ANSWER.replace('", "desc', '" "desc'),
        ANSWER.replace('"', "'"),
        ANSWER[:-1],
        ANSWER[:-2],
        f"[{ANSWER}]",
        f'{{"summary": {ANSWER}}}',
        f"{ANSWER}\n{ANSWER}",
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
        ('["title", "description"]', "no title in words"),
        ('{"title": "Ferries", "descr', "no description in words"),
        ('{"title": "Ferries",}', "no description in words"),
        ("{" * 5000 + "}", "not valid JSON"),
        ("{}", "no title in words"),
        (answer(7), "no title in words"),
        (answer(""), "no title in words"),
        (answer("..."), "no title in words"),
        (answer("Ferries", None), "no description in words"),
        (answer("Ferries", ["a"]), "no description in words"),
        (answer("ferry " * 7), "repeats itself"),
        (answer("Ferries", "the ferry and the ferry and the ferry and the ferry"), "repeats itsel"),
        (answer("Ferries", "{{string}}"), "holds braces, which the items do not"),
        (answer("Ferries", "When ferries leave.]}"), "holds braces, which the items do not"),
    ],
)
def test_an_answer_that_cannot_be_used_says_why(text: str, message: str) -> None:
    with pytest.raises(SummaryError, match=message):
        parse_answer(text, FACTS)


def test_topics_make_a_description_with_the_spelling_of_the_items() -> None:
    facts = ClusterFacts(1, 0, 9, ["ferry"], ["A ferry to Dover", "Ports near Dover, and fees"])
    topics = ["the ports of dover", "Ferry fees", "ferry fees", 7, "and"]
    found = parse_answer(json.dumps({"title": "Ferries", "topics": topics}), facts)
    assert found.topics == ("ports of Dover", "Ferry fees")
    assert found.description == "Ports of Dover, Ferry fees."
    with pytest.raises(SummaryError, match="the JSON holds no description in words"):
        parse_answer('{"title": "Ferries", "topics": [7, ""]}', facts)


def test_braces_of_the_items_are_kept() -> None:
    facts = replace(FACTS, exemplars=["ferry {{ when }} the {{ port }}"])
    assert parse_answer(answer("Ferry {{ }} of ports"), facts).title == "Ferry {{ }} of ports"


def test_a_title_copied_from_a_worked_example_is_refused() -> None:
    copied = [
        m["content"]
        for m in fixed_messages(PromptStyle(EstimatedTokens(), 1536, 48, size="medium"))
        if m["role"] == "assistant"
    ]
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
        ("Tax report, campaign, FBI and the White House", "Tax report, campaign, FBI"),
        ("Members of the Union and its parliament today", "Members of the Union"),
        ("Global oil and gas exploration in the North Sea", "Global oil and gas exploration"),
        ("Trade of China and the United States of America", "Trade of China and the United States"),
        ("How to and why to feed a rye starter", "How to and why to feed"),
        ("Refugees and human rights in the Middle East", "Refugees and human rights"),
        (
            "Ferries and the harbours of large northern towns",
            "Ferries and the harbours of large northern",
        ),
        ("The story of a", "The story"),
        ("What ferries are for", "What ferries are for"),
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
@settings(deadline=None)
def test_any_answer_gives_a_summary_or_a_summary_error(text: str) -> None:
    try:
        summary = parse_answer(text, FACTS)
    except SummaryError:
        return
    assert 1 <= len(summary.title.split()) <= TITLE_WORDS
    assert 1 <= len(summary.description) <= DESCRIPTION_CHARACTERS + 1
    assert "\n" not in summary.title + summary.description


GROUP = [FACTS, ClusterFacts(1, 7, 10, ["train"], ["the train is late"])]
ENTRIES = {
    "4": {"title": "Ferries", "description": "When ferries leave."},
    "7": {"title": "Trains", "description": "Trains that are late."},
}
BOTH = json.dumps(ENTRIES)


@pytest.mark.parametrize(
    "text",
    [
        BOTH,
        f"```json\n{BOTH}\n```",
        f"Here: {BOTH} Done.",
        BOTH.replace('"4"', '"Group 4"').replace('"7"', '"cluster_7"'),
        json.dumps({"groups": ENTRIES}),
        json.dumps([{"id": int(key), **entry} for key, entry in ENTRIES.items()]),
        json.dumps([{"group": key, **entry} for key, entry in ENTRIES.items()]),
        json.dumps(list(ENTRIES.values())),
        BOTH.replace("}}", "},}"),
        BOTH[:-2],
    ],
)
def test_an_answer_about_several_clusters_is_read_by_id(text: str) -> None:
    found = parse_joint_answer(text, GROUP)
    titles = {key: entry.title for key, entry in found.items() if isinstance(entry, Summary)}
    assert titles == {4: "Ferries", 7: "Trains"}


def test_a_bad_entry_harms_no_other() -> None:
    cut = BOTH[: BOTH.index("Trains that") - 20]
    for text in (cut, json.dumps({**ENTRIES, "7": 5}), json.dumps({"4": ENTRIES["4"]})):
        found = parse_joint_answer(text, GROUP)
        assert isinstance(found[4], Summary)
        assert isinstance(found[7], SummaryError)
    with pytest.raises(SummaryError, match="no JSON object"):
        parse_joint_answer("nothing", GROUP)
    assert all(isinstance(each, SummaryError) for each in parse_joint_answer("{", GROUP).values())


def test_new_titles_are_read_by_id_and_empty_ones_left_out() -> None:
    assert parse_titles('{"4": "Ferries!", "7": "Late trains"}', GROUP) == {
        4: "Ferries!",
        7: "Late trains",
    }
    assert parse_titles('{"4": "...", "7": {"title": "Late trains"}}', GROUP) == {7: "Late trains"}
    assert parse_titles('{"4": "{{title}}", "7": "Late trains"}', GROUP) == {7: "Late trains"}


@pytest.mark.parametrize(
    "title",
    [
        "The ferries cross the harbour again.",
        "Ferries in the harbour are not,",
        "Ferries in the harbour: the rise and fall of fees",
        "But ferries of the harbour",
        "Harbour ferries draft",
        "The final title of group 4",
    ],
)
def test_what_is_no_heading_is_no_title_among_siblings(title: str) -> None:
    assert parse_titles(json.dumps({"4": title, "7": "Late trains"}), GROUP) == {7: "Late trains"}
    facts = replace(
        GROUP[0], exemplars=["a draft of the title of a group in the harbour, and ferries"]
    )
    titles = parse_titles(json.dumps({"4": "Harbour ferries draft"}), [facts])
    assert titles == {4: "Harbour ferries draft"}


def test_a_title_of_other_clusters_words_alone_is_refused() -> None:
    facts = ClusterFacts(1, 4, 5, ["ferry"], ["the ferry"], [], [["airport gate"]])
    with pytest.raises(SummaryError, match="repeats the instructions"):
        parse_answer(answer("Airport gates and airport gate"), facts)
    assert parse_answer(answer("Ferry to the airport"), facts).status == "ok"


def test_key_phrases_stand_in_for_a_model() -> None:
    summary = summary_from_keyphrases(FACTS, "no answer in time")
    assert summary.title == "Ferry, harbour fees"
    assert summary.description == "1,200 items about ferry and harbour fees."
    assert (summary.status, summary.error) == ("fallback", "no answer in time")


def test_only_a_label_that_is_the_models_throughout_is_ok() -> None:
    summary = parse_answer(ANSWER, FACTS)
    assert (summary.status, summary.error) == ("ok", None)
    assert replace(summary, source="keyphrases").status == "fallback"
    assert replace(summary, description_source="keyphrases").status == "fallback"


def test_without_key_phrases_an_example_stands_in() -> None:
    facts = ClusterFacts(1, 4, 2, exemplars=["the\nferry <|x|> boat"])
    summary = summary_from_keyphrases(facts, "")
    assert summary.title == "the ferry boat"
    assert "the ferry boat" in summary.description
    assert summary_from_keyphrases(ClusterFacts(1, 4, 2), "").title == "Cluster 1/4"


@given(st.lists(st.sampled_from(["ferry", "harbour fees", "sea"]), min_size=1, max_size=8))
def test_titles_of_key_phrases_are_short(phrases: list[str]) -> None:
    title = summary_from_keyphrases(ClusterFacts(1, 0, 1, phrases), "").title
    assert 1 <= len(title.split()) <= TITLE_WORDS
