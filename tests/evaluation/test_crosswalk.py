from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hercules_scale.evaluation.crosswalk import Fates, Links, find_fates, join_links


def fates(items: list[tuple[int, int]], n_old: int, n_new: int) -> tuple[Fates, Fates]:
    """Fates where all items are in both runs, or -1 where they are in none of a run's clusters."""
    old, new = np.array(items, np.int32).T
    before, now = old >= 0, new >= 0
    shared = before & now
    pairs, n_shared = join_links(
        Links.of(old[before], new[before], shared[before]),
        Links.of(new[now], old[now], shared[now]).swapped,
    )
    assert (n_shared == pairs.n_old + pairs.n_new).all()
    sizes = [
        np.bincount(own[own >= 0], minlength=k).astype(np.int64)
        for own, k in ((old, n_old), (new, n_new))
    ]
    return find_fates(pairs, *sizes)


@given(st.permutations(range(6)), st.lists(st.integers(1, 9), min_size=6, max_size=6))
def test_clusters_with_other_ids_are_kept(order: list[int], sizes: list[int]) -> None:
    items = [(each, order[each]) for each, size in enumerate(sizes) for _ in range(size)]
    old, new = fates(items, 6, 6)
    assert old.statuses == new.statuses == ["kept"] * 6
    assert old.partners.tolist() == order
    assert [order[each] for each in new.partners] == list(range(6))
    assert np.allclose(old.growth, 1)
    assert np.allclose(new.growth, 1)


@pytest.mark.parametrize(
    ("items", "of_old", "of_new"),
    [
        ([(0, 0)] * 5 + [(1, 0)] * 5, ["merged", "merged"], ["merged"]),
        ([(0, 0)] * 5 + [(0, 1)] * 5, ["split"], ["split", "split"]),
        # A large topic takes in a small one.
        ([(0, 0)] * 9 + [(1, 0)], ["kept", "merged"], ["kept"]),
        ([(0, 0)] * 9 + [(0, 1)], ["kept"], ["kept", "split"]),
        # Items that are in one run alone.
        ([(0, 0)] * 5 + [(1, -1)] * 5, ["grown", "died"], ["grown"]),
        ([(0, 0)] * 5 + [(-1, 1)] * 5, ["shrunk"], ["shrunk", "born"]),
        ([(0, 0)] * 9 + [(1, 1)] * 3 + [(1, -1)] * 6, ["grown", "shrunk"], ["grown", "shrunk"]),
        # Four old clusters give a quarter of their items to each of four new ones.
        ([(a, b) for a in range(4) for b in range(4)], ["split"] * 4, ["merged"] * 4),
    ],
)
def test_planted_fates_are_found(
    items: list[tuple[int, int]], of_old: list[str], of_new: list[str]
) -> None:
    old, new = fates(items, len(of_old), len(of_new))
    assert old.statuses == of_old
    assert new.statuses == of_new


@given(
    st.lists(st.tuples(st.integers(-1, 4), st.integers(-1, 4)), min_size=1, max_size=60).filter(
        lambda items: any(a >= 0 for a, _ in items) and any(b >= 0 for _, b in items)
    )
)
def test_partners_are_mutual_and_have_one_status(items: list[tuple[int, int]]) -> None:
    old, new = fates(items, 5, 5)
    for own, other in ((old, new), (new, old)):
        for cluster, partner in enumerate(own.partners.tolist()):
            alone = own.statuses[cluster] in ("split", "merged", "born", "died")
            assert alone == (partner < 0)
            if partner >= 0:
                assert other.partners[partner] == cluster
                assert other.statuses[partner] == own.statuses[cluster]
                assert other.growth[partner] == own.growth[cluster]
