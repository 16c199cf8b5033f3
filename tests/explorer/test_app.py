from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.compute as pc
import pytest
from starlette.testclient import TestClient

from benchmarks.made_run import Made, make_run
from hercules_scale import Hierarchy
from hercules_scale.commands.cli import main
from hercules_scale.config.file import parse_config
from hercules_scale.embedding.sentence_transformer import SentenceTransformerEncoder
from hercules_scale.errors import InputError
from hercules_scale.explorer import search, server
from hercules_scale.explorer.access_control import AccessControl
from hercules_scale.explorer.app import Explorer
from hercules_scale.explorer.open_run import OpenRun
from hercules_scale.explorer.sessions import ShownRun, make_index
from hercules_scale.explorer.unfinished_run import CLUSTERS
from hercules_scale.jobs.cluster import run
from hercules_scale.results.edits import write_edit
from hercules_scale.storage import cluster_items, layout
from hercules_scale.storage.cluster_items import TABLE
from hercules_scale.storage.commits import Commit, write_commit
from hercules_scale.storage.manifest import published_files, replace_table
from hercules_scale.storage.schemas import WITHHELD
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import (
    column_vectors,
    read_table,
    read_tables,
    vector_column,
    write_table,
)
from tests.explorer.conftest import SIZES, explorer

HERE = "http://127.0.0.1:8760"


def asking(*stores: Store, token: str | None = None) -> TestClient:
    application = Explorer([store.uri for store in stores]).application()
    return TestClient(AccessControl(application, 8760, token), base_url=HERE)


def get(client: TestClient, path: str, **parameters: Any) -> Any:
    answer = client.get(f"/api/runs/0/{path}", params=parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize(("level", "cluster_id"), [(1, 7), (2, 3), (3, 1)])
def test_pages_hold_every_item_of_a_cluster_once(
    level: int, cluster_id: int, text_run: Store
) -> None:
    client = asking(text_run)
    members = Hierarchy.open(text_run.uri).memberships()
    expected = members[members[f"level_{level}"] == cluster_id]
    found: list[dict[str, Any]] = []
    while True:
        page = get(client, "items", level=level, id=cluster_id, offset=len(found), limit=200)
        if not page["items"]:
            break
        found += page["items"]
    assert page["n_items"] == len(expected)
    assert sorted(each["row"] for each in found) == expected["row"].tolist()
    if level == 1:
        nearest = [each["distance"] for each in found]
        assert nearest == sorted(nearest)
    by_row = {each["row"]: each for each in found}
    row = int(expected["row"].iloc[0])
    assert by_row[row]["distance"] == pytest.approx(
        float(expected[f"distance_{level}"].iloc[0]), rel=1e-4
    )


def test_a_cluster_shows_its_exemplars_its_neighbours_and_how_its_items_lie(
    text_run: Store,
) -> None:
    found = get(asking(text_run), "cluster", level=2, id=3)
    clusters = Hierarchy.open(text_run.uri).clusters(2)
    centroids = np.stack(clusters["centroid"].to_list())
    distances = ((centroids - centroids[3]) ** 2).sum(axis=1)
    assert [each["item_id"] for each in found["exemplars"]] == list(
        clusters["exemplar_item_ids"][3]
    )
    assert found["exemplars"][0]["text"].split()[3] == "number"
    assert [each["id"] for each in found["neighbours"]] == np.argsort(distances)[1:].tolist()
    assert sum(found["distributions"]["distance"]["histogram"]) == clusters["n_items"][3]


def test_numeric_clusters_show_the_variables_that_set_them_apart_first(numeric_run: Store) -> None:
    found = get(asking(numeric_run), "cluster", level=1, id=4)["statistics"]
    deviations = [abs(each["deviation"]) for each in found]
    assert {each["variable"] for each in found} == {"length", "width", "weight"}
    assert deviations == sorted(deviations, reverse=True)
    assert all(sum(each["histogram"]) > 10 for each in found)


def test_an_item_shows_its_clusters_at_every_level_and_its_ground_truth(text_run: Store) -> None:
    found = get(asking(text_run), "item", row=1234)
    member = Hierarchy.open(text_run.uri).memberships().iloc[1234]
    assert found["item"]["item_id"] == "item-1234"
    assert [each["id"] for each in found["clusters"]] == [
        member[f"level_{level}"] for level in (1, 2, 3)
    ]
    assert found["labels"] == {"class": str(member["level_3"] % 3)}


def test_a_glimpse_shows_what_an_item_at_a_place_says(text_run: Store, numeric_run: Store) -> None:
    client = asking(text_run)
    points = get(client, "points", level=2, id=3)
    items = Hierarchy.open(text_run.uri).table("items")
    places = [points["start"], points["start"] + len(points["rows"]) - 1]
    for found, index in zip(
        get(client, "glimpses", places=",".join(map(str, places))), (0, -1), strict=True
    ):
        assert found["row"] == points["rows"][index]
        assert found["description"] == items["text"][found["row"]]
        assert (found["level_1"], found["withheld"]) == (points["leaves"][index], False)
        (spot,) = get(client, "spots", rows=found["row"])
        assert spot == [axis[index] for axis in points["places"]]
    (numbers,) = get(asking(numeric_run), "glimpses", places=7)
    row = Hierarchy.open(numeric_run.uri).table("items").iloc[numbers["row"]]
    assert dict(numbers["numbers"]) == pytest.approx(
        {name: row[name] for name in ("length", "width", "weight")}, rel=1e-4
    )


def test_values_of_a_column_colour_clusters_and_items(numeric_run: Store) -> None:
    client, run = asking(numeric_run), Hierarchy.open(numeric_run.uri)
    members = run.memberships().join(run.table("labels")["class"])
    margin, *others = get(client, "shade_columns")
    assert [each["name"] for each in others] == ["class", "length", "width", "weight"]
    of_margins = get(client, "shades", by=margin["name"])
    for level in (1, 2):
        expected = members.groupby(f"level_{level}")["margin_1"].mean()
        assert of_margins["levels"][level - 1] == pytest.approx(expected.tolist(), rel=1e-3)
    classes = get(client, "shades", by="class")
    assert sorted(classes["classes"]) == ["0", "1", "2"]
    most = members.groupby("level_1")["class"].agg(lambda values: values.mode()[0])
    assert [classes["classes"][code] for code in classes["levels"][0]] == most.tolist()
    points = get(client, "points", level=1, id=4, by="class")
    assert [classes["classes"][code] for code in points["values"]] == (
        members["class"][points["rows"]].tolist()
    )
    points = get(client, "points", level=1, id=4, by="width")
    widths = run.table("items")["width"][points["rows"]]
    assert points["values"] == pytest.approx(widths.tolist(), rel=1e-4)


def test_chosen_items_are_saved_with_their_texts(text_run: Store) -> None:
    client, run = asking(text_run), Hierarchy.open(text_run.uri)
    members, items = run.memberships(), run.table("items")
    wanted = {5, 17} | set(members["row"][members["level_2"] == 3])

    def rows(answer: Any) -> dict[int, dict[str, str]]:
        assert answer.status_code == 200, answer.text
        return {int(row["row"]): row for row in csv.DictReader(io.StringIO(answer.text))}

    body = {"rows": [17, 5], "clusters": [[2, 3]]}
    saved = rows(client.post("/api/runs/0/selection", json=body, headers={"origin": HERE}))
    assert set(saved) == wanted
    assert all(saved[row]["text"] == items["text"][row] for row in wanted)
    titles = run.clusters(1)["title"]
    assert saved[17]["title_1"] == titles[members["level_1"][17]]
    asked = {"format": "csv", "level": "2", "id": "3"}
    saved = rows(client.get("/api/runs/0/export", params=asked))
    assert set(saved) == wanted - ({5, 17} - set(members["row"][members["level_2"] == 3]))
    assert len(rows(client.get("/api/runs/0/export", params={"format": "csv"}))) == 3_000


def test_pictures_come_as_pictures_and_nothing_else_does(image_run: Store) -> None:
    client = asking(image_run)
    answer = client.get("/api/runs/0/thumbnail", params={"row": 5})
    assert answer.headers["content-type"] == "image/png"
    assert answer.content.startswith(b"\x89PNG")
    items = get(client, "items", level=1, id=3)["items"]
    by_place = client.get("/api/runs/0/thumbnail", params={"place": items[4]["place"]})
    by_row = client.get("/api/runs/0/thumbnail", params={"row": items[4]["row"]})
    assert by_place.content == by_row.content
    assert items[4]["thumbnail"] is True


def test_a_search_for_items_goes_on_where_it_stopped(
    text_run: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "MAX_HITS", 7)
    client = asking(text_run)
    found: list[int] = []
    start = 0
    while True:
        part = get(client, "search/items", q="NUMBER 77", start=start)
        found += [hit["row"] for hit in part["hits"]]
        start = part["searched"]
        if start == part["n_items"]:
            break
    assert sorted(found) == [row for row in range(3_000) if "77" in str(row)]


def test_clusters_are_found_by_all_words_and_by_notes(own_run: Callable[[], Store]) -> None:
    store = own_run()
    write_edit(store, (1, 4), None, "ask Maria")
    client = asking(store)
    title = Hierarchy.open(store.uri).clusters(1)["title"][3]
    hits = get(client, "search/clusters", q=title.upper())["hits"]
    assert [(hit["level"], hit["cluster_id"]) for hit in hits] == [(1, 3)]
    (noted,) = get(client, "search/clusters", q="maria")["hits"]
    assert (noted["level"], noted["cluster_id"]) == (1, 4)


def test_clusters_are_found_by_meaning_with_the_model_of_the_run(tmp_path: Path) -> None:
    titles = ["Sailing boats", "Racing cars", "Song birds"]
    made = Made(90, (3, 1), title=lambda level, number: titles[number] if level == 1 else "All")
    store = make_run(str(tmp_path / "run"), made)
    path = published_files(store)["clusters"][0].path
    clusters = read_table(store, path)
    vectors = SentenceTransformerEncoder("minilm").encode(clusters["title"].to_pylist())
    place = clusters.schema.get_field_index("description_embedding")
    clusters = clusters.set_column(place, "description_embedding", vector_column(vectors))
    replace_table(store, "clusters", [write_table(store, layout.part("clusters", 1), clusters)])
    client = asking(store)
    for query, expected in (("yachts on the sea", 0), ("robins and thrushes", 2)):
        hits = get(client, "search/meaning", q=query)["hits"]
        assert (hits[0]["level"], hits[0]["cluster_id"]) == (1, expected)
    answer = asking(make_run(str(tmp_path / "other"), made)).get(
        "/api/runs/0/search/meaning", params={"q": "yachts"}
    )
    assert "were not embedded by such a model" in answer.json()["error"]


def test_the_explorer_loads_no_model_that_the_run_alone_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_run(str(tmp_path / "run"), Made(90, (3, 1)))
    record = json.loads(store.read_bytes(layout.RUN))
    record["config"]["embedding"]["model"] = "evil/model"
    store.write_bytes(layout.RUN, json.dumps(record).encode())
    loaded: list[str] = []

    class Encoder:
        def __init__(self, model: str, *arguments: Any, **options: Any) -> None:
            loaded.append(model)
            raise InputError("loaded")

    module = "hercules_scale.embedding.sentence_transformer.SentenceTransformerEncoder"
    monkeypatch.setattr(module, Encoder)

    def ask(path: str, *models: str) -> str:
        explorer = Explorer([store.uri], models=models)
        client = TestClient(explorer.application())
        error: str = client.get(f"/api/runs/0/{path}", params={"q": "yachts"}).json()["error"]
        return error

    for path in ("search/meaning", "search/items_by_meaning"):
        for models, said in (((), "this call does not"), (("a/b",), "this call names 'a/b'")):
            error = ask(path, *models)
            assert error.startswith("search by meaning is not available: ")
            assert f"the run names embedding.model 'evil/model', and {said}" in error
            assert error.endswith("add --model evil/model if you trust it; search by words")
        assert not loaded
        assert ask(path, "evil/model") == "loaded"
        assert loaded.pop() == "evil/model"
    assert get(asking(store), "search/clusters", q="a")["n_hits"] >= 0


def test_a_table_that_was_replaced_is_sent_as_it_is_now(tmp_path: Path) -> None:
    store = make_run(str(tmp_path / "run"), Made(90, (3, 1)))
    client = asking(store)
    before = client.get("/api/runs/0/table?name=evaluations").content
    (old,) = published_files(store)["evaluations"]
    table = read_table(store, old.path).slice(0, 1)
    file = write_table(store, layout.part("evaluations", 1), table)
    replace_table(store, "evaluations", [file])
    answer = client.get("/api/runs/0/table?name=evaluations")
    assert answer.status_code == 200
    assert answer.content == store.read_bytes(file.path) != before
    assert client.get("/api/runs/0/table?name=evaluations&part=1").status_code == 404


def nearest(client: TestClient, path: str, **query: Any) -> list[dict[str, Any]]:
    """All that the requests of one search find, nearest first, and one row group a request."""
    hits: list[dict[str, Any]] = []
    start = 0
    while True:
        part = get(client, path, start=start, **query)
        hits += part["hits"]
        start = part["searched"]
        if start == part["n_groups"]:
            assert part["n_searched"] == part["n_items"]
            return sorted(hits, key=lambda hit: hit.get("distance", -hit.get("cosine", 0)))


@pytest.mark.parametrize("metric", ["squared_l2", "cosine"])
def test_items_like_one_are_the_nearest_of_all(
    metric: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_items, "GROUP_ROWS", 64)
    monkeypatch.setattr(search, "SECONDS", 0.001)
    monkeypatch.setattr(search, "READERS", 2)
    store = make_run(str(tmp_path / "run"), Made(1_000, (20, 4, 2)))
    record = json.loads(store.read_bytes(layout.RUN))
    record["config"]["hierarchy"]["metric"] = metric
    store.write_bytes(layout.RUN, json.dumps(record).encode())
    paths = [file.path for file in published_files(store)["embeddings"]]
    vectors = column_vectors(read_tables(store, paths)["embedding"])
    if metric == "cosine":
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    distances = ((vectors - vectors[321]) ** 2).sum(axis=1)
    distances[321] = np.inf
    client = asking(store)
    first = get(client, "search/similar", row=321)
    assert first["searched"] < first["n_groups"]
    hits = nearest(client, "search/similar", row=321)
    # A byte a number tells neighbours at almost the same distance no more apart.
    told = [distances[hit["row"]] for hit in hits[:20]]
    assert told == pytest.approx(np.sort(distances)[:20].tolist(), abs=0.02)
    assert len({hit["row"] for hit in hits} - {321}) == len(hits)
    # The first request begins with the cluster that the item is nearest to.
    assert first["hits"][0]["level_1"] == get(client, "item", row=321)["clusters"][0]["id"]


@pytest.mark.usefixtures("local_ray")
def test_items_are_found_by_meaning_with_the_model_of_the_run(tmp_path: Path) -> None:
    texts = [
        "The yacht sailed out of the harbour",
        "A thrush sang in the garden",
        "The racing car lost a wheel",
        "Robins nest early this year",
        "Two ferries cross the strait",
    ]
    lines = [f"{text}, {number}" for number in range(8) for text in texts]
    (tmp_path / "texts.txt").write_text("\n".join(lines))
    config = {
        "input": {"path": str(tmp_path / "texts.txt")},
        "hierarchy": {"levels": [3]},
        "summaries": {"engine": "keyphrases"},
        "output": {"path": str(tmp_path / "run")},
    }
    client = asking(run(parse_config(config)))
    hits = nearest(client, "search/items_by_meaning", q="birds")
    assert len(hits) == 40
    assert {hit["row"] % 5 for hit in hits[:16]} == {1, 3}
    assert hits[0]["cosine"] > hits[16]["cosine"] > hits[39]["cosine"]
    assert hits[0]["description"].startswith(("A thrush", "Robins"))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("search/items_by_meaning?q=boats", "were not embedded by such a model"),
        ("search/items_by_meaning?q=+", "must have 1 to 20 words"),
        ("search/similar?row=3000", "rows are 0 to 2999"),
        ("search/similar", "row must be a whole number"),
        ("cluster?level=4&id=0", "there is no cluster 4/0"),
        ("cluster?level=1&id=40", "there is no cluster 1/40"),
        ("cluster?level=1&id=-1", "id must be a whole number"),
        ("items?level=1&id=0&limit=201", "limit must be from 1 to 200"),
        ("item?row=3000", "rows are 0 to 2999"),
        ("search/items?q=+", "must have 1 to 20 words"),
        ("glimpses?places=3000", "places are 0 to 2999"),
        ("glimpses?places=1,x", "places must be whole numbers with commas between, got 'x'"),
        ("spots?rows=" + ",".join(map(str, range(51))), "at most 50 items"),
        ("shades?by=colour", "by must be one of margin to the next centroid, class"),
        ("points?level=1&id=0&by=colour", "by must be one of"),
        ("export?format=csv&level=4&id=0", "there is no cluster 4/0"),
        ("../../etc/passwd", "Not Found"),
    ],
)
def test_what_is_not_there_is_told(path: str, message: str, text_run: Store) -> None:
    answer = asking(text_run).get(f"/api/runs/0/{path}")
    assert answer.status_code in (400, 404)
    assert message in answer.json()["error"]


@pytest.mark.parametrize("name", ["..%2fapp.py", "%2e%2e%2fapp.py", "%2fetc%2fpasswd", "main.py"])
def test_files_outside_of_the_folder_are_not_served(name: str, text_run: Store) -> None:
    assert asking(text_run).get(f"/static/{name}").status_code == 404


def test_an_edit_shows_everywhere_and_leaves_the_output_as_it_was(
    own_run: Callable[[], Store], tmp_path: Path
) -> None:
    store = own_run()
    client = asking(store)
    before = {name: store.read_bytes(name) for name in store.list_files("")}
    edit = {"level": 1, "id": 4, "title": "Ships", "note": "ask Maria", "revision": None}
    answer = client.post("/api/runs/0/edit", json=edit, headers={"origin": HERE})
    assert answer.status_code == 200, answer.text
    assert answer.json()["title"] == "Ships"
    assert get(client, "tree")["levels"][0]["title"][4] == "Ships"

    assert {name: store.read_bytes(name) for name in before} == before
    hierarchy = Hierarchy.open(store.uri)
    named = hierarchy.clusters(1).iloc[4]
    assert (named["title"], named["note"], named["summary_source"]) == (
        "Ships",
        "ask Maria",
        "person",
    )
    assert "Ships" in hierarchy.tree_text()
    for form in ("json", "csv", "html"):
        path = str(tmp_path / f"tree.{form}")
        assert main(["export", store.uri, "--format", form, "--output", path]) == 0
        assert "Ships" in Path(path).read_text(encoding="utf-8")
    hierarchy.to_json(str(tmp_path / "model.json"), layout="pyhercules")
    assert "Ships" in (tmp_path / "model.json").read_text(encoding="utf-8")


def test_of_two_who_edit_a_cluster_the_second_is_told(own_run: Callable[[], Store]) -> None:
    client = asking(own_run())
    edit = {"level": 1, "id": 4, "title": "Ships", "note": None, "revision": None}
    first = client.post("/api/runs/0/edit", json=edit, headers={"origin": HERE})
    second = client.post(
        "/api/runs/0/edit", json={**edit, "title": "Boats"}, headers={"origin": HERE}
    )
    assert second.status_code == 409
    assert "somebody else has edited" in second.json()["error"]
    edit["revision"], edit["title"] = first.json()["revision"], ""
    third = client.post("/api/runs/0/edit", json=edit, headers={"origin": HERE})
    assert third.json()["title"] == third.json()["own_title"]


def test_an_edit_that_is_too_long_or_broken_is_refused(own_run: Callable[[], Store]) -> None:
    store = own_run()
    with pytest.raises(InputError, match="title must have at most 200 characters, got 201"):
        write_edit(store, (1, 0), "x" * 201, None)
    store.write_bytes("edits/1-0.json", b"[]")
    with pytest.raises(InputError, match=r"edits/1-0\.json: must be JSON with title, note"):
        Hierarchy.open(store.uri).clusters()


def test_other_sites_can_neither_ask_nor_change(text_run: Store) -> None:
    client = asking(text_run)
    assert client.get("/", headers={"host": "evil.example:8760"}).status_code == 403
    assert client.get("/", headers={"host": "localhost:8760"}).status_code == 200
    foreign = {"sec-fetch-site": "cross-site"}
    assert client.get("/api/runs/0/tree", headers=foreign).status_code == 403
    # A link from elsewhere may open the explorer, but a form there changes nothing.
    assert client.get("/", headers=foreign).status_code == 200
    body = {"level": 1, "id": 0, "title": "hacked", "note": None, "revision": None}
    for headers in ({}, {"origin": "http://evil.example"}, {"origin": "null"}):
        assert client.post("/api/runs/0/edit", json=body, headers=headers).status_code == 403
    assert not text_run.exists("edits")


def test_beyond_this_machine_a_token_is_asked_for(text_run: Store) -> None:
    client = asking(text_run, token="open sesame")
    assert client.get("/api/runs").status_code == 401
    assert client.get("/", params={"token": "shut"}).status_code == 401
    assert client.get("/api/runs", headers={"authorization": "Bearer shut"}).status_code == 401
    known = {"authorization": "Bearer open sesame"}
    assert client.get("/api/runs", headers=known).json() == ["texts"]
    entered = client.get("/", params={"token": "open sesame"}, follow_redirects=False)
    assert entered.status_code == 303
    cookie = entered.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert client.get("/api/runs").status_code == 200


@pytest.mark.parametrize("token", ["", "  "])
def test_a_blank_token_is_none(
    token: str, text_run: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERCULES_EXPLORER_TOKEN", token)
    assert len(server._token("0.0.0.0") or "") >= 32
    assert server._token("127.0.0.1") is None
    with explorer(text_run.uri, "--host", "0.0.0.0", token=token) as address:
        plain, _, given = address.replace("0.0.0.0", "127.0.0.1").partition("?token=")
        assert len(given) >= 32
        assert httpx.get(f"{plain}api/runs").status_code == 401


def test_a_short_token_is_refused(
    text_run: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HERCULES_EXPLORER_TOKEN", "open sesame")
    for host in ("0.0.0.0", "127.0.0.1"):
        assert main(["explore", text_run.uri, "--host", host, "--port", "0"]) == 2
        assert "must have at least 16 characters" in capsys.readouterr().err


def test_every_text_of_clusters_as_csv_is_safe(own_run: Callable[[], Store]) -> None:
    run = own_run()
    client = asking(run)
    formula = '=HYPERLINK("http://evil")'
    edit = {"level": 1, "id": 4, "title": "Ships", "note": formula, "revision": None}
    assert client.post("/api/runs/0/edit", json=edit, headers={"origin": HERE}).status_code == 200
    saved = client.get("/api/runs/0/export", params={"format": "clusters.csv"}).text
    cells = [cell for row in csv.reader(io.StringIO(saved)) for cell in row]
    assert f"'{formula}" in cells
    assert [cell for cell in cells if cell.startswith(("=", "["))] == []
    phrases = Hierarchy.open(run.uri).clusters(1)["keyphrases"][4]
    assert "; ".join(phrases) in cells


def test_every_answer_carries_the_policy(text_run: Store) -> None:
    client = asking(text_run, token="open sesame")
    for path in ("/", "/api/runs", "/static/main.js", "/nothing"):
        headers = client.get(path).headers
        assert "default-src 'none'; script-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_an_unfinished_run_says_how_far_it_is(unfinished_run: Store) -> None:
    client = asking(unfinished_run)
    state = get(client, "state")
    assert state["finished"] is False
    assert [(stage["name"], stage["done"]) for stage in state["stages"]] == [
        ("read", 3_000),
        ("embed", 1_200),
    ]
    answer = client.get("/api/runs/0/tree")
    assert answer.status_code == 400
    assert "the run has no clusters yet" in answer.json()["error"]


# Items that a model describes are written by another stage than others.
@pytest.mark.parametrize("stage", ["number", "put_descriptions"])
def test_a_run_that_goes_on_shows_its_clusters_and_when_it_ends_their_titles(
    stage: str, own_run: Callable[[], Store]
) -> None:
    store = own_run()
    files = published_files(store)
    store.delete_files(layout.SUCCESS)
    clusters = read_table(store, files["clusters"][0].path)
    names = ["level", "cluster_id", "parent_cluster_id", "n_items", "n_children", "inertia"]
    write_table(store, CLUSTERS, clusters.select([*names, "exemplar_rows", "centroid"]))
    fingerprint = json.loads(store.read_bytes(layout.RUN))["fingerprint"]
    write_commit(store, stage, Commit(0, fingerprint, files["items"]))
    write_commit(store, "cluster", Commit(0, fingerprint, files["memberships"]))
    client = asking(store)
    assert get(client, "state")["has_clusters"] is True
    finest = get(client, "tree")["levels"][0]
    assert finest["title"][3] == "Cluster 1/3"
    assert finest["n_items"] == clusters["n_items"].to_pylist()[:10]
    exemplars = get(client, "cluster", level=1, id=3)["exemplars"]
    assert [each["row"] for each in exemplars] == clusters["exemplar_rows"][3].as_py()
    until = time.monotonic() + 20
    while client.get("/api/runs/0/items", params={"level": 1, "id": 3}).status_code != 200:
        assert time.monotonic() < until
        time.sleep(0.05)
    store.create(layout.SUCCESS, b"")
    assert get(client, "tree")["levels"][0]["title"][3] == clusters["title"][3].as_py()
    assert get(client, "points", level=1, id=3)["kind"] == "points"


def withhold(store: Store, cluster_id: int) -> int:
    """Have a cluster of level 1 be too small to show its items; its parent."""
    clusters = read_table(store, "clusters/part-000000.parquet")
    small = pc.and_(pc.equal(clusters["level"], 1), pc.equal(clusters["cluster_id"], cluster_id))
    sources = pc.if_else(small, WITHHELD, clusters["summary_source"])
    place = clusters.schema.get_field_index("summary_source")
    parent = int(clusters.filter(small)["parent_cluster_id"][0].as_py())
    clusters = clusters.set_column(place, "summary_source", sources)
    replace_table(store, "clusters", [write_table(store, "clusters/part-000001.parquet", clusters)])
    return parent


def test_pictures_of_clusters_that_are_too_small_are_kept_back(tmp_path: Path) -> None:
    store = make_run(str(tmp_path / "run"), Made(200, (6, 2), "image"))
    parent = withhold(store, 2)
    client = asking(store)
    statuses = set()
    for item in get(client, "items", level=2, id=parent, limit=200)["items"]:
        for name in ("row", "place"):
            answer = client.get("/api/runs/0/thumbnail", params={name: item[name]})
            statuses.add((item["level_1"] == 2, answer.status_code))
    assert statuses == {(True, 404), (False, 200)}


def test_items_of_clusters_that_are_too_small_are_named_and_no_more(tmp_path: Path) -> None:
    store = make_run(str(tmp_path / "run"), Made(400, (6, 2), title=lambda *_: "=1+1"))
    parent = withhold(store, 2)
    members = Hierarchy.open(store.uri).memberships()
    items = Hierarchy.open(store.uri).table("items").set_index("row")["text"]
    hidden = set(members[members["level_1"] == 2]["row"])
    client = asking(store)
    shown = 0
    for level, number in ((1, 2), (2, parent)):
        for item in get(client, "items", level=level, id=number, limit=200)["items"]:
            assert (item["description"] is None) == (item["row"] in hidden)
            assert item["item_id"]
            shown += item["row"] not in hidden
    assert shown
    row = min(hidden)
    assert get(client, "item", row=row)["labels"] == {}
    found = get(client, "item", row=row)["item"]
    assert (found["text"], found["description"], found["title"]) == (None, None, None)
    words = " ".join(items[row].split()[:5])
    hits = get(client, "search/items", q=words)["hits"]
    assert not {hit["row"] for hit in hits} & hidden
    assert not any(text in json.dumps(hits) for text in items[sorted(hidden)])
    refused = client.get("/api/runs/0/search/similar", params={"row": row}).json()["error"]
    assert "privacy keeps" in refused
    other = int(members[members["level_1"] != 2]["row"].iloc[0])
    assert not {hit["row"] for hit in nearest(client, "search/similar", row=other)} & hidden
    assert client.get("/api/runs/0/table?name=items").status_code == 403
    assert client.get("/api/runs/0/table?name=cluster_items").status_code == 403
    points = get(client, "points", level=1, id=2, by="margin to the next centroid")
    assert set(points["values"]) == {None}
    assert get(client, "shades", by="margin to the next centroid")["levels"][0][2] is None
    points = get(client, "points", level=1, id=2, by="class")
    assert set(points["values"]) == {-1}
    (glimpse,) = get(client, "glimpses", places=points["start"])
    assert (glimpse["description"], glimpse["withheld"]) == (None, True)
    asked = {"rows": [row, other], "clusters": []}
    answer = client.post("/api/runs/0/selection", json=asked, headers={"origin": HERE})
    assert items[other] in answer.text
    assert items[row] not in answer.text
    everything = client.get("/api/runs/0/export", params={"format": "csv"}).text
    assert not any(text in everything for text in items[sorted(hidden)])
    saved = client.get("/api/runs/0/export", params={"format": "clusters.csv"}).text
    assert ",'=1+1," in saved
    assert ",=1+1" not in saved


def test_a_run_without_ordered_items_has_them_ordered_beside_the_explorer(
    own_run: Callable[[], Store], tmp_path: Path
) -> None:
    store = own_run()
    expected = OpenRun.of(store).items.read(0, 300, ["row", "description"])
    replace_table(store, TABLE, [])
    before = store.list_files("")
    run = OpenRun.of(store)
    assert run.items.files == []
    target = Store(str(tmp_path / "index"))
    shares: list[float] = []
    files = make_index(run, target, shares.append)
    assert shares[-1] == 1.0
    assert make_index(run, target) == files
    assert store.list_files("") == before
    again = ShownRun(store.uri)
    again.opened().items = type(run.items)(target, files)
    assert again.with_items().items.read(0, 300, ["row", "description"]).equals(expected)


def test_a_real_server_prints_where_it_listens_and_refuses_without_its_token(
    text_run: Store,
) -> None:
    with explorer(text_run.uri, "--host", "0.0.0.0") as address:
        plain, _, token = address.replace("0.0.0.0", "127.0.0.1").partition("?token=")
        assert len(token) >= 32
        assert httpx.get(f"{plain}api/runs").status_code == 401
        told = {"Authorization": f"Bearer {token}"}
        tree = httpx.get(f"{plain}api/runs/0/tree", headers=told).json()
        assert [len(level["title"]) for level in tree["levels"]] == list(SIZES)


def test_what_is_no_run_is_told_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explore", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


@pytest.mark.s3
def test_a_run_on_object_storage_is_read_there_and_edited_there(s3: str) -> None:
    store = make_run(f"{s3}/explored", Made(400, (8, 2)))
    client = asking(store)
    assert get(client, "state")["finished"] is True
    assert len(get(client, "items", level=2, id=1, limit=20)["items"]) == 20
    edit = {"level": 2, "id": 1, "title": "Ships", "note": None, "revision": None}
    assert client.post("/api/runs/0/edit", json=edit, headers={"origin": HERE}).status_code == 200
    assert json.loads(store.read_bytes("edits/2-1.json"))["title"] == "Ships"
    assert store.exists(layout.SUCCESS)
