"""Text that models put around their answers, and in their place."""

from __future__ import annotations

import json
import time
from contextlib import suppress

import pytest

from hercules_scale.errors import SummaryError
from hercules_scale.summarization.cluster_facts import ClusterFacts
from hercules_scale.summarization.parsing import (
    Summary,
    parse_answer,
    parse_joint_answer,
    parse_titles,
)
from hercules_scale.summarization.refusals import refuses

FACTS = ClusterFacts(1, 4, 1200, ["ferry", "harbour fees"], ["the ferry leaves at nine"])
GROUP = [FACTS, ClusterFacts(1, 7, 10, ["train"], ["the train is late"])]
ANSWER = '{"title": "Ferries and harbours", "description": "When ferries leave."}'
DRAFT = '{"title": "A first draft", "description": "Only a draft of it."}'
BOTH = json.dumps(
    {
        "4": {"title": "Ferries", "description": "When ferries leave."},
        "7": {"title": "Trains", "description": "Trains that are late."},
    }
)
BOTH_DRAFTS = BOTH.replace("Ferries", "A draft").replace("Trains", "Another draft")

# Before an answer, or around it at AT.
AROUND = [
    "<think>\n\n</think>\n\nAT",
    "<think>The items are about ferries.</think>AT",
    "<think>\nPerhaps DRAFT, or [1, 2]?\n</think>\nAT",
    "<think>Is it {this}? No: DRAFT.</think>\n```json\nAT\n```",
    "The items are about ferries.\n</think>\n\nAT",
    "Perhaps DRAFT?\n</think>AT",
    "<think>One.</think><think>DRAFT</think>AT",
    "DRAFT\nNo, this is better:\nAT",
    "```json\nDRAFT\n```\nA second try:\n```json\nAT\n```",
    'AT\n{"confidence": 0.9}',
    '{"language": "en"}\nAT',
    "Items [1] and [2] say it best. AT",
    "Of the groups {a, b} and {} the first is meant: AT",
    "Sure! AT I hope this helps {or not} [3].",
]


def answer(title: str, description: str = "When ferries leave.") -> str:
    return json.dumps({"title": title, "description": description})


@pytest.mark.parametrize("around", AROUND)
def test_the_last_whole_answer_outside_thoughts_is_taken(around: str) -> None:
    summary = parse_answer(around.replace("AT", ANSWER).replace("DRAFT", DRAFT), FACTS)
    assert (summary.title, summary.description) == ("Ferries and harbours", "When ferries leave.")


@pytest.mark.parametrize("around", AROUND)
def test_the_last_whole_answer_about_several_is_taken(around: str) -> None:
    found = parse_joint_answer(around.replace("AT", BOTH).replace("DRAFT", BOTH_DRAFTS), GROUP)
    titles = {key: entry.title for key, entry in found.items() if isinstance(entry, Summary)}
    assert titles == {4: "Ferries", 7: "Trains"}


@pytest.mark.parametrize(
    "around",
    ["<think>Perhaps DRAFT?</think>AT", "Hm, DRAFT.\n</think>AT", "Items [1] and [2] count. AT"],
)
def test_new_titles_are_read_outside_thoughts(around: str) -> None:
    text = around.replace("AT", '{"4": "Ferries", "7": "Late trains"}')
    titles = parse_titles(text.replace("DRAFT", '{"4": "A draft", "7": "Draft"}'), GROUP)
    assert titles == {4: "Ferries", 7: "Late trains"}


@pytest.mark.parametrize(
    "text", [f"<think>It may be {ANSWER}, or", f"<think>\n{BOTH}\n", "<think>Ferries</think>"]
)
def test_thoughts_alone_are_no_answer(text: str) -> None:
    with pytest.raises(SummaryError, match=r"holds no JSON object"):
        parse_answer(text, FACTS)
    with pytest.raises(SummaryError, match=r"holds no JSON object"):
        parse_joint_answer(text, GROUP)


@pytest.mark.parametrize(
    ("title", "description"),
    [("Title", "Description"), ("TITLE", "DESCRIPTION"), ("title", "Description")],
)
def test_keys_are_read_in_any_case(title: str, description: str) -> None:
    text = json.dumps({title: "Ferries and harbours", description: "When ferries leave."})
    assert parse_answer(text, FACTS) == parse_answer(ANSWER, FACTS)
    entries = json.dumps({"4": json.loads(text), "7": json.loads(DRAFT)})
    found = parse_joint_answer(entries, GROUP)[4]
    assert isinstance(found, Summary)
    assert found.title == "Ferries and harbours"


@pytest.mark.parametrize(
    "form",
    ["**{}**", "*{}*", "__{}__", "# {}", "### {}", "`{}`", "**`{}`**", "# **{}**", "***{}***"],
)
def test_markdown_is_taken_off(form: str) -> None:
    text = answer(form.format("Ferries and harbours"), form.format("When ferries leave."))
    assert parse_answer(text, FACTS) == parse_answer(ANSWER, FACTS)


@pytest.mark.parametrize(
    ("form", "plain"),
    [
        ("**Ferries** and `harbours`", "Ferries and harbours"),
        ("Ferries and **harbours**", "Ferries and harbours"),
        ("## Ferries: *fees* and fines", "Ferries: fees and fines"),
    ],
)
def test_markdown_within_a_title_is_taken_off(form: str, plain: str) -> None:
    assert parse_answer(answer(form), FACTS).title == plain


@pytest.mark.parametrize(
    "title",
    ["C# of ferries", "Ferry #1 and #2", "ferry_id and harbour_id", "Ferries 5 * 3", "A* of ports"],
)
def test_what_only_looks_like_markdown_is_kept(title: str) -> None:
    assert parse_answer(answer(title), FACTS).title == title


REFUSALS = [
    "I'm sorry, but I can't help with that.",
    "I\u2019m sorry, but I can\u2019t assist with that request.",
    "I am sorry, but I cannot help",
    "I cannot assist with that.",
    "I can't help with this request",
    "Sorry, but I can't assist with that",
    "As an AI language model, I cannot do that",
    "As an AI language model, I have no access",
    "I'm unable to help with that request",
    "I'm really sorry, but I can't",
    "My apologies, but I cannot provide that",
    "Sorry, but this content violates our policy.",
    "I don't feel comfortable creating a title",
    "I'm just an AI",
    "Unable to generate a title",
    "This request violates our content policy",
    "No title can be provided",
    "I do not have enough information to create a title",
    "I won't be able to help",
    "Es tut mir leid, aber dabei kann ich nicht helfen.",
    "Lo siento, no puedo ayudar con eso.",
    "抱歉，我无法回答这个问题。",
]


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refusal_is_never_published(refusal: str) -> None:
    for text in (
        answer(refusal),
        answer("Ferries and harbours", refusal),
        answer(refusal, refusal),
    ):
        with pytest.raises(SummaryError, match=r"(?i)refus"):
            parse_answer(text, FACTS)
    with pytest.raises(SummaryError, match=r"(?i)refus|holds no JSON object"):
        parse_answer(refusal, FACTS)


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refusal_about_one_of_several_harms_no_other(refusal: str) -> None:
    entries = json.loads(BOTH)
    entries["4"]["title"] = refusal
    found = parse_joint_answer(json.dumps(entries), GROUP)
    assert isinstance(found[4], SummaryError)
    assert isinstance(found[7], Summary)
    assert parse_titles(json.dumps({"4": refusal, "7": "Late trains"}), GROUP) == {7: "Late trains"}


@pytest.mark.parametrize(
    ("title", "description"),
    [
        ("How to say sorry", "Ways to say sorry after a quarrel."),
        ("Sorry letters to customers", "Letters in which firms are sorry."),
        ("Help with tax forms", "Where people find help with their tax forms."),
        ("Help desks of ferry lines", "Desks that cannot help all who ask."),
        ("AI language models", "How an AI language model is trained."),
        ("Doors that cannot open", "Doors that customers cannot open."),
        ("Assistants for the blind", "Machines that assist people who cannot see."),
        ("Unable to log in", "Customers who are unable to log in."),
    ],
)
def test_a_harmless_title_with_words_of_refusals_is_kept(title: str, description: str) -> None:
    facts = ClusterFacts(1, 4, 9, [title.lower()])
    summary = parse_answer(answer(title, description), facts)
    assert (summary.title, summary.description) == (title, description)


# After a good answer, or around it at AT: examples, forms that were not filled in, explanations.
AFTER = [
    'AT\nFormat: {"title": "string", "description": "string"}',
    'AT\n{"title": "...", "description": "..."}',
    'AT\n{"title": "<title>", "description": "<description>"}',
    'AT\n{"properties": {"title": {"type": "string"}, "description": {"type": "string"}}}',
    '{"cluster": AT, "confidence": 0.9}',
    '{"result": [AT], "n": 1}',
    "AT\nI took {the title} from [item 1] and [item 2].",
]


@pytest.mark.parametrize("around", AFTER)
def test_examples_and_forms_around_an_answer_are_not_taken(around: str) -> None:
    summary = parse_answer(around.replace("AT", ANSWER), FACTS)
    assert (summary.title, summary.description) == ("Ferries and harbours", "When ferries leave.")


@pytest.mark.parametrize(
    "text",
    [
        'Of items [a] and [b, c] and [d e]: {"title": "Ferries and harbours", "description": "When',
        "[words] [words] {'title': 'Ferries and harbours', 'description': 'When ferries leave.'}",
        "**Title: Ferries and harbours**\n**Description: When ferries leave.**",
        "Title: “Ferries and harbours”\nDescription: “When ferries leave.”",
        '{"title": {"text": "Ferries and harbours"}, "description": ["When ferries", "leave."]}',
    ],
)
def test_answers_that_are_broken_cut_off_or_in_lines_are_read(text: str) -> None:
    summary = parse_answer(text, FACTS)
    assert summary.title == "Ferries and harbours"
    assert summary.description.startswith("When")
    assert not set(summary.description) & set("*“”[]{}")


@pytest.mark.parametrize(
    "text",
    [
        f"{BOTH}\nBased on items [1, 2].",
        f'{BOTH}\nE.g. {{"4": "see above"}}',
        '{"groups": [{"group": "Group 4", "title": "Ferries", "description": "When they leave."},'
        ' {"group": "Group 7", "title": "Trains", "description": "Trains that are late."}]}',
        '{"4": {"title": "Ferries", "description": "When they leave."}}\n'
        '{"7": {"title": "Trains", "description": "Trains that are late."}}',
    ],
)
def test_answers_about_several_are_gathered_from_all_that_names_them(text: str) -> None:
    found = parse_joint_answer(text, GROUP)
    assert [getattr(found[each], "title", found[each]) for each in (4, 7)] == ["Ferries", "Trains"]


@pytest.mark.parametrize(
    "title",
    [
        "Sorry, I Missed Your Call",
        "I Can't Log In to My Account",
        "I am unable to connect to wifi",
        "I'm not able to top up my card",
        "I Apologize: Customer Service Replies",
        "As an AI Engineer: Career Advice",
        "As a large language model evaluation benchmark",
        "Cannot pay by card",
        "Apologies from airlines",
        "No title deeds for land",
    ],
)
def test_a_title_in_the_words_of_its_items_is_no_refusal(title: str) -> None:
    assert not refuses(title)


@pytest.mark.parametrize("words", ["N/A", "None", "string", "<title>", "Untitled", "..."])
def test_a_form_that_was_not_filled_in_is_no_answer(words: str) -> None:
    with pytest.raises(SummaryError, match="no title in words"):
        parse_answer(answer(words), FACTS)


def test_code_and_numbers_are_no_markdown() -> None:
    summary = parse_answer(answer("The __init__ method", "- 5 degrees at the harbour."), FACTS)
    assert (summary.title, summary.description) == (
        "The __init__ method",
        "- 5 degrees at the harbour.",
    )
    assert parse_answer(answer("Calls of f[x](y)"), FACTS).title == "Calls of f[x](y)"


HOSTILE = ["{'", '{"', "{", "[1,", "<s", "<think>", "so ", "*a", "** ", "[a]("]


@pytest.mark.parametrize("unit", HOSTILE)
def test_a_hostile_answer_of_any_length_is_read_in_bounded_time(unit: str) -> None:
    started = time.process_time()
    with suppress(SummaryError):
        parse_answer(unit * (100_000 // len(unit)), FACTS)
    # A person waits; 50,000 characters took minutes where every brace was repaired.
    assert time.process_time() - started < 20
