"""Decimal marks of numbers in text, by columns of them."""

from __future__ import annotations

import re

COMMA_NUMBER = re.compile(r"[+-]?(\d+|[1-9]\d{0,2}(\.\d{3})+),\d+([eE][+-]?\d+)?")
# Thousands that are set apart.
GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}([,.]\d{3})+")
POINT_NUMBER = re.compile(r"[+-]?\d*\.\d+([eE][+-]?\d+)?")


def decimal_mark(columns: list[list[str]]) -> tuple[str, str]:
    """Return a comma where more columns of numbers have it than have a point, else a point.

    ``1,234`` and ``1.234`` decide nothing, since they may be thousands.

    Returns:
        The mark, and a sentence about numbers that may be others.
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
    """Return the decimal mark of a column of numbers, ``?`` where it may be that of thousands, and
    a number with it; None where no number has any, or most cells are something else."""
    cells = [cell for cell in cells if cell]
    grouped = [cell for cell in cells if GROUPED.fullmatch(cell)]
    clear = [cell for cell in cells if not GROUPED.fullmatch(cell)]
    commas = [cell for cell in clear if COMMA_NUMBER.fullmatch(cell)]
    points = [cell for cell in clear if POINT_NUMBER.fullmatch(cell)]
    whole = sum(cell.lstrip("+-").isdigit() for cell in clear)
    if 2 * (len(grouped) + len(commas) + len(points) + whole) < len(cells):
        return None
    # Of several marks, all stand for thousands.
    millions = [cell for cell in grouped if cell.count(".") > 1]
    if millions and not points:
        return ",", millions[0]
    if commas or points:
        return (",", commas[0]) if len(commas) > len(points) else (".", points[0])
    return ("?", grouped[0]) if grouped else None
