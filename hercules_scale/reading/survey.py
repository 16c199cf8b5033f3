"""Interpretation of an input from a sample of its files, and its description for the user."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from hercules_scale.config.reading import InputConfig
from hercules_scale.errors import InputError, SchemaError
from hercules_scale.reading.columns import (
    Columns,
    Guess,
    choose_columns,
    is_number,
    is_text,
    is_vector,
)
from hercules_scale.reading.decimals import as_number, is_missing
from hercules_scale.reading.dialect import HEAD_BYTES
from hercules_scale.reading.encodings import decoded
from hercules_scale.reading.file_rows import read_first_rows
from hercules_scale.reading.first_rows import FirstRows
from hercules_scale.reading.guessed_roles import NUMBERS_SHARE, guess_roles, texts_of
from hercules_scale.reading.input_alarms import alarms_of
from hercules_scale.reading.input_pieces import Piece
from hercules_scale.reading.lines import paragraphs_in_lines, table_in_lines
from hercules_scale.reading.sources import SourceFile
from hercules_scale.reading.text_streams import read_head

# Number of files that are examined: the first, the last and files between them.
SAMPLED_FILES = 8
# A number with something before or after it, such as a unit.
NUMBER_IN_TEXT = re.compile(r"[^\w]{0,3}\d[\d.,' \u00a0\u202f]*\W{0,2}[^\W\d]{0,4}\W?")
# Largest number of names that are listed in a line.
SHOWN = 8
SKIPPED_RECORDED = 100


@dataclass(frozen=True)
class Survey:
    """Interpretation of an input before it is read.

    Attributes:
        columns: Columns by role.
        left_out: Other columns, with the reason.
        n_files: Number of files.
        size_bytes: Length of all files together.
        format: Format of the files.
        n_rows: Number of rows, if the files give it.
        dialects: Dialects of text files, with the number of sampled files of each.
        n_sampled: Number of files that were examined.
        skipped: Files that are not read, with the reason.
        alarms: Alarms about the input.
        guessed: Word that was decoded with an encoding that is a guess; else empty.
        dimension: Length of the input's vectors; 0 for other modalities.
        pieces: Pieces in which the input is read.
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
    dimension: int = 0
    pieces: tuple[Piece, ...] = ()

    @property
    def lines(self) -> list[str]:
        """Description of the input for the user, in lines."""
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
            # Texts first, since one of them may be the one to cluster.
            ordered = sorted(self.left_out.items(), key=lambda pair: pair[1] != "text")
            said.append(f"input: left out: {_listed(dict(ordered))}")
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
        n_rows: Number of rows, if the files give it.
        skipped: Files that are not read, with the reason.

    Raises:
        InputError: A file cannot be read.
        SchemaError: A column is missing, or the modality is not clear.
    """
    places = np.linspace(0, len(sources) - 1, min(SAMPLED_FILES, len(sources))).round()
    sampled = [sources[place] for place in dict.fromkeys(places.astype(int).tolist())]
    valued = {0, len(sampled) // 2, len(sampled) - 1}
    heads = [
        read_first_rows(config, source, cells=place in valued)
        for place, source in enumerate(sampled)
    ]
    alarms: list[str] = []
    if sources[0].format == "txt":
        texts = [_beginning(*pair) for pair in zip(heads, sampled, strict=True)]
        heads = [_looked_for_rows(*pair) for pair in zip(heads, texts, strict=True)]
        alarms = list(filter(None, [paragraphs_in_lines(texts, len(sources))]))
    first = next((place for place, head in enumerate(heads) if head.kinds), 0)
    kinds = _merged(heads)
    if not kinds:
        raise InputError(f"{sources[0].uri}: the file is empty; replace it or leave it out")
    # These files are empty once they are unpacked.
    empty = [source.uri for source, head in zip(sampled, heads, strict=True) if not head.kinds]
    guess = guess_roles(config, kinds, heads, sampled)
    typed = sources[0].format != "csv"
    try:
        columns = choose_columns(config, kinds, sampled[first].uri, typed, guess)
    except SchemaError as error:
        raise SchemaError(f"{error}{_spelt_twice(kinds)}") from None
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
        (*alarms, *alarms_of(config, columns, heads, guess)),
        next((head.dialect.guessed for head in heads if head.dialect and head.dialect.guessed), ""),
    )


def _beginning(head: FirstRows, source: SourceFile) -> str:
    assert head.dialect is not None
    return decoded(read_head(source, HEAD_BYTES), head.dialect.encoding)


def _looked_for_rows(head: FirstRows, text: str) -> FirstRows:
    """Return first rows with a sentence about lines that are likely rows of a table."""
    assert head.dialect is not None
    return replace(head, dialect=replace(head.dialect, doubtful=table_in_lines(text)))


def _spelt_twice(kinds: dict[str, pa.DataType]) -> str:
    """Return a hint about names of columns that differ only in case; empty if there are none."""
    known: dict[str, str] = {}
    for name in kinds:
        other = known.setdefault(name.casefold(), name)
        if other != name:
            return f"; {other!r} and {name!r} are two columns: give them one name in all files"
    return ""


def _merged(heads: list[FirstRows]) -> dict[str, pa.DataType]:
    """Return the columns of all files; a column that is empty in some files has its type in
    others."""
    found: dict[str, pa.DataType] = {}
    for head in heads:
        for name, kind in head.kinds.items():
            before = found.setdefault(name, kind)
            if pa.types.is_null(before) or (is_number(before) and is_text(kind)):
                found[name] = before if pa.types.is_null(kind) else kind
    return found


def _left_out(columns: Columns, guess: Guess, heads: list[FirstRows]) -> dict[str, str]:
    return {
        name: guess.aside.get(name) or _number_in_text(name, heads) or _content(kind)
        for name, kind in guess.kinds.items()
        if name not in columns.names
    }


def _number_in_text(name: str, heads: list[FirstRows]) -> str:
    """Return a description of texts that each hold a number with a unit or unknown marks, else
    empty."""
    found = (cell for cell in texts_of(heads, name) if not is_missing(cell))
    cells = [cell.decode("utf-8", "replace") for cell in found]
    alike = sum(NUMBER_IN_TEXT.fullmatch(cell) is not None for cell in cells)
    marks = next((head.dialect.marks for head in heads if head.dialect), ".")
    odd = Counter(cell for cell in cells if as_number(cell.encode(), marks) is None)
    shown = next((cell for cell, _ in odd.most_common(1)), "")
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
        # In JSON, anything that is no text, number or list of numbers has this type too.
        return "neither text nor numbers"
    return "lists of numbers" if is_vector(kind) else str(kind)
