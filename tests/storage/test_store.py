import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hercules_scale.config.resources import StorageConfig
from hercules_scale.errors import InputError
from hercules_scale.storage.file_systems import split_uri
from hercules_scale.storage.store import Store


def test_bytes_are_read_as_they_were_written(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "run"))
    store.write_bytes("a/b.json", b"\x00\xff")
    assert store.read_bytes("a/b.json") == b"\x00\xff"
    assert (tmp_path / "run" / "a" / "b.json").read_bytes() == b"\x00\xff"


def test_writing_again_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write_bytes("x", b"old and long")
    store.write_bytes("x", b"new")
    assert store.read_bytes("x") == b"new"
    assert store.list_files("") == ["x"]


def test_create_makes_a_file_once(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    assert store.create("folder/mark", b"first")
    assert not store.create("folder/mark", b"second")
    assert store.read_bytes("folder/mark") == b"first"


def test_files_are_listed_sorted_and_relative(tmp_path: Path) -> None:
    store = Store(f"{tmp_path}/run/")
    for name in ("t/b", "t/a/c", "s"):
        store.write_bytes(name, b"")
    assert store.list_files("t") == ["t/a/c", "t/b"]
    assert store.list_files("") == ["s", "t/a/c", "t/b"]
    assert store.list_files("nothing") == []


def test_a_path_with_dots_lists_relative_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    store = Store("../run")
    store.write_bytes("a/b", b"")
    assert store.list_files("a") == ["a/b"]
    assert (tmp_path / "run" / "a" / "b").exists()


def test_existence_is_told_of_files_and_folders(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write_bytes("a/b", b"")
    assert store.exists("a")
    assert store.exists("a/b")
    assert not store.exists("a/c")


def test_a_missing_file_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing"):
        Store(str(tmp_path)).read_bytes("nothing")


def test_a_large_file_is_streamed_into_a_new_folder(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with store.open_output("deep/er/file") as stream:
        stream.write(b"abc")
    assert store.read_bytes("deep/er/file") == b"abc"


def test_a_local_file_whose_writer_fails_does_not_appear(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write_bytes("file", b"old")

    def fail() -> None:
        with store.open_output("file") as stream:
            stream.write(b"half")
            raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        fail()
    assert store.read_bytes("file") == b"old"
    assert store.list_files("") == ["file"]


@pytest.mark.parametrize("write", ["write_bytes", "create", "open_output"])
def test_a_local_file_is_on_the_disk_before_it_has_its_name(
    write: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    done: list[str] = []

    def noted(name: str) -> None:
        real = getattr(os, name)

        def call(*arguments: Any, **options: Any) -> Any:
            if name == "fsync":
                written = Path(f"/proc/self/fd/{arguments[0]}").resolve()
                assert written.read_bytes() == b"new"
                assert written.name != "file"
            done.append(name)
            return real(*arguments, **options)

        monkeypatch.setattr(os, name, call)

    for name in ("fsync", "replace", "rename", "link"):
        noted(name)
    if write == "open_output":
        with store.open_output("file") as stream:
            stream.write(b"new")
    else:
        getattr(store, write)("file", b"new")
    assert store.read_bytes("file") == b"new"
    assert done[0] == "fsync"
    assert [name for name in done if name != "fsync"] in (["replace"], ["link"])


def test_what_a_killed_writer_left_is_no_data_and_is_deleted(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from hercules_scale.storage.store import Store
with Store(sys.argv[1]).open_output("items/part.parquet") as stream:
    stream.write(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code, tmp_path], check=False).returncode == -9
    (left,) = (tmp_path / "items").iterdir()
    assert left.name.startswith(".")
    assert left.suffix == ".tmp"
    Store(str(tmp_path)).delete_unfinished()
    assert list((tmp_path / "items").iterdir()) == []


def test_options_go_where_the_folder_goes(tmp_path: Path) -> None:
    options = StorageConfig(retry_seconds=7)
    store = Store(str(tmp_path), options)
    assert pickle.loads(pickle.dumps(store)).options == options
    assert Store(str(tmp_path)).options == StorageConfig()
    assert store.hasty.options.retry_seconds == 5


def test_the_endpoint_is_what_the_environment_says_now(monkeypatch: pytest.MonkeyPatch) -> None:
    # fsspec keeps file systems, and would give the one of before to who does not name the endpoint.
    for endpoint in ("http://127.0.0.1:1", "http://127.0.0.1:2"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        assert Store("s3://bucket").fsspec.endpoint_url == endpoint


def test_a_store_travels_to_a_worker(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write_bytes("x", b"1")
    again = pickle.loads(pickle.dumps(store))
    assert (again.uri, again.read_bytes("x")) == (store.uri, b"1")


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("/a/b", ("file", "/a/b")),
        ("file:///a/b", ("file", "/a/b")),
        ("~/b", ("file", str(Path.home() / "b"))),
        ("b", ("file", str(Path.cwd() / "b"))),
        ("s3://bucket/a", ("s3", "bucket/a")),
        ("gs://bucket/a", ("gs", "bucket/a")),
    ],
)
def test_a_uri_is_split_into_scheme_and_path(uri: str, expected: tuple[str, str]) -> None:
    assert split_uri(uri) == expected


def test_an_unknown_scheme_names_the_known_ones() -> None:
    with pytest.raises(InputError, match="scheme 'ftp' is not known; use a local path, s3://"):
        Store("ftp://host/folder")


def test_a_missing_package_is_named() -> None:
    # In a process of its own, since fsspec keeps what it has imported.
    script = """
import sys
sys.modules["gcsfs"] = None
from hercules_scale.storage.store import Store
try:
    Store("gs://bucket/run").exists("x")
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == (
        "InputError gs://bucket/run: reading gs:// needs the package gcsfs; install it\n"
    )


def test_a_relative_folder_is_the_same_for_workers_in_other_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mine", "theirs"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    sent = [pickle.dumps(Store(uri)) for uri in ("run", "./run/", "file://run", "/run")]
    monkeypatch.chdir(tmp_path / "theirs")
    mine = str(tmp_path / "mine" / "run")
    assert [pickle.loads(each).root for each in sent] == [mine, mine, mine, "/run"]
    assert pickle.loads(pickle.dumps(Store("/"))).root == Store("/").root
