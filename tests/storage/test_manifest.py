from pathlib import Path

import pytest

from hercules_scale.errors import InputError
from hercules_scale.storage import layout
from hercules_scale.storage.manifest import (
    Commit,
    fingerprint,
    publish,
    published_files,
    read_commits,
    write_commit,
)
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import FileRecord

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


def test_a_half_written_commit_does_not_count(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write_bytes(layout.commit("embed", 0) + ".0123.tmp", b'{"shard": 0, "finger')
    assert read_commits(store, "embed", "f") == {}


def test_published_files_are_those_of_the_manifest(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    publish(store, {"items": [FILE], "labels": []}, "f")
    assert published_files(store) == {"items": [FILE], "labels": []}


def test_a_run_that_is_not_finished_says_so(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write_bytes(layout.RUN, b"{}")
    with pytest.raises(InputError, match="the run is not finished; run it again, it resumes"):
        published_files(store)


def test_a_place_without_a_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run; give the output path of a finished run"):
        published_files(Store(str(tmp_path)))
