from __future__ import annotations

import math

import numpy as np
import pytest

from hercules_scale.clustering.nearest_centroids import Float32, to_unit
from hercules_scale.summarization.cluster_facts import Child, ClusterFacts
from hercules_scale.summarization.grounding import Grounding, content_stems
from hercules_scale.summarization.keyphrases import PhraseCounts, count_phrases

TEXTS = [
    "The ferry leaves the harbour at nine",
    "Ferries to the islands sail daily",
    "Harbour fees for sailing boats",
    "Bread is baked from rye flour",
    "A starter makes the sourdough rise",
]
CLUSTERS = np.array([0, 0, 0, 1, 1], np.int32)
FACTS = [
    ClusterFacts(1, 0, 3, ["ferry", "harbour"]),
    ClusterFacts(1, 1, 2, ["bread", "sourdough"]),
]


def grounding(
    texts: list[str] = TEXTS,
    near: dict[str, str] | None = None,
    facts: list[ClusterFacts] = FACTS,
) -> Grounding:
    """Of two clusters; ``near`` names words that lie where another lies."""
    counts = PhraseCounts(count_phrases(texts, CLUSTERS[: len(texts)]), 2)
    sampled = np.bincount(CLUSTERS[: len(texts)], minlength=2).astype(np.float64)
    said = counts.words_of_level(np.arange(2, dtype=np.int32), sampled)

    def encode(words: list[str]) -> Float32:
        places = {
            word: np.random.default_rng(sum(map(ord, word))).normal(size=64) for word in words
        }
        for word, other in (near or {}).items():
            if word in places and other in places:
                places[word] = places[other]
        return to_unit(np.stack([places[word] for word in words]).astype(np.float32))

    return Grounding(said, facts, encode)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("Ferries and harbours", 1.0),
        ("Sailing to islands by ferry", 1.0),
        ("Ferries and zebras", 0.5),
        ("Zebras", 0.0),
        # Words of another cluster are not its own.
        ("Baking sourdough bread", 0.0),
        ("Various topics", math.nan),
        ("The 1965 ferry", 0.5),
    ],
)
def test_the_share_of_a_text_that_items_say(text: str, share: float) -> None:
    assert grounding().share(0, text) == pytest.approx(share, nan_ok=True)


def test_a_word_near_a_key_phrase_paraphrases_it() -> None:
    assert grounding().share(0, "Vessels in the harbour") == 0.5
    assert grounding(near={"vessels": "ferry"}).share(0, "Vessels in the harbour") == 1.0


def test_a_word_of_one_item_of_very_many_is_not_theirs() -> None:
    texts = ["the ferry sails"] * 299 + ["the zebra sails"]
    counts = PhraseCounts(count_phrases(texts, np.zeros(300, np.int32)), 1)
    said = counts.words_of_level(np.zeros(1, np.int32), np.array([300.0]))
    of_one = Grounding(said, [ClusterFacts(1, 0, 300, ["ferry"])], None)
    assert of_one.share(0, "Ferry") == 1
    assert of_one.share(0, "Zebra") == 0


def test_words_that_few_items_have_are_not_typical_of_them() -> None:
    texts = ["the ferry sails"] * 95 + ["the zebra sails"] * 5
    counts = PhraseCounts(count_phrases(texts, np.zeros(100, np.int32)), 1)
    said = counts.words_of_level(np.zeros(1, np.int32), np.array([100.0]))
    of_one = Grounding(said, [ClusterFacts(1, 0, 100, ["ferry"])], None)
    assert of_one.typicality(0, "Ferry") == 1
    assert of_one.typicality(0, "Zebra") == pytest.approx(0.5)
    assert of_one.typicality(0, "Ferries and zebras") == pytest.approx(0.75)
    assert of_one.typicality(0, "Ferries and horses") == 0.5
    assert math.isnan(of_one.typicality(0, "Various topics"))


def test_a_paraphrase_is_half_as_typical_as_a_word_of_the_items() -> None:
    assert grounding().typicality(0, "Vessels") == 0
    assert grounding(near={"vessels": "ferry"}).typicality(0, "Vessels") == 0.5


def test_titles_of_children_are_grounded() -> None:
    facts = [ClusterFacts(2, 0, 5, [], children=[Child("Zebra crossings", "Roads.", 5)])]
    counts = PhraseCounts(count_phrases(TEXTS, CLUSTERS), 2)
    said = counts.words_of_level(np.zeros(2, np.int32), np.array([3.0, 2.0]))
    of_parent = Grounding(said, facts, None)
    assert of_parent.share(0, "Zebras, ferries and bread") == 1


def test_a_problem_names_the_words() -> None:
    assert grounding().problem(0, "title", "Ferries", 0.5) == ""
    assert grounding().problem(0, "title", "Zebras of 1965", 0.5) == (
        "the title says what the items do not: zebras, 1965"
    )


def test_scripts_without_spaces_are_compared_by_pairs_of_characters() -> None:
    texts = ["東京の天気は晴れです", "大阪の天気は雨です"]
    counts = PhraseCounts(count_phrases(texts, np.zeros(2, np.int32)), 1)
    said = counts.words_of_level(np.zeros(1, np.int32), np.array([2.0]))
    found = Grounding(said, [ClusterFacts(1, 0, 2, [])], None)
    assert found.share(0, "天気") == 1
    assert found.share(0, "経済") == 0
    assert list(content_stems("東京駅の")) == ["東京", "京駅"]


def test_a_word_in_another_script_is_refused_among_any_others() -> None:
    title = "Ferries, harbours, islands, sailing and 广播"
    assert grounding().problem(0, "title", title, 0.5) == (
        "the title is in another script than the items: 广播"
    )


def test_words_of_the_worked_examples_are_refused_among_any_others() -> None:
    title = "Ferries, harbours, islands, sailing and sourdough"
    assert grounding().problem(0, "title", title, 0.5) == (
        "the title repeats the worked examples: sourdough"
    )
    # A name in the items of an example too.
    text = "Ferries, harbours, islands and sailing: Cape Byron"
    assert grounding().problem(0, "title", text, 0.5).startswith("the title repeats the worked")
    # Items may be about them.
    assert grounding().problem(1, "title", "Baking sourdough bread", 0.5) == ""


@pytest.mark.parametrize(
    ("text", "invented"),
    [
        ("Ferries and harbours of the islands", ""),
        ("Ferries of Mull, an island", "Mull"),
        ("Ferries and harbours of islands in 1965", "1965"),
        # Words of the items shown, and other forms of names in them.
        ("Ferries and harbours in Norway since 1931", ""),
        ("Ferries and the Norwegian islands", ""),
        # The first word of a sentence is no name.
        ("Sailing to the islands. Ferries leave the harbour daily", ""),
    ],
)
def test_names_and_numbers_of_a_description_are_in_the_items(text: str, invented: str) -> None:
    shown = ["The harbour of Bergen in Norway, built in 1931"]
    facts = [ClusterFacts(1, 0, 3, ["ferry", "harbour"], shown), FACTS[1]]
    # Even a vector like that of a key phrase does not make up for a name.
    known = grounding(near={"mull": "ferry", "1965": "harbour"}, facts=facts)
    expected = f"the description has names or numbers that the items do not: {invented}"
    found = known.problem(0, "description", text, 0.3)
    assert found == (expected if invented else "")


@pytest.mark.parametrize(
    ("title", "invented"),
    [
        ("Ferries and Sailing Off Islands", ""),
        ("Ferries and harbours of Mull", "Mull"),
        # That a single item shown has a name is not enough.
        ("Ferries and harbours of Norway", "Norway"),
    ],
)
def test_names_in_a_title_are_those_of_the_items(title: str, invented: str) -> None:
    facts = [ClusterFacts(1, 0, 3, ["ferry", "harbour"], ["The harbour of Bergen in Norway"])]
    found = grounding(facts=[*facts, FACTS[1]]).problem(0, "title", title, 0.3)
    expected = f"the title has names or numbers that the items do not: {invented}"
    assert found == (expected if invented else "")
