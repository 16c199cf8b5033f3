"""Rows of csv files, and their columns from the beginning of a file."""

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
from hercules_scale.reading.csv_quotes import QuotedRows
from hercules_scale.reading.dialect import (
    FEWEST_ROWS,
    HEAD_BYTES,
    MOST_MALFORMED_SHARE,
    Dialect,
    find_codes,
)
from hercules_scale.reading.first_rows import (
    BATCH_ROWS,
    LONGEST_LINE_BYTES,
    SNIFFED_ROWS,
    FirstRows,
    check_names,
    named_columns,
    plain_cells,
)
from hercules_scale.reading.sources import SourceFile
from hercules_scale.reading.text_streams import dialect_of, open_buffered, open_text, read_head

# Bytes of a block, which a row of csv must fit in; the longest row that can be read.
CSV_BLOCK_BYTES = LONGEST_LINE_BYTES
# Largest number of rows of a wrong width in a block; with two bytes a row, the reasons for all rows
# of a block would fill the memory.
MOST_MALFORMED = 100_000
# The reader takes some kilobytes of memory for each column, however short its name is.
MOST_COLUMNS = 65_536
# Least number of equally spaced numbers that may be column names, and largest ratio of their steps.
FEWEST_STEPS, UNEVEN = 8, 1.05
NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")


class _Malformed(NamedTuple):
    """A row of another width than the header's: its number among the rows, and the reason."""

    row: int
    reason: str


def csv_first_rows(config: InputConfig, source: SourceFile, with_cells: bool) -> FirstRows:
    """Return columns from the header, with types and values from the first block."""
    dialect = dialect_of(source, config.csv, named_columns(config, source))
    broken: list[_Malformed] = []
    if not read_head(source, 1):
        return FirstRows({}, {}, dialect)
    _check_width(source, dialect)
    with _open_csv(source, dialect, None, broken, []) as reader:
        schema = reader.schema
        _check_header(schema.names, source)
        check_names(schema.names, source)
        kinds = dict(zip(schema.names, schema.types, strict=True))
        if not with_cells:
            return FirstRows(kinds, {}, dialect)
        try:
            batch = reader.read_next_batch()
        except StopIteration:
            batch = pa.RecordBatch.from_pylist([], schema)
    # The reader is ahead of its batches: only malformed rows before the last row of this batch
    # count.
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
    return FirstRows(kinds, cells, dialect)


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
    """Return the first rows of a csv file, with all columns and the types that pyarrow gives
    them."""
    with _open_csv(source, dialect_of(source, CsvConfig()), None, [], []) as rows:
        return pa.table(next(iter(rows), pa.RecordBatch.from_pylist([], rows.schema)))


def _check_named(rows: pa.RecordBatch, source: SourceFile) -> None:
    """Refuse several columns that hold values but have no name.

    Columns without name and values are allowed, since exports may end rows with delimiters.
    """
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
    """Refuse a first line that looks like a row of values.

    Numbers from 0 on, years and many equally spaced numbers, such as wavelengths, may be names.
    """
    numbers = [name.strip() for name in names if NUMBER.fullmatch(name.strip())]
    counted = numbers == [str(place) for place in range(len(numbers))]
    # A single 0 beside other cells may be the value of a first row.
    counted = counted and (len(numbers) > 1 or len(names) == 1)
    years = all(re.fullmatch(r"(19|20)\d\d", name) for name in numbers)
    if not (counted or years or _are_steps(numbers)):
        raise InputError(
            f"{source.uri}: the first line of csv must name the columns, but holds "
            f"{', '.join(map(repr, numbers[:3]))}; put a line of names before it, or remove the "
            "lines above the names"
        )


def _are_steps(numbers: list[str]) -> bool:
    """Return whether numbers rise in equal steps, and are too many to be a row of values."""
    if len(numbers) < FEWEST_STEPS or any("," in number for number in numbers):
        return False
    steps = np.diff(np.array(numbers, np.float64))
    return bool(steps.min() > 0 and steps.max() <= UNEVEN * steps.min())


def csv_batches(
    source: SourceFile, dialect: Dialect, columns: Columns, own: list[str], alarms: list[str]
) -> Iterator[tuple[pa.Table, dict[int, str]]]:
    """Yield the rows of the columns in ``own`` as bytes, and a reason for each row of a wrong
    width.

    Raises:
        InputError: So many rows have a wrong width that the rest may be read wrongly too.
    """
    broken: list[_Malformed] = []
    n_rows = n_broken = 0
    first = None
    if not read_head(source, 1):
        return
    # Reasons do not quote a row that names an owner.
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
    """Return a batch with its malformed rows put back in place, all null, and the reason for each.

    Args:
        batch: Rows that were read.
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
    """Refuse a file with many malformed rows, since the rest may be read wrongly too.

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
        names: The columns; by default all, with guessed types.
        broken: List to which rows of a wrong width are added.
        alarms: List to which alarms are added.
        quoted: Whether reasons quote the row.
    """

    def set_aside(row: pacsv.InvalidRow) -> str:
        if len(broken) >= MOST_MALFORMED:
            return "error"
        text = f": {row.text[:100]}" if quoted else ""
        number = row.number + dialect.comments
        reason = f"line {number} has {row.actual_columns} columns, not {row.expected_columns}{text}"
        # Rows are counted from 1, the row of the names.
        broken.append(_Malformed(row.number - 2 - dialect.records, reason))
        return "skip"

    # Cells are read as bytes, so that one row of invalid UTF-8 is rejected alone, and 007 stays
    # 007.
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
        # In a file of a single column, an empty line is an empty cell.
        ignore_empty_lines=dialect.width > 1,
        invalid_row_handler=set_aside,
    )
    # Only a single-threaded reader knows the line numbers of malformed rows.
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
    """Hold back the trace that pyarrow prints for a malformed row that is not UTF-8.

    pyarrow itself refuses such a row, with its number.
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
    # pyarrow's message about a row that is longer than a block names options that users cannot set.
    straddles = "straddling object" in reason
    return f"a row is longer than {CSV_BLOCK_BYTES >> 20} MiB" if straddles else reason
