"""The README and the pages of docs: links, commands, configurations and code hold."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from hercules_scale.commands.parser import build_parser
from hercules_scale.config.file import parse_config

REPOSITORY = Path(__file__).parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
README_WORDS, PAGE_LINES = 1_300, 150
# Tables of figures.
LONG_PAGES = {"benchmarks.md"}


def blocks(page: Path, language: str) -> list[str]:
    fences = r"^```(\w*)\n(.*?)^```$"
    found = re.findall(fences, page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_those_of_the_command_line(page: Path) -> None:
    for block in blocks(page, ""):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("hercules-scale "):
                _, *arguments = shlex.split(line, comments=True)
                build_parser().parse_args(arguments)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_configurations_are_valid(page: Path) -> None:
    for block in blocks(page, "yaml"):
        values = {"input": {}, "output": {"path": "out"}} | yaml.safe_load(block)
        values["input"] = {"path": "in"} | values["input"]
        parse_config(values)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_is_python(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block, page.name, "exec")


def test_the_readme_is_short_and_so_are_the_pages() -> None:
    assert len(PAGES[0].read_text(encoding="utf-8").split()) <= README_WORDS
    lines = {page.name: len(page.read_text(encoding="utf-8").splitlines()) for page in PAGES[1:]}
    assert {name for name, n in lines.items() if n > PAGE_LINES} <= LONG_PAGES
