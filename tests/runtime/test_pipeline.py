"""Stages run in the order of a list, and a list in another order is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from hercules_scale.runtime.pipeline import Pipeline, Product, check_order, run_pipeline
from hercules_scale.storage.tables import FileRecord


@dataclass(frozen=True)
class Words(Product):
    words: list[str]

    @property
    def record(self) -> dict[str, Any]:
        return {"words": len(self.words)}


@dataclass(frozen=True)
class Lengths(Product):
    lengths: list[int]

    @property
    def tables(self) -> dict[str, list[FileRecord]]:
        return {"lengths": [FileRecord("lengths/b", sum(self.lengths), 1, "")]}


@dataclass(frozen=True)
class Halves(Product):
    words: Words
    lengths: Lengths

    @property
    def tables(self) -> dict[str, list[FileRecord]]:
        return {"lengths": [FileRecord("lengths/a", 1, 1, "")], "none": []}


def split(text: str) -> Words:
    return Words(text.split())


def measure(words: Words) -> Lengths:
    return Lengths([len(word) for word in words.words])


def halve(lengths: Lengths, words: Words) -> Halves:
    return Halves(words, lengths)


def split_again(text: str) -> Words:
    return Words([text])


def test_each_stage_gets_the_products_that_its_parameters_name() -> None:
    seen: list[Halves] = []

    def look(halves: Halves) -> Product:
        seen.append(halves)
        return Product()

    tables, record = run_pipeline((split, measure, halve, look), ("one three", 3))
    assert seen == [Halves(Words(["one", "three"]), Lengths([3, 5]))]
    # Two stages have files of one table.
    assert [file.path for file in tables["lengths"]] == ["lengths/a", "lengths/b"]
    assert record == {"words": 2, "rows": {"lengths": 9, "none": 0}}


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((measure, split), "the stage measure reads Words, which no stage before it writes; put"),
        ((split, halve), "the stage halve reads Lengths, which no stage before it writes"),
        ((split, split_again), "split_again writes Words, which exists before it; give it a"),
    ],
)
def test_an_order_that_cannot_run_is_refused_before_any_stage(
    stages: Pipeline, message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        check_order(stages, (str,))
    with pytest.raises(TypeError, match=message):
        run_pipeline(stages, ("one three",))
