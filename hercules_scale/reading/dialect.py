"""Dialects of files of text: their encoding, and how csv separates and quotes fields."""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from hercules_scale.config.reading import CsvConfig

# Part of a file that is looked at.
HEAD_BYTES = 256 * 2**10
MARKS = {
    codecs.BOM_UTF8: "utf-8",
    # Before UTF-16, the mark of which begins it.
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# Bytes that are no UTF-8 are damage where they are fewer, and rejected with their rows.
FEWEST_FOREIGN = 5
# Lines with such bytes that the detector gets, and what it is asked of at least.
DETECTED_BYTES = 16 * 2**10
# Encodings of western Europe that share most letters; the detector takes one for the other.
WESTERN = ("cp1252", "latin_1", "iso8859_15", "cp1254", "iso8859_9", "cp1257", "iso8859_14")
WESTERN_MARKS = set("‘’“”„‚–—…•€£¥§°±²³µ«»©®™¡¿´·¼½¾ªº×÷\xa0")
DELIMITERS = (",", ";", "\t", "|")
# Rows of a width other than the header's that a file may have; of more, it is read wrongly.
MOST_MALFORMED_SHARE, FEWEST_ROWS = 0.2, 10
# Share of fields that speaks for a quote.
FITTING = 1 - MOST_MALFORMED_SHARE
COMMENTS = re.compile(r"(#[^\n]*\n)+")
# The first line of a file that Excel is to open.
SEPARATOR = re.compile(r"sep=([^\w\s]|\t)\r?\n")
COMMA_NUMBER = re.compile(r"[+-]?(\d+|[1-9]\d{0,2}(\.\d{3})+),\d+")
SPACED_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
CODE = re.compile(r"0\d+")
# Thousands that are set apart.
GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}([,.]\d{3})+")
POINT_NUMBER = re.compile(r"[+-]?\d*\.\d+([eE][+-]?\d+)?")
# Key and short text of a JSON object.
JSON_CELL = re.compile(r'"((?:[^"\\]|\\.){1,200}+)"\s{0,9}+:\s{0,9}+"([^"\\]{1,40}+)"')
# Qualtrics writes questions and such a record of each column below the names.
SURVEY_RECORD = re.compile(r'\{\s*"ImportId"')
SURVEY_LINES = 2
# Letters of Hungarian that Western encodings take for others, of which no language has these alone.
HUNGARIAN, PORTUGUESE = ("õ", "û"), "ã"


@dataclass(frozen=True)
class Dialect:
    """Dialect of a file of text.

    Attributes:
        encoding: Python's name of it.
        delimiter: Delimiter of csv, as the others.
        quote: Empty where nothing encloses a field.
        escape: Character before a quote within quotes; empty where that is a quote.
        decimal: Decimal mark.
        named: Whether the user named it, so that the other mark is that of thousands.
        doubtful: A number that may mean a thousand times as much, where none decides.
        comments: Lines that begin with ``#`` before the names of csv.
        unnamed: Whether each row of csv has one field more than there are names, ``first`` or
            ``last``; empty where none has.
        records: Lines that describe the columns, after their names.
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

    @property
    def marks(self) -> str:
        """Decimal mark and, where it is known, that of thousands."""
        return self.decimal + ("," if self.decimal == "." else ".") * self.named

    def said(self, of_csv: bool) -> str:
        """Describe it for people."""
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
            parts.append(f"without the {self.records:,} lines of Qualtrics after the names")
        return ", ".join(parts)


def detect(
    head: bytes, whole: bool, given: CsvConfig, of_csv: bool, names: Collection[str] = ()
) -> Dialect:
    """Return the dialect of a file.

    Args:
        head: Its first bytes, uncompressed.
        whole: Whether these are all.
        given: Keys that the user set.
        of_csv: Whether it is csv; else the encoding is all there is.
        names: Columns that csv must have.
    """
    encoding = given.encoding or detect_encoding(head, whole)
    text = decoded(head, encoding)
    if not of_csv:
        cells: dict[str, list[str]] = {}
        for name, cell in JSON_CELL.findall(text):
            cells.setdefault(name, []).append(cell.strip())
        decimal = given.decimal or _decimal(list(cells.values()))[0]
        return Dialect(encoding, decimal=decimal, named=given.decimal is not None)
    quote = _quote(text) if given.quote is None else given.quote
    separator = SEPARATOR.match(text)
    if separator is not None:
        text = text[separator.end() :]
    comments = COMMENTS.match(text)
    if comments is not None:
        text = text[comments.end() :]
    known = given.delimiter or (separator and separator[1])
    delimiters = [known] if known else DELIMITERS
    escape = _escape(text, quote) if given.escape is None else given.escape
    best = Dialect(encoding, delimiters[0], quote, escape)
    best_score = (False, False, 0.0, 0)
    rows: list[list[str]] = []
    for delimiter in delimiters:
        tried = Dialect(encoding, delimiter, quote, escape)
        found = list(_rows(text, tried, whole))
        score = _score(found, names)
        if score > best_score or not rows:
            best, best_score, rows = tried, max(score, best_score), found
    if not known and not best_score[1]:
        tried = Dialect(encoding, " ", quote, escape)
        found = list(_rows(text, tried, whole))
        if _are_numbers_in_columns(found):
            best, rows = tried, found
    n_comments = comments[0].count("\n") if comments is not None else 0
    if comments is not None and rows:
        # The last of them names the columns where it is as wide as the rows.
        names_of = next(_rows(comments[0].splitlines()[-1], best, True), [])
        if len(names_of) == len(rows[0]):
            n_comments, rows = n_comments - 1, [names_of, *rows]
    records = SURVEY_LINES if len(rows) > SURVEY_LINES and _are_records(rows[SURVEY_LINES]) else 0
    cells_of = itertools.zip_longest(*rows[1 + records :], fillvalue="")
    columns = [[cell.strip() for cell in column] for column in cells_of]
    decimal, doubtful = (given.decimal, "") if given.decimal else _decimal(columns)
    return replace(
        best,
        decimal=decimal,
        named=given.decimal is not None,
        # Between commas, a point is that of the decimals.
        doubtful="" if best.delimiter == "," else doubtful,
        comments=n_comments,
        unnamed=_unnamed(rows),
        records=records,
    )


def _are_records(row: list[str]) -> bool:
    """Return whether each field is what Qualtrics says of its column."""
    return all(map(SURVEY_RECORD.match, row))


def _unnamed(rows: list[list[str]]) -> str:
    """Return which field of the rows has no name: R leaves that of row names out, and some programs
    end each row with a delimiter."""
    width = len(rows[0]) if rows else 0
    if len(rows) < 3 or any(len(row) != width + 1 for row in rows[1:]):
        return ""
    if not any(row[-1] for row in rows[1:]):
        return "last"
    return "first" if len({row[0] for row in rows[1:]}) == len(rows) - 1 else ""


def decoded(head: bytes, encoding: str) -> str:
    """Return the beginning of a file as text, without a byte order mark."""
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    return decoder.decode(head).removeprefix("\ufeff")


def detect_encoding(head: bytes, whole: bool = True) -> str:
    """Return the encoding of a text by its first bytes."""
    for mark, name in MARKS.items():
        if head.startswith(mark):
            return name
    if wide := _wide(head):
        return wide
    if not whole:
        # Not cut within a character.
        head = head[: head.rfind(b"\n") + 1] or head[:-3]
    text = head.decode("utf-8", "replace")
    foreign = text.count("\ufffd")
    known = sum(not char.isascii() for char in text) - foreign if foreign else 0
    if foreign < FEWEST_FOREIGN or known >= foreign:
        return "utf-8"
    return _legacy(head)


def _wide(head: bytes) -> str:
    """Return UTF-16 or UTF-32 without a mark, by the zeros of the ASCII in it."""
    if len(head) < 4:
        return ""
    share = [head[place::4].count(0) / len(head[place::4]) for place in range(4)]
    if min(share[1:]) > 0.9 > share[0]:
        return "utf-32-le"
    if min(share[:3]) > 0.9 > share[3]:
        return "utf-32-be"
    odd, even = (share[1] + share[3]) / 2, (share[0] + share[2]) / 2
    if odd > 0.3 and even < 0.05:
        return "utf-16-le"
    return "utf-16-be" if even > 0.3 and odd < 0.05 else ""


def _legacy(head: bytes) -> str:
    """Return an encoding of one language, by a detector."""
    from charset_normalizer import from_bytes

    lines = [line for line in head.splitlines() if not line.isascii()]
    found = from_bytes(b"\n".join(lines)[:DETECTED_BYTES]).best()
    name = found.encoding if found is not None else "latin_1"
    western = head.decode("cp1252", "replace")
    foreign = [char for char in western if not char.isascii()]
    usual = sum(char.isalpha() or char in WESTERN_MARKS for char in foreign)
    alphabets = found.alphabets if found is not None else []
    latin = all(
        each.startswith(("Basic Latin", "Latin", "General", "Control")) for each in alphabets
    )
    if name in WESTERN or (latin and usual == len(foreign)):
        if all(each in western.lower() for each in HUNGARIAN) and PORTUGUESE not in western.lower():
            return "cp1250"
        return "cp1252" if "\ufffd" not in western else "latin_1"
    return name


def _quote(text: str) -> str:
    """Return a single quote where it encloses nearly all fields that begin with it, and no other
    does."""
    whole = len(re.findall(r"(?m)(?:^|[,;\t|])'(?:[^'\r\n]++|'')*+'(?=[,;\t|\r\n]|$)", text))
    begun = len(re.findall(r"(?m)(?:^|[,;\t|])'", text))
    return "'" if '"' not in text and whole >= 2 and whole >= FITTING * begun else '"'


def _escape(text: str, quote: str) -> str:
    r"""Return a backslash where quotes within quotes have one before them, as Spark writes them.

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
    """Yield the rows of the beginning of a file, without one that is cut off and without empty
    ones."""
    options = {"quotechar": dialect.quote} if dialect.quote else {"quoting": csv.QUOTE_NONE}
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=dialect.delimiter,
        escapechar=dialect.escape or None,
        **options,
    )
    last: list[str] = []
    # Of a field that is longer than it takes, or a return within one.
    with suppress(csv.Error):
        for row in reader:
            if last:
                yield last
            last = row
    if last and whole:
        yield last


def _score(rows: list[list[str]], names: Collection[str]) -> tuple[bool, bool, float, int]:
    """Return the score of how well rows fit together; the larger the better."""
    if not rows:
        return False, False, 0.0, 0
    width = len(rows[0])
    share = Counter(map(len, rows))[width] / len(rows)
    return set(names) <= set(rows[0]), width > 1, round(share, 2) if width > 1 else 0.0, width


def _are_numbers_in_columns(rows: list[list[str]]) -> bool:
    """Return whether rows below the first are numbers, several and as many in each."""
    width = len(rows[0]) if rows else 0
    return (
        len(rows) > 2
        and width > 1
        and all(len(row) == width for row in rows)
        and all(SPACED_NUMBER.fullmatch(cell) for row in rows[1:] for cell in row)
    )


def _decimal(columns: list[list[str]]) -> tuple[str, str]:
    """Return a comma where numbers have it and none has a point, else a point.

    ``1,234`` and ``1.234`` decide nothing, since they may be thousands.

    Returns:
        The mark, and a number that may be one of thousands.
    """
    clear = [cell for column in columns for cell in column if not GROUPED.fullmatch(cell)]
    commas = any(COMMA_NUMBER.fullmatch(cell) for cell in clear)
    points = any(POINT_NUMBER.fullmatch(cell) for cell in clear)
    if commas and not points:
        return ",", ""
    return ".", next(filter(None, map(_thousands, columns)), "")


def _thousands(cells: list[str]) -> str:
    """Return a number that is likely one of thousands: in its column all that have a point have
    three digits after it, and others have none."""
    pointed = [cell for cell in cells if "." in cell]
    whole = any(cell.isdigit() and len(cell) <= 3 for cell in cells)
    return pointed[0] if pointed and whole and all(map(GROUPED.fullmatch, pointed)) else ""
