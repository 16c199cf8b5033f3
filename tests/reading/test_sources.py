import os
import time
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hercules_scale.errors import InputError
from hercules_scale.reading import input_pieces as module
from hercules_scale.reading.input_pieces import split_into_pieces
from hercules_scale.reading.listing import list_sources
from hercules_scale.reading.sources import SourceFile, changed_files, check_unchanged
from hercules_scale.storage.store import Store


def make(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"text\na\n")


def found(folder: Path, *paths: str) -> list[str]:
    listed = list_sources([f"{folder}/{path}" for path in paths])
    return [source.uri.removeprefix(f"{folder}/") for source in listed]


def parquet(folder: Path, rows: int, row_group_size: int) -> SourceFile:
    table = pa.table({"text": [str(row) for row in range(rows)]})
    pq.write_table(table, folder / "t.parquet", row_group_size=row_group_size)
    return list_sources([str(folder / "t.parquet")])[0]


def test_a_file_a_folder_and_a_glob_are_listed_in_order(tmp_path: Path) -> None:
    make(tmp_path, "b.csv", "a.csv", "deep/c.csv", "other.txt")
    assert found(tmp_path, "b.csv") == ["b.csv"]
    assert found(tmp_path, "deep") == ["deep/c.csv"]
    assert found(tmp_path, "deep/") == ["deep/c.csv"]
    assert found(tmp_path, "[ab].csv") == ["a.csv", "b.csv"]
    assert found(tmp_path, "?.csv", "deep/*.csv") == ["a.csv", "b.csv", "deep/c.csv"]
    assert found(tmp_path, "deep/c.csv", "a.csv") == ["deep/c.csv", "a.csv"]


def test_a_source_says_its_format_size_and_place(tmp_path: Path) -> None:
    make(tmp_path, "deep/a.csv")
    (source,) = list_sources([str(tmp_path)])
    assert (source.format, source.size_bytes) == ("csv", 7)
    assert source.uri == f"{tmp_path}/deep/a.csv"


def test_a_relative_path_is_listed_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "in/a.csv", "here/x.csv")
    monkeypatch.chdir(tmp_path / "here")
    assert Path(list_sources(["../in"])[0].uri).read_bytes() == b"text\na\n"
    assert [source.name for source in list_sources(["*.csv"])] == ["x.csv"]


def test_a_changed_file_has_another_version(tmp_path: Path) -> None:
    make(tmp_path, "a.csv")
    before = list_sources([str(tmp_path)])[0]
    (tmp_path / "a.csv").write_bytes(b"text\nb\n")
    assert list_sources([str(tmp_path)])[0] != before


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.parquet", "parquet"),
        ("a.pq", "parquet"),
        ("a.csv", "csv"),
        ("A.CSV", "csv"),
        ("a.csv.gz", "csv"),
        ("a.jsonl", "jsonl"),
        ("a.ndjson.gz", "jsonl"),
        ("a.txt", "txt"),
        ("a.txt.gz", "txt"),
    ],
)
def test_the_format_follows_from_the_name(tmp_path: Path, name: str, expected: str) -> None:
    make(tmp_path, name)
    assert list_sources([str(tmp_path)])[0].format == expected


@pytest.mark.parametrize("name", ["a.xlsx", "a.yaml", "a", "a.parquet.gz", "a.gz"])
def test_an_unknown_extension_lists_the_known_ones(tmp_path: Path, name: str) -> None:
    make(tmp_path, name)
    with pytest.raises(InputError, match=rf"{name}: the format must be one of .parquet, .pq, .csv"):
        list_sources([str(tmp_path)])


def test_markers_and_hidden_files_are_no_data(tmp_path: Path) -> None:
    make(tmp_path, "a.csv", "_SUCCESS", ".a.csv.crc", "_work/b.csv", ".git/c.csv")
    assert found(tmp_path, "") == ["a.csv"]


def test_mixed_formats_are_refused(tmp_path: Path) -> None:
    make(tmp_path, "a.csv", "b.txt")
    with pytest.raises(
        InputError, match=r"one format, got csv \(a\.csv\) and txt \(b\.txt\); give a glob"
    ):
        list_sources([str(tmp_path)])


@pytest.mark.parametrize("path", ["none.csv", "none/", "*.pq", "empty"])
def test_a_path_that_names_nothing_is_refused(tmp_path: Path, path: str) -> None:
    make(tmp_path, "a.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="names no file; give a file, folder or glob"):
        list_sources([f"{tmp_path}/{path}"])


@pytest.mark.parametrize("second", ["deep/a.csv", "deep", "*/a.csv"])
def test_a_file_named_twice_is_refused(tmp_path: Path, second: str) -> None:
    make(tmp_path, "deep/a.csv")
    with pytest.raises(InputError, match=r"names .*/deep/a\.csv twice; name each file once"):
        list_sources([str(tmp_path), f"{tmp_path}/{second}"])


def test_a_file_of_lines_is_one_piece(tmp_path: Path) -> None:
    make(tmp_path, "a.csv")
    (piece,) = split_into_pieces(list_sources([str(tmp_path)]))
    assert (piece.row_groups, piece.first_row) == (None, 0)


def test_row_groups_are_gathered_into_pieces_that_cover_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PIECE_ROWS", 7)
    pieces = split_into_pieces([parquet(tmp_path, rows=20, row_group_size=3)])
    assert [piece.row_groups for piece in pieces] == [(0, 1), (2, 3), (4, 5), (6,)]
    assert [piece.first_row for piece in pieces] == [0, 6, 12, 18]


def test_a_row_group_larger_than_a_piece_stays_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PIECE_ROWS", 2)
    pieces = split_into_pieces([parquet(tmp_path, rows=10, row_group_size=5)])
    assert [(piece.row_groups, piece.first_row) for piece in pieces] == [((0,), 0), ((1,), 5)]


def test_pieces_are_limited_in_bytes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE_BYTES", 1)
    pieces = split_into_pieces([parquet(tmp_path, rows=9, row_group_size=3)])
    assert [piece.first_row for piece in pieces] == [0, 3, 6]


@pytest.mark.parametrize("keep", [0, 3, 50, -20])
def test_a_cut_off_parquet_file_is_refused(tmp_path: Path, keep: int) -> None:
    source = parquet(tmp_path, rows=9, row_group_size=3)
    path = tmp_path / "t.parquet"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"t\.parquet: cannot be read as Parquet .* replace the"):
        split_into_pieces([source])


def write_again(path: Path, data: bytes) -> None:
    """Other content of the same length, with the old time of change."""
    before = path.stat()
    # File systems count time in steps of some milliseconds.
    time.sleep(0.02)
    assert len(data) == before.st_size
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_files_that_are_as_they_were_are_read_to_the_end(tmp_path: Path) -> None:
    make(tmp_path, *(f"{number}.csv" for number in range(20)))
    listed = list_sources([str(tmp_path)])
    make(tmp_path, "new.csv", "new.txt")
    check_unchanged(listed)
    check_unchanged(listed[:3])


@pytest.mark.parametrize("n_files", [1, 20])
@pytest.mark.parametrize("linked", [False, True])
def test_a_file_of_other_content_but_equal_length_and_time_has_changed(
    tmp_path: Path, linked: bool, n_files: int
) -> None:
    make(tmp_path, "targets/0.csv")
    names = [f"in/{number}.csv" for number in range(n_files)]
    make(tmp_path, *names)
    if linked:
        (tmp_path / names[0]).unlink()
        (tmp_path / names[0]).symlink_to(tmp_path / "targets/0.csv")
    listed = list_sources([f"{tmp_path}/in"])
    write_again(tmp_path / names[0], b"text\nb\n")
    assert list_sources([f"{tmp_path}/in"])[0].version == listed[0].version
    told = r"must not change while it is read, but the input file \S+/in/0.csv has changed \(ctime_"
    with pytest.raises(InputError, match=told):
        check_unchanged(listed)


def test_a_change_is_said_by_what_differs(tmp_path: Path) -> None:
    make(tmp_path, "a.csv", "b.csv")
    listed = list_sources([str(tmp_path)])
    (tmp_path / "a.csv").write_bytes(b"text\nlonger\n")
    (tmp_path / "b.csv").unlink()
    with pytest.raises(InputError, match=r"b\.csv is gone; the input file \S+a\.csv has changed"):
        check_unchanged(listed)
    (tmp_path / "b.csv").symlink_to(tmp_path / "none.csv")
    with pytest.raises(
        InputError, match=r"size_bytes 7.* now .*size_bytes 12.*; run again with an"
    ):
        check_unchanged(listed)


def test_what_a_record_does_not_say_of_a_file_is_not_compared(tmp_path: Path) -> None:
    make(tmp_path, "a.csv")
    new = asdict(list_sources([str(tmp_path)])[0])
    older = {key: value for key, value in new.items() if key != "state"}
    assert changed_files([older], [new]) == []
    assert changed_files([older | {"size_bytes": 6}], [new])[0].endswith(
        "has changed (size_bytes 6 before, now size_bytes 7)"
    )
    # Another machine has numbers and times of its own, but for the time of the content.
    elsewhere = new["state"] | {"host": "elsewhere", "ctime_ns": 1, "inode": 1}
    assert changed_files([new | {"state": elsewhere}], [new]) == []
    assert changed_files([new | {"state": elsewhere | {"mtime_ns": 1}}], [new])


def test_an_object_that_is_written_anew_has_changed(s3: str) -> None:
    store = Store(f"{s3}/changing")
    store.write_bytes("a.csv", b"text\na\n")
    for path in (store.uri, f"{store.uri}/a.csv", f"{store.uri}/*.csv"):
        listed = list_sources([path])
        check_unchanged(listed)
    store.write_bytes("a.csv", b"text\nb\n")
    with pytest.raises(InputError, match=r"s3://bucket/changing/a\.csv has changed \(version "):
        check_unchanged(listed)
    store.delete_files("a.csv")
    with pytest.raises(InputError, match=r"the input file s3://bucket/changing/a\.csv is gone"):
        check_unchanged(listed)
