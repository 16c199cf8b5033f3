"""Key phrases, which distinguish the clusters of a level.

The score of a phrase is its count in the cluster times the logarithm of its frequency there over
its frequency in all clusters: its term of the Kullback-Leibler divergence between the two. This is
class-based TF-IDF (Grootendorst, BERTopic, 2022) with a weight of zero for phrases that are equally
frequent everywhere; the usual weight stays above zero where a level has few clusters.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy import sparse

from hercules_scale.summarization.grounding import SaidWords, stems_of
from hercules_scale.summarization.stop_words import TEXTS_READ, StopWords
from hercules_scale.summarization.unsegmented_text import RunCounter, reads_as_words
from hercules_scale.summarization.words import (
    atoms,
    composed,
    fold,
    is_kana,
    is_run,
    is_word,
    parts,
    prose,
    tokens,
)

# Later text adds little about the subject, and an item of 10 MB would cost as much as thousands of
# others.
CHARACTERS_READ = 4_000
CANDIDATES_PER_PHRASE = 8
# Share of occurrences in small letters from which a word is spelled in small letters.
SMALL_SHARE = 0.2
# Share of occurrences within one longer sequence from which a sequence is a piece of that one.
PIECE_SHARE = 0.7
NEVER = 2**62

# Stands in ``COUNTS`` for all phrases that are left out.
REST = ""
COUNTS = pa.schema([("cluster", pa.int32()), ("phrase", pa.string()), ("count", pa.int64())])


def count_phrases(texts: Sequence[str], clusters: NDArray[np.int32]) -> pa.Table:
    """Return the count of each phrase in the texts of each cluster.

    A phrase is a word of two letters or more, or two words, in the most common spelling; in scripts
    without spaces it is a repeated sequence of letters.

    Args:
        texts: Shape (n,).
        clusters: Cluster of each text, shape (n,).

    Returns:
        A table of ``cluster``, ``phrase`` and ``count``.
    """
    # scikit-learn takes a second to load, and runs of images or numbers do not need it.
    from sklearn.feature_extraction.text import CountVectorizer

    analyzer, runs = _Analyzer(texts), RunCounter()

    def phrases_of_texts() -> Iterator[list[str]]:
        for text, cluster in zip(texts, clusters.tolist(), strict=True):
            phrases, own = analyzer.read(text)
            for run in own:
                runs.add(cluster, run)
            yield phrases

    vectorizer = CountVectorizer(analyzer=list)
    try:
        counts = vectorizer.fit_transform(phrases_of_texts())
    except ValueError:
        # scikit-learn's "empty vocabulary": no text has a word that is not a stop word.
        return runs.counts(COUNTS)
    used, dense = np.unique(clusters, return_inverse=True)
    members = sparse.csr_array(
        (np.ones(len(dense), np.int64), (dense, np.arange(len(dense)))), (len(used), len(dense))
    )
    summed = sparse.coo_array(members @ sparse.csr_array(counts))
    phrases = pa.array(analyzer.spelled(vectorizer.get_feature_names_out()), pa.string())
    of_words = pa.table(
        {
            "cluster": pa.array(used[summed.row], pa.int32()),
            "phrase": phrases.take(pa.array(summed.col)),
            "count": pa.array(summed.data, pa.int64()),
        }
    )
    return pa.concat_tables([of_words, runs.counts(COUNTS)])


class _Analyzer:
    """Phrases of texts, and the most common spelling of their words.

    Args:
        texts: The texts, from which the main language is detected.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._stop_words = StopWords([text[:CHARACTERS_READ] for text in texts[:TEXTS_READ]])
        # The first word of a text may have a capital for its place alone.
        self._spellings: Counter[str] = Counter()
        self._first: Counter[str] = Counter()
        self._folded = _Folded()

    def read(self, text: str) -> tuple[list[str], list[str]]:
        """Return the words and pairs of words of a text, folded, and its runs without spaces."""
        found = tokens(prose(composed(text[:CHARACTERS_READ])))
        words = [token for token in found if self._folded[token]]
        folded = [self._folded[word] for word in words]
        self._first.update(words[:1])
        self._spellings.update(words[1:])
        stop_words = self._stop_words.of_text(set(folded))
        kept = [word for word in folded if word not in stop_words]
        pairs = [
            f"{word} {after}"
            for word, after in itertools.pairwise(kept)
            if word.isascii() or not (is_kana(word) or is_kana(after))
        ]
        runs = [] if text.isascii() else [token for token in found if is_run(token)]
        return kept + pairs, runs

    def spelled(self, phrases: Iterable[str]) -> list[str]:
        """Return folded phrases in the most common spelling of their words."""
        spelling: dict[str, str] = {}
        for counts in (self._spellings, self._first):
            spelling = {**_spellings(counts), **spelling}
        return [" ".join([spelling[word] for word in phrase.split(" ")]) for phrase in phrases]


class _Folded(dict[str, str]):
    """Folded words by token; empty for tokens that are not words."""

    def __missing__(self, token: str) -> str:
        folded = fold(token) if is_word(token) and not is_run(token) else ""
        self[token] = folded
        return folded


def _spellings(counts: Mapping[str, int]) -> dict[str, str]:
    """Return the spelling of each folded word: in small letters where enough occurrences are,
    else the most common one."""
    alike: dict[str, list[tuple[int, str]]] = {}
    for word, count in counts.items():
        alike.setdefault(fold(word), []).append((count, word))
    found = {}
    for folded, own in alike.items():
        least = SMALL_SHARE * sum(count for count, _ in own)
        found[folded] = max(
            own, key=lambda each: (each[1].islower() and each[0] >= least, each[0], each[1])
        )[1]
    return found


def add_counts(counts: pa.Table) -> pa.Table:
    """Return one row for each phrase of a cluster, with the sum of its counts."""
    summed = counts.group_by(["cluster", "phrase"], use_threads=False).aggregate([("count", "sum")])
    return summed.rename_columns(["cluster", "phrase", "count"]).cast(COUNTS)


def most_frequent(counts: pa.Table, n_phrases: int) -> pa.Table:
    """Return the most frequent phrases of each cluster, with the others added up as ``REST``.

    Args:
        counts: Result of ``add_counts``.
        n_phrases: Largest number of phrases of a cluster.
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
        counts: Concatenated tables of ``count_phrases``.
        n_clusters: Clusters at level 1.
    """

    def __init__(self, counts: pa.Table, n_clusters: int) -> None:
        # All chunks of an encoded column share one dictionary.
        encoded = counts["phrase"].dictionary_encode().chunks
        spellings = encoded[0].dictionary if encoded else pa.array([], pa.string())
        spelled = np.concatenate([np.zeros(0, np.int32), *(each.indices for each in encoded)])
        # Shards may spell a phrase differently; it is one phrase, in its most common spelling.
        columns = pc.utf8_lower(spellings).dictionary_encode().indices.to_numpy()
        often = np.bincount(spelled, counts["count"].to_numpy(), len(spellings))
        order = np.lexsort((-often, columns))
        self._phrases = spellings.take(pa.array(order[np.unique(columns[order], True)[1]]))
        self._rest = pc.index(self._phrases, REST).as_py()
        shape = (n_clusters, max(len(self._phrases), 1))
        self._counts = sparse.csr_array(
            (
                counts["count"].to_numpy().astype(np.float64),
                (counts["cluster"].to_numpy(), columns[spelled]),
            ),
            shape,
        )

    def words_of_level(
        self, ancestors: NDArray[np.int32], n_items: NDArray[np.float64]
    ) -> SaidWords:
        """Return the counts of words in the items of each cluster of a level.

        Args:
            ancestors: Ancestor of each finest cluster at the level, shape (k_1,).
            n_items: Sampled items of each finest cluster, shape (k_1,).
        """
        columns, by_stem = self._by_stem
        k = int(ancestors.max()) + 1
        counts = sparse.csr_array(_members(ancestors) @ by_stem)
        counts.sort_indices()
        return SaidWords(columns, counts, np.bincount(ancestors, n_items, k).astype(np.float64))

    @functools.cached_property
    def _by_stem(self) -> tuple[dict[str, int], sparse.csr_array]:
        """Columns of stems, and counts of single words by finest cluster and stem."""
        columns: dict[str, int] = {}
        rows, stems = [], []
        words = pc.indices_nonzero(pc.invert(pc.match_substring(self._phrases, " ")))
        texts = self._phrases.take(words).to_pylist()
        for row, word in zip(words.to_pylist(), texts, strict=True):
            # Longer runs are left out, since their pairs of letters are counted by themselves.
            counted = not is_run(word) or len(atoms(word)) <= 2
            for stem in stems_of(word) if counted else ():
                rows.append(row)
                stems.append(columns.setdefault(stem, len(columns)))
        ones = np.ones(len(rows))
        shape = (self._counts.shape[1], max(len(columns), 1))
        of_stems = sparse.csr_array((ones, (rows, stems)), shape)
        return columns, sparse.csr_array(self._counts @ of_stems)

    @functools.cached_property
    def _sequences(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Least occurrences of each phrase, shape (phrases,); and the columns of each sequence
        without its last letter and without its first, shape (2, phrases), -1 for none."""
        least = np.ones(len(self._phrases), np.int64)
        shorter = np.full((2, len(self._phrases)), -1)
        beyond = pc.match_substring_regex(self._phrases, r"^[\x{e01}-\x{10ffff}]")
        columns = pc.indices_nonzero(beyond).to_pylist()
        texts = self._phrases.take(pa.array(columns, pa.int64())).to_pylist()
        places = dict(zip(texts, columns, strict=True))
        for text, column in places.items():
            if is_run(text):
                letters = atoms(text)
                least[column] = 2 if reads_as_words(letters) else NEVER
                for side, rest in enumerate((letters[:-1], letters[1:])):
                    shorter[side, column] = places.get("".join(rest), -1)
        return least, shorter

    def _whole(
        self, columns: NDArray[np.int32], occurrences: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """Return which phrases of a cluster, in ascending order of columns, are whole words."""
        least, shorter = self._sequences
        whole: NDArray[np.bool_] = occurrences >= least[columns]
        for side in shorter:
            of_longer = side[columns]
            places = np.minimum(np.searchsorted(columns, of_longer), len(columns) - 1)
            longer = whole & (columns[places] == of_longer)
            within = np.zeros(len(columns))
            np.maximum.at(within, places[longer], occurrences[longer])
            whole &= within < PIECE_SHARE * occurrences
        return whole

    def of_level(self, ancestors: NDArray[np.int32], n_phrases: int) -> list[list[str]]:
        """Return the key phrases of each cluster of a level, best first.

        Args:
            ancestors: Ancestor of each finest cluster at the level, shape (k_1,).
            n_phrases: Largest number of phrases of a cluster.
        """
        k = int(ancestors.max()) + 1
        counts = sparse.csr_array(_members(ancestors) @ self._counts)
        counts.sort_indices()
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
        if not len(columns):
            return []
        named = (columns != self._rest) & self._whole(columns, occurrences)
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
        # Ties go to the longer phrase, then by spelling, so that the order is unique.
        ordered = sorted(
            zip((-scores).tolist(), phrases, strict=True),
            key=lambda each: (each[0], -each[1].count(" "), each[1]),
        )
        return _distinct([phrase for _, phrase in ordered[:n_candidates]], n_phrases)


def _members(ancestors: NDArray[np.int32]) -> sparse.csr_array:
    """Return a matrix of ones for the finest clusters (columns) in each cluster (rows)."""
    n = len(ancestors)
    return sparse.csr_array((np.ones(n), (ancestors, np.arange(n))), (int(ancestors.max()) + 1, n))


def _distinct(phrases: list[str], n_phrases: int) -> list[str]:
    """Return the first phrases that each add a new word; a longer phrase, such as "heart failure",
    takes the place of its words."""
    chosen: dict[str, set[str]] = {}
    for phrase in phrases:
        words = set(parts(phrase)) if is_run(phrase) else set(map(fold, phrase.split()))
        if words <= set().union(*chosen.values()):
            continue
        shorter = [other for other, known in chosen.items() if known < words]
        if shorter and is_run(phrase):
            # A sequence with letters around a chosen word is no better name.
            continue
        if shorter:
            chosen = {
                phrase if other == shorter[0] else other: words if other == shorter[0] else known
                for other, known in chosen.items()
            }
        elif len(chosen) < n_phrases:
            chosen[phrase] = words
    return list(chosen)
