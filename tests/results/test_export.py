from __future__ import annotations

import base64
import csv
import hashlib
import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from hercules_scale import Hierarchy
from hercules_scale.commands.cli import main
from hercules_scale.errors import InputError
from hercules_scale.pyhercules import export_model
from hercules_scale.results.finished_run import json_numbers
from hercules_scale.results.rows_csv import without_formulas
from hercules_scale.sanitize import printable
from tests.results.conftest import HOSTILE, ITEMS, TITLES


@pytest.fixture
def run(model: dict[str, Any], imported: Callable[[Any], Hierarchy]) -> Hierarchy:
    model["clusters"][8]["hercules_scale"] = {
        "summary_status": "fallback",
        "summary_source": "keyphrases",
        "summary_error": f"no answer {HOSTILE}",
        "keyphrases": ["owl", HOSTILE],
    }
    return imported(model)


class Page(HTMLParser):
    """Elements of a page, with their attributes, and text by element."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "input", "rect"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("rect",):
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and data.strip():
            self.texts.append((self._open[-1], data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(run: Hierarchy, tmp_path: Path) -> tuple[str, Page]:
    path = tmp_path / "page.html"
    run.to_html(str(path))
    html = path.read_text(encoding="utf-8")
    return html, Page(html)


def test_json_holds_the_tree_the_run_and_with_items_every_membership(
    run: Hierarchy, tmp_path: Path
) -> None:
    run.to_json(str(tmp_path / "tree.json"))
    run.to_json(str(tmp_path / "items.json"), items=True)
    tree = json.loads((tmp_path / "tree.json").read_text(encoding="ascii"))
    whole = json.loads((tmp_path / "items.json").read_text(encoding="ascii"))
    members = run.memberships()
    assert whole.pop("items") == [
        {
            "row": row,
            "item_id": ITEMS[row][0],
            "cluster_ids": [ITEMS[row][2], int(members["level_2"][row])],
            "distances": [
                pytest.approx(members["distance_1"][row]),
                pytest.approx(members["distance_2"][row]),
            ],
            "margins": [
                pytest.approx(members["margin_1"][row]),
                pytest.approx(members["margin_2"][row]),
            ],
        }
        for row in range(6)
    ]
    assert whole == tree
    assert (tree["format"], tree["format_version"], tree["n_levels"]) == ("hercules_scale", 1, 2)
    assert tree["run"]["config"]["embedding"] == {"model": "letters"}
    assert "hercules-scale" in tree["run"]["versions"]
    assert [(each["level"], each["cluster_id"]) for each in tree["clusters"]] == [
        (2, 0), (2, 1), (1, 0), (1, 1), (1, 2),
    ]  # fmt: skip
    birds = tree["clusters"][4]
    assert birds["title"] == "Birds"
    assert birds["parent_cluster_id"] == 1
    assert birds["summary_status"] == "fallback"
    assert birds["keyphrases"] == ["owl", HOSTILE]
    assert birds["exemplar_item_ids"] == ["-5", "@cell"]
    assert birds["summary_score"] is None


def test_csv_has_a_row_an_item_and_no_cell_that_a_spreadsheet_would_run(
    run: Hierarchy, tmp_path: Path
) -> None:
    run.to_csv(str(tmp_path / "rows.csv"))
    with (tmp_path / "rows.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == [
        "row", "item_id", "level_1", "title_1", "level_2", "title_2",
        "distance_1", "distance_2", "margin_1", "margin_2",
    ]  # fmt: skip
    assert [row["item_id"] for row in rows] == [
        "a", 'b\nnewline, "quoted"', "'=1+1", HOSTILE, "-5", "'@cell",
    ]  # fmt: skip
    assert [row["title_1"] for row in rows] == [TITLES[item[2]] for item in ITEMS]
    assert rows[4]["title_2"] == "'=HYPERLINK(1)"
    members = run.memberships()
    for row, expected in zip(rows, members["margin_2"], strict=True):
        assert float(row["margin_2"]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1", "'=1"),
        ("+1+2", "'+1+2"),
        ("-1", "-1"),
        ("+1.5", "+1.5"),
        ("-1-cmd", "'-1-cmd"),
        ("-1\n", "'-1\n"),
        ("@x", "'@x"),
        ("\tx", "'\tx"),
        ("\r=1", "'\r=1"),
        ("a=1", "a=1"),
        ("", ""),
        (None, None),
    ],
)
def test_only_texts_that_start_a_formula_get_an_apostrophe(
    text: str | None, cell: str | None
) -> None:
    assert without_formulas(pa.chunked_array([[text]], pa.string())).to_pylist() == [cell]


def test_numbers_that_json_does_not_know_become_null() -> None:
    values = pa.array([0.1, 1e-30, math.nan, math.inf, None, -2.0], pa.float32())
    assert [json.loads(text) for text in json_numbers(values)] == [0.1, 1e-30, None, None, None, -2]


def test_the_page_shows_hostile_text_as_text_alone(run: Hierarchy, tmp_path: Path) -> None:
    html, page = page_of(run, tmp_path)
    assert [tag for tag, _ in page.elements if tag in ("script", "img", "a", "iframe")] == [
        "script"
    ]
    handlers = [name for _, each in page.elements for name in each if name.startswith("on")]
    assert handlers == []
    texts = [text for _, text in page.texts]
    assert TITLES[1] in texts
    assert printable("an owl \x1b[2J") in texts
    assert printable(ITEMS[1][0]) in texts
    assert "\x1b" not in html
    (mark,) = page.all("mark")
    assert mark == {"title": f"no answer {HOSTILE}"}


def test_names_of_files_models_and_runs_are_text_in_pages_and_notebooks(
    run: Hierarchy, tmp_path: Path
) -> None:
    folder = Path(run.uri).rename(tmp_path / "<img src=x onerror=hacked=1>")
    record = json.loads((folder / "run.json").read_text())
    record["inputs"] = [{"name": f"{HOSTILE}\x1b[2J.png"}]
    record["alarms"] = [f"column {HOSTILE}"]
    record["config"]["embedding"]["model"] = HOSTILE
    (folder / "run.json").write_text(json.dumps(record))
    renamed = Hierarchy.open(str(folder))
    html, page = page_of(renamed, tmp_path)
    assert html.count("<script") == 1
    assert "<img" not in html + renamed._repr_html_()
    texts = [text for _, text in page.texts]
    assert f"{HOSTILE}\\x1b[2J.png" in texts
    assert f"column {HOSTILE}" in texts


def test_the_page_needs_no_network_and_its_policy_allows_its_own_script_alone(
    run: Hierarchy, tmp_path: Path
) -> None:
    html, page = page_of(run, tmp_path)
    policy = next(each["content"] for each in page.all("meta") if "http-equiv" in each) or ""
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert not [each for _, each in page.elements if {"src", "href", "style"} & each.keys()]


def test_the_page_nests_clusters_and_shows_each_exemplar_once(
    run: Hierarchy, tmp_path: Path
) -> None:
    html, page = page_of(run, tmp_path)
    assert [each["id"] for each in page.all("details")] == ["c2-0", "c1-0", "c1-1", "c2-1", "c1-2"]
    assert html.index('id="c1-1"') < html.index("</details>\n</details>") < html.index('id="c2-1"')
    texts = [text for _, text in page.texts]
    assert texts.count("a red boat") == texts.count("a crow") == 1
    assert "4 of 5 by writer, 1 from key phrases" in texts
    assert "letters" in texts


def test_a_notebook_shows_the_top_levels_escaped(run: Hierarchy) -> None:
    page = Page(run._repr_html_())
    assert {tag for tag, _ in page.elements} <= {
        "div",
        "b",
        "details",
        "summary",
        "ul",
        "li",
        "mark",
    }
    assert "Birds" in "".join(text for tag, text in page.texts if tag == "li")


def test_rows_are_gathered_in_as_many_rounds_as_it_takes(
    run: Hierarchy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.to_json(str(tmp_path / "one.json"), layout="pyhercules")
    monkeypatch.setattr(export_model, "GATHERED_ROWS", 3)
    run.to_json(str(tmp_path / "three.json"), layout="pyhercules")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "three.json").read_bytes()


def test_a_file_is_replaced_only_on_demand_and_a_failure_leaves_nothing(
    run: Hierarchy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out" / "tree.json"
    run.to_json(str(path))
    with pytest.raises(InputError, match=r"tree.json: exists; .* --force"):
        run.to_json(str(path))
    before = path.read_bytes()
    run.to_json(str(path), items=True, overwrite=True)
    assert len(path.read_bytes()) > len(before)
    with pytest.raises(InputError, match="out: is a folder; name a file in it"):
        run.to_csv(str(path.parent))
    with pytest.raises(InputError, match="names no file"):
        run.to_csv(f"{path.parent}/")
    with pytest.raises(InputError, match="cannot be written"):
        run.to_csv(str(path / "below.csv"))
    with pytest.raises(InputError, match=r"layout must be one of tree, pyhercules, got 'nested'"):
        run.to_json(str(tmp_path / "x.json"), layout="nested")
    for part in Path(run.uri, "memberships").glob("*"):
        part.unlink()
    with pytest.raises(FileNotFoundError):
        run.to_csv(str(path.parent / "rows.csv"))
    assert [each.name for each in path.parent.iterdir()] == ["tree.json"]


def test_items_without_texts_are_refused_by_the_layout_of_pyhercules(
    model: dict[str, Any], imported: Callable[[Any], Hierarchy], tmp_path: Path
) -> None:
    model["state"]["input_data_type"] = "image"
    run = imported(model)
    with pytest.raises(InputError, match="layout pyhercules holds texts, and the items have none"):
        run.to_json(str(tmp_path / "x.json"), layout="pyhercules")
    assert not (tmp_path / "x.json").exists()


def test_export_from_the_command_line_names_files_after_the_run(
    run: Hierarchy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for options, name in (
        (["json"], "run.json"),
        (["json", "--layout", "pyhercules"], "run.pyhercules.json"),
        (["csv"], "run.csv"),
        (["html"], "run.html"),
        (["html", "--output", "other.html"], "other.html"),
    ):
        assert main(["export", run.uri, "--format", *options]) == 0
        assert capsys.readouterr().out == f"wrote {name}\n"
        assert (tmp_path / name).stat().st_size > 0
    assert main(["export", run.uri, "--format", "csv"]) == 2
    assert "run.csv: exists" in capsys.readouterr().err
    assert main(["export", run.uri, "--format", "csv", "--force"]) == 0
    assert main(["export", run.uri, "--format", "csv", "--items"]) == 2
    assert "--items goes with --format json alone, got csv" in capsys.readouterr().err
    Path(run.uri, "_SUCCESS").unlink()
    assert main(["export", run.uri, "--format", "html", "--force"]) == 2
    assert "the run is not finished" in capsys.readouterr().err
