from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hercules_scale.clustering.nearest_centroids import Float32, to_unit
from hercules_scale.summarization import label_choice as module
from hercules_scale.summarization.label_choice import (
    Items,
    choose_labels,
    label_accuracy,
    nearest_siblings,
    reading_penalty,
    sibling_groups,
)


def unit(rng: np.random.Generator, *shape: int) -> Float32:
    return to_unit(rng.normal(size=shape).astype(np.float32))


def planted(k: int, per_cluster: int = 20, seed: int = 0) -> tuple[Float32, Items]:
    """Directions of k clusters, and items around each."""
    rng = np.random.default_rng(seed)
    centres = unit(rng, k, 16)
    labels = np.repeat(np.arange(k), per_cluster)
    noise = 0.05 * rng.normal(size=(len(labels), 16)).astype(np.float32)
    items = Items(
        to_unit(centres[labels] + noise), labels, np.ones(len(labels)), np.arange(len(labels))
    )
    return centres, items


def test_clusters_are_grouped_by_parent() -> None:
    groups = sibling_groups(np.array([1, 0, 1, 2, 0], np.int32), 5)
    assert [group.tolist() for group in groups] == [[1, 4], [0, 2], [3]]
    assert [group.tolist() for group in sibling_groups(None, 3)] == [[0, 1, 2]]


def test_the_candidate_that_points_at_its_own_cluster_is_chosen() -> None:
    centres, items = planted(6)
    rng = np.random.default_rng(1)
    candidates = [np.stack([*unit(rng, 3, 16), centre]) for centre in centres]
    penalties = [np.zeros(4)] * 6
    assert choose_labels(candidates, penalties, items, [np.arange(6)]).tolist() == [3] * 6


def test_a_label_that_takes_a_siblings_items_is_not_chosen() -> None:
    centres, items = planted(2)
    both = to_unit((centres[0] + centres[1])[None])[0]
    # Nearer to its own items than the second, and nearer to the sibling's too.
    greedy = to_unit((0.6 * centres[0] + 0.4 * both)[None])[0]
    away = to_unit((centres[0] - 0.3 * centres[1])[None])[0]
    candidates = [np.stack([greedy, away]), both[None]]
    chosen = choose_labels(candidates, [np.zeros(2), np.zeros(1)], items, [np.arange(2)])
    vectors = np.stack([candidates[0][chosen[0]], both])
    others = np.stack([candidates[0][1 - chosen[0]], both])
    shares = [label_accuracy(each, items, [np.arange(2)]).mean() for each in (vectors, others)]
    assert shares[0] >= shares[1]


def test_a_penalty_outweighs_a_small_gain() -> None:
    centres, items = planted(3)
    near = to_unit(centres + np.float32(0.02))
    candidates = [np.stack([centre, other]) for centre, other in zip(centres, near, strict=True)]
    groups = [np.arange(3)]
    free = choose_labels(candidates, [np.zeros(2)] * 3, items, groups)
    dear = choose_labels(candidates, [np.array([5.0, 0.0])] * 3, items, groups)
    assert dear.tolist() == [1, 1, 1]
    assert free.tolist() != dear.tolist()


def test_a_cluster_without_items_or_siblings_has_a_label_too() -> None:
    centres, items = planted(2)
    empty = Items(items.vectors[:20], items.labels[:20], items.weights[:20], items.rows[:20])
    candidates = [np.stack([centre, -centre]) for centre in centres]
    chosen = choose_labels(candidates, [np.zeros(2)] * 2, empty, [np.array([0]), np.array([1])])
    assert chosen[0] == 0
    assert chosen[1] in (0, 1)
    shares = label_accuracy(centres, empty, [np.arange(2)])
    assert shares[0] == 1
    assert np.isnan(shares[1])


def test_of_many_siblings_the_nearest_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SIBLINGS", 2)
    angles = np.linspace(0, 1, 8)
    means = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    found = nearest_siblings(means, np.arange(8))
    assert found[0].tolist() == [1, 2]
    assert sorted(found[4].tolist()) == [3, 5]


def test_accuracy_counts_items_by_weight() -> None:
    vectors = np.array([[1, 0], [0, 1]], np.float32)
    items = Items(
        np.array([[1, 0], [0, 1], [0, 1]], np.float32),
        np.array([0, 0, 1]),
        np.array([3.0, 1.0, 1.0]),
        np.arange(3),
    )
    assert label_accuracy(vectors, items, [np.arange(2)]).tolist() == [0.75, 1.0]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), k=st.integers(2, 8), n_candidates=st.integers(1, 5))
def test_choosing_is_no_worse_than_the_first_candidates(
    seed: int, k: int, n_candidates: int
) -> None:
    _, items = planted(k, seed=seed)
    rng = np.random.default_rng(seed + 1)
    candidates = [unit(rng, n_candidates, 16) for _ in range(k)]
    groups = [np.arange(k)]
    chosen = choose_labels(candidates, [np.zeros(n_candidates)] * k, items, groups)

    def likelihood(choice: np.ndarray) -> float:
        labels = np.stack([own[index] for own, index in zip(candidates, choice, strict=True)])
        odds = module.SHARPNESS * (items.vectors @ labels.T).astype(np.float64)
        own = odds[np.arange(len(odds)), items.labels]
        return float((own - np.log(np.exp(odds).sum(axis=1))).mean())

    means = np.stack([items.vectors[rows].mean(axis=0) for rows in items.rows_of(k)])
    first = np.array([(own @ mean).argmax() for own, mean in zip(candidates, means, strict=True)])
    assert likelihood(chosen) >= likelihood(first) - 1e-9


def test_single_words_and_lists_read_badly() -> None:
    listed = "Ferry, harbour, sea and ships"
    assert 0 == reading_penalty("Ferries and harbours") < reading_penalty(listed)
    assert reading_penalty(listed) < reading_penalty("Ferry")
