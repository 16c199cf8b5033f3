"""Numbers in text: decimal marks of columns, and values."""

from __future__ import annotations

import re
import unicodedata

COMMA_NUMBER = re.compile(r"[+-]?(\d+|[1-9]\d{0,2}(\.\d{3})+),\d+([eE][+-]?\d+)?")
# Whole numbers with marks between thousands.
GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}([,.]\d{3})+")
POINT_NUMBER = re.compile(r"[+-]?\d*\.\d+([eE][+-]?\d+)?")
# Numbers with commas between thousands: if commas are known to mean that, and if they can mean
# nothing else.
BY_COMMAS = re.compile(rb"[+-]?\d{1,3}(,\d{3})+(\.\d+)?")
THOUSANDS = re.compile(rb"[+-]?\d{1,3}((,\d{3})+\.\d+|(,\d{3}){2,})")
# Words that people and programs write for a missing number, in lower case.
MISSING = {
    *(b"", b"?", b"-", b"--", b".", b"na", b"n/a", b"#n/a", b"nan", b"null", b"none", b"nil"),
    *(b"missing", b"<na>", b"nat", b"\\n", b"-nan"),
    # Words of statistical offices.
    *(b":", b"..", b"..."),
}
# Numbers with Swiss marks between thousands, and negative numbers as SAP writes them.
APOSTROPHES = re.compile(rb"[+-]?\d{1,3}('\d{3})+(\.\d+)?")
MINUS_BEHIND = re.compile(rb"\d[\d.,]*-")
# Special spaces between thousands, as in French.
SPACED_THOUSANDS = re.compile(r"(?<=\d)[\u00a0\u202f\u2009](?=\d{3}(?!\d))")
# Marks of numbers in Arabic and Persian.
ARABIC_MARKS = str.maketrans({"\u066b": ".", "\u066c": None})


def is_missing(text: bytes) -> bool:
    """Return whether a cell among numbers marks a missing one."""
    return text.strip().lower() in MISSING


def as_number(text: bytes, marks: str = ".") -> float | None:
    """Return the number in a text; None if it is no number, or ambiguous.

    Args:
        text: The number.
        marks: Decimal mark and, if it is known, the mark of thousands.
    """
    if not text.isascii():
        text, marks = _in_ascii(text, marks)
    if b"'" in text and APOSTROPHES.fullmatch(text):
        text, marks = text.replace(b"'", b""), "."
    elif text[-1:] == b"-" and MINUS_BEHIND.fullmatch(text):
        text = b"-" + text[:-1]
    if marks[0] == ",":
        text = text.translate(bytes.maketrans(b".,", b",."))
    grouped = BY_COMMAS if len(marks) > 1 else THOUSANDS
    if grouped.fullmatch(text):
        text = text.replace(b",", b"")
    try:
        # Python takes 1_000 for a number, data files do not.
        return None if b"_" in text else float(text)
    except ValueError:
        return None


def _in_ascii(text: bytes, marks: str) -> tuple[bytes, str]:
    """Return a number with digits of any script in ASCII, and its marks."""
    spaced = SPACED_THOUSANDS.sub("", text.decode("utf-8", "replace"))
    spaced = spaced.replace("\u2212", "-").replace("\u2019", "'")
    plain = "".join(str(unicodedata.decimal(each, each)) for each in spaced)
    if "\u066b" in plain or "\u066c" in plain:
        return plain.translate(ARABIC_MARKS).encode(), "."
    return plain.encode(), marks


def decimal_mark(columns: list[list[str]]) -> tuple[str, str]:
    """Return the decimal mark: a comma if more columns of numbers have it than a point, else a
    point.

    ``1,234`` and ``1.234`` decide nothing, since they may be thousands.

    Returns:
        The mark, and a sentence about ambiguous numbers (empty if there are none).
    """
    found = [each for each in map(_marked, columns) if each is not None]
    commas = [number for mark, number in found if mark == ","]
    points = [number for mark, number in found if mark == "."]
    decimal = "," if len(commas) > len(points) else "."
    if commas and points:
        return decimal, (
            f"numbers such as {commas[0]} have a decimal comma, and others such as {points[0]} a "
            f"point; {'commas' if decimal == ',' else 'points'} are read as such: set "
            "input.csv.decimal to the other where that is wrong"
        )
    grouped = [number for mark, number in found if mark == "?"]
    if decimal == "," or not grouped:
        return decimal, ""
    number = grouped[0]
    plain = number.replace(".", "").replace(",", "")
    if "," in number:
        return decimal, (
            f"numbers such as {number} are taken for text, since this one may be {plain} or "
            f"{number.replace(',', '.')}; set input.csv.decimal to '.' or ','"
        )
    return decimal, (
        f"numbers such as {number} are read with a decimal point; if this one is {plain}, set "
        "input.csv.decimal to ','"
    )


def _marked(cells: list[str]) -> tuple[str, str] | None:
    """Return the decimal mark of a column of numbers, and a number with it.

    The mark is ``?`` if it may be the mark of thousands. The result is None if no number has a
    mark, or if most cells are not numbers.
    """
    cells = [cell for cell in cells if cell]
    grouped = [cell for cell in cells if GROUPED.fullmatch(cell)]
    clear = [cell for cell in cells if not GROUPED.fullmatch(cell)]
    commas = [cell for cell in clear if COMMA_NUMBER.fullmatch(cell)]
    points = [cell for cell in clear if POINT_NUMBER.fullmatch(cell)]
    whole = sum(cell.lstrip("+-").isdigit() for cell in clear)
    if 2 * (len(grouped) + len(commas) + len(points) + whole) < len(cells):
        return None
    # Several points in one number are marks of thousands.
    millions = [cell for cell in grouped if cell.count(".") > 1]
    if millions and not points:
        return ",", millions[0]
    if commas or points:
        return (",", commas[0]) if len(commas) > len(points) else (".", points[0])
    return ("?", grouped[0]) if grouped else None
