from __future__ import annotations

import io
import json
import string
import time
from itertools import chain, islice, product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

from benchmarks.made_run import Made, make_run
from hercules_scale import Hierarchy
from hercules_scale.errors import ConfigError
from hercules_scale.explorer.app import Explorer
from hercules_scale.explorer.forms import configuration, fields
from hercules_scale.explorer.started_runs import PREVIEW_COLUMNS, PREVIEW_ROWS
from hercules_scale.storage.store import Store

SAME_ORIGIN = {"origin": "http://testserver"}


def test_a_form_holds_every_key_but_those_that_name_places() -> None:
    found = {field["key"]: field for field in fields()}
    assert found["hierarchy.max_k"]["bounds"] == "at least 2, at most 3125"
    assert found["hierarchy.levels"]["default"] == "[100, 20, 5]"
    assert found["embedding.precision"]["choices"] == ["auto", "float32", "bfloat16"]
    assert all(field["help"] for field in found.values())
    # A new key of free text must be looked at before strangers may fill it in: it may name a file,
    # an address or code.
    assert {key for key, field in found.items() if field["kind"] == "string"} == {
        "input.csv.delimiter",
        "input.csv.quote",
        "input.csv.escape",
        "input.csv.encoding",
        "input.id_column",
        "input.text_column",
        "input.embedding_column",
        "input.owner_column",
        "embedding.model",
        "embedding.text_model",
        # Text before texts.
        "embedding.prompt",
        "hierarchy.criterion",
        "summaries.model",
        "summaries.topic",
        "summaries.instructions",
        "summaries.language",
        "resources.llm_accelerator",
    }
    assert {key for key, field in found.items() if field["kind"] == "yaml"} == {
        "input.columns",
        "input.metadata",
        "input.label_columns",
        "hierarchy.levels",
        "hierarchy.criterion_words",
        "hierarchy.smoothing.neighbours",
        "summaries.price",
        "summaries.examples",
    }
    for key in (
        "privacy.redact",
        "input.path",
        "output.path",
        "summaries.endpoint",
        "storage.endpoint",
        "embedding.cache",
    ):
        assert key not in found


def test_what_was_filled_in_becomes_a_configuration() -> None:
    given = {
        "hierarchy.levels": "[10, 3]",
        "hierarchy.smoothing.neighbours": "0",
        "summaries.engine": "keyphrases",
        "summaries.topic": "",
        "input.label_columns": "[class]",
    }
    config = configuration(given, ["a.csv"], "out")
    assert config.hierarchy.levels == [10, 3]
    assert config.hierarchy.smoothing.neighbours == 0
    assert config.summaries.topic is None
    assert config.input.label_columns == ["class"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("output.path", "/etc", "output.path is not a key that may be given here"),
        ("privacy.redact", "os:system", "privacy.redact is not a key that may be given here"),
        ("storage.endpoint", "http://x", "storage.endpoint is not a key that may be given here"),
        ("summaries.endpoint", "http://evil", "summaries.endpoint is not a key that may be given"),
        ("embedding.model", "/srv/models", "embedding.model must be one of minilm"),
        ("embedding.model", "..", "embedding.model must be one of minilm"),
        ("hierarchy.levels", "[1, 2]", "hierarchy.levels must fall strictly"),
        ("hierarchy.levels", "[1, {", "hierarchy.levels must be YAML"),
        ("hierarchy.n_init", "0", "hierarchy.n_init"),
    ],
)
def test_what_may_not_be_filled_in_is_told(key: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        configuration({key: value}, ["a.csv"], "out")


@pytest.fixture
def client(text_run: Store, tmp_path: Path) -> Any:
    lines = "\n".join(["id,text", *(f"{index},boat {index}" for index in range(9))])
    (tmp_path / "named.csv").write_text(lines, encoding="utf-8")
    explorer = Explorer([text_run.uri], tmp_path / "work", [str(tmp_path / "named.csv")])
    try:
        yield TestClient(explorer.application())
    finally:
        explorer.stop()


def sent(client: Any, name: str, data: bytes) -> int:
    answer = client.post("/api/uploads", params={"name": name}, content=data)
    assert answer.status_code == 200, answer.text
    number: int = answer.json()["upload"]
    return number


def test_a_file_is_previewed_as_a_run_would_read_it(client: Any, tmp_path: Path) -> None:
    number = sent(client, "../../etc/a.csv", b"id,text\n1,a red boat\n2,<b>\n")
    found = client.get(f"/api/uploads/{number}/preview").json()
    assert found["modality"] == "text"
    assert found["columns"] == ["id", "text"]
    assert found["rows"] == [["1", "a red boat"], ["2", "<b>"]]
    number = sent(client, "lines.txt", b"a red boat\na blue boat\n")
    found = client.get(f"/api/uploads/{number}/preview").json()
    assert found["rows"] == [["a red boat"], ["a blue boat"]]
    assert not (tmp_path / "etc").exists()
    assert {path.suffix for path in (tmp_path / "work" / "uploads").iterdir()} == {".csv", ".txt"}
    found = client.get("/api/inputs/0/preview").json()
    assert found["modality"] == "text"
    assert len(found["rows"]) == 9
    number = sent(client, "b.csv", b"one,two\nx,y\n")
    found = client.get(f"/api/uploads/{number}/preview").json()
    assert "b.csv" in found["problem"]
    assert found["rows"] == [["x", "y"]]


TABLE = {"id": [1, 2], "text": ["a red boat", "<b>"], "tags": [["x"], []]}


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_table_of_each_form_is_previewed(ending: str, client: Any) -> None:
    out = io.BytesIO()
    if ending == "jsonl":
        rows = (dict(zip(TABLE, row, strict=True)) for row in zip(*TABLE.values(), strict=True))
        out.write("\n".join(map(json.dumps, rows)).encode())
    else:
        pq.write_table(pa.table(TABLE), out)
    number = sent(client, f"a.{ending}", out.getvalue())
    found = client.get(f"/api/uploads/{number}/preview").json()
    assert found["columns"] == ["id", "text", "tags"]
    assert [row[:2] for row in found["rows"]] == [["1", "a red boat"], ["2", "<b>"]]
    assert "x" in found["rows"][0][2]


def test_a_preview_reads_the_beginning_of_a_large_file(client: Any) -> None:
    line = b'{"text": "%b"}\n' % (b"a boat " * 150)
    number = sent(client, "a.jsonl", line * 80_000)
    before, held = bytes_read(), pa.total_allocated_bytes()
    found = client.get(f"/api/uploads/{number}/preview").json()
    assert found["size_bytes"] > 80 << 20
    assert len(found["rows"]) == PREVIEW_ROWS
    assert bytes_read() - before < 40 << 20
    assert pa.total_allocated_bytes() - held < 1 << 20


def bytes_read() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_a_preview_of_very_many_columns_is_none_or_shows_the_first(
    ending: str, client: Any
) -> None:
    short = (product(string.ascii_letters + string.digits, repeat=n) for n in (1, 2, 3))
    # So many that their line ends in the beginning of a file by which its dialect is known.
    names = ["".join(name) for name in islice(chain(*short), 65_600)]
    data = ",".join(names) if ending == "csv" else json.dumps(dict.fromkeys(names, "b"))
    number = sent(client, f"a.{ending}", f"{data}\n".encode() * 2)
    found = client.get(f"/api/uploads/{number}/preview").json()
    assert len(found["columns"]) == (0 if ending == "csv" else PREVIEW_COLUMNS)
    assert ending == "jsonl" or "must have at most 65,536 columns" in found["problem"]


def test_what_cannot_be_started_is_told(client: Any) -> None:
    assert "must be a file of" in client.post(
        "/api/uploads", params={"name": "run.sh"}, content=b""
    ).json()["error"]  # fmt: skip
    number = sent(client, "a.csv", b"image\n/etc/passwd\n")
    for values, message in (
        ({"uploads": [7], "config": {}}, "there is no upload 7"),
        ({"uploads": ["/etc/passwd"], "config": {}}, "uploads must be numbers"),
        ({"input": "/etc/passwd", "config": {}}, "a run needs files"),
        ({"input": 1, "config": {}}, "there is no input 1"),
        ({"uploads": [number], "config": {}}, "images are sent as files"),
    ):
        answer = client.post("/api/jobs", json=values)
        assert answer.status_code == 400
        assert message in answer.json()["error"]
    assert client.get("/api/jobs").json() == []


def test_no_runs_are_started_without_a_folder_for_them(text_run: Store) -> None:
    client = TestClient(Explorer([text_run.uri]).application())
    assert client.get("/api/form").json() == {"enabled": False}
    answer = client.post("/api/jobs", json={"uploads": [0], "config": {}})
    assert "start the explorer with --work FOLDER" in answer.json()["error"]


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_is_started_followed_and_shown_and_another_is_cancelled(client: Any) -> None:
    lines = [f"{index},a {index % 7} boat of {index % 5} masts" for index in range(200)]
    number = sent(client, "boats.csv", "\n".join(["id,text", *lines]).encode())
    config = {"hierarchy.levels": "[6, 2]", "summaries.engine": "keyphrases",
              "input.id_column": "id"}  # fmt: skip
    values = {"uploads": [number], "config": config, "name": "boats"}
    job = client.post("/api/jobs", json=values).json()
    assert job["state"] == "running"
    assert client.get(f"/api/runs/{job['run']}/state").json()["status"] in ("starting", "running")
    second = client.post("/api/jobs", json=values).json()
    client.post("/api/jobs/1/cancel", json={})
    until = time.monotonic() + 400
    while True:
        first, other = client.get("/api/jobs").json()
        if first["state"] != "running" and other["state"] != "running":
            break
        assert time.monotonic() < until, first["log"] + other["log"]
        time.sleep(1)
    assert first["state"] == "finished", first["log"]
    assert other["state"] == "cancelled"
    assert second["run"] == job["run"] + 1
    tree = client.get(f"/api/runs/{job['run']}/tree").json()
    assert tree["n_items"] == 200


def test_two_runs_are_compared_by_their_items(text_run: Store, tmp_path: Path) -> None:
    same = make_run(str(tmp_path / "same"), Made(3_000, (40, 8, 2)))
    fewer = make_run(str(tmp_path / "fewer"), Made(1_000, (40, 8, 2)))
    client = TestClient(Explorer([text_run.uri, same.uri, fewer.uri]).application())
    levels = {"level": 1, "other_level": 2}
    found = client.get("/api/runs/0/compare", params={"other": 1, **levels}).json()
    assert found["n_common"] == 3_000
    assert all(len(each["partners"]) == 1 for each in found["clusters"])
    parents = Hierarchy.open(text_run.uri).clusters(1)["parent_cluster_id"]
    first = found["clusters"][0]
    assert first["partners"][0]["id"] == parents[first["id"]]
    found = client.get(
        "/api/runs/0/compare", params={"other": 1, "level": 2, "other_level": 2}
    ).json()
    assert found["ari"] == found["nmi"] == pytest.approx(1)
    found = client.get("/api/runs/0/compare", params={"other": 2, **levels}).json()
    assert found["n_common"] == 1_000


def test_exports_and_tables_come_as_files(text_run: Store) -> None:
    client = TestClient(Explorer([text_run.uri]).application())
    for form in ("html", "json", "csv", "clusters.csv"):
        answer = client.get("/api/runs/0/export", params={"format": form})
        assert answer.headers["content-disposition"].startswith("attachment")
        assert "cluster" in answer.text or "level_1" in answer.text
    assert client.get("/api/runs/0/export?format=../x").status_code == 400
    answer = client.get("/api/runs/0/table?name=clusters")
    assert answer.content == text_run.read_bytes("clusters/part-000000.parquet")
    assert client.get("/api/runs/0/table?name=../run.json").status_code == 404


def test_a_map_of_items_is_saved_with_titles_as_they_are(
    hostile_run: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datamapplot import plot_rendering, rendering_helpers

    def ask(*args: object, **others: object) -> None:
        raise AssertionError("no server is asked for fonts")

    for module in (plot_rendering, rendering_helpers):
        for name in ("can_reach_google_fonts", "query_google_fonts"):
            monkeypatch.setattr(module, name, ask, raising=False)
    with TestClient(Explorer([hostile_run.uri]).application()) as client:
        assert client.get("/api/runs/0/state").json()["has_data_maps"] is True
        answer = client.get("/api/runs/0/export?format=map.png")
    assert answer.headers["content-type"] == "image/png"
    assert answer.content.startswith(b"\x89PNG")


def test_a_notebook_draws_the_map_and_opens_the_explorer(text_run: Store, tmp_path: Path) -> None:
    import httpx

    hierarchy = Hierarchy.open(text_run.uri)
    figure = hierarchy.plot(path=str(tmp_path / "map.png"))
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    drawn = {each.get_text().replace("\n", " ") for each in figure.axes[0].texts}
    assert drawn <= set(hierarchy.clusters(2)["title"])
    assert drawn
    points = hierarchy.data_map(level=1, path=str(tmp_path / "items.png"))
    assert (tmp_path / "items.png").read_bytes().startswith(b"\x89PNG")
    labels = {each.get_text().replace("\n", " ") for each in points.axes[0].texts}
    assert len(labels & set(hierarchy.clusters(1)["title"])) > 10
    exploration = hierarchy.explore()
    try:
        assert httpx.get(f"{exploration.address}api/runs").json() == ["texts"]
    finally:
        exploration.stop()
