"""Titles of clusters with children."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from hercules_scale.clustering.nearest_centroids import Float32, to_unit
from hercules_scale.config.summaries import SummariesConfig
from hercules_scale.stages.label_level import Labels, label_level
from hercules_scale.stages.label_options import Words
from hercules_scale.stages.label_titles import PARTS_LISTED
from hercules_scale.stages.level_choice import Level, choose
from hercules_scale.storage.store import Store
from hercules_scale.summarization.chat import Answer, ChatReply, ChatRequest, Model
from hercules_scale.summarization.cluster_facts import Child, ClusterFacts
from hercules_scale.summarization.label_choice import Items
from hercules_scale.summarization.labeller import Labeller
from hercules_scale.summarization.ledger import Ledger
from hercules_scale.summarization.model_calls import Asker
from hercules_scale.summarization.parent_titles import Parts
from hercules_scale.summarization.prompts import PromptStyle
from hercules_scale.summarization.tokens import EstimatedTokens

# Words by direction: those of one kind lie near one another.
KINDS = (
    ("ferry", "ferries", "ships", "boats"),
    ("trams", "rails"),
    ("bread", "food"),
    ("cakes", "sweets"),
)


def encode(texts: list[str]) -> Float32:
    """Embed texts by the kinds of their words; of others nothing is known."""
    vectors = np.full((len(texts), len(KINDS)), 0.01)
    for place, text in enumerate(texts):
        words = text.lower().replace(";", " ").replace(".", " ").replace(",", " ").split()
        for kind, known in enumerate(KINDS):
            vectors[place, kind] += sum(word in known for word in words)
    return to_unit(vectors.astype(np.float32))


class StandIn:
    """A model that answers with given titles, and by the parts of a cluster with another one."""

    def __init__(self, titles: dict[str, Sequence[str]], by_parts: str = "nothing {}") -> None:
        self.titles, self.by_parts = titles, by_parts
        self.questions: list[str] = []

    def n_prompts(self, request: ChatRequest) -> int:
        return 1

    async def answer(self, request: ChatRequest) -> ChatReply:
        question = str(request.messages[-1]["content"])
        self.questions.append(question)
        if "description" not in request.schema["required"]:
            return ChatReply([Answer(json.dumps({"title": self.by_parts}), "stop")], 9, 9)
        titles = next(own for word, own in self.titles.items() if f"<item>{word}<" in question)
        answers = [{"title": each, "description": "Ships, trams, bread, cakes."} for each in titles]
        return ChatReply([Answer(json.dumps(each), "stop") for each in answers], 9, 9)

    async def close(self) -> None:
        pass


def level(*sizes: int) -> Level:
    """A level of two clusters: one of ferries and trams with these sizes, and one of food."""
    ferries, trams = sizes
    facts = [
        ClusterFacts(
            2,
            0,
            ferries + trams,
            exemplars=["boats"],
            children=[Child("Ferries", "Ships.", ferries), Child("Trams", "Rails.", trams)],
        ),
        ClusterFacts(
            2,
            1,
            40,
            exemplars=["food"],
            children=[Child("Bread", "Food.", 20), Child("Cakes", "Sweets.", 20)],
        ),
    ]
    means = encode(["ferry", "trams", "bread", "cakes"])
    n_items = np.array([ferries, trams, 20, 20])
    items = Items(means, np.array([0, 0, 1, 1]), n_items.astype(float), np.arange(4))
    parts = Parts(means, np.array([0, 0, 1, 1], np.int32), n_items)
    return Level(facts, [np.arange(2)], items, parts, None, encode, None, 2, False)


def label(folder: Path, level: Level, model: StandIn) -> Labels:
    config = SummariesConfig(candidates=2)
    style = PromptStyle(EstimatedTokens(), config.max_prompt_tokens, config.exemplar_tokens)

    async def run() -> Labels:
        ledger = Ledger(Store(str(folder)))
        asker = Asker(Model(model, EstimatedTokens(), 4), ledger, config, style)
        return await label_level(level, Labeller(asker, config, style, 0))

    return asyncio.run(run())


FOOD = ["Bread and cakes"]


def test_a_title_that_covers_the_children_is_taken_without_another_request(tmp_path: Path) -> None:
    model = StandIn({"boats": ["Ferries", "Boats and rails"], "food": FOOD})
    found = label(tmp_path, level(60, 40), model).summaries
    assert [each.title for each in found] == ["Boats and rails", "Bread and cakes"]
    assert {each.status for each in found} == {"ok"}
    assert len(model.questions) == 2


@pytest.mark.parametrize("titles", [["Ferries"], ["The ferry", "Ships"], ["Ferry boats"]])
def test_a_cluster_with_the_title_of_a_part_is_asked_about_once_more(
    tmp_path: Path, titles: list[str]
) -> None:
    model = StandIn({"boats": titles, "food": FOOD}, "Boats and rails")
    found = label(tmp_path, level(60, 40), model).summaries[0]
    assert (found.title, found.source, found.status) == ("Boats and rails", "model", "ok")
    assert model.questions[2:] == ["60%: Ferries\n40%: Trams"]
    # The ledger answers a repeated run.
    again = StandIn({})
    assert label(tmp_path, level(60, 40), again).summaries[0] == found
    assert again.questions == []


@pytest.mark.parametrize("by_parts", ["Ferries", "The ships", "{}"])
def test_where_no_title_covers_the_parts_they_are_listed(tmp_path: Path, by_parts: str) -> None:
    model = StandIn({"boats": ["Ferries"], "food": FOOD}, by_parts)
    found = label(tmp_path, level(60, 40), model).summaries[0]
    assert (found.title, found.source, found.status) == ("Ferries; Trams", "parts", "fallback")
    assert found.error == PARTS_LISTED
    assert found.description == "Ships, trams, bread, cakes."
    n_by_parts = sum(question.startswith("60%") for question in model.questions)
    assert n_by_parts == 1


def test_a_child_with_nearly_all_items_may_share_its_title(tmp_path: Path) -> None:
    model = StandIn({"boats": ["Ferries"], "food": FOOD})
    assert label(tmp_path, level(90, 10), model).summaries[0].title == "Ferries"
    assert len(model.questions) == 2


def test_a_level_without_items_is_spared_the_question_what_titles_cover(tmp_path: Path) -> None:
    known = level(60, 40)
    texts = Level(known.facts, known.groups, None, None, None, encode, None, known.n_answers, False)
    model = StandIn({"boats": ["Boats", "Ferries"], "food": FOOD}, "Boats and rails")
    # Near the title of a child, though no item is known.
    assert label(tmp_path, texts, model).summaries[0].title == "Boats and rails"


def test_the_title_nearer_to_the_criterion_is_chosen() -> None:
    # Half of the items of the first cluster are ferries, half trams.
    known = level(50, 50)
    titles = [[Words("Big ferries", "model"), Words("Big trams", "model")], [Words(FOOD[0], "x")]]

    def chosen(criterion: str) -> str:
        by = dataclasses.replace(known, criterion=encode([criterion])[0])
        return choose(by, titles)[0][0].text

    assert chosen("ships") == "Big ferries"
    assert chosen("rails") == "Big trams"
