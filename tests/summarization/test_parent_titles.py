from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hercules_scale.clustering.nearest_centroids import Float32, to_unit
from hercules_scale.summarization.cluster_facts import Child, ClusterFacts
from hercules_scale.summarization.parent_titles import (
    LEAST_LISTED,
    Parts,
    coverage,
    names_a_part,
    names_several_parts,
    resembles_a_part,
    small_children,
    title_of_parts,
)
from hercules_scale.summarization.prompts import TITLE_CHARACTERS
from hercules_scale.summarization.worked_examples import TITLE_WORDS


def parent(*children: tuple[str, int]) -> ClusterFacts:
    parts = [Child(title, "Ships.", n_items) for title, n_items in children]
    return ClusterFacts(2, 0, sum(n_items for _, n_items in children), children=parts)


@pytest.mark.parametrize(
    ("title", "n_items", "named"),
    [
        ("The Ferries", 40, True),
        ("Ferry", 84, True),
        # A child with nearly all items may share its title.
        ("Ferries", 85, False),
        ("Ferries and trams", 40, False),
        ("Trams", 90, True),
    ],
)
def test_the_title_of_a_small_child_is_known(title: str, n_items: int, named: bool) -> None:
    facts = parent(("Ferries", n_items), ("Trams", 100 - n_items))
    assert names_a_part(facts, title) is named


@pytest.mark.parametrize(
    ("title", "named"),
    [
        ("Ferries and trams", True),
        ("Ferries and buses", False),
        # Both children are ships.
        ("Ships", False),
        # A child with nearly all items is no part.
        ("Airports and trams", False),
    ],
)
def test_a_title_that_names_two_small_children_is_known(title: str, named: bool) -> None:
    facts = parent(("Ferry ships", 6), ("Tram ships", 6), ("Airports", 88))
    assert names_several_parts(facts, title) is named


def test_a_child_with_nearly_all_items_is_not_small() -> None:
    assert [each.title for each in small_children(parent(("Ferries", 90), ("Trams", 10)))] == [
        "Trams"
    ]


def vectors(*angles: float) -> Float32:
    """Unit vectors of the plane, by degrees."""
    turns = np.radians(angles)
    return np.stack([np.cos(turns), np.sin(turns)], axis=1).astype(np.float32)


@pytest.mark.parametrize(
    ("spread", "found"),
    # Twenty degrees are near among titles that are far apart, and far among titles that are near.
    [((0, 120, 240), [True, True, False]), ((0, 20, 40), [True, False, False])],
)
def test_a_paraphrase_is_near_beside_the_other_titles(
    spread: tuple[float, ...], found: list[bool]
) -> None:
    level = vectors(*spread)
    assert resembles_a_part(vectors(0, -20, -60), level[:1], level).tolist() == found


def test_without_children_nothing_is_a_paraphrase() -> None:
    nothing = np.zeros((0, 2), np.float32)
    assert resembles_a_part(vectors(0, 90), nothing, nothing).tolist() == [False, False]


@pytest.mark.parametrize(
    ("children", "expected"),
    [
        ((("Film and music", 50), ("Television", 30)), ("Film and music; Television", 1.0)),
        # All full titles are too long, so some are cut at a comma or function word.
        (
            (
                ("Brexit and Northern Ireland", 50),
                ("Stars of the cinema", 30),
                ("Dutch voters", 20),
            ),
            ("Brexit and Northern Ireland; Stars; Dutch voters", 1.0),
        ),
        (
            (("Snow, wind and rain", 60), ("Prices in the shops of the coast", 40)),
            ("Snow, wind and rain; Prices", 1),
        ),
        # Small children are left out, and their items are not covered.
        ((("Film", 60), ("Music", 35), ("Chess", 5)), ("Film; Music", 0.95)),
        ((("Film", 80), ("Music", 5), ("Chess", 5)), None),
        ((("Film of the year", 50), ("Film of the day", 50)), None),
        ((), None),
    ],
)
def test_a_title_of_parts_lists_the_largest(
    children: tuple[tuple[str, int], ...], expected: tuple[str, float] | None
) -> None:
    found = title_of_parts(parent(*children))
    if expected is None or found is None:
        assert found == expected
    else:
        assert (found[0], round(found[1], 6)) == expected


@given(
    st.lists(
        st.tuples(st.text("ab ,;:of", max_size=70), st.integers(1, 50)), min_size=1, max_size=6
    )
)
def test_a_title_of_parts_is_no_longer_than_others(children: list[tuple[str, int]]) -> None:
    facts = parent(*children)
    found = title_of_parts(facts)
    if found is not None:
        title, share = found
        assert len(title.split()) <= TITLE_WORDS
        assert len(title) <= TITLE_CHARACTERS
        assert 2 * LEAST_LISTED <= share <= 1


class TestCoverage:
    # Children of cluster 0 lie at 0 and 40 degrees, the one of cluster 1 at 90.
    parts = Parts(vectors(0, 90, 40), np.array([0, 1, 0], np.int32), np.array([75, 10, 25]))
    rivals = vectors(0, 90)

    def test_a_title_covers_the_children_that_lie_nearer_to_it_than_to_others(self) -> None:
        titles = {0: vectors(0, 25, 65, 180), 1: vectors(60)}
        found = coverage(titles, vectors(0, 60), self.parts, [np.arange(2)])
        np.testing.assert_allclose(found[0], [0.75, 1, 0, 0])
        np.testing.assert_allclose(found[1], [1])

    def test_nothing_is_known_without_siblings_or_items(self) -> None:
        titles = {0: vectors(0, 20)}
        alone = coverage(titles, self.rivals, self.parts, [np.array([0]), np.array([1])])
        assert np.isnan(alone[0]).all()
        empty = Parts(np.zeros((3, 2), np.float32), self.parts.parents, self.parts.n_items)
        assert np.isnan(coverage(titles, self.rivals, empty, [np.arange(2)])[0]).all()

    def test_of_a_child_without_items_nothing_is_counted(self) -> None:
        means = to_unit(self.parts.means)
        means[0] = 0
        parts = Parts(means, self.parts.parents, self.parts.n_items)
        found = coverage({0: vectors(40)}, self.rivals, parts, [np.arange(2)])
        np.testing.assert_allclose(found[0], [1])
