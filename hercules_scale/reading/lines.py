"""Lines of text files, whole text files, and JSON objects, one per line or not."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from hercules_scale.config.reading import CsvConfig, InputConfig
from hercules_scale.errors import InputError
from hercules_scale.reading.dialect import SPACED_NUMBER, Dialect
from hercules_scale.reading.first_rows import (
    BATCH_ROWS,
    LONGEST_LINE_BYTES,
    SNIFFED_ROWS,
    FirstRows,
)
from hercules_scale.reading.json_values import json_values
from hercules_scale.reading.sources import SourceFile
from hercules_scale.reading.text_streams import dialect_of, open_buffered, read_head

TEXT_COLUMN_OF_LINES = "text"
# Columns of files that are one text each: the text, the file's path in the input, and the name of
# its folder.
DOCUMENT_COLUMNS = (TEXT_COLUMN_OF_LINES, "file", "folder")
BATCH_DOCUMENTS = 64
# Files with paragraphs, or at least so many files with fewer lines than this, are likely one text
# each.
PARAGRAPHS, MANY_FILES, LONG_FILE = re.compile(r"\n[ \t\r]*\n"), 20, 200
# Number of lines of a text that are examined, least number that decides, and share of lines with
# equally many marks that makes a table; then each mark, its name, and the least number of marks in
# a line, more than sentences have line after line.
LINES_SEEN, FEWEST_LINES, ROWS_SHARE = 40, 10, 0.8
ROW_MARKS = (
    *(("\t", "tabs", 1), (";", "semicolons", 1), ("|", "bars", 1)),
    *(("::", "double colons", 1), (",", "commas", 2)),
)
TOO_LONG = f"the line is longer than {LONGEST_LINE_BYTES >> 20} MiB"


def line_batches(source: SourceFile, dialect: Dialect) -> Iterator[tuple[pa.Table, dict[int, str]]]:
    """Yield lines as rows of one column, and a reason for each that is too long."""
    for lines in _lines(source, dialect):
        broken = {index: TOO_LONG for index, line in enumerate(lines) if line is None}
        yield pa.table({TEXT_COLUMN_OF_LINES: pa.array(lines, pa.binary())}), broken


def document_batches(
    sources: Sequence[SourceFile], csv: CsvConfig
) -> Iterator[tuple[pa.Table, dict[int, str]]]:
    """Yield files as rows, and a reason for each that is too long."""
    for start in range(0, len(sources), BATCH_DOCUMENTS):
        some = sources[start : start + BATCH_DOCUMENTS]
        texts = [_document(source, csv) for source in some]
        folders = [source.uri.split("/")[-2] for source in some]
        cells = (texts, [source.name for source in some], folders)
        arrays = [pa.array(column, pa.binary()) for column in cells]
        long = f"the file is longer than {LONGEST_LINE_BYTES >> 20} MiB"
        broken = {index: long for index, text in enumerate(texts) if text is None}
        yield pa.table(arrays, names=list(DOCUMENT_COLUMNS)), broken


def _document(source: SourceFile, csv: CsvConfig) -> bytes | None:
    with open_buffered(source, dialect_of(source, csv)) as stream:
        text: bytes = stream.read(LONGEST_LINE_BYTES + 1)
    return text.removeprefix(b"\xef\xbb\xbf") if len(text) <= LONGEST_LINE_BYTES else None


def paragraphs_in_lines(texts: Sequence[str], n_files: int) -> str:
    """Return a sentence about files that are likely one text each; empty if they are not.

    Args:
        texts: Beginnings of some files.
        n_files: Number of all files.
    """
    spaced = sum(PARAGRAPHS.search(text.strip()) is not None for text in texts)
    short = n_files >= MANY_FILES and all(1 < len(text.splitlines()) < LONG_FILE for text in texts)
    if not short and (n_files < 3 or 2 * spaced <= len(texts)):
        return ""
    held = "paragraphs with blank lines between" if 2 * spaced > len(texts) else "few lines each"
    return (
        f"each line is an item, and the {n_files:,} files hold {held}; if each file is one text, "
        "set input.documents to true"
    )


def table_in_lines(text: str) -> str:
    """Return a sentence about lines that are likely rows of a table; empty if they are not."""
    lines = [line for line in text.split("\n", LINES_SEEN)[:LINES_SEEN] if line.strip()]
    if len(lines) < FEWEST_LINES:
        return ""
    for mark, name, least in ROW_MARKS:
        ((n_marks, n_lines),) = Counter(line.count(mark) for line in lines).most_common(1)
        # Lines above the names, and ruled lines, have other numbers of marks.
        if n_marks >= least and n_lines >= ROWS_SHARE * len(lines):
            each = "each line has" if n_lines == len(lines) else "most lines have"
            return (
                f"{each} {n_marks:,} {name}, and each line is an item; name the file .csv or .tsv "
                "if it is a table"
            )
    if all(line.lstrip().startswith("{") and line.rstrip().endswith("}") for line in lines):
        return "each line is in braces and an item; name the file .jsonl if it holds JSON"
    cells = [line.replace(",", " ").split() for line in lines[1:]]
    if all(len(row) > 1 and all(map(SPACED_NUMBER.fullmatch, row[1:])) for row in cells):
        return "each line holds numbers and is an item; name the file .csv if it is a table"
    return ""


def _lines(source: SourceFile, dialect: Dialect) -> Iterator[list[bytes | None]]:
    """Yield lines, some thousand at a time; None for a line that is too long."""
    with open_buffered(source, dialect) as stream:
        yield from _gathered(_each_line(stream))


def _each_line(stream: Any) -> Iterator[bytes | None]:
    first = True
    while line := stream.readline(LONGEST_LINE_BYTES + 1):
        whole = line.endswith(b"\n") or len(line) <= LONGEST_LINE_BYTES
        own = line.rstrip(b"\r\n") if whole else None
        yield own.removeprefix(b"\xef\xbb\xbf") if own and first else own
        first = False
        while not whole:
            rest = stream.readline(LONGEST_LINE_BYTES)
            whole = not rest or rest.endswith(b"\n")


def _gathered(lines: Iterator[bytes | None]) -> Iterator[list[bytes | None]]:
    """Yield lines, some thousand at a time, or fewer if they are long."""
    some: list[bytes | None] = []
    n_bytes = 0
    for line in lines:
        some.append(line)
        n_bytes += len(line or b"")
        if len(some) == BATCH_ROWS or n_bytes > LONGEST_LINE_BYTES:
            yield some
            some, n_bytes = [], 0
    if some:
        yield some


def _json_texts(source: SourceFile, dialect: Dialect) -> Iterator[list[bytes | None]]:
    """Yield JSON objects that are one per line, in an array, or spread over lines."""
    with open_buffered(source, dialect) as stream:
        if _is_a_line_each(stream.peek(1)):
            yield from _gathered(_each_line(stream))
        else:
            yield from _gathered(json_values(stream, source.uri, LONGEST_LINE_BYTES))


def _is_a_line_each(head: bytes) -> bool:
    """Return whether objects at the beginning of a JSON file end with their line."""
    head = head.removeprefix(b"\xef\xbb\xbf")
    if not head.lstrip().startswith((b"{", b"[")):
        return True
    lines = [line for line in head.splitlines() if line.strip()][:20]
    whole = sum(_parse_object(line)[0] is not None for line in lines)
    return whole > 0 and 2 * whole >= len(lines) - 1


def json_first_rows(config: InputConfig, source: SourceFile) -> FirstRows:
    """Return the columns of the first objects; a column that ever holds text is a text column."""
    dialect = dialect_of(source, config.csv)
    if not read_head(source, 1):
        return FirstRows({}, {}, dialect)
    for lines in _json_texts(source, dialect):
        found = FirstRows({}, {}, dialect)
        values = [_parse_object(line)[0] for line in lines[:SNIFFED_ROWS]]
        if len(lines) == 1 and values[0] is not None:
            _check_no_envelope(values[0], source)
        for value in values:
            for name, cell in (value or {}).items():
                found.cells.setdefault(name, []).append(cell)
        for name, cells in found.cells.items():
            found.kinds[name] = _json_type([cell for cell in cells if cell is not None])
            found.lengths[name] = [len(cell) for cell in cells if isinstance(cell, list)]
        if found.kinds:
            return found
        break
    else:
        # The file is an empty array.
        return FirstRows({}, {}, dialect)
    raise InputError(
        f"{source.uri}: the first {SNIFFED_ROWS:,} lines hold no JSON object; give one a line, "
        "or leave the file out"
    )


def _json_type(cells: list[object]) -> pa.DataType:
    """Return text if any value is text, else the most common type."""
    if any(isinstance(cell, str) for cell in cells):
        return pa.string()
    counts = Counter(map(_type_of, cells))
    return counts.most_common(1)[0][0] if counts else pa.null()


def _type_of(cell: object) -> pa.DataType:
    if isinstance(cell, list) and all(isinstance(each, int | float) for each in cell):
        return pa.list_(pa.float64())
    number = isinstance(cell, int | float) and not isinstance(cell, bool)
    return pa.float64() if number else pa.bool_()


def _check_no_envelope(value: dict[str, Any], source: SourceFile) -> None:
    """Refuse a single object that holds the items in a list, or columns by name.

    Raises:
        InputError: It is such an object.
    """
    for name, held in value.items():
        if isinstance(held, list) and len(held) > 1 and all(isinstance(it, dict) for it in held):
            raise InputError(
                f"{source.uri}: holds one object, and its list {name!r} {len(held):,} objects; "
                f"write that list as the file, such as by jq '.{name}'"
            )
    columns = list(value.values())
    if len(columns) > 1 and all(isinstance(each, list) for each in columns):
        raise InputError(
            f"{source.uri}: holds one object of {len(columns):,} lists; write an object a line, in "
            "pandas by to_json(orient='records', lines=True)"
        )
    if len(columns) > 1 and all(isinstance(each, dict) and len(each) > 1 for each in columns):
        raise InputError(
            f"{source.uri}: holds one object of {len(columns):,} objects by name; write an object "
            "a line, in pandas by to_json(orient='records', lines=True)"
        )


def json_batches(
    source: SourceFile, dialect: Dialect, names: list[str], text: str | None
) -> Iterator[tuple[pa.Table, dict[int, str]]]:
    """Yield the values of some columns as bytes, and a reason for each row that cannot be used."""
    for lines in _json_texts(source, dialect):
        cells: dict[str, list[bytes | None]] = {name: [] for name in names}
        broken: dict[int, str] = {}
        for index, line in enumerate(lines):
            value, reason = _parse_object(line)
            for name in names:
                cell = (value or {}).get(name)
                # Python's JSON has NaN, which other programs write for null.
                cell = None if isinstance(cell, float) and math.isnan(cell) else cell
                if name == text and cell is not None and not isinstance(cell, str):
                    reason = reason or f"column {name!r} holds {type(cell).__name__}, not text"
                    cell = None
                cells[name].append(_to_bytes(cell))
            if reason:
                broken[index] = reason
        yield pa.table({name: pa.array(cells[name], pa.binary()) for name in cells}), broken


def _parse_object(line: bytes | None) -> tuple[dict[str, Any] | None, str]:
    if line is None:
        return None, TOO_LONG
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None, "not valid JSON"
    if not isinstance(value, dict):
        return None, f"the line holds {type(value).__name__}, not a JSON object"
    return value, ""


def _to_bytes(cell: object) -> bytes | None:
    if cell is None:
        return None
    text = cell if isinstance(cell, str) else json.dumps(cell)
    # A lone surrogate has no UTF-8 form; the result fails the check for valid UTF-8.
    return text.encode("utf-8", "surrogatepass")
