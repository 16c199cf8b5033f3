"""Dialects of text files: their encoding, and the delimiters and quotes of csv."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

from hercules_scale.config.reading import CsvConfig
from hercules_scale.reading.decimals import decimal_mark
from hercules_scale.reading.encodings import decoded, detect_encoding, foreign_word

# Bytes at the beginning of a file that its dialect is detected from.
HEAD_BYTES = 256 * 2**10
DELIMITERS = (",", ";", "\t", "|")
# Largest share of rows of a wrong width, in files of at least so many rows; a file with more is
# likely read wrongly.
MOST_MALFORMED_SHARE, FEWEST_ROWS = 0.2, 10
# Share of fields that a quote must enclose to be detected.
FITTING = 1 - MOST_MALFORMED_SHARE
COMMENTS = re.compile(r"(#[^\n]*\n)+")
# First line that gives the delimiter of a file to Excel.
SEPARATOR = re.compile(r'"?sep=([^\w\s]|\t)"?\r?\n')
# Number of rows by which delimiters are compared, and pattern of a number in any dialect.
SCORED_ROWS, NUMBER = 50, re.compile(r"[+-]?\d+([.,]\d+)?")
SPACED_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
CODE = re.compile(r"0\d+")
# Key and short text of a JSON object.
JSON_CELL = re.compile(r'"((?:[^"\\]|\\.){1,200}+)"\s{0,9}+:\s{0,9}+"([^"\\]{1,40}+)"')
# Below the names, Qualtrics writes a line of questions and a line with such a record of each
# column.
SURVEY_RECORD = re.compile(r'\{\s*"ImportId"')
SURVEY_LINES = 2
# Below the names, SurveyMonkey writes one line of these.
ANSWERS = frozenset(("Response", "Open-Ended Response", "Other (please specify)"))


@dataclass(frozen=True)
class Dialect:
    """Dialect of a text file.

    Attributes:
        encoding: Python's name of the encoding.
        delimiter: Delimiter of csv.
        quote: Quote of csv; empty if fields are not quoted.
        escape: Character before a quote within quotes; empty if such quotes are doubled.
        decimal: Decimal mark.
        named: Whether the user named the decimal mark, so that the other mark is the mark of
            thousands.
        doubtful: Sentence about numbers that are ambiguous, or lines that look like rows of a
            table; empty if there is none.
        comments: Number of lines before the names of csv that begin with ``#``.
        unnamed: Field without a name in each row of csv, ``first`` or ``last``; empty if all have
            names.
        records: Number of lines that describe the columns, after their names.
        width: Number of columns of csv.
        guessed: Word that was decoded with the encoding, if that is a guess; else empty.
    """

    encoding: str = "utf-8"
    delimiter: str = ","
    quote: str = '"'
    escape: str = ""
    decimal: str = "."
    named: bool = False
    doubtful: str = ""
    comments: int = 0
    unnamed: str = ""
    records: int = 0
    width: int = 0
    guessed: str = ""

    @property
    def marks(self) -> str:
        """Decimal mark and, if it is known, the mark of thousands."""
        return self.decimal + ("," if self.decimal == "." else ".") * self.named

    def said(self, of_csv: bool) -> str:
        """Describe the dialect in words."""
        parts = [self.encoding]
        if of_csv:
            parts.append(f"delimiter {self.delimiter!r}")
        if self.quote != '"':
            parts.append(f"quote {self.quote!r}" if self.quote else "no quotes")
        if self.escape:
            parts.append(f"escape {self.escape}")
        if self.decimal != ".":
            parts.append(f"decimal {self.decimal!r}")
        if self.comments:
            parts.append(f"without its first lines that begin with # ({self.comments:,})")
        if self.unnamed:
            parts.append(f"the {self.unnamed} field of each row has no name")
        if self.records:
            lines = "line" if self.records == 1 else f"{self.records:,} lines"
            parts.append(f"without the {lines} after the names that describe the columns")
        return ", ".join(parts)


def detect(
    head: bytes, whole: bool, given: CsvConfig, of_csv: bool, names: Collection[str] = ()
) -> Dialect:
    """Return the dialect of a file.

    Args:
        head: Its first bytes, uncompressed.
        whole: Whether these are all its bytes.
        given: Keys that the user set.
        of_csv: Whether it is csv; other files have only an encoding and a decimal mark.
        names: Columns that csv must have.
    """
    encoding = given.encoding or detect_encoding(head, whole, of_csv)
    text = decoded(head, encoding)
    found = _of_csv(text, whole, given, names) if of_csv else _of_json(text, given)
    guessed = "" if given.encoding or encoding.startswith("utf") else foreign_word(text)
    return replace(found, encoding=encoding, named=given.decimal is not None, guessed=guessed)


def _of_json(text: str, given: CsvConfig) -> Dialect:
    """Return a dialect with the decimal mark of numbers in the texts of JSON objects."""
    cells: dict[str, list[str]] = {}
    for name, cell in JSON_CELL.findall(text):
        cells.setdefault(name, []).append(cell.strip())
    return Dialect(decimal=given.decimal or decimal_mark(list(cells.values()))[0])


def _of_csv(text: str, whole: bool, given: CsvConfig, names: Collection[str]) -> Dialect:
    """Return the dialect of csv, without its encoding."""
    quote = _quote(text) if given.quote is None else given.quote
    separator = SEPARATOR.match(text)
    text = text[separator.end() :] if separator is not None else text
    text, comments = _without_comments(text)
    escape = _escape(text, quote) if given.escape is None else given.escape
    known = given.delimiter or (separator[1] if separator is not None else "")
    plain = Dialect(quote=quote, escape=escape)
    best, rows = _delimited(text, whole, plain, known, names)
    n_comments = len(comments)
    if comments and rows:
        # The last comment names the columns if it is as wide as the rows.
        last = next(_rows(comments[-1], best, True), [])
        if len(last) == len(rows[0]):
            n_comments, rows = n_comments - 1, [last, *rows]
    records = _records(rows)
    cells = itertools.zip_longest(*rows[1 + records :], fillvalue="")
    columns = [[cell.strip() for cell in column] for column in cells]
    decimal, doubtful = (given.decimal, "") if given.decimal else decimal_mark(columns)
    return replace(
        best,
        decimal=decimal,
        # If commas are delimiters, a point can only be a decimal mark.
        doubtful="" if best.delimiter == "," else doubtful,
        comments=n_comments,
        unnamed=_unnamed(text, rows),
        records=records,
        width=len(rows[0]) if rows else 0,
    )


def _delimited(
    text: str, whole: bool, plain: Dialect, known: str, names: Collection[str]
) -> tuple[Dialect, list[list[str]]]:
    """Return a dialect with the delimiter under which rows fit best, and these rows.

    Args:
        text: The beginning of a file.
        whole: Whether the text is the whole file.
        plain: The dialect without the delimiter.
        known: The delimiter; empty if it must be detected.
        names: Columns that csv must have.
    """
    found = []
    for delimiter in [known] if known else DELIMITERS:
        tried = replace(plain, delimiter=delimiter)
        rows = list(_rows(text, tried, whole))
        found.append((_score(rows, names), tried, rows))
    score, best, rows = max(found, key=lambda each: each[0])
    if known or score.splits:
        return best, rows
    spaced = replace(plain, delimiter=" ")
    parts = list(_rows(text, spaced, whole))
    if _are_numbers_in_columns(parts) or _are_of_r(text, parts):
        return spaced, parts
    return best, rows


def _without_comments(text: str) -> tuple[str, list[str]]:
    """Return a text without the lines at its beginning that begin with ``#``, and these lines."""
    found = COMMENTS.match(text)
    if found is None or _begin_rows(text[found.end() :]):
        return text, []
    return text[found.end() :], found[0].splitlines()


def _begin_rows(rest: str) -> bool:
    """Return whether lines that begin with ``#`` are rows: most lines do, or there is one
    column."""
    names = rest.partition("\n")[0]
    one_column = not any(delimiter in names for delimiter in DELIMITERS)
    return one_column or 2 * rest.count("\n#") > rest.count("\n")


def _records(rows: list[list[str]]) -> int:
    """Return the number of lines after the names in which survey programs describe columns."""
    if len(rows) > SURVEY_LINES and all(map(SURVEY_RECORD.match, rows[SURVEY_LINES])):
        return SURVEY_LINES
    said = {cell for cell in rows[1] if cell} if len(rows) > 1 else set()
    return int(bool(said) and said <= ANSWERS)


def _unnamed(text: str, rows: list[list[str]]) -> str:
    """Return the field of the rows that has no name, ``first`` or ``last``; empty if there is none.

    Some programs end each row with a delimiter. R writes quoted row names without a name for their
    column.
    """
    width = len(rows[0]) if rows else 0
    if len(rows) < 3 or any(len(row) != width + 1 for row in rows[1:]):
        return ""
    if not any(row[-1] for row in rows[1:]):
        return "last"
    quoted = all(line.startswith('"') for line in text.split("\n", 3)[:3])
    return "first" if quoted and len({row[0] for row in rows[1:]}) == len(rows) - 1 else ""


def _are_of_r(text: str, rows: list[list[str]]) -> bool:
    """Return whether spaces separate fields, below names in quotes, as R writes them."""
    header = text.partition("\n")[0].strip()
    width = len(rows[0]) if rows else 0
    return (
        len(rows) > 2
        and width > 1
        and all(len(row) == len(rows[1]) for row in rows[1:])
        and len(rows[1]) in (width, width + 1)
        and re.fullmatch(r'"[^"]*"( "[^"]*")+', header) is not None
    )


def _quote(text: str) -> str:
    """Return the quote of fields.

    It is a single quote if there is no double quote and nearly all fields that begin with a single
    quote end with one; otherwise it is a double quote.
    """
    whole = len(re.findall(r"(?m)(?:^|[,;\t|])'(?:[^'\r\n]++|'')*+'(?=[,;\t|\r\n]|$)", text))
    begun = len(re.findall(r"(?m)(?:^|[,;\t|])'", text))
    return "'" if '"' not in text and whole >= 2 and whole >= FITTING * begun else '"'


def _escape(text: str, quote: str) -> str:
    r"""Return a backslash if quotes within quotes have one before them, as Spark writes them.

    In a file of doubled quotes, ``\"`` ends a field or is followed by another quote.
    """
    if not quote:
        return ""
    mark = re.escape(quote)
    escaped = len(re.findall(rf"\\{mark}(?![{mark},;\t|\r\n]|$)", text))
    doubled = len(re.findall(rf"(?<![{mark},;\t|\r\n]){mark}{mark}(?![{mark},;\t|\r\n]|$)", text))
    return "\\" if escaped > doubled else ""


def find_codes(head: bytes, dialect: Dialect) -> set[str]:
    """Return the columns of csv that hold codes such as 007, which are no numbers."""
    text = SEPARATOR.sub("", decoded(head, dialect.encoding), count=1)
    for _ in range(dialect.comments):
        text = text.partition("\n")[2]
    rows = _rows(text, dialect, whole=True)
    names = [""] * (dialect.unnamed == "first") + next(rows, [])
    return {
        name
        for row in rows
        for name, cell in zip(names, row, strict=False)
        if CODE.fullmatch(cell.strip())
    }


def count_lines(head: bytes, dialect: Dialect) -> int:
    """Return the number of rows in the beginning of a csv file."""
    return sum(1 for _ in _rows(decoded(head, dialect.encoding), dialect, whole=False))


def _rows(text: str, dialect: Dialect, whole: bool) -> Iterator[list[str]]:
    """Yield the rows at the beginning of a file, without empty rows and a last row that is cut
    off."""
    options = {"quotechar": dialect.quote} if dialect.quote else {"quoting": csv.QUOTE_NONE}
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=dialect.delimiter,
        escapechar=dialect.escape or None,
        **options,
    )
    last: list[str] = []
    # The reader raises an error for a field that is too long, or that holds a carriage return.
    with suppress(csv.Error):
        for row in reader:
            if last:
                yield last
            last = row
    if last and whole:
        yield last


class _Score(NamedTuple):
    """Score of how well rows fit together; larger is better.

    Attributes:
        named: Whether the columns that csv must have are there.
        splits: Whether there are several columns.
        share: Share of rows with the header's width.
        numbers: Share of cells that are numbers.
        width: Number of columns.
    """

    named: bool = False
    splits: bool = False
    share: float = 0.0
    numbers: float = 0.0
    width: int = 0


def _score(rows: list[list[str]], names: Collection[str]) -> _Score:
    if not rows:
        return _Score()
    width = len(rows[0])
    named = set(names) <= set(rows[0])
    if width == 1:
        return _Score(named, width=1)
    share = Counter(map(len, rows))[width] / len(rows)
    cells = [cell.strip() for row in rows[1 : 1 + SCORED_ROWS] for cell in row]
    numbers = sum(NUMBER.fullmatch(cell) is not None for cell in cells) / max(len(cells), 1)
    return _Score(named, True, round(share, 2), round(numbers, 1), width)


def _are_numbers_in_columns(rows: list[list[str]]) -> bool:
    """Return whether all rows have the same width, above one, and hold numbers below the first
    row."""
    width = len(rows[0]) if rows else 0
    return (
        len(rows) > 2
        and width > 1
        and all(len(row) == width for row in rows)
        and all(SPACED_NUMBER.fullmatch(cell) for row in rows[1:] for cell in row)
    )
