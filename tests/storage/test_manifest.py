import asyncio
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from benchmarks import made_run
from hercules_scale import Hierarchy
from hercules_scale.clustering.checkpoints import State
from hercules_scale.errors import InputError, StorageError
from hercules_scale.runtime.store_checkpoints import StoreCheckpoints
from hercules_scale.storage import layout
from hercules_scale.storage.commits import Commit, read_commits, whole_commits, write_commit
from hercules_scale.storage.json_records import fingerprint, to_json
from hercules_scale.storage.manifest import next_part, publish, published_files, replace_table
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import FileRecord, write_table
from hercules_scale.summarization.chat import Answer, ChatReply
from hercules_scale.summarization.ledger import Call, Ledger

FILE = FileRecord("items/part-000000.parquet", 3, 120, "ab" * 32)


def test_a_fingerprint_depends_on_values_and_not_on_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1, "b": [2]}) != fingerprint({"a": 1, "b": [3]})


def test_commits_are_read_by_shard_with_files_and_counts(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    commits = [Commit(shard, "f", [FILE], {"rows": shard}) for shard in (11, 2, 0)]
    for commit in commits:
        write_commit(store, "embed", commit)
    assert list(read_commits(store, "embed", "f").items()) == [
        (commit.shard, commit) for commit in reversed(commits)
    ]


def test_commits_of_another_configuration_or_stage_do_not_count(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    write_commit(store, "embed", Commit(0, "old"))
    assert read_commits(store, "embed", "new") == {}
    assert read_commits(store, "cluster", "old") == {}


def test_a_late_commit_of_one_that_was_taken_over_does_not_count(tmp_path: Path) -> None:
    late, owner = (Store(str(tmp_path), owner=number) for number in (3, 12))
    Store(str(tmp_path)).write_bytes(layout.lock(3), b"")
    write_commit(late, "embed", Commit(1, "f", info={"by": "late"}))
    assert read_commits(late, "embed", "f")[1].owner == 3
    Store(str(tmp_path)).write_bytes(layout.lock(12), b"")
    write_commit(owner, "embed", Commit(0, "f", info={"by": "owner"}))
    # Between its check and its write it was stopped for long.
    record = Path(late.path(layout.commit("embed", 0, 3)))
    record.write_bytes(to_json(asdict(Commit(0, "f", info={"by": "late"}, owner=3))))
    for store in (owner, late, Store(str(tmp_path))):
        found = read_commits(store, "embed", "f")
        assert {shard: each.info["by"] for shard, each in found.items()} == {0: "owner", 1: "late"}


def test_a_half_written_commit_does_not_count(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write_bytes(layout.commit("embed", 0, 1) + ".0123.tmp", b'{"shard": 0, "finger')
    assert read_commits(store, "embed", "f") == {}


def test_published_files_are_those_of_the_manifest(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    publish(store, {"items": [FILE], "labels": []}, "f")
    assert published_files(store) == {"items": [FILE], "labels": []}


def test_a_run_that_is_not_finished_says_so(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    stage = {"name": "embed", "done": 1024, "total": 5000, "unit": "items"}
    record = {
        "fingerprint": "f" * 16,
        "config": {"input": {}},
        "status": "running",
        "started_at": "",
        "versions": {},
        "inputs": [],
        "stages": [stage],
    }
    store.write_bytes(layout.RUN, to_json(record))
    match = r"not finished; run it again, it resumes \(stage embed, 1,024 of 5,000 items; more by"
    with pytest.raises(InputError, match=match):
        published_files(store)


def test_what_another_run_published_stays(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    publish(store, {"items": [FILE]}, "f")
    publish(store, {"items": [FILE]}, "f")
    with pytest.raises(StorageError, match="another run has published here meanwhile, and what"):
        publish(store, {"items": []}, "f")
    assert published_files(store) == {"items": [FILE]}


def test_a_publisher_that_was_stopped_before_the_mark_is_followed(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    publish(store, {"items": [FILE, FILE]}, "f")
    store.delete_files(layout.SUCCESS)
    publish(store, {"items": [FILE]}, "f")
    assert published_files(store) == {"items": [FILE]}


def test_what_a_killed_owner_left_of_a_table_goes_before_another_publishes(tmp_path: Path) -> None:
    store, table = Store(str(tmp_path)), pa.table({"row": [1]})
    names = [layout.part("llm_calls", 1, owner) for owner in (1, 3)]
    files = [write_table(store, name, table) for name in [*names, layout.part("items", 0)]]
    store.write_bytes("llm_calls/notes.txt", b"mine")
    store.write_bytes(layout.part("items", 1), b"of the caller, who reads the manifest")
    publish(store, {"items": files[2:], "llm_calls": files[1:2]}, "f")
    assert store.list_files("llm_calls") == ["llm_calls/notes.txt", names[1]]
    assert len(store.list_files("items")) == 2


def test_commits_hold_while_their_files_have_the_recorded_length(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    table = pa.table({"row": [1, 2, 3]})
    commits = {}
    for shard in range(4):
        file = write_table(store, layout.part("items", shard), table)
        kept = write_table(store, layout.work_part("other", shard), table)
        commits[shard] = Commit(shard, "f", [file], kept=[kept])
    assert whole_commits(store, commits) == (commits, [])
    store.delete_files(layout.part("items", 1))
    cut = layout.work_part("other", 2)
    store.write_bytes(cut, store.read_bytes(cut)[:-1])
    replaced = write_table(store, layout.part("items", 3), pa.table({"row": [1]}))
    lost = [layout.part("items", 1), cut, replaced.path]
    assert whole_commits(store, commits) == ({0: commits[0]}, lost)


def test_files_of_one_schema_have_one_checksum_of_it(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    schemas = [
        write_table(store, "t.parquet", table).schema
        for table in (pa.table({"a": [1]}), pa.table({"a": [2, 3]}), pa.table({"a": [1.0]}))
    ]
    assert schemas[0] == schemas[1] != schemas[2]


def test_a_place_without_a_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run; give the output path of a finished run"):
        published_files(Store(str(tmp_path)))


def test_a_reader_that_is_open_sees_a_table_that_was_replaced(
    tmp_path: Path,
) -> None:
    made_run.make_run(str(tmp_path), made_run.Made(200, (8, 3)))
    store = Store(str(tmp_path))
    store.write_bytes("evaluations/notes.txt", b"mine")
    reader = Hierarchy.open(str(tmp_path))
    before = reader.evaluations()
    for number in (1, 2, 3):
        table = pa.Table.from_pandas(before.assign(value=float(number)), preserve_index=False)
        part = next_part(store, "evaluations")
        assert part == number
        file = write_table(store, layout.part("evaluations", part), table)
        replace_table(store, "evaluations", [file])
        names = {layout.part("evaluations", number), "evaluations/notes.txt"}
        assert set(store.list_files("evaluations")) == names
        assert (reader.evaluations()["value"] == number).all()


def test_an_interrupted_call_leaves_a_file_whose_name_is_not_used_again(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    publish(store, {"items": [FILE]}, "f")
    store.write_bytes(layout.part("items", 7), b"")
    assert next_part(store, "items") == 8
    assert next_part(store, "llm_calls", 900) == 900
    replace_table(store, "items", [FileRecord(layout.part("items", 8), 1, 1, "")])
    assert store.list_files("items") == []


@pytest.mark.parametrize("data", [b"", b'{"fingerprint": "f", "tu', b"null", b"[]", b"{}", b"\xff"])
def test_a_state_of_a_loop_that_was_cut_off_counts_as_absent(data: bytes, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    state = State({"a": np.arange(3)}, {"iteration": 2})
    StoreCheckpoints(store, "f").save("loop", state, last=True)
    assert StoreCheckpoints(store, "f").load("loop") is not None
    store.write_bytes(layout.checkpoint("loop"), data)
    checkpoints = StoreCheckpoints(store, "f")
    assert checkpoints.load("loop") is None
    checkpoints.save("loop", state, last=True)
    found = StoreCheckpoints(store, "f").load("loop")
    assert found is not None
    assert dict(found.numbers) == {"iteration": 2}


@pytest.mark.parametrize("cut", [0, 1, 10, 200])
def test_calls_of_a_ledger_that_was_cut_off_count_as_absent(cut: int, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    ledger = Ledger(store)
    for prompt in ("first", "second"):
        call = Call(1, 0, 1, prompt, "m", 10, 5, 0.1, "ok")
        asyncio.run(ledger.add(call, ChatReply([Answer("a title", "stop")], 10, 5)))
    (path, *_) = sorted((tmp_path / "_work" / "ledger" / "clusters").iterdir())
    path.write_bytes(path.read_bytes()[:cut])
    again = Ledger(store)
    assert len(again.calls) == 1
    assert sum(again.find(prompt) is not None for prompt in ("first", "second")) == 1
