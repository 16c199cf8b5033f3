"""Interpretation of an input, by a sample of all its files, also in words for the user."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from hercules_scale.config.reading import InputConfig
from hercules_scale.errors import InputError
from hercules_scale.reading.columns import (
    Columns,
    Guess,
    choose_columns,
    is_number,
    is_text,
    is_vector,
    is_whole,
)
from hercules_scale.reading.dialect import GROUPED
from hercules_scale.reading.files import read_file_head
from hercules_scale.reading.heads import SNIFFED_ROWS, FileHead
from hercules_scale.reading.payload import as_number, as_vector, is_missing
from hercules_scale.reading.sources import SourceFile

# Files that are looked into, first, last and between.
SAMPLED_FILES = 8
# Share of cells that are numbers in a column of numbers, of those that are not missing.
NUMBERS_SHARE = 0.9
# Texts that are tried as lists of numbers.
SNIFFED_VECTORS = 100
# Repeated values that stand for none, such as 65535, up to three of them: so many times as far from
# others, at least so many that differ, as these are apart. Of codes such as 97 and 999 the others
# may be few.
FAR, DIFFERENT, MOST_FAR, CODE = 3, 8, 3, re.compile(r"-?(9+[6-9]|8{2,})")
# Words from which on a name may be a text.
SENTENCE_WORDS = 6
# Texts that mark missing values, of all.
NULL_SHARE = 0.02
# Any others that many times as far leave no difference between the others.
VERY_FAR = 1e6
# Rows from which on numbers that rise by one are taken for a count.
COUNTED_ROWS = 10
# Texts of a sample with so many words are texts, and not names, dates or codes: beside one column
# of numbers, and beside more of them. Scripts without spaces count by their bytes.
WORDY_SHARE, WORDS_BESIDE_ONE, WORDS_BESIDE_MORE, WORDY_BYTES = 0.5, 2, 4, 24
# Rows that have a text, of all, where it is what items are about beside numbers.
MOST_TEXTS = 0.5
# Lists of fewer numbers beside texts, such as boxes and places, are no vectors of these.
SHORTEST_VECTOR = 8
# Share of values of a column of categories that differ.
CATEGORIES_SHARE = 0.1
# A number with something before or after it, such as a unit.
NUMBER_IN_TEXT = re.compile(r"[^\w]{0,3}\d[\d.,' \u00a0\u202f]*\W{0,2}[^\W\d]{0,4}\W?")
# Vectors as NumPy shortens them, and as others write them.
ELIDED = re.compile(rb"\s{0,9}\[[\d\s.eE+,-]{1,1000}?[\s,]\.\.\.")
BARE_NUMBER = rb"[+-]?[\d.]{1,30}+([eE][+-]?\d{1,3}+)?+"
BARE_NUMBERS = re.compile(
    rb"(tensor|array)?[(\[\s]{0,3}+%b([\s,;]{1,9}+%b){7,}+[)\]\s]{0,3}+"
    % (BARE_NUMBER, BARE_NUMBER)
)
WORD = re.compile(r"[^\W\d_]{2,}")
UNNAMED = re.compile(r"(Unnamed: \d+|__index_level_\d+__)?")
ID_NAME = re.compile(r"index|(.*[_\s.-])?(id|ids|uuid|guid)|.*[a-z]I[dD]", re.I)
# Names that are listed in a line.
SHOWN = 8
SKIPPED_RECORDED = 100


@dataclass(frozen=True)
class Survey:
    """Interpretation of an input before it is read.

    Attributes:
        columns: Columns by role.
        left_out: Other columns, with the reason.
        n_files: Its files.
        size_bytes: Their length.
        format: Their format.
        n_rows: Their rows, where files say so.
        dialects: Dialects of files of text, with the number of sampled files.
        n_sampled: Files that were looked into.
        skipped: Files that are not read, with the reason.
        alarms: Findings that look wrong.
        guessed: A word of a file, where its encoding is a guess.
    """

    columns: Columns
    left_out: dict[str, str]
    n_files: int
    size_bytes: int
    format: str
    n_rows: int | None = None
    dialects: dict[str, int] = field(default_factory=dict)
    n_sampled: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    alarms: tuple[str, ...] = ()
    guessed: str = ""

    @property
    def lines(self) -> list[str]:
        """In words, a line each."""
        columns = self.columns
        rows = "" if self.n_rows is None else f", {self.n_rows:,} rows"
        files = "file" if self.n_files == 1 else "files"
        said = [
            f"input: {self.n_files:,} {self.format} {files}, "
            f"{self.size_bytes / 2**20:,.1f} MiB{rows}, modality {columns.modality}"
            f"{_of_columns(columns)}; ids: "
            f"{'row numbers' if columns.item_id is None else f'column {columns.item_id}'}"
        ]
        if self.dialects:
            dialects = (
                f"{name} ({count:,} of {self.n_sampled:,} files)"
                if len(self.dialects) > 1
                else name
                for name, count in self.dialects.items()
            )
            said.append(f"input: written in {'; '.join(dialects)}")
        if self.guessed:
            said.append(
                f"input: the encoding is a guess, by which a text holds {self.guessed!r}; "
                "input.csv.encoding sets another"
            )
        if self.left_out:
            said.append(f"input: left out: {_listed(self.left_out)}")
        if self.skipped:
            said.append(f"input: not read: {_listed(self.skipped)}")
        return said

    def record(self) -> dict[str, Any]:
        """Return the findings for ``run.json``."""
        columns = self.columns
        roles = {
            "text": columns.text,
            "image": columns.image,
            "embedding": columns.embedding,
            "numbers": list(columns.numbers),
            "labels": list(columns.labels),
            "owner": columns.owner,
        }
        return {
            "files": self.n_files,
            "format": self.format,
            "rows": self.n_rows,
            "modality": columns.modality,
            "ids": columns.item_id or "row numbers",
            "columns": {role: name for role, name in roles.items() if name},
            "left_out": self.left_out,
            "written_in": self.dialects,
            "skipped": dict(itertools.islice(self.skipped.items(), SKIPPED_RECORDED)),
        }


def _of_columns(columns: Columns) -> str:
    single = (columns.text, columns.image, columns.embedding)
    names = [*(name for name in single if name), *columns.numbers]
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return f" ({', '.join(names[:SHOWN])}{more})"


def _listed(reasons: dict[str, str]) -> str:
    shown = [f"{name!r} ({reason})" for name, reason in list(reasons.items())[:SHOWN]]
    more = [f"and {len(reasons) - SHOWN:,} more"] if len(reasons) > SHOWN else []
    return ", ".join([*shown, *more])


def survey(
    config: InputConfig,
    sources: list[SourceFile],
    n_rows: int | None = None,
    skipped: dict[str, str] | None = None,
) -> Survey:
    """Return the interpretation of an input.

    Args:
        config: The input section.
        sources: The files.
        n_rows: Their rows, where files say so.
        skipped: Files that are not read, with the reason.

    Raises:
        InputError: A file cannot be read.
        SchemaError: A column is missing, or the modality is not clear.
    """
    places = np.linspace(0, len(sources) - 1, min(SAMPLED_FILES, len(sources))).round()
    sampled = [sources[place] for place in dict.fromkeys(places.astype(int).tolist())]
    valued = {0, len(sampled) // 2, len(sampled) - 1}
    heads = [
        read_file_head(config, source, cells=place in valued)
        for place, source in enumerate(sampled)
    ]
    first = next((place for place, head in enumerate(heads) if head.kinds), 0)
    kinds = _merged(heads)
    if not kinds:
        raise InputError(f"{sources[0].uri}: the file is empty; replace it or leave it out")
    # Files that are empty once they are unpacked.
    empty = [source.uri for source, head in zip(sampled, heads, strict=True) if not head.kinds]
    guess = _guess(config, kinds, heads, sampled)
    typed = sources[0].format != "csv"
    columns = choose_columns(config, kinds, sampled[first].uri, typed, guess)
    dialects = Counter(
        head.dialect.said(sources[0].format == "csv") for head in heads if head.dialect
    )
    return Survey(
        columns,
        _left_out(columns, guess, heads),
        len(sources),
        sum(source.size_bytes for source in sources),
        sources[0].format,
        n_rows,
        dict(dialects),
        len(sampled),
        {**(skipped or {}), **dict.fromkeys(empty, "it holds nothing")},
        tuple(_alarms(columns, heads, guess)),
        next((head.dialect.guessed for head in heads if head.dialect and head.dialect.guessed), ""),
    )


def _alarms(columns: Columns, heads: list[FileHead], guess: Guess) -> Iterator[str]:
    """Yield the values that likely stand for none or for a thousand."""
    found = [head.dialect.doubtful for head in heads if head.dialect]
    doubtful = next(filter(None, found), "")
    if doubtful and (columns.numbers or columns.text not in {None, *guess.wordy}):
        yield doubtful
    if columns.text:
        yield from _of_texts(columns.text, heads)
        if len(guess.kinds) == 1 and len(columns.text.split()) >= SENTENCE_WORDS:
            yield (
                f"the name of the only column is {columns.text[:60]!r}; if that is its first text, "
                "put a line with a name before it"
            )
    yield from _of_last_rows(columns, heads)
    for name in columns.numbers:
        texts = [
            cell.decode("utf-8", "replace").strip()
            for head in heads
            for cell in (_cells(head, name) if name in head.cells else [])
            if isinstance(cell, bytes)
        ]
        pointed = [text for text in texts if "." in text]
        if len(pointed) > 1 and all(map(GROUPED.fullmatch, pointed)):
            yield (
                f"column {name!r} holds texts such as {pointed[0]}, read with a decimal point; if "
                "it is that of thousands, write the numbers without it"
            )
        values = [
            float(cell)
            for head in heads
            for cell in head.cells.get(name, [])
            if isinstance(cell, int | float) and np.isfinite(float(cell))
        ]
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
    """Return the last of some values, up to three, that lie far from all before them."""
    for n_far in range(1, min(MOST_FAR, len(ordered) - 2) + 1):
        far, others = ordered[-n_far:], ordered[:-n_far]
        # Of few values, such as ranks, one may be far from the others.
        nines = all(CODE.fullmatch(f"{value:.0f}") for value in far)
        usual = min(counts[value] for value in far) > 1 and (len(others) >= DIFFERENT or nines)
        times = FAR if usual else VERY_FAR
        if abs(far[0] - others[-1]) > times * abs(others[-1] - others[0]):
            return far
    return []


def _of_texts(name: str, heads: list[FileHead]) -> Iterator[str]:
    """Yield a word on texts that stand for none, or were quoted otherwise than the file says."""
    texts = [
        cell.strip()
        for head in heads
        if name in head.cells
        for cell in _cells(head, name)
        if isinstance(cell, bytes) and cell.strip()
    ]
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


def _of_last_rows(columns: Columns, heads: list[FileHead]) -> Iterator[str]:
    """Yield a word on a last row of sums, where files are so short that the sample has it."""
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


def _merged(heads: list[FileHead]) -> dict[str, pa.DataType]:
    """Return the columns of all files; one that is empty in some has the type that it has
    elsewhere."""
    found: dict[str, pa.DataType] = {}
    for head in heads:
        for name, kind in head.kinds.items():
            before = found.setdefault(name, kind)
            if pa.types.is_null(before) or (is_number(before) and is_text(kind)):
                found[name] = before if pa.types.is_null(kind) else kind
    return found


def _guess(
    config: InputConfig,
    kinds: dict[str, pa.DataType],
    heads: list[FileHead],
    sampled: list[SourceFile],
) -> Guess:
    refined, aside, texts = dict(kinds), dict[str, str](), dict[str, list[Any]]()
    indices = {name for head in heads for name in head.indices}
    tables = [head for head in heads if head.kinds and sampled[0].format != "jsonl"]
    folders = {name for source in sampled for name in source.partitions}
    n_rows = sum(max(map(len, head.cells.values()), default=0) for head in heads)
    for name, kind in kinds.items():
        own = [head for head in heads if name in head.cells]
        cells = [_cells(head, name) for head in own]
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
                texts[name] = values
        if name not in aside and is_number(refined[name]):
            reason = _is_no_variable(name, [part for part in cells if part], kind)
            # An object of JSON may leave out what it has not.
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
    """Return reason why texts are none, but vectors that cannot be read; empty otherwise."""
    texts = [value for value in values if isinstance(value, bytes)][:SNIFFED_VECTORS]
    least = NUMBERS_SHARE * max(len(texts), 1)
    if sum(ELIDED.match(text) is not None for text in texts) >= least:
        return "vectors that were cut off, with ... in the place of numbers"
    if sum(BARE_NUMBERS.fullmatch(text) is not None for text in texts) >= least:
        return "lists of numbers that are not in brackets, as JSON has them"
    return ""


def _is_no_vector(lengths: list[int], beside_texts: bool) -> str:
    """Return reason why lists of numbers beside texts are no vectors; empty where they may be."""
    if not lengths or not beside_texts:
        return ""
    length, count = Counter(lengths).most_common(1)[0]
    if not length:
        return "empty lists"
    if count < NUMBERS_SHARE * len(lengths):
        return "lists of several lengths"
    return f"lists of {length}" if length < SHORTEST_VECTOR else ""


def _cells(head: FileHead, name: str) -> list[Any]:
    return [
        cell if not isinstance(cell, str) else cell.encode("utf-8", "replace")
        for cell in head.cells[name]
    ]


def _are_numbers(parts: list[tuple[list[Any], str]]) -> bool:
    """Return whether values are numbers but for a few, in text; codes such as 007 are none.

    Args:
        parts: Values of each file, and its marks of decimals and thousands.
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
            is_code = digits[:1] == b"0" and digits[1:2].isdigit()
            known = as_number(text, marks) is not None and not is_code
        else:
            known = isinstance(value, int | float) and not isinstance(value, bool)
        n_numbers += known
        n_others += not known
    return n_numbers > 0 and n_numbers >= NUMBERS_SHARE * (n_numbers + n_others)


def _are_vectors(values: list[Any]) -> bool:
    """Return whether texts are lists of numbers but for a few."""
    texts = [value for value in values if isinstance(value, bytes)][:SNIFFED_VECTORS]
    known = [as_vector(text) for text in texts if text.lstrip().startswith(b"[")]
    return bool(known) and sum(map(bool, known)) >= NUMBERS_SHARE * len(texts)


def is_wordy(values: list[Any], n_words: int) -> bool:
    """Return whether most of some texts have so many words."""
    texts = [value for value in values if isinstance(value, bytes)]
    wordy = 0
    for text in texts:
        said = text.decode("utf-8", "replace")
        words = sum(WORD.search(part) is not None for part in said.split())
        wordy += words >= n_words or (not said.isascii() and len(text) >= WORDY_BYTES)
    return bool(texts) and wordy >= WORDY_SHARE * len(texts)


def _are_categories(values: list[Any]) -> bool:
    """Return whether few values occur again and again."""
    return len(set(values)) <= CATEGORIES_SHARE * len(values)


def _is_no_variable(name: str, parts: list[list[Any]], kind: pa.DataType) -> str:
    """Return reason why numbers are no variable: they count rows, or are ids; empty otherwise."""
    if not is_whole(kind) and not pa.types.is_floating(kind):
        return ""
    whole = [[int(cell) for cell in part if _is_int(cell)] for part in parts]
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


def _is_int(cell: Any) -> bool:
    return isinstance(cell, int) and not isinstance(cell, bool)


def _left_out(columns: Columns, guess: Guess, heads: list[FileHead]) -> dict[str, str]:
    return {
        name: guess.aside.get(name) or _number_in_text(name, heads) or _content(kind)
        for name, kind in guess.kinds.items()
        if name not in columns.names
    }


def _number_in_text(name: str, heads: list[FileHead]) -> str:
    """Return a word on texts that hold a number each, with a unit or marks that are not known."""
    cells = [
        cell.decode("utf-8", "replace").strip()
        for head in heads
        if name in head.cells
        for cell in _cells(head, name)
        if isinstance(cell, bytes) and not is_missing(cell)
    ]
    alike = sum(NUMBER_IN_TEXT.fullmatch(cell) is not None for cell in cells)
    shown = next((cell for cell in cells if not cell.isdigit()), "")
    return f"text such as {shown!r}" if shown and alike >= NUMBERS_SHARE * len(cells) else ""


def _content(kind: pa.DataType) -> str:
    """Return the content of a column of a type, in words."""
    if pa.types.is_null(kind):
        return "empty"
    if is_text(kind):
        return "text"
    if is_number(kind):
        return "numbers"
    if pa.types.is_boolean(kind):
        # In JSON also whatever is no text, number or list of numbers.
        return "neither text nor numbers"
    return "lists of numbers" if is_vector(kind) else str(kind)
