"""Every promise of docs/guarantees.md names tests, and they are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def promises() -> list[tuple[str, str]]:
    """The promise and the tests of each row of the tables."""
    found = []
    text = (REPOSITORY / "docs" / "guarantees.md").read_text(encoding="utf-8")
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("|") and cells[0] != "promise" and not set(line) <= set("|- "):
            assert len(cells) == 3, line
            found.append((cells[0], cells[2]))
    return found


def test_no_promise_is_without_a_test_that_exists() -> None:
    rows = promises()
    assert rows
    tests: dict[str, set[str]] = {}
    for promise, cell in rows:
        named = TEST.findall(cell)
        assert named, f"{promise}: names no test as `tests/file.py::test_name`"
        for file, name in named:
            if file not in tests:
                tree = ast.parse((REPOSITORY / file).read_text(encoding="utf-8"))
                tests[file] = {
                    node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
                }
            assert name in tests[file], f"{promise}: {file} has no {name}"
