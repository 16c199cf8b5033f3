"""Exports of a real run, on a disk and on an object store."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hercules_scale import Hierarchy
from hercules_scale.config.file import parse_config
from hercules_scale.errors import InputError
from hercules_scale.jobs.cluster import run
from hercules_scale.storage.store import Store
from tests.conftest import small_config

pytestmark = [pytest.mark.ray, pytest.mark.s3]
N_ITEMS = 1200


@pytest.fixture(scope="module")
def finished(icd: pa.Table, tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Hierarchy:
    folder = tmp_path_factory.mktemp("export")
    pq.write_table(icd.slice(0, N_ITEMS), folder / "icd.parquet")
    run(parse_config(small_config(folder / "icd.parquet", folder / "run")))
    return Hierarchy.open(str(folder / "run"))


def test_an_object_store_gets_the_same_files_as_a_disk(
    finished: Hierarchy, tmp_path: Path, s3: str
) -> None:
    store = Store(f"{s3}/exports")
    for name, write in (
        ("tree.json", finished.to_json),
        ("rows.csv", finished.to_csv),
        ("page.html", finished.to_html),
    ):
        write(str(tmp_path / name))
        write(f"{s3}/exports/{name}")
        assert store.read_bytes(name) == (tmp_path / name).read_bytes()
    with pytest.raises(InputError, match=r"rows.csv: exists"):
        finished.to_csv(f"{s3}/exports/rows.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "rows.csv").read_text(encoding="utf-8"))))
    members = finished.memberships()
    titles = finished.clusters(2)["title"]
    assert [row["item_id"] for row in rows] == members["item_id"].tolist()
    assert [row["title_2"] for row in rows] == titles[members["level_2"]].tolist()
    tree = json.loads((tmp_path / "tree.json").read_text(encoding="utf-8"))
    assert len(tree["clusters"]) == len(finished.clusters())
    assert tree["run"]["config"]["hierarchy"]["levels"] == [12, 4, 2]


def test_a_run_comes_back_from_the_layout_of_pyhercules(
    finished: Hierarchy, tmp_path: Path, s3: str
) -> None:
    path = f"{s3}/exports/model.json"
    finished.to_json(path, layout="pyhercules", overwrite=True)
    back = Hierarchy.from_pyhercules(path, str(tmp_path / "back"))
    kept = ["level", "cluster_id", "parent_cluster_id", "n_items", "n_children", "title"]
    kept += ["description", "summary_status", "keyphrases", "centroid", "description_embedding"]
    pd.testing.assert_frame_equal(finished.clusters()[kept], back.clusters()[kept])
    levels = ["row", "item_id", "level_1", "level_2", "level_3"]
    pd.testing.assert_frame_equal(finished.memberships()[levels], back.memberships()[levels])
    for table in ("items", "embeddings", "reductions"):
        pd.testing.assert_frame_equal(finished.table(table), back.table(table))
    assert finished.tree_text() == back.tree_text()
