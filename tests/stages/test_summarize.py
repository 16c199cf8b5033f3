"""What prompts are made of, and which items labels are chosen by and measured on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from hercules_scale.clustering.nearest_centroids import Float32, to_unit
from hercules_scale.runtime.context import RunContext, Shards
from hercules_scale.runtime.progress import Reporter
from hercules_scale.stages import label_items as module
from hercules_scale.stages import phrase_counts
from hercules_scale.stages.cluster import Clustering, cluster_items
from hercules_scale.stages.label_items import draw_label_items
from hercules_scale.stages.label_options import (
    DESCRIPTION_LOST,
    TITLE_LOST,
    Words,
    description_options,
    is_asked_about,
    is_decorated,
    title_options,
)
from hercules_scale.stages.phrase_counts import count_run_phrases
from hercules_scale.stages.prompt_facts import ancestors, diverse, nearest_outside, shown_rows
from hercules_scale.stages.smooth import Smoothing
from hercules_scale.stages.vectors import ShardTiles
from hercules_scale.storage import layout
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import read_table, write_table
from hercules_scale.summarization.candidates import Candidates
from hercules_scale.summarization.cluster_facts import Child, ClusterFacts
from hercules_scale.summarization.keyphrases import PhraseCounts
from tests.conftest import resolved, write_embeddings

pytestmark = pytest.mark.ray
N_ROWS, DIMENSION = 3_000, 8


@pytest.fixture
def vectors() -> Float32:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(12, DIMENSION))
    rows = centres[rng.integers(0, 12, N_ROWS)] + 0.3 * rng.normal(size=(N_ROWS, DIMENSION))
    return to_unit(rows.astype(np.float32))


def cluster(
    folder: Path, vectors: Float32, workers: int, **summaries: object
) -> tuple[RunContext, Shards, Clustering]:
    config = resolved(
        {
            "input": {"path": str(folder), "modality": "text"},
            "hierarchy": {"levels": [12, 3], "smoothing": {"neighbours": 0}},
            "summaries": {"engine": "keyphrases", "exemplars": 5, **summaries},
            "resources": {"workers": workers},
            "output": {"path": str(folder)},
        }
    )
    store, shards = Store(str(folder)), Shards(N_ROWS, 512)
    write_embeddings(store, shards, vectors)
    context = RunContext(config, store, "test", Reporter())
    source = ShardTiles(store, shards, DIMENSION)
    return context, shards, cluster_items(context, Smoothing(source, {}))


def test_items_to_choose_by_and_to_measure_on_are_apart_and_were_never_shown(
    tmp_path: Path, vectors: Float32, local_ray: None
) -> None:
    context, shards, clustering = cluster(tmp_path, vectors, 2)
    items = draw_label_items(context, shards, clustering)
    chosen, measured = set(items.to_choose.rows), set(items.to_measure.rows)
    assert chosen.isdisjoint(measured)
    shown = shown_rows(context, shards, clustering.clusters)
    assert {len(rows) for rows in shown} == {5}
    assert (chosen | measured).isdisjoint({row for rows in shown for row in rows})
    sizes = clustering.level(1)["n_items"].to_numpy()
    for half in (items.to_choose, items.to_measure):
        np.testing.assert_allclose(half.vectors, vectors[half.rows], atol=1e-6)
        counts = np.bincount(half.labels, minlength=12)
        assert (counts > 10).all()
        # Each stands for its share of the cluster.
        totals = np.bincount(half.labels, half.weights, minlength=12)
        np.testing.assert_allclose(totals, sizes)
    upper = items.of_level(ancestors(clustering, 2)).to_choose
    parents = clustering.level(1)["parent_cluster_id"].to_numpy()
    assert (upper.labels == parents[items.to_choose.labels]).all()


def test_the_same_items_are_drawn_by_any_number_of_workers(
    tmp_path: Path, vectors: Float32, local_ray: None
) -> None:
    drawn = [
        draw_label_items(*cluster(tmp_path / str(workers), vectors, workers)).to_choose.rows
        for workers in (1, 3)
    ]
    assert drawn[0].tolist() == drawn[1].tolist()


def test_of_very_many_clusters_fewer_items_are_drawn(
    tmp_path: Path, vectors: Float32, local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_NUMBERS", 0)
    items = draw_label_items(*cluster(tmp_path, vectors, 2))
    n_drawn = len(items.to_choose.rows) + len(items.to_measure.rows)
    assert 0 < n_drawn < 12 * 2 * module.LEAST_PER_CLUSTER


def test_of_very_many_phrases_workers_keep_the_frequent_ones(
    tmp_path: Path, vectors: Float32, local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, shards, clustering = cluster(tmp_path, vectors, 2)
    n_counts: list[int] = []
    for shard in range(len(shards)):
        rows = range(*shards.bounds(shard))
        own = read_table(context.store, layout.part("memberships", shard))["level_1"].to_pylist()
        texts = [f"kind{of} goods, lot{row}" for of, row in zip(own, rows, strict=True)]
        write_table(context.store, layout.part("items", shard), pa.table({"text": texts}))

    def counted(counts: pa.Table, n_clusters: int) -> PhraseCounts:
        n_counts.append(counts.num_rows)
        return PhraseCounts(counts, n_clusters)

    monkeypatch.setattr(phrase_counts, "PhraseCounts", counted)
    found = [count_run_phrases(context, shards, clustering)]
    monkeypatch.setattr(phrase_counts, "MOST_COUNTS", 1_000)
    monkeypatch.setattr(phrase_counts, "LEAST_COUNTS", 20)
    found.append(count_run_phrases(context, shards, clustering))
    # 83 phrases of each of twelve clusters and the sum of the others.
    assert n_counts[0] > 3_000
    assert n_counts[1] <= 12 * 84
    for level in (1, 2):
        held = ancestors(clustering, level)
        best = [each.of_level(held, 1) for each in found]
        assert best[0] == best[1]
        assert all("kind" in phrase for (phrase,) in best[0])


@pytest.mark.parametrize(("strategy", "pool"), [("nearest", 1), ("diverse", 4)])
def test_examples_come_from_a_pool_of_the_nearest_and_of_all(
    tmp_path: Path, vectors: Float32, local_ray: None, strategy: str, pool: int
) -> None:
    _, _, clustering = cluster(tmp_path, vectors, 2, exemplar_strategy=strategy)
    near = clustering.level(1)["exemplar_rows"].to_pylist()
    drawn = clustering.level(1)["random_rows"].to_pylist()
    assert {len(rows) for rows in near} == {5 * pool}
    assert all(len(rows) >= 5 for rows in drawn)
    assert not any(
        set(rows[:5]) == set(others[:5]) for rows, others in zip(near, drawn, strict=True)
    )


def test_diverse_examples_skip_near_duplicates() -> None:
    angles = np.array([0, 0.01, 0.02, 1.0, 1.01, 2.0])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert diverse(vectors, 3) == [0, 3, 5]
    # Where there are no others, the nearest are taken.
    assert diverse(vectors, 5) == [0, 3, 5, 1, 2]
    assert diverse(vectors[:1], 5) == [0]


def test_the_nearest_clusters_outside() -> None:
    centroids = 100 + np.array([[0, 0], [1, 0], [3, 0], [7, 0]], np.float32)
    assert nearest_outside(centroids, 2) == [[1, 2], [0, 2], [1, 0], [2, 1]]
    assert nearest_outside(centroids, 9)[0] == [1, 2, 3]
    assert nearest_outside(centroids, 0) == [[], [], [], []]
    assert nearest_outside(centroids[:1], 2) == [[]]


FACTS = ClusterFacts(1, 0, 9, ["ferry", "harbour"])
ANSWERS = Candidates(["Ferries", "Harbours"], ["Ships."])
Options = Callable[[Candidates, ClusterFacts, bool, bool], list[Words]]
EACH = pytest.mark.parametrize("options", [title_options, description_options])


def test_titles_and_descriptions_are_chosen_apart_and_key_phrases_say_why() -> None:
    titles = title_options(ANSWERS, FACTS, True, True)
    assert titles == [
        Words("Ferries", "model"),
        Words("Harbours", "model"),
        Words("Ferry, harbour", "keyphrases", TITLE_LOST),
    ]
    assert description_options(ANSWERS, FACTS, True, True) == [
        Words("Ships.", "model"),
        Words("9 items about ferry and harbour.", "keyphrases", DESCRIPTION_LOST),
    ]


def test_without_a_choice_the_first_answer_is_taken() -> None:
    assert title_options(ANSWERS, FACTS, False, False) == [Words("Ferries", "model")]
    assert description_options(ANSWERS, FACTS, False, False) == [Words("Ships.", "model")]


def test_labels_that_no_item_can_be_compared_with_are_the_models() -> None:
    assert {each.source for each in title_options(ANSWERS, FACTS, True, False)} == {"model"}


def test_a_cluster_with_the_items_of_one_below_has_its_label() -> None:
    below = Child("Ferries", "Ships.", 9, "keyphrases", "no answer in time")
    facts = ClusterFacts(2, 0, 9, ["ferry"], children=[below])
    assert not is_asked_about(facts)
    for options, text in ((title_options, "Ferries"), (description_options, "Ships.")):
        expected = [Words(text, "keyphrases", "no answer in time")]
        assert options(Candidates(), facts, True, True) == expected
    assert is_asked_about(ClusterFacts(2, 0, 10, ["ferry"], children=[below]))


@pytest.mark.parametrize(
    ("title", "decorated"),
    [
        ("Ferries: Ferries", True),
        ("A new era: the ferries", True),
        ("Ferries and trams", False),
        ("Ferries: fares and tickets", True),
        ("Ships: fares and tickets", False),
    ],
)
def test_a_known_title_with_words_around_it_is_no_other(title: str, decorated: bool) -> None:
    assert is_decorated(title, {"Ferries"}) is decorated


@pytest.mark.parametrize("several", [False, True])
@EACH
def test_where_the_model_failed_key_phrases_stand_in_with_the_reason(
    options: Options, several: bool
) -> None:
    (option,) = options(Candidates(problem="no answer in time"), FACTS, several, several)
    assert (option.source, option.error) == ("keyphrases", "no answer in time")
