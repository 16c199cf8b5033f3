"""Check that the items of a cluster support its title and description.

The stems of a text's content words are looked up among the words of a sample of the cluster's
items. A word that few items have still counts as a paraphrase if its vector lies near that of a
key phrase.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import Stemmer
from numpy.typing import NDArray
from scipy import sparse

from hercules_scale.clustering.nearest_centroids import Float32
from hercules_scale.summarization.cluster_facts import ClusterFacts
from hercules_scale.summarization.names import is_form_of, names_and_numbers
from hercules_scale.summarization.prompts import words_of_examples
from hercules_scale.summarization.stop_words import StopWords, of_language
from hercules_scale.summarization.words import parts

Encode = Callable[[list[str]], Float32]

# Share of grounded content words below which a text is refused. For descriptions it is the largest
# share that refuses no true one in benchmarks/grounding.py.
LEAST_OF_TITLE, LEAST_OF_DESCRIPTION = 0.5, 0.65
# Share of a cluster's items from which a word counts as the cluster's, not as a single item's.
LEAST_SHARE = 0.01
# Share of the items from which a word is fully typical.
TYPICAL_SHARE = 0.1
# Cosine with a key phrase from which a word is a paraphrase.
CLOSE = 0.5
# Least typicality of a paraphrase.
CLOSE_TYPICALITY = 0.5
# Characters of an item from which language and script are detected.
CHARACTERS_SHOWN = 500
# Longest text that is split into stems; titles, descriptions and key phrases are shorter.
CHARACTERS_COMPARED = 20_000
# Ungrounded words that a message names.
NAMED = 4

# Language in which most texts of a script are written.
_LANGUAGES = {
    "ARABIC": "arabic",
    "ARMENIAN": "armenian",
    "CYRILLIC": "russian",
    "DEVANAGARI": "hindi",
    "GREEK": "greek",
    "TAMIL": "tamil",
}
_KANA = frozenset(("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"))
_JAPANESE = _KANA | {"CJK"}
# Words about a collection, not about its subject.
_FRAME = """
    address area aspect associate based broad category characteristic collection common concept
    concern content context cover deal different discuss discussion diverse element emphasis
    especially example explore explain feature focus form general group highlight identify include
    including individual information involve item kind like list main mainly mention multiple nature
    note number overview particular particularly pertain provide range refer regard relate related
    relevant report represent respective share similar specific specifically subject text theme
    topic type typical typically use used using usually variety various word work
"""


@functools.cache
def _example_stems() -> frozenset[str]:
    return frozenset(content_stems(words_of_examples()))


@functools.cache
def _ignored() -> frozenset[str]:
    """Return the stems of English words without content."""
    return frozenset(_stems([*of_language("en"), *_FRAME.split()]))


@functools.cache
def _stemmer(language: str) -> Stemmer.Stemmer:
    return Stemmer.Stemmer(language)


@functools.lru_cache(maxsize=100_000)
def _stem(word: str) -> str:
    script = unicodedata.name(word[:1] or " ", "").partition(" ")[0]
    return str(_stemmer(_LANGUAGES.get(script, "english")).stemWord(word))


def _stems(words: list[str]) -> list[str]:
    if all(map(str.isascii, words)):
        return list(_stemmer("english").stemWords(words))
    return list(map(_stem, words))


def stems_of(text: str) -> dict[str, str]:
    """Return the stems of a text's words, each with one of its words.

    In scripts without spaces each pair of letters counts as a word.
    """
    words = parts(text[:CHARACTERS_COMPARED])
    return dict(zip(_stems(words), words, strict=True))


def content_stems(text: str, stop_words: Collection[str] = ()) -> dict[str, str]:
    """Return the content words of a text, by stem.

    Args:
        text: A text.
        stop_words: Stop words besides the English ones.
    """
    return {
        stem: word
        for stem, word in stems_of(text).items()
        if stem not in _ignored()
        and word not in stop_words
        and (len(word) > 2 or not word.isascii())
    }


@dataclass(frozen=True)
class SaidWords:
    """Word counts in the items of each cluster of a level.

    Attributes:
        columns: Column of ``counts`` for each stem.
        counts: Occurrences in a sample of each cluster's items, shape (k, stems).
        n_items: Size of each cluster's sample, shape (k,).
    """

    columns: dict[str, int]
    counts: sparse.csr_array
    n_items: NDArray[np.float64]

    @functools.cached_property
    def _stems(self) -> list[str]:
        return list(self.columns)

    def words(self, cluster: int) -> list[str]:
        """Return the stems with a share of at least ``LEAST_SHARE`` in a cluster."""
        span = slice(self.counts.indptr[cluster], self.counts.indptr[cluster + 1])
        often = self.counts.data[span] >= LEAST_SHARE * self.n_items[cluster]
        return [self._stems[column] for column in self.counts.indices[span][often].tolist()]

    def share(self, cluster: int, stem: str) -> float:
        """Return the mean number of occurrences of a stem in an item of a cluster."""
        column = self.columns.get(stem)
        if column is None:
            return 0.0
        span = slice(self.counts.indptr[cluster], self.counts.indptr[cluster + 1])
        place = np.searchsorted(self.counts.indices[span], column)
        if place == span.stop - span.start or self.counts.indices[span][place] != column:
            return 0.0
        return float(self.counts.data[span][place] / self.n_items[cluster])


def _script(word: str) -> frozenset[str]:
    """Return the scripts of a word's letters, such as LATIN."""
    letters = filter(str.isalpha, word)
    return frozenset(unicodedata.name(letter, "").partition(" ")[0] for letter in letters)


class Grounding:
    """Groundedness of texts in the items of each cluster of a level.

    Args:
        said: Word counts of the items.
        facts: The clusters, by id.
        encode: Function that embeds words; without one no word counts as a paraphrase.
    """

    def __init__(
        self, said: SaidWords, facts: Sequence[ClusterFacts], encode: Encode | None
    ) -> None:
        self._said, self._facts, self._encode = said, facts, encode
        self._vectors: dict[str, Float32] = {}
        self._known_scripts: dict[int, frozenset[str]] = {}
        shown = [text[:CHARACTERS_SHOWN] for each in facts for text in each.exemplars]
        self._stop_words = StopWords(shown)

    def share(self, cluster: int, text: str) -> float:
        """Return the share of a text's content words that are grounded; NaN without any."""
        stems = self._content_stems(text)
        return 1 - len(self.unsaid(cluster, stems)) / len(stems) if stems else float("nan")

    def typicality(self, cluster: int, text: str) -> float:
        """Return the mean typicality of a text's content words, 0 to 1; NaN without any.

        It is low for a text that names a single item, in words that hardly any other item has.
        """
        stems = self._content_stems(text)
        shares = [self._said.share(cluster, stem) / TYPICAL_SHARE for stem in stems]
        near = self._near(cluster, [word for word in stems.values() if not word.isdigit()])
        least = [CLOSE_TYPICALITY * (word in near) for word in stems.values()]
        return float(np.mean(np.clip(shares, least, 1))) if stems else float("nan")

    def problem(self, cluster: int, name: str, text: str, least: float) -> str:
        """Return the reason why a text is refused; empty where it is not.

        Args:
            cluster: Id of its cluster.
            name: A noun for the text, such as title.
            text: The text.
            least: Least share of grounded content words.
        """
        stems = self._content_stems(text)
        unsaid = self.unsaid(cluster, stems)
        copied = [unsaid[stem] for stem in unsaid.keys() & _example_stems()]
        if copied:
            return f"the {name} repeats the worked examples: {', '.join(sorted(copied)[:NAMED])}"
        foreign = [word for word in unsaid.values() if not _script(word) <= self._scripts(cluster)]
        if foreign:
            return f"the {name} is in another script than the items: {', '.join(foreign[:NAMED])}"
        if len(unsaid) > (1 - least) * len(stems):
            words = ", ".join(list(unsaid.values())[:NAMED])
            return f"the {name} says what the items do not: {words}"
        invented = self._invented(cluster, text, name == "title")
        if invented:
            words = ", ".join(invented[:NAMED])
            return f"the {name} has names or numbers that the items do not: {words}"
        return ""

    def _invented(self, cluster: int, text: str, of_title: bool) -> list[str]:
        """Return the names and numbers of a text that the items do not have.

        Descriptions may also have those of the items shown, and other forms of them.
        """
        language = self._stop_words.language(set(parts(text)))
        names, numbers = names_and_numbers(text, language, of_title)
        shown = self._shown_stems(cluster) if names or numbers else set()
        known = self._own_stems(cluster) if of_title else shown
        found = [each for each in numbers if not stems_of(each).keys() <= shown]
        for each in names:
            unknown = [
                stem
                for stem in self._content_stems(each)
                if stem not in known and self._said.share(cluster, stem) < LEAST_SHARE
            ]
            if not all(is_form_of(stem, known) for stem in unknown):
                found.append(each)
        return found

    def _content_stems(self, text: str) -> dict[str, str]:
        return content_stems(text, self._stop_words.of_text(set(parts(text))))

    def unsaid(self, cluster: int, stems: dict[str, str]) -> dict[str, str]:
        """Return the ungrounded words among some content words, by stem."""
        own = self._own_stems(cluster)
        unknown = {
            stem: word
            for stem, word in stems.items()
            if stem not in own and self._said.share(cluster, stem) < LEAST_SHARE
        }
        near = self._near(cluster, [word for word in unknown.values() if not word.isdigit()])
        return {stem: word for stem, word in unknown.items() if word not in near}

    def _scripts(self, cluster: int) -> frozenset[str]:
        """Return the scripts of a cluster's words."""
        if cluster not in self._known_scripts:
            words = [*self._said.words(cluster), *self._own_stems(cluster)]
            found = frozenset().union(*map(_script, words))
            shown = "".join(text[:CHARACTERS_SHOWN] for text in self._facts[cluster].exemplars)
            if (found | _script(shown)) & _KANA:
                found |= _JAPANESE
            self._known_scripts[cluster] = found
        return self._known_scripts[cluster]

    def _own_stems(self, cluster: int) -> set[str]:
        """Return the stems of key phrases and of titles of children."""
        facts = self._facts[cluster]
        titles = [child.title for child in facts.children]
        return set(stems_of(" ".join([*facts.keyphrases, *titles])))

    def _shown_stems(self, cluster: int) -> set[str]:
        """Return the stems of key phrases, titles of children and beginnings of exemplars."""
        shown = [text[:CHARACTERS_SHOWN] for text in self._facts[cluster].exemplars]
        return self._own_stems(cluster) | set(stems_of(" ".join(shown)))

    def _near(self, cluster: int, words: list[str]) -> set[str]:
        """Return the words with a vector near that of a key phrase of the cluster."""
        phrases = self._facts[cluster].keyphrases
        if self._encode is None or not words or not phrases:
            return set()
        new = [text for text in dict.fromkeys([*words, *phrases]) if text not in self._vectors]
        if new:
            self._vectors |= dict(zip(new, self._encode(new), strict=True))
        ours, theirs = (
            np.stack([self._vectors[text] for text in texts]) for texts in (words, phrases)
        )
        near = (ours @ theirs.T).max(axis=1) >= CLOSE
        return {word for word, is_near in zip(words, near, strict=True) if is_near}
