"""Ids that occur twice are found, each piece read once, whatever the buckets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from hercules_scale.stages import duplicate_ids as module
from hercules_scale.stages.duplicate_ids import _CheckWorker, _sorted, _SortWorker
from hercules_scale.storage import layout
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import write_table

N_PIECES = 3


def scanned(folder: Path, pieces: list[list[str]]) -> Store:
    store = Store(str(folder))
    for piece, ids in enumerate(pieces):
        write_table(
            store,
            layout.work_part("scanned", piece),
            pa.table({"item_id": pa.array(ids, pa.string())}),
        )
    return store


def check(store: Store, n_buckets: int, few: bool = False) -> tuple[int, set[str]]:
    for piece in () if few else range(N_PIECES):
        _SortWorker(store, "scanned", n_buckets)(piece)
    worker = _CheckWorker(store, "scanned", N_PIECES, n_buckets, few)
    found = [worker(bucket).info for bucket in range(n_buckets)]
    return sum(each["twice"] for each in found), {name for each in found for name in each["first"]}


@pytest.mark.parametrize(("n_buckets", "few"), [(1, True), (1, False), (2, False), (7, False)])
def test_repeated_ids_are_counted_within_and_across_pieces(
    tmp_path: Path, n_buckets: int, few: bool
) -> None:
    names = [f"item-{number}" for number in range(300)]
    store = scanned(
        tmp_path, [names[:100], ["item-7", *names[100:200]], [*names[200:], "item-250"]]
    )
    assert check(store, n_buckets, few) == (2, {"item-7", "item-250"})
    once = scanned(tmp_path / "b", [names[:9], [], names[9:]])
    assert check(once, n_buckets, few) == (0, set())


def test_different_ids_of_one_hash_are_no_repetition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_hash", lambda ids: np.full(len(ids), 2**63, np.uint64))
    store = scanned(tmp_path, [["a", "b"], ["c"], ["d", "a"]])
    assert check(store, 2) == (1, {"a"})


def test_buckets_read_every_hash_once(tmp_path: Path) -> None:
    store = scanned(tmp_path, [[f"{piece}-{number}" for number in range(50)] for piece in range(3)])
    check(store, 5)
    assert len(store.read_bytes(_sorted(1))) == 8 * (5 + 1 + 50)
    worker = _CheckWorker(store, "scanned", N_PIECES, 5, few=False)
    read = [len(worker._hashes(1, bucket)) for bucket in range(5)]
    assert sum(read) == 50
    assert max(read) < 50
