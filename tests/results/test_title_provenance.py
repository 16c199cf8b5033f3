"""The share of titles by their source, and the score of a title that a person gave."""

from __future__ import annotations

import pyarrow as pa
import pytest

from hercules_scale.results.edits import Edit, with_edits
from hercules_scale.results.title_provenance import describe_sources, title_marks


@pytest.mark.parametrize(
    ("sources", "statuses", "model", "words"),
    [
        (["model"] * 3, ["ok"] * 3, "qwen", "3 of 3 by qwen"),
        (
            ["model", "model", "keyphrases"],
            ["ok", "fallback", "fallback"],
            "qwen",
            "2 of 3 by qwen (1 with their description), 1 from key phrases",
        ),
        (["keyphrases"] * 2, ["fallback"] * 2, None, "2 from key phrases"),
        (["keyphrases"] * 2, ["fallback"] * 2, "qwen", "0 of 2 by qwen, 2 from key phrases"),
        (["model", "person"], ["ok", "ok"], "qwen", "1 of 2 by qwen, 1 by people"),
        (["model", "withheld"], ["ok", "fallback"], "qwen", "1 of 2 by qwen, 1 withheld"),
    ],
)
def test_titles_are_counted_by_their_source(
    sources: list[str], statuses: list[str], model: str | None, words: str
) -> None:
    assert describe_sources(sources, statuses, model) == words


def test_marks_name_the_titles_that_are_not_the_models() -> None:
    sources = ["model", "keyphrases", "withheld", "person", None]
    statuses = ["fallback", "fallback", "fallback", "ok", "waiting"]
    assert title_marks(sources, statuses) == ["", "key phrases", "withheld", "", "waiting"]
    # With key phrases alone a mark on each would say nothing.
    assert title_marks(["keyphrases"] * 2, ["fallback"] * 2) == ["", ""]


def test_a_title_by_a_person_has_no_score_of_the_title_before() -> None:
    clusters = pa.table(
        {
            "level": pa.array([1, 1], pa.int16()),
            "cluster_id": pa.array([0, 1], pa.int32()),
            "title": ["Ferries", "Trains"],
            "summary_status": ["fallback", "ok"],
            "summary_error": ["key phrases", None],
            "summary_source": ["keyphrases", "model"],
            "summary_score": pa.array([0.5, 0.75], pa.float32()),
        }
    )
    found = with_edits(clusters, {(1, 0): Edit("Boats", None, "2026-11-28")}).to_pydict()
    assert found["title"] == ["Boats", "Trains"]
    assert found["summary_score"] == [None, 0.75]
    assert found["summary_source"] == ["person", "model"]
