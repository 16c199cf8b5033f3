import tracemalloc
from collections import Counter

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hercules_scale.summarization.keyphrases import (
    CHARACTERS_READ,
    COUNTS,
    REST,
    PhraseCounts,
    add_counts,
    count_phrases,
    most_frequent,
)

TEXTS = [
    "a heart valve replaced",
    "the mitral heart valve",
    "a heart beat, a heart valve",
    "apple pie",
    "sour apple and sweet apple",
    "apple juice",
]
CLUSTERS = np.array([0, 0, 0, 1, 1, 1], np.int32)


def counted(texts: list[str], clusters: NDArray[np.int32]) -> Counter[tuple[int, str]]:
    table = count_phrases(texts, clusters)
    return Counter({(row["cluster"], row["phrase"]): row["count"] for row in table.to_pylist()})


def phrases(counts: pa.Table, ancestors: list[int], n_phrases: int = 3) -> list[list[str]]:
    found = PhraseCounts(counts, len(ancestors))
    return found.of_level(np.array(ancestors, np.int32), n_phrases)


def test_words_and_pairs_of_words_are_counted_by_cluster() -> None:
    found = counted(["red kite red kite", "Blue kite!", "blue"], np.array([4, 0, 0], np.int32))
    assert found == {
        (4, "red"): 2,
        (4, "kite"): 2,
        (4, "red kite"): 2,
        (4, "kite red"): 1,
        (0, "blue"): 2,
        (0, "kite"): 1,
        (0, "blue kite"): 1,
    }


def test_counts_of_parts_add_up_to_those_of_the_whole() -> None:
    parts = counted(TEXTS[:2], CLUSTERS[:2]) + counted(TEXTS[2:], CLUSTERS[2:])
    assert parts == counted(TEXTS, CLUSTERS)
    joined = pa.concat_tables(
        [count_phrases(TEXTS[3:], CLUSTERS[3:]), count_phrases(TEXTS[:3], CLUSTERS[:3])]
    )
    assert phrases(joined, [0, 1]) == phrases(count_phrases(TEXTS, CLUSTERS), [0, 1])


def test_words_of_other_scripts_are_words() -> None:
    found = counted(["größe 東京 l’état don't 42"], np.zeros(1, np.int32))
    assert {phrase for _, phrase in found} == {"größe", "東京", "état", "größe état"}


def test_texts_without_words_have_no_phrases() -> None:
    found = count_phrases(["the and of", "!!!", ""], np.zeros(3, np.int32))
    assert found.num_rows == 0
    with np.errstate(all="ignore"):
        assert phrases(found, [0, 0, 1]) == [[], []]


def test_only_the_beginning_of_a_huge_text_is_read() -> None:
    text = "near " * (CHARACTERS_READ // 5) + "far"
    assert (0, "far") not in counted([text], np.zeros(1, np.int32))


def test_phrases_set_clusters_apart() -> None:
    heart, apple = phrases(count_phrases([f"patient {text}" for text in TEXTS], CLUSTERS), [0, 1])
    assert "heart valve" in heart
    assert "apple" in apple[0].split()
    # A word that is everywhere tells no cluster from another.
    assert "patient" not in [*heart, *apple]


def test_a_pair_stands_for_its_words() -> None:
    found = phrases(count_phrases(TEXTS, CLUSTERS), [0, 1])[0]
    assert "heart valve" in found
    assert "heart" not in found
    assert "valve" not in found


def test_no_more_phrases_than_asked_for_are_given() -> None:
    for found in phrases(count_phrases(TEXTS, CLUSTERS), [0, 1], n_phrases=2):
        assert 1 <= len(found) <= 2


def test_upper_levels_add_up_the_counts_of_their_clusters() -> None:
    texts = [*TEXTS, "heart rate", "heart beat"]
    fine = np.array([*CLUSTERS, 2, 2], np.int32)
    merged = np.array([*CLUSTERS, 0, 0], np.int32)
    assert phrases(count_phrases(texts, fine), [0, 1, 0]) == phrases(
        count_phrases(texts, merged), [0, 1]
    )


def test_more_letters_than_a_word_has_are_none() -> None:
    found = counted(
        ["a" * 4_000, f"wing{'-' * 99}x", "o'clock fly-by"], np.array([0, 1, 2], np.int32)
    )
    assert {phrase for cluster, phrase in found if cluster == 0} == set()
    assert {phrase for cluster, phrase in found if cluster == 1} == {"wing"}
    assert {"o'clock", "fly-by"} <= {phrase for cluster, phrase in found if cluster == 2}


def test_a_long_phrase_costs_no_more_than_its_letters() -> None:
    names = ["x" * 4_000, *(f"w{row}" for row in range(20_000))]
    clusters = pa.array(np.zeros(len(names), np.int32))
    columns = [clusters, pa.array(names), pa.array(np.ones(len(names), np.int64))]
    counts = PhraseCounts(pa.table(columns, COUNTS.names), 1)
    tracemalloc.start()
    try:
        assert counts.of_level(np.zeros(1, np.int32), 2) == [["w0", "w1"]]
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()


def test_the_most_frequent_phrases_stay_and_others_keep_their_sum() -> None:
    rows = [
        (0, "b", 2),
        (1, "d", 1),
        (0, "a", 1),
        (0, "b", 3),
        (0, "c", 1),
        (1, "e", 1),
        (2, "f", 4),
    ]
    columns = [pa.array(list(column)) for column in zip(*rows, strict=True)]
    added = add_counts(pa.table(columns, COUNTS.names))
    assert added.schema == COUNTS
    found = {(row["cluster"], row["phrase"]): row["count"] for row in added.to_pylist()}
    assert found == {(0, "b"): 5, (1, "d"): 1, (0, "a"): 1, (0, "c"): 1, (1, "e"): 1, (2, "f"): 4}
    found = {
        (row["cluster"], row["phrase"]): row["count"] for row in most_frequent(added, 1).to_pylist()
    }
    assert found == {(0, "b"): 5, (0, REST): 2, (1, "d"): 1, (1, REST): 1, (2, "f"): 4}
    assert most_frequent(added, 3).num_rows == added.num_rows


def test_phrases_that_were_left_out_count_and_are_never_chosen() -> None:
    counts = add_counts(count_phrases(TEXTS, CLUSTERS))
    few = most_frequent(counts, 2)
    assert few.num_rows < counts.num_rows
    assert sum(few["count"].to_pylist()) == sum(counts["count"].to_pylist())
    for found in phrases(few, [0, 1], n_phrases=8):
        assert found
        assert REST not in found
    assert phrases(few, [0, 1], n_phrases=1) == phrases(counts, [0, 1], n_phrases=1)
    said = PhraseCounts(few, 2).words_of_level(np.arange(2, dtype=np.int32), np.array([3.0, 3.0]))
    assert said.share(1, "appl") > 0
