"""Cuts of the tree hold every item once, and have as many clusters as asked."""

from __future__ import annotations

import csv
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from benchmarks.made_run import Made, make_run
from hercules_scale import Hierarchy
from hercules_scale.commands.cli import main
from hercules_scale.errors import InputError
from hercules_scale.results.cut import bounds
from hercules_scale.storage.manifest import replace_table
from hercules_scale.storage.tables import read_table, write_table

# Level 2 has clusters with one child and with two, level 3 with three.
LEVELS = (8, 6, 2)


def made(path: Path, levels: tuple[int, ...] = LEVELS, n_items: int = 2_000) -> Hierarchy:
    return Hierarchy.open(make_run(str(path / "run"), Made(n_items, levels)).uri)


def planted(path: Path, levels: tuple[int, ...], **columns: list[Any]) -> Hierarchy:
    """A made run with other values in columns of ``clusters``, the finest level first."""
    store = make_run(str(path / "run"), Made(600, levels))
    (name,) = store.list_files("clusters")
    table = read_table(store, name)
    for column, values in columns.items():
        place = table.schema.get_field_index(column)
        field = table.schema.field(place)
        table = table.set_column(place, field, pa.array(values, field.type))
    replace_table(store, "clusters", [write_table(store, "clusters/part-000001.parquet", table)])
    return Hierarchy.open(store.uri)


def keys(cut: pd.DataFrame) -> list[str]:
    return [f"{row['level']}/{row['cluster_id']}" for row in cut.to_dict("records")]


def holders(hierarchy: Hierarchy, cut: pd.DataFrame) -> list[int]:
    """Of each item, the number of clusters of the cut that hold it."""
    members = hierarchy.memberships()
    of_item = np.zeros(len(members), int)
    for level, number in zip(cut["level"], cut["cluster_id"], strict=True):
        of_item += (members[f"level_{level}"] == number).to_numpy()
    return sorted(set(of_item.tolist()))


@pytest.mark.parametrize("levels", [LEVELS, (40, 12, 3), (60, 59, 20, 4), (30,)])
def test_every_number_gives_a_cut_within_a_tenth_or_one_line_with_a_number_that_does(
    levels: tuple[int, ...], tmp_path: Path
) -> None:
    hierarchy = made(tmp_path, levels)
    for about in range(1, levels[0] + 10):
        suggested = 0
        try:
            cut = hierarchy.cut(about)
        except InputError as error:
            suggested = int(str(error).rpartition(" ")[2])
            cut = hierarchy.cut(suggested)
        low, high = bounds(suggested or about)
        assert low <= len(cut) <= high
        assert holders(hierarchy, cut) == [1]
        assert cut["n_items"].sum() == 2_000
        assert math.isclose(cut["share"].sum(), 1)
        assert cut.equals(Hierarchy.open(hierarchy.uri).cut(suggested or about))


@pytest.mark.parametrize(
    ("scores", "divided"),
    [
        # 400 * (0.55 - 0.5) / 0.5 = 40 items beyond chance, and 200 * (0.95 - 0.5) / 0.5 = 180.
        ([0.5, 0.6, 0.9, 1.0, 0.8, 0.8], ["2/0", "1/2", "1/3"]),
        # 280 and 120: the larger one's labels hold well enough.
        ([0.9, 0.8, 0.8, 0.8, 0.8, 0.8], ["1/0", "1/1", "2/1"]),
        # A child without a score counts with 0.725, the mean: 80 and 90.
        ([0.6, 0.6, None, None, 0.8, 0.9], ["2/0", "1/2", "1/3"]),
        # Without scores: inertia falls by 88 and by 1.
        ([None] * 6, ["1/0", "1/1", "2/1"]),
    ],
)
def test_what_gains_most_is_divided_first(
    scores: list[float | None], divided: list[str], tmp_path: Path
) -> None:
    sizes, inertia = [200, 200, 100, 100, 400, 200], [1.0, 1.0, 5.0, 5.0, 90.0, 11.0]
    hierarchy = planted(tmp_path, (4, 2), n_items=sizes, summary_score=scores, inertia=inertia)
    assert keys(hierarchy.cut(3)) == divided


def test_without_scores_and_inertia_the_largest_is_divided(tmp_path: Path) -> None:
    hierarchy = planted(
        tmp_path,
        (4, 2),
        n_items=[50, 100, 200, 250, 150, 450],
        summary_score=[None] * 6,
        inertia=[0.0] * 6,
    )
    assert keys(hierarchy.cut(3)) == ["1/3", "1/2", "2/0"]


def test_the_cut_is_that_of_a_plain_search(tmp_path: Path) -> None:
    hierarchy = made(tmp_path, (40, 12, 3))
    clusters = hierarchy.clusters().set_index(["level", "cluster_id"], drop=False)
    children: dict[Any, list[Any]] = {}
    for key, row in clusters.iterrows():
        if row["level"] < 3:
            children.setdefault((row["level"] + 1, row["parent_cluster_id"]), []).append(key)

    def gain(key: Any) -> float:
        parts = children.get(key, [])
        chance = 1 / max(len(parts), 1)
        beyond: float = sum(
            clusters.loc[part, "n_items"] * (clusters.loc[part, "summary_score"] - chance)
            for part in parts
        )
        return beyond / (1 - chance)

    assert min(map(len, children.values())) > 1
    chosen = {(3, number) for number in range(3)}
    while len(chosen) < 20:
        best = max((key for key in chosen if key in children), key=gain)
        chosen = chosen - {best} | set(children[best])
    assert bounds(20)[0] <= len(chosen) <= bounds(20)[1]
    cut = hierarchy.cut(20)
    assert set(zip(cut["level"], cut["cluster_id"], strict=True)) == chosen


def test_a_cluster_with_one_child_is_divided_into_what_is_below_it_or_stays(
    tmp_path: Path,
) -> None:
    hierarchy = made(tmp_path)
    below = Counter(hierarchy.clusters(1)["parent_cluster_id"].tolist())
    only = [number for number in range(6) if below[number] == 1]
    assert len(only) == 4
    finest = hierarchy.cut(8)
    assert len(finest) == 8
    assert {f"2/{number}" for number in only} <= set(keys(finest))
    # Either name of the same items gives the coarser.
    (child,) = hierarchy.clusters(1).query(f"parent_cluster_id == {only[0]}")["cluster_id"]
    assert keys(hierarchy.cut(fine=f"1/{child}")) == keys(hierarchy.cut(fine=f"2/{only[0]}"))


def test_named_clusters_are_at_their_finest_level_and_the_rest_is_coarse(tmp_path: Path) -> None:
    hierarchy = made(tmp_path, (40, 12, 3))
    cut = hierarchy.cut(fine=["2/5"])
    fine = hierarchy.clusters(1).query("parent_cluster_id == 5")
    parent = hierarchy.clusters(2)["parent_cluster_id"][5]
    siblings = hierarchy.clusters(2).query(f"parent_cluster_id == {parent} and cluster_id != 5")
    expected = {f"1/{number}" for number in fine["cluster_id"]}
    expected |= {f"2/{number}" for number in siblings["cluster_id"]}
    expected |= {f"3/{number}" for number in range(3) if number != parent}
    assert set(keys(cut)) == expected
    assert holders(hierarchy, cut) == [1]
    whole = hierarchy.cut(20, fine="2/5")
    assert {f"1/{number}" for number in fine["cluster_id"]} < set(keys(whole))
    assert bounds(20)[0] <= len(whole) <= bounds(20)[1]
    with pytest.raises(InputError, match=rf"at least {len(cut)}, the clusters that fine leads to"):
        hierarchy.cut(4, fine="2/5")


def test_a_part_of_a_title_names_a_cluster_if_no_other_has_it(tmp_path: Path) -> None:
    titles = ["Billing of cards", "Late fees", "Refunds", "Returns (BILLING)", "Money", "Goods"]
    hierarchy = planted(tmp_path, (4, 2), title=titles)
    assert keys(hierarchy.cut(fine="FEES")) == keys(hierarchy.cut(fine="1/1"))
    assert keys(hierarchy.cut(fine="money")) == keys(hierarchy.cut(fine="2/0"))
    with pytest.raises(InputError, match=r"is in 2 titles: 1/0 'Billing of cards', 1/3 'Returns"):
        hierarchy.cut(fine="billing")
    # The whole title of one cluster is no part of another's.
    assert keys(hierarchy.cut(fine="returns (billing)")) == keys(hierarchy.cut(fine="1/3"))


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({}, "about must be a number of clusters, got none"),
        ({"about": 0}, "about must be at least 1 cluster, got 0"),
        ({"about": 1}, "at least 2, the clusters of the coarsest level, got 1"),
        # Nine, less a tenth, is more than eight.
        ({"about": 9}, "at most 8, the clusters of the finest level, got 9"),
        ({"about": 10}, "at most 8, the clusters of the finest level, got 10"),
        ({"fine": "2/6"}, "fine '2/6': level 2 has clusters 0 to 5"),
        ({"fine": "4/0"}, "fine '4/0': no such level"),
        ({"fine": "no title"}, "no title has 'no title'"),
        ({"fine": " "}, "no title has ' '"),
    ],
)
def test_what_no_cut_can_be_is_one_line(asked: dict[str, Any], line: str, tmp_path: Path) -> None:
    hierarchy = made(tmp_path)
    with pytest.raises(InputError) as raised:
        hierarchy.cut(**asked)
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)


def test_divisions_that_are_too_large_end_with_the_nearest_number(tmp_path: Path) -> None:
    hierarchy = made(tmp_path, (60, 2))
    with pytest.raises(InputError, match=r"about 10: no cut has 9 to 11 clusters.*about 2$"):
        hierarchy.cut(10)
    assert len(hierarchy.cut(30)) == 31


def test_the_printed_tree_marks_the_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hierarchy = made(tmp_path, (40, 12, 3))
    assert main(["show", hierarchy.uri, "--about", "12"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    cut = hierarchy.cut(12)
    marked = [line for line in lines if line.lstrip().startswith("* ")]
    assert [line.rpartition(" ")[2].rstrip(")") for line in marked] == keys(cut)
    assert last.startswith(f"{len(cut)} clusters, marked *")
    above = [line for line in lines if not line.lstrip().startswith("* ")]
    assert above
    assert not any(" 1/" in line for line in above)
    for other in (["--level", "1"], ["--depth", "1"], ["--cluster", "1/0"]):
        assert main(["show", hierarchy.uri, "--about", "12", *other]) == 2
        assert "exclude one another" in capsys.readouterr().err


def test_a_cut_is_written_as_clusters_and_as_items(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hierarchy = planted(tmp_path, (40, 12, 3), title=["=1+1", *map(str, range(54))])
    monkeypatch.chdir(tmp_path)
    options = ["export", hierarchy.uri, "--format", "csv", "--about", "20", "--fine", "1/0"]
    assert main(options) == 0
    assert main([*options, "--clusters"]) == 0
    cut = hierarchy.cut(20, "1/0")
    with Path("run.cut.csv").open(newline="", encoding="utf-8") as stream:
        clusters = list(csv.DictReader(stream))
    assert list(clusters[0]) == list(cut.columns)
    assert [f"{each['level']}/{each['cluster_id']}" for each in clusters] == keys(cut)
    assert "'=1+1" in {each["title"] for each in clusters}
    with Path("run.items.csv").open(newline="", encoding="utf-8") as stream:
        items = list(csv.DictReader(stream))
    assert list(items[0]) == ["row", "item_id", "level", "cluster_id", "title"]
    members = hierarchy.memberships()
    titles = {(each["level"], each["cluster_id"]): each["title"] for each in clusters}
    assert len(items) == len(members)
    for item, row in zip(items, members.to_dict("records"), strict=True):
        assert item["item_id"] == row["item_id"]
        assert int(item["cluster_id"]) == row[f"level_{item['level']}"]
        assert titles[item["level"], item["cluster_id"]] == item["title"]
    capsys.readouterr()
    assert main(options) == 2
    assert "exists" in capsys.readouterr().err
    assert main(["export", hierarchy.uri, "--format", "html", "--about", "20"]) == 2
    assert "--format csv alone" in capsys.readouterr().err
    assert main(["export", hierarchy.uri, "--format", "csv", "--clusters"]) == 2
    assert "--clusters goes with --about" in capsys.readouterr().err
