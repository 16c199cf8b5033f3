from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hercules_scale.summarization.cluster_facts import ClusterFacts
from hercules_scale.summarization.distinct_titles import alike_titles, title_key, told_apart
from hercules_scale.summarization.worked_examples import TITLE_WORDS


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("Ferries", "ferries."),
        ("The ferries and harbours", "Harbours, ferries"),
        ("Ferry of the north", "North ferry"),
        ("Ferry time", "Ferry times"),
        ("The", "the"),
    ],
)
def test_titles_that_say_the_same_have_one_key(one: str, two: str) -> None:
    assert title_key(one) == title_key(two)


@pytest.mark.parametrize(("one", "two"), [("Ferries", "Harbours"), ("Class", "Clas"), ("A", "The")])
def test_titles_that_say_something_else_do_not(one: str, two: str) -> None:
    assert title_key(one) != title_key(two)


def test_siblings_with_like_titles_are_found() -> None:
    titles = ["Ferries", "Trains", "The ferries", "Ferries", "trains"]
    assert alike_titles(titles, np.array([0, 1, 2, 4])) == [[0, 2], [1, 4]]


def facts(cluster: int, n_items: int, *phrases: str) -> ClusterFacts:
    return ClusterFacts(1, cluster, n_items, list(phrases))


def test_the_largest_keeps_the_title_and_others_get_a_phrase() -> None:
    clusters = [facts(0, 5, "crew", "storm"), facts(1, 9, "tickets"), facts(2, 7, "crew")]
    found = told_apart(["Ferries"] * 3, clusters, [np.arange(3)])
    assert found == ["Ferries (storm)", "Ferries", "Ferries (crew)"]


def test_in_other_families_the_same_title_may_stand() -> None:
    clusters = [facts(0, 5), facts(1, 5)]
    titles = ["Ferries", "Ferries"]
    assert told_apart(titles, clusters, [np.array([0]), np.array([1])]) == titles


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["Ferries", "the ferry", "a b c d e f g", "", "(1/0)", "1"]),
            st.lists(st.sampled_from(["crew", "storm", "a b c", ""]), max_size=3),
            st.integers(1, 3),
        ),
        min_size=1,
        max_size=9,
    )
)
def test_no_two_siblings_have_the_same_title(
    clusters: list[tuple[str, list[str], int]],
) -> None:
    known = [facts(index, size, *phrases) for index, (_, phrases, size) in enumerate(clusters)]
    titles = [title for title, _, _ in clusters]
    found = told_apart(titles, known, [np.arange(len(known))])
    assert len({title_key(title) for title in found}) == len(found)
    assert all(len(title.split()) <= TITLE_WORDS for title in found)
