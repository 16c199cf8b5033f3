"""Flags are those of a plain search over all items, whatever fits into memory at once."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from rich.console import Console

from benchmarks.made_run import Made, make_run
from hercules_scale import Hierarchy
from hercules_scale.commands.cli import main
from hercules_scale.errors import InputError
from hercules_scale.evaluation.flags import flag_cluster
from hercules_scale.jobs import flags as job
from hercules_scale.runtime.progress import Reporter
from hercules_scale.storage import layout
from hercules_scale.storage.manifest import published_files, replace_table
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import (
    column_vectors,
    read_table,
    vector_column,
    write_table,
)
from tests.results.conftest import imported, model

__all__ = ["imported", "model"]

QUIET = Reporter(Console(quiet=True))


def change(store: Store, table: str, column: str, values: Any) -> None:
    """Replace a column of a table of one file."""
    (file,) = published_files(store)[table]
    found = read_table(store, file.path)
    place = found.schema.get_field_index(column)
    field = found.schema.field(place)
    found = found.set_column(place, field, pa.array(values, field.type, from_pandas=True))
    replace_table(store, table, [write_table(store, layout.part(table, 1), found)])


def planted(path: Path) -> tuple[Store, pd.DataFrame]:
    """A made run with vectors without near-duplicates, and its memberships."""
    store = make_run(str(path / "run"), Made(1_200, (6, 2), dimension=64))
    random = np.random.default_rng(1)
    vectors = random.normal(size=(1_200, 64)).astype(np.float32)
    change(store, "embeddings", "embedding", vector_column(vectors))
    return store, Hierarchy(store).memberships()


def rows(found: pd.DataFrame, kind: str) -> list[int]:
    return found[found["kind"] == kind]["row"].tolist()


def test_planted_items_are_found_and_no_others(tmp_path: Path) -> None:
    store, members = planted(tmp_path)
    leaf = int(members["level_1"].mode()[0])
    own = members.index[members["level_1"] == leaf].to_numpy()
    count = len(own) // 100
    assert count >= 2
    # A percent of one cluster is far, another percent unsure; all else is the same.
    distances = np.full(1_200, 1.0, np.float32)
    far = own[[7, *range(20, 20 + count - 1)]]
    distances[far] = 9.0 + np.arange(count)
    distances[own[5]] = 0.5
    margins = np.full(1_200, 0.5, np.float32)
    unsure = own[[11, *range(40, 40 + count - 1)]]
    margins[unsure] = -0.25 + np.arange(count) / 100
    change(store, "memberships", "distance_1", distances)
    change(store, "memberships", "margin_1", margins)
    # Twice the vector of the fifth; nearly that of the third; and of an item of another cluster.
    elsewhere = int(members.index[members["level_1"] != leaf][0])
    (file,) = published_files(store)["embeddings"]
    vectors = column_vectors(read_table(store, file.path)["embedding"]).copy()
    vectors[own[2]] = vectors[elsewhere] = 2 * vectors[own[5]]
    angle = math.acos(0.96)
    side = vectors[own[4]] - vectors[own[4]] @ vectors[own[3]] * vectors[own[3]] / (
        vectors[own[3]] @ vectors[own[3]]
    )
    lengths = np.linalg.norm(vectors[own[3]]), np.linalg.norm(side)
    vectors[own[4]] = (
        math.cos(angle) * vectors[own[3]] / lengths[0] + math.sin(angle) * side / lengths[1]
    )
    change(store, "embeddings", "embedding", vector_column(vectors))

    hierarchy = Hierarchy(store)
    found = hierarchy.flags()
    assert rows(found, "outlier") == far[::-1].tolist()
    assert rows(found, "ambiguous") == unsure.tolist()
    # The item nearest to the centroid is kept, and of equal ones the first.
    assert rows(found, "near_duplicate") == [own[2], own[4]]
    same = found[found["kind"] == "near_duplicate"]
    assert same["duplicate_of"].tolist() == [own[5], own[3]]
    assert same["score"].tolist() == [pytest.approx(1, abs=1e-6), pytest.approx(0.96, abs=1e-6)]
    mean = distances[own].mean()
    outliers = found[found["kind"] == "outlier"]
    assert outliers["score"].tolist() == pytest.approx((distances[far[::-1]] / mean).tolist())
    assert set(found["cluster_id"]) == {leaf}
    assert set(found["level"]) == {1}
    assert found["item_id"].tolist() == members["item_id"][found["row"]].tolist()
    assert rows(hierarchy.flags(cosine=0.97), "near_duplicate") == [own[2]]
    assert rows(hierarchy.flags(cosine=1), "near_duplicate") == [own[2]]
    assert rows(hierarchy.flags(share=2.1 / len(own)), "outlier")[:2] == far[::-1][:2].tolist()


def by_plain_search(hierarchy: Hierarchy, cosine: float, share: float) -> dict[str, Any]:
    """Rows of each kind; of near-duplicates each row's largest cosine to an item before it."""
    members = hierarchy.memberships()
    vectors = np.stack(hierarchy.table("embeddings")["embedding"].tolist()).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    outliers: set[int] = set()
    unsure: set[int] = set()
    same: dict[int, float] = {}
    for _, own in members.sort_values(["distance_1", "row"]).groupby("level_1"):
        count = int(len(own) * share)
        if count:
            limit = np.sort(own["distance_1"])[-count - 1]
            outliers |= set(own["row"][own["distance_1"] > limit])
            limit = np.sort(own["margin_1"])[count]
            unsure |= set(own["row"][own["margin_1"] < limit])
        cosines = np.tril(vectors[own["row"]] @ vectors[own["row"]].T, -1)
        same |= dict(zip(own["row"], cosines.max(axis=1), strict=True))
    return {"outlier": outliers, "ambiguous": unsure, "near_duplicate": same}


# All in one block; many parts and buckets; clusters of several blocks.
@pytest.mark.parametrize("block_bytes", [256 << 20, 2_000 * 96, 300 * 96])
def test_flags_are_those_of_a_plain_search(
    block_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr("benchmarks.made_run.SHARD_ROWS", 1_024)
    store = make_run(str(tmp_path / "run"), Made(8_000, (40, 5)))
    hierarchy = Hierarchy(store)
    sizes = hierarchy.clusters(1)["n_items"]
    rows_of_block = block_bytes // 96
    assert (sizes.max() > 2 * rows_of_block) == (block_bytes == 300 * 96)
    cosine, share = 0.9998, 0.02
    found = hierarchy.flags(cosine=cosine, share=share)
    expected = by_plain_search(hierarchy, cosine, share)
    assert len(expected["outlier"]) > 100
    assert set(rows(found, "outlier")) == expected["outlier"]
    assert set(rows(found, "ambiguous")) == expected["ambiguous"]
    same = found[found["kind"] == "near_duplicate"].set_index("row")
    near = {row: value for row, value in expected["near_duplicate"].items() if value >= cosine}
    unsure = {
        row for row, value in expected["near_duplicate"].items() if abs(value - cosine) < 3e-6
    }
    assert len(near) > 100
    assert set(same.index) - unsure == set(near) - unsure
    for row, score in same["score"].items():
        assert score == pytest.approx(expected["near_duplicate"][row], abs=1e-6)
    assert not found.duplicated(["row", "kind"]).any()
    members = hierarchy.memberships()
    # What an item is like lies in the same cluster, before it.
    for row, of in zip(same.index.tolist(), same["duplicate_of"].tolist(), strict=True):
        own, kept = members.iloc[row], members.iloc[of]
        assert (kept["distance_1"], of) < (own["distance_1"], row)
        assert kept["level_1"] == own["level_1"]


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupted_call_resumes_with_what_it_had_not_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "BLOCK_BYTES", 2_000 * 96)
    store = make_run(str(tmp_path / "run"), Made(8_000, (40, 5)))
    whole = Hierarchy(store).flags()
    done: list[int] = []

    def interrupted(blocks: Any, n_items: int, *options: Any) -> Iterator[pa.Table]:
        if len(done) == 20:
            raise KeyboardInterrupt
        done.append(n_items)
        return flag_cluster(blocks, n_items, *options)

    monkeypatch.setattr("hercules_scale.stages.flags.flag_cluster", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Hierarchy(store).flags()
    commits = store.list_files("_work/commits/flags/found")
    assert commits
    begun = len(done)

    def counted(blocks: Any, n_items: int, *options: Any) -> Iterator[pa.Table]:
        done.append(n_items)
        return flag_cluster(blocks, n_items, *options)

    monkeypatch.setattr("hercules_scale.stages.flags.flag_cluster", counted)
    assert Hierarchy(store).flags().equals(whole)
    assert begun <= len(done) < begun + 40
    assert store.list_files("_work/flags") == []
    assert store.list_files("_work/commits/flags") == []


def test_the_table_is_part_of_the_run_and_replaces_an_earlier_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_run(str(tmp_path / "run"), Made(3_000, (8, 3)))
    before = published_files(store)
    hierarchy = Hierarchy(store)
    first = hierarchy.flags(cosine=0.999)
    assert main(["flags", store.uri, "--cosine", "0.9999", "--share", "0.005"]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = Hierarchy(store).table("flags")
    assert len(found) < len(first)
    for line, kind in zip(lines, ("outlier", "ambiguous", "near_duplicate"), strict=False):
        own = found[found["kind"] == kind]
        n_clusters = own["cluster_id"].nunique()
        assert line.split()[:2] == [kind, f"{len(own):,}"]
        assert f" in {n_clusters} cluster" in line
    assert lines[-1] == f"written: {store.uri}/flags"
    assert any(line.startswith("! ") and "fewer than 200 items" in line for line in lines)
    after = published_files(store)
    assert {name: after[name] for name in before} == before
    assert store.list_files("flags") == [file.path for file in after["flags"]]
    record = json.loads(store.read_bytes(layout.RUN))
    assert record["rows"]["flags"] == len(found)
    # The hierarchy that was open before reads the new table too.
    assert len(hierarchy.table("flags")) == len(found)
    (file,) = after["flags"]
    hierarchy.flags(cosine=0.9999, share=0.005)
    (again,) = published_files(store)["flags"]
    assert (again.sha256, again.rows) == (file.sha256, file.rows)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"cosine": 0}, "cosine must be above 0 and at most 1, got 0"),
        ({"cosine": 1.5}, "cosine must be above 0 and at most 1, got 1.5"),
        ({"cosine": math.nan}, "cosine must be above 0 and at most 1, got nan"),
        ({"share": 0}, "share must be above 0 and at most 0.5, got 0"),
        ({"share": 0.6}, "share must be above 0 and at most 0.5, got 0.6"),
    ],
)
def test_numbers_out_of_bounds_are_refused_and_nothing_is_written(
    options: dict[str, float], line: str, tmp_path: Path
) -> None:
    store = make_run(str(tmp_path / "run"), Made(200, (4, 2)))
    files = store.list_sizes("")
    with pytest.raises(InputError) as raised:
        Hierarchy(store).flags(**options)
    assert str(raised.value) == line
    assert store.list_sizes("") == files


def test_a_run_that_cannot_be_flagged_is_refused_with_one_line(tmp_path: Path) -> None:
    store = make_run(str(tmp_path / "run"), Made(200, (4, 2)))
    with pytest.raises(InputError, match="holds no run"):
        job.flag_run(Store(str(tmp_path / "none")), None, None, QUIET)
    manifest = json.loads(store.read_bytes(layout.MANIFEST))
    for table, line in (
        ("memberships", "holds no table 'memberships'"),
        # As ``assign`` leaves it.
        ("clusters", "holds items that were put into the clusters of another run"),
    ):
        tables = {name: files for name, files in manifest["tables"].items() if name != table}
        store.write_bytes(layout.MANIFEST, json.dumps(manifest | {"tables": tables}).encode())
        with pytest.raises(InputError, match=line):
            job.flag_run(store, None, None, QUIET)
        store.write_bytes(layout.MANIFEST, json.dumps(manifest).encode())


def test_kinds_that_a_run_cannot_have_are_left_out_with_the_reason(tmp_path: Path) -> None:
    numeric = make_run(str(tmp_path / "numeric"), Made(1_000, (4, 2), modality="numeric"))
    flagged = job.flag_run(numeric, None, None, QUIET)
    assert flagged.counts["near_duplicate"].items == 0 < flagged.counts["outlier"].items
    assert any("near_duplicate is left out, since items are rows of n" in n for n in flagged.notes)
    with pytest.raises(InputError, match="rows of numbers, which cosines do not compare; leave"):
        job.flag_run(numeric, 0.9, None, QUIET)
    one = make_run(str(tmp_path / "one"), Made(1_000, (1,)))
    change(one, "memberships", "margin_1", [None] * 1_000)
    flagged = job.flag_run(one, None, None, QUIET)
    assert flagged.counts["ambiguous"].items == 0
    assert flagged.counts["outlier"].items == 10
    assert flagged.notes == ["ambiguous is left out, since the finest level has one cluster"]


def test_an_imported_run_without_vectors_has_no_flags(
    model: dict[str, Any],
    imported: Any,
) -> None:
    for each in model["clusters"]:
        each["representation_vector"] = None
    hierarchy = imported(model)
    assert len(hierarchy.flags(share=0.5)) == 0
    with pytest.raises(InputError, match="the run has no table embeddings; leave cosine out"):
        hierarchy.flags(cosine=0.9)


@pytest.mark.s3
def test_an_object_store_gets_the_same_flags_and_cut_as_a_disk(tmp_path: Path, s3: str) -> None:
    local = Hierarchy(make_run(str(tmp_path / "run"), Made(3_000, (8, 4, 3))))
    remote = Hierarchy(make_run(f"{s3}/flagged", Made(3_000, (8, 4, 3))))
    assert remote.flags(cosine=0.999).equals(local.flags(cosine=0.999))
    assert remote.cut(6).equals(local.cut(6))
    local.to_csv(str(tmp_path / "items.csv"), about=6)
    remote.to_csv(f"{s3}/flagged.csv", about=6)
    assert Store(s3).read_bytes("flagged.csv") == (tmp_path / "items.csv").read_bytes()
