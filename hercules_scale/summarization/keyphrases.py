"""Phrases that set the clusters of a level apart.

A phrase scores its count in the cluster times the logarithm of how much more frequent it is there
than in all clusters together: its part of the Kullback-Leibler divergence between the two. It is
class-based TF-IDF (Grootendorst, BERTopic, 2022) with a weight that reaches zero for phrases that
are everywhere; the usual weight does not where a level has few clusters.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy import sparse

from hercules_scale.summarization.grounding import SaidWords, stems_of

# Words of two letters or more; a phrase is one word or two. The first 64 characters of a longer
# word stand for it.
WORD = r"(?u)\b([^\W\d_][\w'’-]{0,62}\w)[\w'’-]*"
# What comes after says little more of the subject, and an item of 10 MB would cost as much as
# thousands of others.
CHARACTERS_READ = 4_000
CANDIDATES_PER_PHRASE = 8

# In place of phrases that are left out.
REST = ""
COUNTS = pa.schema([("cluster", pa.int32()), ("phrase", pa.string()), ("count", pa.int64())])


def count_phrases(texts: Sequence[str], clusters: NDArray[np.int32]) -> pa.Table:
    """How often each phrase occurs in the texts of each cluster.

    Args:
        texts: Shape (n,).
        clusters: Cluster of each text, shape (n,).

    Returns:
        A table of ``cluster``, ``phrase`` and ``count``.
    """
    # scikit-learn takes a second to load, which runs of images or numbers need not wait for.
    from sklearn.feature_extraction.text import CountVectorizer

    vectorizer = CountVectorizer(ngram_range=(1, 2), stop_words="english", token_pattern=WORD)
    try:
        counts = vectorizer.fit_transform(text[:CHARACTERS_READ] for text in texts)
    except ValueError:
        # scikit-learn's "empty vocabulary": no text has a word that is not a stop word.
        return COUNTS.empty_table()
    used, dense = np.unique(clusters, return_inverse=True)
    members = sparse.csr_array(
        (np.ones(len(dense), np.int64), (dense, np.arange(len(dense)))), (len(used), len(dense))
    )
    summed = sparse.coo_array(members @ sparse.csr_array(counts))
    phrases = pa.array(vectorizer.get_feature_names_out(), pa.string())
    return pa.table(
        {
            "cluster": pa.array(used[summed.row], pa.int32()),
            "phrase": phrases.take(pa.array(summed.col)),
            "count": pa.array(summed.data, pa.int64()),
        }
    )


def add_counts(counts: pa.Table) -> pa.Table:
    """One row for each phrase of a cluster, with the sum of its counts."""
    summed = counts.group_by(["cluster", "phrase"], use_threads=False).aggregate([("count", "sum")])
    return summed.rename_columns(["cluster", "phrase", "count"]).cast(COUNTS)


def most_frequent(counts: pa.Table, n_phrases: int) -> pa.Table:
    """The most frequent phrases of each cluster, and the count of all others as that of ``REST``.

    Args:
        counts: As ``add_counts`` gives them.
        n_phrases: Phrases of a cluster at most.
    """
    order = [("cluster", "ascending"), ("count", "descending"), ("phrase", "ascending")]
    counts = counts.sort_by(order)
    clusters = counts["cluster"].to_numpy()
    places = np.arange(len(clusters)) - np.searchsorted(clusters, clusters)
    kept = pa.array(places < n_phrases)
    others = counts.filter(pc.invert(kept))
    rest = pa.array([REST]).take(pa.array(np.zeros(others.num_rows, np.int64)))
    rest = add_counts(others.set_column(1, "phrase", rest))
    return pa.concat_tables([counts.filter(kept), rest])


class PhraseCounts:
    """Counts of phrases by finest cluster.

    Args:
        counts: Tables as ``count_phrases`` makes them, joined.
        n_clusters: Clusters at level 1.
    """

    def __init__(self, counts: pa.Table, n_clusters: int) -> None:
        # Chunks of one column have one dictionary.
        phrases = counts["phrase"].dictionary_encode().chunks
        self._phrases = phrases[0].dictionary if phrases else pa.array([], pa.string())
        columns = [np.zeros(0, np.int32), *(each.indices.to_numpy() for each in phrases)]
        self._rest = pc.index(self._phrases, REST).as_py()
        shape = (n_clusters, max(len(self._phrases), 1))
        self._counts = sparse.csr_array(
            (
                counts["count"].to_numpy().astype(np.float64),
                (counts["cluster"].to_numpy(), np.concatenate(columns)),
            ),
            shape,
        )

    def words_of_level(
        self, ancestors: NDArray[np.int32], n_items: NDArray[np.float64]
    ) -> SaidWords:
        """How often items of each cluster of a level say words.

        Args:
            ancestors: Cluster of the level that holds each finest cluster, shape (k_1,).
            n_items: Items of each finest cluster that phrases were counted in, shape (k_1,).
        """
        columns, by_stem = self._by_stem
        k = int(ancestors.max()) + 1
        counts = sparse.csr_array(_members(ancestors) @ by_stem)
        counts.sort_indices()
        return SaidWords(columns, counts, np.bincount(ancestors, n_items, k).astype(np.float64))

    @functools.cached_property
    def _by_stem(self) -> tuple[dict[str, int], sparse.csr_array]:
        """Columns of stems, and the counts of single words by finest cluster and stem."""
        columns: dict[str, int] = {}
        rows, stems = [], []
        words = pc.indices_nonzero(pc.invert(pc.match_substring(self._phrases, " ")))
        texts = self._phrases.take(words).to_pylist()
        for row, word in zip(words.to_pylist(), texts, strict=True):
            for stem in stems_of(word):
                rows.append(row)
                stems.append(columns.setdefault(stem, len(columns)))
        ones = np.ones(len(rows))
        shape = (self._counts.shape[1], max(len(columns), 1))
        of_stems = sparse.csr_array((ones, (rows, stems)), shape)
        return columns, sparse.csr_array(self._counts @ of_stems)

    def of_level(self, ancestors: NDArray[np.int32], n_phrases: int) -> list[list[str]]:
        """The most telling phrases of each cluster of a level, best first.

        Args:
            ancestors: Cluster of the level that holds each finest cluster, shape (k_1,).
            n_phrases: Phrases wanted of each.
        """
        k = int(ancestors.max()) + 1
        counts = sparse.csr_array(_members(ancestors) @ self._counts)
        overall = np.maximum(np.asarray(counts.sum(axis=0)).reshape(-1), 1) / max(counts.sum(), 1)
        return [self._best(counts, cluster, overall, n_phrases) for cluster in range(k)]

    def _best(
        self,
        counts: sparse.csr_array,
        cluster: int,
        overall: NDArray[np.float64],
        n_phrases: int,
    ) -> list[str]:
        span = slice(counts.indptr[cluster], counts.indptr[cluster + 1])
        columns, occurrences = counts.indices[span], counts.data[span]
        total = max(occurrences.sum(), 1)
        named = columns != self._rest
        columns, occurrences = columns[named], occurrences[named]
        repeated = occurrences > 1
        if repeated.sum() >= n_phrases:
            columns, occurrences = columns[repeated], occurrences[repeated]
        scores = occurrences * np.log(occurrences / total / overall[columns])
        n_candidates = n_phrases * CANDIDATES_PER_PHRASE
        if len(scores) > n_candidates:
            best = scores >= np.partition(scores, -n_candidates)[-n_candidates]
            columns, scores = columns[best], scores[best]
        phrases = self._phrases.take(pa.array(columns)).to_pylist()
        # By score, longer phrases first among equals, then by spelling: always one order.
        ordered = sorted(
            zip((-scores).tolist(), phrases, strict=True),
            key=lambda each: (each[0], -each[1].count(" "), each[1]),
        )
        return _distinct([phrase for _, phrase in ordered[:n_candidates]], n_phrases)


def _members(ancestors: NDArray[np.int32]) -> sparse.csr_array:
    """A row a cluster, with a one for each finest cluster that it holds."""
    n = len(ancestors)
    return sparse.csr_array((np.ones(n), (ancestors, np.arange(n))), (int(ancestors.max()) + 1, n))


def _distinct(phrases: list[str], n_phrases: int) -> list[str]:
    """The first phrases that each bring a word of their own; of "heart" and "heart failure",
    the second stands for both."""
    chosen: list[str] = []
    for phrase in phrases:
        words = set(phrase.split())
        known = {word for other in chosen for word in other.split()}
        if words <= known:
            continue
        shorter = [index for index, other in enumerate(chosen) if set(other.split()) < words]
        if shorter:
            chosen[shorter[0]] = phrase
        elif len(chosen) < n_phrases:
            chosen.append(phrase)
    return chosen
