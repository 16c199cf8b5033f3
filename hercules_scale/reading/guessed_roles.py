"""Roles of columns that the user does not name, guessed from their values."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from typing import Any

import pyarrow as pa

from hercules_scale.config.reading import InputConfig
from hercules_scale.reading.columns import (
    Guess,
    is_number,
    is_text,
    is_vector,
    is_whole,
)
from hercules_scale.reading.decimals import as_number, is_missing
from hercules_scale.reading.first_rows import FirstRows
from hercules_scale.reading.item_content import as_vector
from hercules_scale.reading.sources import SourceFile

# Least share of numbers among the cells of a column of numbers that are not missing.
NUMBERS_SHARE = 0.9
# Number of texts that are tried as lists of numbers.
SNIFFED_VECTORS = 100
# Number of rows from which numbers that rise by one are taken for row numbers.
COUNTED_ROWS = 10
# A column holds texts, not names, dates or codes, if at least WORDY_SHARE of its sampled cells have
# so many words: WORDS_BESIDE_ONE beside at most one column of numbers, else WORDS_BESIDE_MORE.
# Scripts without spaces count by their bytes.
ASCII_BYTE = 127
WORDY_SHARE, WORDS_BESIDE_ONE, WORDS_BESIDE_MORE, WORDY_BYTES = 0.5, 2, 4, 24
# Least share of rows with a text for a column of texts beside numbers to be the items' content.
MOST_TEXTS = 0.5
# Lists of fewer numbers beside texts, such as boxes and places, are no vectors of the texts.
SHORTEST_VECTOR = 8
# Largest share of different values in a column of categories.
CATEGORIES_SHARE = 0.1
# Vectors as NumPy shortens them, and vectors that are not written as JSON.
ELIDED = re.compile(rb"\s{0,9}\[[\d\s.eE+,-]{1,1000}?[\s,]\.\.\.")
BARE_NUMBER = rb"[+-]?[\d.]{1,30}+([eE][+-]?\d{1,3}+)?+"
BARE_NUMBERS = re.compile(
    rb"(tensor|array)?[({\[\s]{0,3}+%b([\s,;]{1,9}+%b){7,}+[)}\]\s]{0,3}+"
    % (BARE_NUMBER, BARE_NUMBER)
)
WORD = re.compile(r"[^\W\d_]{2,}")
UNNAMED = re.compile(r"(Unnamed: \d+|__index_level_\d+__)?")
ID_NAME = re.compile(r"index|(.*[_\s.-])?(id|ids|uuid|guid|key)|.*[a-z]I[dD]", re.I)


def guess_roles(
    config: InputConfig,
    kinds: dict[str, pa.DataType],
    heads: list[FirstRows],
    sampled: list[SourceFile],
) -> Guess:
    """Return findings about the roles of columns, from their values.

    Args:
        config: The input section.
        kinds: Types of the columns of all files.
        heads: Beginnings of some files.
        sampled: These files.
    """
    refined, aside, texts = dict(kinds), dict[str, str](), dict[str, list[Any]]()
    indices = {name for head in heads for name in head.indices}
    tables = [head for head in heads if head.kinds and sampled[0].format != "jsonl"]
    folders = {name for source in sampled for name in source.partitions}
    n_rows = sum(max(map(len, head.cells.values()), default=0) for head in heads)
    for name, kind in kinds.items():
        own = [head for head in heads if name in head.cells]
        cells = [cells_of(head, name) for head in own]
        values = [cell for part in cells for cell in part if cell is not None]
        if name in folders:
            aside[name] = "the name of a folder"
        elif name in indices:
            aside[name] = "the index of a pandas frame"
        elif is_text(kind) and values and name != "text":
            marks = [head.dialect.marks if head.dialect else "." for head in own]
            if _are_numbers(list(zip(cells, marks, strict=True))):
                refined[name] = pa.float64()
            elif _are_vectors(values):
                refined[name] = pa.list_(pa.float64())
            else:
                # JSON may have a list where other objects have a text.
                texts[name] = [value for value in values if isinstance(value, bytes)]
        if name not in aside and is_number(refined[name]):
            reason = _is_no_variable(name, [part for part in cells if part], kind)
            # A JSON object may leave out a missing value.
            if not all(name in head.kinds for head in tables):
                reason = "not in every file"
            aside |= {name: reason} if reason else {}
    numbers = [name for name, kind in refined.items() if is_number(kind) and name not in aside]
    n_words = WORDS_BESIDE_MORE if len(numbers) > 1 else WORDS_BESIDE_ONE
    wordy = {
        name
        for name, values in texts.items()
        if is_wordy(values, n_words)
        and not (len(numbers) > 1 and _are_categories(values))
        and not (numbers and len(values) < MOST_TEXTS * n_rows)
    }
    for name, kind in kinds.items():
        if is_vector(kind) and name != config.embedding_column:
            lengths = [length for head in heads for length in head.lengths.get(name, [])]
            reason = _is_no_vector(lengths, bool(wordy or "text" in kinds))
            aside |= {name: reason} if reason else {}
    for name, values in texts.items():
        if UNNAMED.fullmatch(name) and 1 < len(values) == len(set(values)):
            aside[name] = "an index without a name"
        if reason := _is_no_text(values):
            aside[name] = reason
        if ID_NAME.fullmatch(name) and name not in wordy and 1 < len(values) == len(set(values)):
            aside[name] = "ids"
    if config.modality == "text" or config.text_column:
        wordy |= {name for name, kind in refined.items() if is_text(kind)}
    return Guess(refined, aside, frozenset(wordy))


def _is_no_text(values: list[Any]) -> str:
    """Return the reason why texts are vectors that cannot be read; empty otherwise."""
    texts = [value for value in values if isinstance(value, bytes)][:SNIFFED_VECTORS]
    least = NUMBERS_SHARE * max(len(texts), 1)
    if sum(ELIDED.match(text) is not None for text in texts) >= least:
        return "vectors that were cut off, with ... in the place of numbers"
    if sum(BARE_NUMBERS.fullmatch(text) is not None for text in texts) >= least:
        return "lists of numbers that are not in brackets [ ], as JSON has them"
    return ""


def _is_no_vector(lengths: list[int], beside_texts: bool) -> str:
    """Return the reason why lists of numbers beside texts are no vectors; empty if they may be."""
    if not lengths or not beside_texts:
        return ""
    length, count = Counter(lengths).most_common(1)[0]
    if not length:
        return "empty lists"
    if count < NUMBERS_SHARE * len(lengths):
        return "lists of several lengths"
    return f"lists of {length}" if length < SHORTEST_VECTOR else ""


def cells_of(head: FirstRows, name: str) -> list[Any]:
    """Return the first values of a column, texts as bytes."""
    return [
        cell if not isinstance(cell, str) else cell.encode("utf-8", "replace")
        for cell in head.cells[name]
    ]


def _are_numbers(parts: list[tuple[list[Any], str]]) -> bool:
    """Return whether nearly all values are numbers, perhaps in text; codes such as 007 are none.

    Args:
        parts: Values of each file, and the file's marks of decimals and thousands.
    """
    n_numbers = n_others = 0
    for value, marks in ((value, marks) for values, marks in parts for value in values):
        if value is None:
            continue
        if isinstance(value, bytes):
            text = value.strip()
            if is_missing(text):
                continue
            digits = text.lstrip(b"+-")
            if digits[:1] == b"0" and digits[1:].isdigit():
                # A single code makes a column one of codes, as in csv.
                return False
            known = as_number(text, marks) is not None
        else:
            known = isinstance(value, int | float) and not isinstance(value, bool)
        n_numbers += known
        n_others += not known
    return n_numbers > 0 and n_numbers >= NUMBERS_SHARE * (n_numbers + n_others)


def _are_vectors(values: list[Any]) -> bool:
    """Return whether nearly all texts are lists of numbers."""
    texts = [value for value in values if isinstance(value, bytes)][:SNIFFED_VECTORS]
    known = [as_vector(text) for text in texts if text.lstrip().startswith(b"[")]
    return bool(known) and sum(map(bool, known)) >= NUMBERS_SHARE * len(texts)


def is_wordy(values: list[Any], n_words: int) -> bool:
    """Return whether at least half of the texts have ``n_words`` words, or many letters beyond
    ASCII."""
    texts = [value for value in values if isinstance(value, bytes)]
    wordy = 0
    for text in texts:
        said = text.decode("utf-8", "replace")
        words = sum(WORD.search(part) is not None for part in said.split())
        foreign = sum(byte > ASCII_BYTE for byte in text)
        wordy += words >= n_words or (len(text) >= WORDY_BYTES and 2 * foreign >= len(text))
    return bool(texts) and wordy >= WORDY_SHARE * len(texts)


def _are_categories(values: list[Any]) -> bool:
    """Return whether few different values occur again and again."""
    return len(set(values)) <= CATEGORIES_SHARE * len(values)


def _is_no_variable(name: str, parts: list[list[Any]], kind: pa.DataType) -> str:
    """Return the reason why numbers are no variable: they count rows, or are ids; empty
    otherwise."""
    if not is_whole(kind) and not pa.types.is_floating(kind):
        return ""
    whole = [[int(cell) for cell in part if is_int(cell)] for part in parts]
    if any(len(own) < len(part) for own, part in zip(whole, parts, strict=True)):
        return ""
    n_rows = max(map(len, whole), default=0)
    steps = all(later - cell == 1 for own in whole for cell, later in itertools.pairwise(own))
    if UNNAMED.fullmatch(name) and n_rows:
        return "an index without a name"
    if steps and n_rows >= COUNTED_ROWS:
        return "it counts rows"
    apart = all(len(set(own)) == len(own) for own in whole)
    if ID_NAME.fullmatch(name) and apart and n_rows > 1:
        return "ids"
    return ""


def texts_of(heads: list[FirstRows], name: str) -> list[bytes]:
    """Return the first texts of a column, without spaces around them."""
    cells = (cell for head in heads if name in head.cells for cell in cells_of(head, name))
    return [cell.strip() for cell in cells if isinstance(cell, bytes)]


def is_int(cell: Any) -> bool:
    """Return whether a value is a whole number."""
    return isinstance(cell, int) and not isinstance(cell, bool)
