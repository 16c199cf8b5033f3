"""Plain English in docstrings, comments, messages and docs: words that the house does not use."""

from __future__ import annotations

import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
# In the place of: reported, with (or of which), no one, repair, check, amounts to, is.
AVOIDED = re.compile(
    r"\b(told|whose|nobody('s)?|mend|see to (it|the|them)|comes? to an?|stands for|the likes)\b",
    re.I,
)
# Openings of descriptions that name no noun.
OPENINGS = re.compile(r"^\W*(?:\w+: )?(What|How|Where|Why|Whose|Those) (?!to\b)[a-z]")
CODE = sorted((REPOSITORY / "hercules_scale").rglob("*.py"))
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Each comment, and each line of a string, with its number."""
    with tokenize.open(path) as stream:
        for token in tokenize.generate_tokens(stream.readline):
            if token.type in (tokenize.COMMENT, tokenize.STRING):
                for offset, line in enumerate(token.string.splitlines()):
                    yield token.start[0] + offset, line.strip()


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_code_speaks_plainly(path: Path) -> None:
    found = [
        f"{path.name}:{number}: {line}"
        for number, line in texts(path)
        # Worked examples of prompts are data.
        if "sourdough" not in line
        and (AVOIDED.search(line) or (line[:1] in "#\"'" and OPENINGS.match(line)))
    ]
    assert found == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_speak_plainly(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    # Names of tests and keys are no prose.
    prose = [re.sub(r"`[^`]*`", "", line) for line in lines]
    assert [line for line in prose if AVOIDED.search(line)] == []


@pytest.mark.parametrize("text", ["Nobody waits", "see to the storage", "an item whose owner"])
def test_words_that_are_avoided_are_found(text: str) -> None:
    assert AVOIDED.search(text)
    assert OPENINGS.match('"""What of the items is shown.')
