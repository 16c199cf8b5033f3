"""Rows of csv files, and what their beginning says of the columns."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from hercules_scale.config.reading import CsvConfig, InputConfig
from hercules_scale.errors import InputError
from hercules_scale.reading.columns import Columns, is_number, is_text, is_whole
from hercules_scale.reading.dialect import (
    FEWEST_ROWS,
    HEAD_BYTES,
    MOST_MALFORMED_SHARE,
    Dialect,
    find_codes,
)
from hercules_scale.reading.heads import (
    BATCH_ROWS,
    LONGEST_LINE_BYTES,
    SNIFFED_ROWS,
    FileHead,
    check_names,
    named_columns,
    plain_cells,
)
from hercules_scale.reading.quotes import QuotedRows
from hercules_scale.reading.sources import SourceFile
from hercules_scale.reading.streams import dialect_of, open_buffered, open_text, read_head

# A row of CSV must fit in a block; the longest text that is read is so long.
CSV_BLOCK_BYTES = LONGEST_LINE_BYTES
# Rows of a wrong width that a block may have: of a block of two bytes a row, the reasons would fill
# the memory.
MOST_MALFORMED = 100_000
# The reader takes some kilobytes for each, which its name alone does not.
MOST_COLUMNS = 65_536
# Numbers at one distance, to within a share, that are names of columns.
FEWEST_STEPS, UNEVEN = 8, 1.05
NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")


class _Malformed(NamedTuple):
    """A row of another width than the header's: its number among the rows, and the reason."""

    row: int
    reason: str


def csv_head(config: InputConfig, source: SourceFile, with_cells: bool) -> FileHead:
    """Return columns by the header, with types and values by the first block."""
    dialect = dialect_of(source, config.csv, named_columns(config, source))
    broken: list[_Malformed] = []
    if not read_head(source, 1):
        return FileHead({}, {}, dialect)
    _check_width(source, dialect)
    with _open_csv(source, dialect, None, broken, []) as reader:
        schema = reader.schema
        _check_header(schema.names, source)
        check_names(schema.names, source)
        kinds = dict(zip(schema.names, schema.types, strict=True))
        if not with_cells:
            return FileHead(kinds, {}, dialect)
        try:
            batch = reader.read_next_batch()
        except StopIteration:
            batch = pa.RecordBatch.from_pylist([], schema)
    # The reader is ahead of its batches: those before the last row of this one.
    own = [each for place, each in enumerate(broken) if each.row - place <= batch.num_rows]
    _check_fits(source, dialect, batch.num_rows, len(own), own)
    first = batch.slice(0, SNIFFED_ROWS)
    _check_named(first, source)
    cells = {
        name: plain_cells(pa.chunked_array([first.column(place)]))
        for place, name in enumerate(schema.names)
        if is_text(schema.types[place]) or is_number(schema.types[place])
    }
    for name in find_codes(read_head(source, HEAD_BYTES), dialect):
        if is_whole(kinds.get(name, pa.null())):
            kinds[name] = pa.string()
            cells[name] = [None if cell is None else f"0{cell}" for cell in cells[name]]
    return FileHead(kinds, cells, dialect)


def _check_width(source: SourceFile, dialect: Dialect) -> None:
    with open_buffered(source, dialect) as lines:
        header = lines.readline(CSV_BLOCK_BYTES)
    n_columns = header.count(dialect.delimiter.encode()) + 1
    if n_columns > MOST_COLUMNS:
        raise InputError(
            f"{source.uri}: must have at most {MOST_COLUMNS:,} columns, got {n_columns:,}; leave "
            "columns out, or give the file as Parquet"
        )


def csv_rows(source: SourceFile) -> pa.Table:
    """Return the first rows of a csv file, with every column, as pyarrow types them."""
    with _open_csv(source, dialect_of(source, CsvConfig()), None, [], []) as rows:
        return pa.table(next(iter(rows), pa.RecordBatch.from_pylist([], rows.schema)))


def _check_named(rows: pa.RecordBatch, source: SourceFile) -> None:
    """Refuse several columns without a name that hold something; exports end rows with delimiters
    alone."""
    names = rows.schema.names
    unnamed = [
        column
        for name, column in zip(names, rows.columns, strict=True)
        if not name and pc.any(pc.not_equal(column.cast(pa.string()), "")).as_py()
    ]
    if len(unnamed) > 1:
        raise InputError(
            f"{source.uri}: the first line of csv must name the columns, but {len(unnamed)} of "
            f"{len(names)} that hold values have no name; remove the lines before the names, or "
            "name each"
        )


def _check_header(names: list[str], source: SourceFile) -> None:
    """Refuse a first line that looks like a row; numbers from 0 on, years, and many numbers at one
    distance, such as wavelengths, may be names."""
    numbers = [name.strip() for name in names if NUMBER.fullmatch(name.strip())]
    counted = numbers == [str(place) for place in range(len(numbers))]
    # A first row may begin with 0.
    counted = counted and (len(numbers) > 1 or len(names) == 1)
    years = all(re.fullmatch(r"(19|20)\d\d", name) for name in numbers)
    if not (counted or years or _are_steps(numbers)):
        raise InputError(
            f"{source.uri}: the first line of csv must name the columns, but holds "
            f"{', '.join(map(repr, numbers[:3]))}; put a line of names before it, or remove the "
            "lines above the names"
        )


def _are_steps(numbers: list[str]) -> bool:
    """Return whether so many numbers rise by the same that no row is likely to."""
    if len(numbers) < FEWEST_STEPS or any("," in number for number in numbers):
        return False
    steps = np.diff(np.array(numbers, np.float64))
    return bool(steps.min() > 0 and steps.max() <= UNEVEN * steps.min())


def csv_batches(
    source: SourceFile, dialect: Dialect, columns: Columns, own: list[str], alarms: list[str]
) -> Iterator[tuple[pa.Table, dict[int, str]]]:
    """Yield the rows of the columns in ``own`` as bytes, and a reason for each of another width.

    Raises:
        InputError: So many have another width that the rest may be wrong too.
    """
    broken: list[_Malformed] = []
    n_rows = n_broken = 0
    first = None
    if not read_head(source, 1):
        return
    # A row that names an owner is not quoted.
    quoted = columns.owner is None
    with _open_csv(source, dialect, own, broken, alarms, quoted) as reader:
        for batch in reader:
            first = first or next(iter(broken), None)
            # The reader sets malformed rows aside and is ahead of its batches.
            table, reasons = _in_place(batch, broken, n_rows + n_broken)
            n_rows += batch.num_rows
            n_broken += len(reasons)
            del broken[: len(reasons)]
            for start in range(0, table.num_rows, BATCH_ROWS):
                stop = start + BATCH_ROWS
                own_reasons = {
                    row - start: why for row, why in reasons.items() if start <= row < stop
                }
                yield table.slice(start, BATCH_ROWS), own_reasons
    first = first or next(iter(broken), None)
    _check_fits(source, dialect, n_rows, n_broken + len(broken), [first] if first else [])
    empty = pa.table({name: pa.nulls(len(broken), pa.binary()) for name in own})
    yield empty, {place: each.reason for place, each in enumerate(broken)}


def _in_place(
    batch: pa.RecordBatch, broken: list[_Malformed], at: int
) -> tuple[pa.Table, dict[int, str]]:
    """Return a batch with the malformed rows that lie before its end where the file has them, all
    null, and the reason for each.

    Args:
        batch: The other rows.
        broken: Malformed rows, from this batch on.
        at: Row of the file that the batch begins with.
    """
    before = [each.row - at - place for place, each in enumerate(broken)]
    within = [n_rows for n_rows in before if n_rows < batch.num_rows]
    table = pa.table(batch)
    if within:
        places = np.insert(np.arange(batch.num_rows), within, -1)
        table = table.take(pa.array(places, mask=places < 0))
    return table, {each.row - at: each.reason for each in broken[: len(within)]}


def _check_fits(
    source: SourceFile, dialect: Dialect, n_rows: int, n_broken: int, broken: list[_Malformed]
) -> None:
    """Refuse a file of which much does not fit how it is read, since the rest may be wrong too.

    Raises:
        InputError: Many rows have another width than the header.
    """
    n_all = n_rows + n_broken
    many = n_all >= FEWEST_ROWS and n_broken > MOST_MALFORMED_SHARE * n_all
    if many or n_broken > n_all / 2:
        raise InputError(
            f"{source.uri}: was read as {dialect.said(True)}, but {n_broken:,} of "
            f"{n_all:,} rows have another width than the header"
            f"{f' ({broken[0].reason})' if broken else ''}; set input.csv.delimiter, quote or "
            "escape, remove lines above the names, or name it .txt if each line is a text"
        )


@contextmanager
def _open_csv(
    source: SourceFile,
    dialect: Dialect,
    names: list[str] | None,
    broken: list[_Malformed],
    alarms: list[str],
    quoted: bool = True,
) -> Iterator[pacsv.CSVStreamingReader]:
    """Provide a reader of chosen columns; rows of a wrong width go to ``broken``.

    Args:
        source: The file.
        dialect: Dialect of the file.
        names: The columns; left out: all, by types that are guessed.
        broken: Gets rows of a wrong width.
        alarms: Get what looks wrong.
        quoted: Whether reasons quote the row.
    """

    def set_aside(row: pacsv.InvalidRow) -> str:
        if len(broken) >= MOST_MALFORMED:
            return "error"
        text = f": {row.text[:100]}" if quoted else ""
        number = row.number + dialect.comments
        reason = f"line {number} has {row.actual_columns} columns, not {row.expected_columns}{text}"
        # Rows are counted from 1, that of the names.
        broken.append(_Malformed(row.number - 2 - dialect.records, reason))
        return "skip"

    # As bytes, so that one row of invalid UTF-8 is rejected alone, and 007 stays 007.
    convert = pacsv.ConvertOptions(decimal_point=dialect.decimal)
    if names is not None:
        convert = pacsv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.binary()),
            include_columns=names,
            strings_can_be_null=True,
            null_values=[""],
            quoted_strings_can_be_null=False,
        )
    parse = pacsv.ParseOptions(
        delimiter=dialect.delimiter,
        quote_char=dialect.quote or False,
        newlines_in_values=True,
        # Of a single column, an empty line is an empty cell.
        ignore_empty_lines=dialect.width > 1,
        invalid_row_handler=set_aside,
    )
    # Line numbers of malformed rows are known to a single-threaded reader alone.
    read = pacsv.ReadOptions(
        use_threads=False, block_size=CSV_BLOCK_BYTES, skip_rows_after_names=dialect.records
    )
    with open_text(source, dialect) as stream, _without_traces_of_undecodable_rows():
        rows = QuotedRows(stream, source.uri, dialect, CSV_BLOCK_BYTES)
        try:
            reader = pacsv.open_csv(rows, read, parse, convert)
        except pa.ArrowInvalid as error:
            raise InputError(
                f"{source.uri}: cannot be read as csv with a header line ({reason_of(error)}); "
                "fix the file or leave it out"
            ) from None
        with reader:
            yield reader
    alarms += rows.alarms


@contextmanager
def _without_traces_of_undecodable_rows() -> Iterator[None]:
    """Hold back the trace that pyarrow prints of a malformed row that is no UTF-8.

    It refuses such a row by itself, by its number.
    """
    before = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs, /) -> None:
        if not isinstance(unraisable.exc_value, UnicodeDecodeError):
            before(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


def reason_of(error: Exception) -> str:
    """Return a library's message about a file, on one line."""
    reason = " ".join(str(error).split())[:200]
    # The message of pyarrow about a row that does not end within a block names none of our options.
    straddles = "straddling object" in reason
    return f"a row is longer than {CSV_BLOCK_BYTES >> 20} MiB" if straddles else reason
