"""Two runs of planted topics: what changed between them is named, by items and by vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hercules_scale import Hierarchy
from hercules_scale.clustering.nearest_centroids import Float32
from hercules_scale.commands.cli import main
from hercules_scale.config.file import parse_config
from hercules_scale.errors import InputError
from hercules_scale.jobs.align import align_runs
from hercules_scale.jobs.cluster import run
from hercules_scale.storage import layout, schemas
from hercules_scale.storage.json_records import to_json
from hercules_scale.storage.manifest import published_files
from hercules_scale.storage.store import Store
from tests.conftest import small_config
from tests.results.conftest import imported, model

__all__ = ["imported", "model"]
pytestmark = [pytest.mark.ray]
# Items of each topic in the earlier run and in the later one. Eight clusters divide nine topics so
# that the two near ones that cost least are together.
BEFORE = {"gone": 60, "one": 30, "two": 30, "left": 60, "right": 60}
BEFORE |= {"rising": 60, "falling": 60, "same": 60, "still": 60}
NOW = {"fresh": 60, "one": 120, "two": 120, "left": 60, "right": 60}
NOW |= {"rising": 180, "falling": 30, "same": 90, "still": 90}
NEAR = (("one", "two"), ("left", "right"))
FATES = {
    "gone": "died",
    "rising": "grown",
    "falling": "shrunk",
    "same": "kept",
    "still": "kept",
}


def vectors(sizes: dict[str, int]) -> tuple[Float32, list[str], list[str]]:
    """Vectors, ids and topics of the items."""
    random = np.random.default_rng(7)
    names = [*BEFORE, "fresh"]
    centres = dict(zip(names, 10 * np.eye(len(names)), strict=True))
    for one, other in NEAR:
        centres[other] = centres[one] + 0.15 * centres[other]
    made, ids, topics = [], [], []
    for name, size in sizes.items():
        made.append(centres[name] + random.normal(0, 0.2, (size, len(names))))
        ids += [f"{name}-{number}" for number in range(size)]
        topics += [name] * size
    return np.concatenate(made).astype(np.float32), ids, topics


def made_run(folder: Path, sizes: dict[str, int], prefix: str) -> list[str]:
    """Make a run of eight clusters; return the topic of each item."""
    found, ids, topics = vectors(sizes)
    rows = pa.FixedSizeListArray.from_arrays(pa.array(found.ravel()), found.shape[1])
    folder.mkdir()
    table = pa.table({"id": [prefix + each for each in ids], "vector": rows})
    pq.write_table(table, folder / "in.parquet")
    config = small_config(
        folder / "in.parquet",
        folder / "run",
        hierarchy={"levels": [8, 3], "n_init": 20},
    )
    config["input"] = {
        "path": str(folder / "in.parquet"),
        "id_column": "id",
        "embedding_column": "vector",
    }
    run(parse_config(config))
    return topics


@pytest.fixture(scope="module", params=["items", "vectors"])
def runs(
    request: pytest.FixtureRequest, local_ray: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Store, Store, list[str], list[str], str]:
    """The two runs, the topics of their items, and the evidence that links them."""
    folder = tmp_path_factory.mktemp("align")
    prefix = "" if request.param == "items" else "other-"
    before = made_run(folder / "old", BEFORE, "")
    now = made_run(folder / "new", NOW, prefix)
    return (
        Store(str(folder / "old/run")),
        Store(str(folder / "new/run")),
        before,
        now,
        request.param,
    )


def cluster_of(store: Store, topics: list[str], topic: str) -> int:
    members = Hierarchy(store).memberships()
    return int(members["level_1"][np.array(topics) == topic].mode()[0])


def test_planted_changes_are_named(
    runs: tuple[Store, Store, list[str], list[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    old, new, before, now, evidence = runs
    assert main(["align", old.uri, new.uri]) == 0
    printed = capsys.readouterr().out
    assert "level 1: 8 topics before, 8 now" in printed
    hierarchy = Hierarchy(new)
    topics, crosswalk = hierarchy.table("topics"), hierarchy.table("crosswalk")
    finest: Any = topics[topics["level"] == 1].set_index(["run", "cluster_id"])

    def of(run: str, topic: str) -> dict[str, Any]:
        store, names = (old, before) if run == "old" else (new, now)
        found: dict[str, Any] = finest.loc[(run, cluster_of(store, names, topic))].to_dict()
        return found

    for topic, status in FATES.items():
        assert of("old", topic)["status"] == status
        if status != "died":
            assert of("new", topic)["status"] == status
            assert of("new", topic)["topic_id"] == of("old", topic)["topic_id"]
            assert of("new", topic)["title"] == of("old", topic)["title"]
            assert of("new", topic)["partner_id"] == cluster_of(old, before, topic)
    assert of("new", "fresh")["status"] == "born"
    assert of("old", "one")["status"] == of("new", "one")["status"] == "split"
    assert of("new", "two")["status"] == "split"
    assert of("old", "left")["status"] == of("old", "right")["status"] == "merged"
    assert of("new", "left")["status"] == "merged"
    assert of("old", "rising")["growth"] == pytest.approx(3 * 480 / 810, rel=0.05)
    ids = finest["topic_id"]
    assert ids.loc["old"].nunique() == ids.loc["new"].nunique() == 8
    linked: Any = crosswalk[crosswalk["new_level"] == 1]
    pair = linked[linked["new_id"] == cluster_of(new, now, "same")]
    assert pair["share_of_new"].max() == 1
    best = pair.loc[pair["share_of_new"].idxmax()]
    # A third of its items are new.
    assert best["evidence"] == ("both" if evidence == "items" else "vectors")


def test_the_tables_are_part_of_the_run_and_topics_keep_their_ids_over_three_runs(
    runs: tuple[Store, Store, list[str], list[str], str],
) -> None:
    old, new, *_ = runs
    topics = Hierarchy(new).align(old.uri)
    files = published_files(new)
    for table, schema in (("topics", schemas.TOPICS), ("crosswalk", schemas.CROSSWALK)):
        assert new.list_files(table) == [file.path for file in files[table]]
        assert Hierarchy(new).table(table).columns.tolist() == schema.names
    record = json.loads(new.read_bytes(layout.RUN))
    assert record["rows"]["topics"] == len(topics)
    assert record["aligned_with"]["run"] == old.uri
    # The earlier run again, as a third: its topics have the ids of the second.
    third = Hierarchy(old).align(Hierarchy(new))
    try:
        own = {
            (row["level"], row["cluster_id"]): row["topic_id"]
            for row in topics[topics["run"] == "new"].to_dict("records")
        }
        back = third[(third["run"] == "new") & third["partner_id"].notna()].to_dict("records")
        assert len(back) >= 4
        for row in back:
            assert row["topic_id"] == own[(row["level"], row["partner_id"])]
    finally:
        for table in ("topics", "crosswalk"):
            old.delete_files(table)
        manifest = json.loads(old.read_bytes(layout.MANIFEST))
        manifest["tables"] = {
            name: each
            for name, each in manifest["tables"].items()
            if name not in ("topics", "crosswalk")
        }
        old.write_bytes(layout.MANIFEST, to_json(manifest))


def test_runs_that_nothing_links_are_refused_and_nothing_is_written(
    runs: tuple[Store, Store, list[str], list[str], str], model: dict[str, Any], imported: Any
) -> None:
    old, new, *_ = runs
    before = sorted(new.list_files(""))
    with pytest.raises(InputError, match="shares no item ids and no encoder with"):
        align_runs(Store(imported(model).uri), new)
    assert sorted(new.list_files("")) == before
    with pytest.raises(InputError, match="holds no run"):
        align_runs(Store(f"{old.uri}/../nothing"), new)
