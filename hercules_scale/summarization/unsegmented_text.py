"""Words of scripts without spaces, found by repeated sequences of letters.

Repeated sequences of any length are counted. A sequence that nearly always occurs within one longer
sequence is a piece of a word; the others read as one word or several.

Source: Frantzi and Ananiadou, "Automatic recognition of multi-word terms: the C-value/NC-value
method" (2000).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hercules_scale.summarization.words import atoms

# Longest counted sequence. It may be a piece of a longer one, so it is never a phrase.
LONGEST = 12
# Letters that are held until their sequences are counted.
LETTERS_HELD = 2_000_000

# Letters that no phrase begins with, and letters that none ends with.
_SMALL = frozenset("ゃゅょっぁぃぅぇぉんーをะาๅ")
_BEFORE = _SMALL | frozenset("和与與及或把被让讓给給也都就着著而且之其")
_AFTER = frozenset("和与與及或把被让讓给給也都就着著而且之其在从從对對向不一をがはにのでともへや")
_HIRAGANA = ("\u3041", "\u309f")
# Consonants of Thai and Lao; one without a vowel mostly ends the syllable before.
_CONSONANTS = frozenset(map(chr, (*range(0x0E01, 0x0E2F), *range(0x0E81, 0x0EAF))))


class RunCounter:
    """Counter of the letter sequences in runs, by cluster."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._runs: list[tuple[int, list[int]]] = []
        self._held = 0
        self._counted: list[tuple[NDArray[np.int32], list[str], NDArray[np.int64]]] = []

    def add(self, cluster: int, run: str) -> None:
        """Add a run from an item of a cluster."""
        ids = [self._ids.setdefault(atom, len(self._ids)) for atom in atoms(run)]
        self._runs.append((cluster, ids))
        self._held += len(ids)
        if self._held >= LETTERS_HELD:
            self._count()

    def counts(self, schema: pa.Schema) -> pa.Table:
        """Return cluster, sequence and count of all pairs of letters, repeated sequences and whole
        runs."""
        self._count()
        return pa.concat_tables(
            [
                schema.empty_table(),
                *(pa.table(list(columns), schema=schema) for columns in self._counted),
            ]
        )

    def _count(self) -> None:
        if not self._runs:
            return
        lengths = np.array([len(ids) for _, ids in self._runs])
        letters = np.concatenate([np.array(ids, np.int64) for _, ids in self._runs])
        clusters = np.repeat(np.array([cluster for cluster, _ in self._runs]), lengths)
        # For each letter: the letters left in its run, and whether it begins the run.
        left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(letters))
        begins = np.zeros(len(letters), bool)
        begins[np.cumsum(lengths) - lengths] = True
        spelled = np.array(list(self._ids), dtype=object)
        self._runs, self._held = [], 0
        # For each letter: the number of the sequence of n letters that begins there, and whether
        # that sequence is repeated.
        sequences, repeated = letters, np.ones(len(letters), bool)
        for n in range(1, LONGEST + 1):
            if n > 1:
                follows = np.append(repeated[1:], False)
                at = np.flatnonzero((left >= n) & repeated & follows)
                # A sequence is given by the two shorter ones at its first and second letter.
                pairs = sequences[at] * (sequences.max() + 1) + sequences[at + 1]
                _, numbers, own = np.unique(pairs, return_inverse=True, return_counts=True)
                sequences, repeated = np.zeros_like(sequences), np.zeros_like(repeated)
                sequences[at], repeated[at] = numbers, own[numbers] > 1
            whole = begins & (left == n)
            counted = whole if n == 1 else left >= n if n == 2 else repeated
            self._keep(np.flatnonzero(counted), sequences, clusters, letters, spelled, n)
            # Each run that occurs once counts by itself.
            alone = np.flatnonzero(whole & ~counted)
            self._keep(alone, np.arange(len(letters)), clusters, letters, spelled, n)

    def _keep(
        self,
        at: NDArray[np.intp],
        sequences: NDArray[np.int64],
        clusters: NDArray[np.int64],
        letters: NDArray[np.int64],
        spelled: NDArray[np.object_],
        n: int,
    ) -> None:
        """Count the sequences of ``n`` letters at some places, by cluster."""
        if not len(at):
            return
        owned = clusters[at] * (sequences.max() + 1) + sequences[at]
        _, first, counts = np.unique(owned, return_index=True, return_counts=True)
        at = at[first]
        texts = ["".join(spelled[letters[place : place + n]]) for place in at.tolist()]
        self._counted.append((clusters[at].astype(np.int32), texts, counts.astype(np.int64)))


def reads_as_words(letters: Sequence[str]) -> bool:
    """Return whether the length and the first and last letter of a sequence allow a phrase."""
    first, last = letters[0], letters[-1]
    least, most = _HIRAGANA
    if all(least <= letter <= most for letter in letters):
        return 2 < len(letters) < LONGEST and first not in _SMALL and last not in _AFTER
    if len(letters) == 2 and first in _CONSONANTS:
        return False
    return (
        1 < len(letters) < LONGEST
        and not (least <= first <= most or least <= last <= most)
        and first not in _BEFORE
        and last not in _AFTER
    )
