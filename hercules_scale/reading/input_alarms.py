"""Alarms about an input that can be read but looks wrong."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from hercules_scale.config.reading import InputConfig
from hercules_scale.reading.columns import Columns, Guess
from hercules_scale.reading.decimals import GROUPED, is_missing
from hercules_scale.reading.first_rows import SNIFFED_ROWS, FirstRows
from hercules_scale.reading.guessed_roles import is_int, texts_of

# Repeated values that mark missing ones, such as 65535: they lie more than FAR times the range of
# the other values away; at least DIFFERENT other values differ, unless CODE matches the repeated
# ones, such as 97 and 999; there are at most MOST_FAR of them.
FAR, DIFFERENT, MOST_FAR, CODE = 3, 8, 3, re.compile(r"-?(9+[6-9]|8{2,})")
# Whole numbers up to this one are read exactly.
EXACT = 2.0**53
# Number of words from which the name of a column may be a text.
SENTENCE_WORDS = 6
# Texts are likely classes if there are at least so many, with at most this share of different ones.
FEWEST_TEXTS, CLASSES_SHARE = 50, 0.1
# Share of texts that mark missing values, from which there is an alarm.
NULL_SHARE = 0.02
# Other values are far if they lie this many times the range of the rest away, which hides all
# differences in the rest.
VERY_FAR = 1e6


def alarms_of(
    config: InputConfig, columns: Columns, heads: list[FirstRows], guess: Guess
) -> Iterator[str]:
    """Yield the alarms, such as values that likely mark missing ones, or points that may mark
    thousands."""
    found = [head.dialect.doubtful for head in heads if head.dialect]
    doubtful = next(filter(None, found), "")
    if doubtful and (columns.numbers or columns.text not in {None, *guess.wordy}):
        yield doubtful
    if columns.text:
        yield from _of_texts(columns.text, heads)
        if config.text_column is None and len(guess.kinds) > 1:
            yield from _of_classes(columns.text, heads)
        if len(guess.kinds) == 1 and len(columns.text.split()) >= SENTENCE_WORDS:
            yield (
                f"the name of the only column is {columns.text[:60]!r}; if that is its first text, "
                "put a line with a name before it"
            )
    yield from _of_last_rows(columns, heads)
    for name in columns.numbers:
        plain = [head for head in heads if head.dialect is None or head.dialect.marks == "."]
        texts = (cell.decode("utf-8", "replace") for cell in texts_of(plain, name))
        pointed = [text for text in texts if "." in text]
        if len(pointed) > 1 and all(map(GROUPED.fullmatch, pointed)):
            yield (
                f"column {name!r} holds texts such as {pointed[0]}, read with a decimal point; if "
                "it is that of thousands, write the numbers without it"
            )
        cells = [cell for head in heads for cell in head.cells.get(name, [])]
        numbers = (float(cell) for cell in cells if isinstance(cell, int | float))
        values = [number for number in numbers if np.isfinite(number)]
        if max((abs(cell) for cell in cells if is_int(cell)), default=0) > EXACT:
            yield (
                f"column {name!r} holds numbers beyond 2^53, which are read to 53 bits; name the "
                "others in input.columns if it holds ids, or subtract its least number"
            )
        counts = Counter(values)
        ordered = sorted(counts)
        for far in filter(None, (_far(ordered, counts), _far(ordered[::-1], counts))):
            n_rows = sum(counts[value] for value in far)
            listed = " and ".join(f"{value:g}" for value in sorted(far))
            yield (
                f"column {name!r} holds {listed} in {n_rows:,} of {len(values):,} sampled rows, "
                "far from all others; if they mark missing values, empty those cells"
            )


def _far(ordered: list[float], counts: Counter[float]) -> list[float]:
    """Return the last values, up to three, that lie far from all values before them."""
    for n_far in range(1, min(MOST_FAR, len(ordered) - 2) + 1):
        far, others = ordered[-n_far:], ordered[:-n_far]
        # Among few values, such as ranks, one may lie far from the others.
        nines = all(CODE.fullmatch(f"{value:.0f}") for value in far)
        usual = min(counts[value] for value in far) > 1 and (len(others) >= DIFFERENT or nines)
        times = FAR if usual else VERY_FAR
        if abs(far[0] - others[-1]) > times * abs(others[-1] - others[0]):
            return far
    return []


def _of_texts(name: str, heads: list[FirstRows]) -> Iterator[str]:
    """Yield alarms about texts that mark missing values, or have quotes that enclose no field."""
    texts = list(filter(None, texts_of(heads, name)))
    if not texts:
        return
    missing = Counter(filter(is_missing, texts))
    if missing.total() >= NULL_SHARE * len(texts):
        text = missing.most_common(1)[0][0].decode()
        yield (
            f"{missing.total():,} of {len(texts):,} sampled texts are such as {text!r}; if they "
            "mark missing values, empty those cells"
        )
    if sum(each[:1] == each[-1:] == b'"' and len(each) > 1 for each in texts) > len(texts) / 2:
        yield (
            "most texts are in quotes that enclose no field, since a space stands before them; "
            "remove the spaces after the delimiters"
        )


def _of_classes(name: str, heads: list[FirstRows]) -> Iterator[str]:
    """Yield an alarm about a column that was chosen for the texts, but repeats few of them."""
    texts = [text for text in texts_of(heads, name) if text]
    n_different = len(set(texts))
    if len(texts) >= FEWEST_TEXTS and n_different <= CLASSES_SHARE * len(texts):
        yield (
            f"column {name!r} is taken for the text, and holds {n_different:,} different texts in "
            f"{len(texts):,} sampled rows; name another in input.text_column if these are classes"
        )


def _of_last_rows(columns: Columns, heads: list[FirstRows]) -> Iterator[str]:
    """Yield an alarm about a last row of sums, in files so short that the sample has that row."""
    for head in heads:
        cells = [head.cells.get(name, []) for name in columns.numbers]
        if not cells or not 3 < len(cells[0]) < SNIFFED_ROWS:
            continue
        if all(map(_ends_in_sum, cells)):
            yield (
                "the last row of a file holds the sums of all rows before it; if it is a total and "
                "no item, remove it"
            )
            return


def _ends_in_sum(cells: list[Any]) -> bool:
    if not all(isinstance(cell, int | float) for cell in cells):
        return False
    *others, last = map(float, cells)
    total = math.fsum(others) if np.isfinite(others).all() else 0.0
    return last != 0 and math.isclose(total, last, rel_tol=1e-3)
