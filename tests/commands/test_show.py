"""The command ``show`` reads no more of a run than it shows."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks.made_run import Made, make_run
from hercules_scale import Hierarchy
from hercules_scale.commands.cli import main
from hercules_scale.commands.show import shown_tree
from hercules_scale.storage import layout
from hercules_scale.storage.manifest import published_files
from hercules_scale.storage.tables import read_table, write_table

GROUP_ROWS = 20


def spoil(path: Path, kept: set[int]) -> None:
    """Zero the pages of a Parquet file, except in some row groups."""
    metadata, data = pq.ParquetFile(path).metadata, bytearray(path.read_bytes())
    for number in set(range(metadata.num_row_groups)) - kept:
        group = metadata.row_group(number)
        for place in range(group.num_columns):
            column = group.column(place)
            start = column.dictionary_page_offset or column.data_page_offset
            length = column.total_compressed_size
            data[start : start + length] = bytes(length)
    path.write_bytes(data)


@pytest.mark.parametrize(("level", "cluster_id"), [(1, 3), (2, 1)])
def test_one_cluster_is_shown_by_the_row_groups_of_its_items_alone(
    level: int, cluster_id: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_run(str(tmp_path / "run"), Made(2_000, (8, 3)))
    (items,) = published_files(store)["items"]
    write_table(store, items.path, read_table(store, items.path), GROUP_ROWS)
    hierarchy = Hierarchy.open(store.uri)
    shown = hierarchy.exemplars(level, cluster_id)
    rows = hierarchy.clusters(level).iloc[cluster_id]["exemplar_rows"]
    kept = {row // GROUP_ROWS for row in rows}
    assert len(kept) < 2_000 / GROUP_ROWS / 4
    spoil(tmp_path / "run" / items.path, kept)
    with pytest.raises(OSError, match=r"."):
        hierarchy.table("items")
    assert main(["show", store.uri, "--cluster", f"{level}/{cluster_id}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(shown) == len(rows) > 0
    for item in shown:
        assert any(line.startswith(f"  {item['item_id']}: ") for line in lines)


@pytest.mark.parametrize(
    ("levels", "n_shown", "last"),
    [
        ((60, 12, 3), 15, "and 60 more: hercules-scale show "),
        ((40, 12), 52, " items, 1/"),
        ((200,), 60, "and 140 more: hercules-scale show "),
    ],
)
def test_a_run_ends_with_as_much_of_its_tree_as_a_screen_holds(
    levels: tuple[int, ...], n_shown: int, last: str, tmp_path: Path
) -> None:
    hierarchy = Hierarchy.open(make_run(str(tmp_path / "run"), Made(2_000, levels)).uri)
    lines = shown_tree(hierarchy).split("\n")
    assert len(lines) == n_shown + last.startswith("and")
    assert last in lines[-1]


def test_an_output_without_clusters_names_what_has_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_run(str(tmp_path / "run"), Made(200, (4,)))
    manifest = json.loads(store.read_bytes(layout.MANIFEST))
    # As ``assign`` leaves it.
    del manifest["tables"]["clusters"]
    store.write_bytes(layout.MANIFEST, json.dumps(manifest).encode())
    for command in (["show", store.uri], ["export", store.uri, "--format", "csv"]):
        assert main([*command]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "holds items that were put into the clusters of another run" in line
