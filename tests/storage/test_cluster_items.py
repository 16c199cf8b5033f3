from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from hercules_scale.storage import cluster_items, layout
from hercules_scale.storage.cluster_items import (
    Source,
    TreeOrder,
    from_bytes,
    write_part,
    write_range,
)
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import (
    FileRecord,
    memberships_table,
    read_tables,
    vector_column,
    write_table,
)

# Clusters 0 to 3 of level 1 under 1, 0, 1, 0 of level 2, with so many items each.
PARENTS, SIZES = [1, 0, 1, 0], [40, 3, 0, 57]


def clusters() -> pa.Table:
    return pa.table(
        {
            "level": pa.array([2, 2, 1, 1, 1, 1], pa.int16()),
            "cluster_id": pa.array([0, 1, 0, 1, 2, 3], pa.int32()),
            "parent_cluster_id": pa.array([None, None, *PARENTS], pa.int32()),
            "n_items": pa.array([60, 40, *SIZES], pa.int64()),
        }
    )


def test_the_items_of_a_cluster_of_any_level_lie_side_by_side() -> None:
    order = TreeOrder.of(clusters())
    assert order.leaves.tolist() == [1, 3, 0, 2]
    assert order.spans[0].tolist() == [[60, 100], [0, 3], [100, 100], [3, 60]]
    assert order.spans[1].tolist() == [[0, 60], [60, 100]]


@pytest.mark.parametrize("known", [True, False])
def test_parts_merged_by_range_are_all_items_in_the_order_of_the_tree(
    known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_items, "PART_ROWS", 20)
    monkeypatch.setattr(cluster_items, "GROUP_ROWS", 4)
    store, random = Store(str(tmp_path)), np.random.default_rng(0)
    leaves = random.permutation(np.repeat(np.arange(4), SIZES)).astype(np.int32)
    labels = np.stack([leaves, np.array(PARENTS, np.int32)[leaves]], axis=1)
    # With ties, which the row decides.
    distances = random.integers(0, 9, (100, 2)).astype(np.float32)
    if not known:
        distances[:] = np.nan
    vectors = random.normal(size=(100, 5)).astype(np.float32)
    vectors[0] = 0
    files: dict[str, list[FileRecord]] = {"memberships": [], "items": [], "embeddings": []}
    for shard in range(10):
        rows = np.arange(10 * shard, 10 * shard + 10)
        ids = pa.array([f"item {row}" for row in rows])
        table = memberships_table(rows, ids, labels[rows], distances[rows], distances[rows])
        files["memberships"].append(write_table(store, layout.part("memberships", shard), table))
        items = pa.table({"description": ids, "petal": rows / 2, "row": rows})
        files["items"].append(write_table(store, layout.part("items", shard), items))
        own = pa.table({"row": rows, "embedding": vector_column(vectors[rows])})
        files["embeddings"].append(write_table(store, layout.part("embeddings", shard), own))
    source = Source.of(store, files, TreeOrder.of(clusters()), store)
    cuts = [write_part(source, part)[1] for part in range(len(source.parts()))]
    ranges = [write_range(source, number, cuts) for number in range(len(source.ranges()) - 1)]
    assert len(source.parts()) == 5
    assert len(ranges) == 3

    found = read_tables(store, [file.path for file in ranges])
    keys = np.nan_to_num(distances[:, 0])
    expected = np.lexsort((np.arange(100), keys, source.order.ranks[leaves]))
    assert found["row"].to_pylist() == expected.tolist()
    assert found["item_id"].to_pylist() == [f"item {row}" for row in expected]
    assert found["numbers"].to_pylist() == [[row / 2] for row in expected]
    largest = np.abs(vectors[expected]).max(axis=1, keepdims=True)
    assert (np.abs(from_bytes(found) - vectors[expected]) <= largest / 253).all()
    assert (from_bytes(found.slice(7, 9)) == from_bytes(found)[7:16]).all()


def test_parts_have_fewer_rows_where_vectors_are_long(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    table = pa.table({"embedding": vector_column(np.zeros((2, 2048), np.float32))})
    files = {
        "memberships": [FileRecord("memberships/part-000000.parquet", 2, 0, "")],
        "embeddings": [write_table(store, layout.part("embeddings", 0), table)],
    }
    source = Source.of(store, files, TreeOrder.of(clusters()), store)
    assert source.part_rows == cluster_items.PART_ROWS / 4
