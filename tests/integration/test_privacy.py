"""Small clusters keep their texts, texts are redacted, and nothing leaves the machine."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from hercules_scale import Hierarchy
from hercules_scale.commands.cli import main
from hercules_scale.commands.show_prompt import show_prompt
from hercules_scale.config.file import parse_config
from hercules_scale.errors import ConfigError, InputError
from hercules_scale.jobs.cluster import run
from hercules_scale.jobs.preflight import check
from hercules_scale.storage import layout
from tests.integration.conftest import Endpoint

pytestmark = pytest.mark.ray
MIN_ITEMS, MIN_OWNERS = 8, 3
# Of every item a word that no other has, to see where it comes up.
CANARY = re.compile(r"zq\d{4}")
THEMES = [
    "ferry to the harbour",
    "rye bread dough",
    "violin strings",
    "tax on rent",
    "owl in a wood",
]


def corpus(folder: Path) -> tuple[Path, pd.DataFrame]:
    """Texts of five themes; most are of many owners, those on bread of one and another's."""
    rng = np.random.default_rng(0)
    themes = rng.choice(5, 90, p=[0.4, 0.25, 0.15, 0.12, 0.08])
    frame = pd.DataFrame(
        {
            "key": [f"id-{row:04d}" for row in range(len(themes))],
            "text": [f"the {THEMES[theme]} zq{row:04d}" for row, theme in enumerate(themes)],
            "owner": [
                f"secret-owner-{row % 2 if theme == 1 else row // 2}"
                for row, theme in enumerate(themes)
            ],
        }
    )
    frame.loc[frame.index[::9], "owner"] = None
    path = folder / "items.parquet"
    pq.write_table(pa.Table.from_pandas(frame), path, row_group_size=40)
    return path, frame


def configuration(path: Path, output: Path, /, **sections: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "input": {
            "path": str(path),
            "id_column": "key",
            "text_column": "text",
            "owner_column": "owner",
        },
        "hierarchy": {"levels": [9, 3]},
        "summaries": {"engine": "keyphrases"},
        "privacy": {"min_items": MIN_ITEMS, "min_owners": MIN_OWNERS},
        "output": {"path": str(output)},
    }
    return {name: {**values.get(name, {}), **sections.get(name, {})} for name in values | sections}


def small_clusters(run_: Hierarchy, frame: pd.DataFrame) -> dict[tuple[int, int], set[str]]:
    """Canaries of every cluster that is too small, counted anew from the input."""
    members = run_.memberships().merge(frame, left_on="item_id", right_on="key")
    found = {}
    for level in range(1, run_.n_levels + 1):
        for cluster in members[f"level_{level}"].unique().tolist():
            own = members[members[f"level_{level}"] == cluster]
            if len(own) < MIN_ITEMS or own["owner"].nunique() < MIN_OWNERS:
                found[level, cluster] = set(CANARY.findall(" ".join(own["text"])))
    return found


@pytest.mark.slow
def test_a_small_cluster_shows_no_text_of_its_items(
    tmp_path: Path, local_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    path, frame = corpus(tmp_path)
    config = configuration(path, tmp_path / "run")
    run(parse_config(config))
    found = Hierarchy.open(str(tmp_path / "run"))
    small = small_clusters(found, frame)
    clusters = found.clusters().set_index(["level", "cluster_id"])
    assert set(clusters.index[clusters["summary_source"] == "withheld"]) == set(small)
    # Both rules are met, each by some cluster alone, and most of the tree is shown.
    reasons = clusters["summary_error"][clusters["summary_source"] == "withheld"]
    assert set(reasons) == {
        f"fewer than privacy.min_items {MIN_ITEMS} items",
        f"fewer than privacy.min_owners {MIN_OWNERS} owners",
    }
    rows = dict(zip(clusters.index, clusters.to_dict("records"), strict=True))
    for key in small:
        row = rows[key]
        assert re.fullmatch(r"Small cluster( \(\d/\d\))?", row["title"])
        assert row["description"] == f"{row['n_items']} items; their texts are withheld."
        assert row["summary_status"] == "fallback"
        assert len(row["keyphrases"]) == len(row["exemplar_item_ids"]) == 0
        assert main(["show", found.uri, "--cluster", f"{key[0]}/{key[1]}"]) == 0
    # Nor do pages and exports show any.
    found.to_html(str(tmp_path / "page.html"))
    found.to_json(str(tmp_path / "tree.json"), items=True)
    found.to_csv(str(tmp_path / "rows.csv"))
    of_leaves = set().union(*(words for (level, _), words in small.items() if level == 1))
    of_shown = set(CANARY.findall(" ".join(frame["text"]))) - of_leaves
    page = (tmp_path / "page.html").read_text()
    assert set(CANARY.findall(page)) & of_shown
    exported = [(tmp_path / name).read_text() for name in ("page.html", "tree.json", "rows.csv")]
    for text in (*exported, found._repr_html_(), capsys.readouterr().out):
        assert not set(CANARY.findall(text)) & of_leaves
    with pytest.raises(InputError, match=r"layout pyhercules holds the text of every item, .* \d "):
        found.to_json(str(tmp_path / "model.json"), layout="pyhercules")
    # Owners are counted, and then gone.
    for file in (tmp_path / "run").rglob("*"):
        assert not file.is_file() or b"secret-owner" not in file.read_bytes(), file
    for table in ("scanned_owners", "owners", "least_owners"):
        assert not (tmp_path / "run" / layout.WORK / table).exists()
    # What was counted is known to a run that goes on.
    (tmp_path / "run" / layout.SUCCESS).unlink()
    for record in (tmp_path / "run" / layout.WORK / "commits" / "summarize").iterdir():
        record.unlink()
    run(parse_config(config))
    pd.testing.assert_frame_equal(
        Hierarchy.open(found.uri).clusters().set_index(["level", "cluster_id"]), clusters
    )
    # New items may come without owners.
    new = pa.Table.from_pandas(frame[["key", "text"]].head(5))
    pq.write_table(new, tmp_path / "new.parquet")
    assert len(found.assign(str(tmp_path / "new.parquet"))) == 5
    level, cluster = next(iter(small))
    with pytest.raises(InputError, match=r"the model is asked nothing about .*, which has fewer"):
        show_prompt(parse_config(config), level, cluster)


@pytest.mark.slow
def test_a_model_is_told_nothing_of_small_clusters_and_redacted_texts_of_others(
    tmp_path: Path, local_ray: None, endpoint: Endpoint
) -> None:
    path, frame = corpus(tmp_path)
    summaries = {
        "engine": "openai",
        "model": "tester",
        "endpoint": endpoint.url,
        "record_prompts": True,
    }
    run(parse_config(configuration(path, tmp_path / "open", summaries=summaries)))
    found = Hierarchy.open(str(tmp_path / "open"))
    small = small_clusters(found, frame)
    calls = found.table("llm_calls")
    asked = {
        (int(level), int(cluster))
        for level, cluster in calls[["level", "cluster_id"]].dropna().to_numpy()
    }
    everyone = set(found.clusters().set_index(["level", "cluster_id"]).index)
    assert asked == everyone - set(small)
    members = found.memberships().merge(frame, left_on="item_id", right_on="key")
    of_leaves = set().union(*(words for (level, _), words in small.items() if level == 1))
    for call in calls.to_dict("records"):
        told = set(CANARY.findall(call["prompt"])) & of_leaves
        if call["level"] == 1:
            assert not told
            continue
        own = members[members[f"level_{call['level']}"] == call["cluster_id"]]
        if pd.isna(call["cluster_id"]):
            # Siblings are named together, each beside items of its own.
            hidden = [cluster for level, cluster in small if level == call["level"]]
            own = members[~members[f"level_{call['level']}"].isin(hidden)]
        assert told <= set(CANARY.findall(" ".join(own["text"])))
        assert "Small cluster" not in call["prompt"]

    endpoint.requests.clear()
    privacy = {"min_owners": 0, "redact": "tests.integration.redactions:mask_words"}
    values = configuration(path, tmp_path / "masked", summaries=summaries, privacy=privacy)
    del values["input"]["owner_column"]
    values["summaries"]["describe_items"] = True
    values["privacy"]["min_items"] = 0
    run(parse_config(values))
    masked = Hierarchy.open(str(tmp_path / "masked"))
    sent = json.dumps(endpoint.requests)
    assert "***" in sent
    for text in (sent, masked.clusters().to_csv(), masked.table("llm_calls").to_csv()):
        assert not CANARY.search(text)
    items = masked.table("items")
    assert not CANARY.search(items[["title", "description"]].to_csv())
    # The table of the items is the user's own.
    assert items["text"].tolist() == frame["text"].tolist()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_package:mask", r"cannot be imported \(ModuleNotFoundError: .*PYTHONPATH"),
        ("tests.integration.redactions:mask", r"cannot be imported \(AttributeError"),
        ("tests.integration.redactions:NO_FUNCTION", "must be a function from text to text, got s"),
    ],
)
def test_a_redaction_that_cannot_be_used_is_refused_before_anything_starts(
    tmp_path: Path, name: str, message: str
) -> None:
    path, _ = corpus(tmp_path)
    values = configuration(path, tmp_path / "run", privacy={"redact": name})
    with pytest.raises(ConfigError, match=rf"privacy\.redact '{name}': {message}"):
        check(parse_config(values))


@pytest.mark.parametrize(
    ("function", "message"),
    [("fail", "raised ValueError for a text of"), ("give_nothing", "must give text, got NoneType")],
)
def test_a_redaction_that_fails_ends_the_run_with_one_line_that_quotes_no_text(
    tmp_path: Path,
    local_ray: None,
    capsys: pytest.CaptureFixture[str],
    function: str,
    message: str,
) -> None:
    path, _ = corpus(tmp_path)
    privacy = {"redact": f"tests.integration.redactions:{function}"}
    values = configuration(path, tmp_path / "run", privacy=privacy)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    assert main(["run", str(tmp_path / "run.yaml")]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert not CANARY.search(printed + (tmp_path / "run" / "run.json").read_text())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"summaries": {"endpoint": "https://api.example.com/v1"}}, "is at api.example.com, and"),
        ({"summaries": {"endpoint": "http://10.0.0.1:8000/v1"}}, r"is at 10\.0\.0\.1, and"),
        ({"summaries": {"endpoint": "http://localhost.example.com/v1"}}, "is at localhost.example"),
        ({"summaries": {"endpoint": None}}, "is at api.openai.com, and"),
        ({"embedding": {"model": "owner/name"}}, "embedding.model 'owner/name' is looked for on a"),
        (
            {"summaries": {"engine": "vllm", "model": "owner/name"}},
            "summaries.model 'owner/name' is looked for on a model hub, which privacy.local_only",
        ),
    ],
)
def test_what_would_leave_the_machine_is_refused_by_local_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    path, _ = corpus(tmp_path)
    base = {"engine": "openai", "model": "tester", "endpoint": "http://127.0.0.1:1/v1"}
    sections = {"summaries": {**base, **changes.get("summaries", {})}}
    sections |= {"embedding": changes.get("embedding", {}), "privacy": {"local_only": True}}
    with pytest.raises(ConfigError, match=message):
        check(parse_config(configuration(path, tmp_path / "run", **sections)))
    sections["summaries"] = {**base, "endpoint": "http://[::1]:1/v1"}
    sections["embedding"] = {"model": "minilm"}
    allowed = parse_config(configuration(path, tmp_path / "run", **sections))
    check(allowed)
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example.com:3128")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    # An endpoint of this machine is asked through no proxy; test_endpoints.py shows it.
    check(allowed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"privacy": {"min_owners": 0}},
            r"input\.owner_column \('owner'\) and privacy\.min_owners",
        ),
        ({"input": {"owner_column": None}}, "give both, such as user_id and 5, or neither"),
        ({"input": {"label_columns": ["owner"]}}, "must not be 'owner', a column that is kept in"),
        ({"input": {"owner_column": "text"}}, "must not be 'text', a column that is kept in"),
        (
            {"summaries": {"engine": "vllm", "describe_items": True}},
            "sends every item's text before",
        ),
        (
            {"privacy": {"redact": "rm -rf"}},
            r"privacy\.redact .*give the function from text to text",
        ),
    ],
)
def test_privacy_that_would_not_hold_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(configuration(tmp_path / "a.parquet", tmp_path / "run", **changes))
