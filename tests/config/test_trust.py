"""A run that somebody else made is data: it names no path, server or function that counts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.made_run import Made, make_run
from hercules_scale.commands.cli import main
from hercules_scale.commands.show_prompt import show_prompt
from hercules_scale.config.file import parse_config
from hercules_scale.config.resources import StorageConfig
from hercules_scale.errors import InputError
from hercules_scale.hierarchy import Hierarchy
from hercules_scale.jobs.assign import NEEDED, assign
from hercules_scale.jobs.evaluate import evaluate_run
from hercules_scale.storage import layout
from hercules_scale.storage.manifest import Commit, read_commits, read_run, to_json, write_commit
from hercules_scale.storage.store import Store, use_options
from hercules_scale.storage.tables import FileRecord
from tests.conftest import small_config


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "theirs"
    make_run(str(folder), Made(200, (8, 3)))

    def add_tables(values: dict[str, Any]) -> None:
        for table in NEEDED:
            file = FileRecord(layout.part(table, 0), 1, 1, "")
            values["tables"].setdefault(table, [file.__dict__])

    change(folder / layout.MANIFEST, add_tables)
    return folder


def change(file: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    values = json.loads(file.read_text())
    edit(values)
    file.write_text(json.dumps(values))


PATHS = [
    "../victim",
    "/etc/passwd",
    "evaluations/../../victim",
    "_work/x",
    "evaluations",
    "items/a",
]


@pytest.mark.parametrize("path", PATHS)
def test_a_manifest_names_files_of_its_own_tables_alone(finished: Path, path: str) -> None:
    victim = finished.parent / "victim"
    victim.mkdir()
    (victim / "mine.txt").write_text("mine")

    def edit(values: dict[str, Any]) -> None:
        record = FileRecord(path, 1, 1, "").__dict__
        values["tables"]["evaluations"] = [record]

    change(finished / layout.MANIFEST, edit)
    with pytest.raises(InputError, match=r"_manifest\.json: ValueError: path .* must be a file in"):
        evaluate_run(str(finished))
    with pytest.raises(InputError, match="must be a file in evaluations"):
        Hierarchy.open(str(finished))
    assert (victim / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b'{"tables": 3}', b'{"tables": {"../x": []}}', b'{"tables": {"items": [{}]}}'],
)
def test_a_manifest_of_another_form_is_one_line_that_names_it(finished: Path, data: bytes) -> None:
    (finished / layout.MANIFEST).write_bytes(data)
    with pytest.raises(InputError, match=r"_manifest\.json: "):
        Hierarchy.open(str(finished))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'"a"', "must hold a JSON object, got str"),
        (b"{}", "fingerprint must be 16 hexadecimal digits, got 'None'"),
        (to_json({"fingerprint": "../../victim2"}), "fingerprint must be 16 hexadecimal digits"),
        (to_json({"fingerprint": "a" * 16, "assigned_to": "../a"}), "assigned_to must be 16 hex"),
        (to_json({"fingerprint": "a" * 16}), "holds no configuration"),
        (
            to_json({"fingerprint": "a" * 16, "config": {}, "stages": [{"name": "../../x"}]}),
            "stages must have a name and how far each is",
        ),
    ],
)
def test_a_record_of_another_form_is_one_line_that_names_it(
    tmp_path: Path, data: bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(str(tmp_path))
    store.write_bytes(layout.RUN, data)
    with pytest.raises(InputError, match=rf"run\.json: {re.escape(message)}"):
        read_run(store)
    for command in ("status", "show", "evaluate"):
        assert main([command, str(tmp_path)]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_commits_that_cannot_be_read_or_lead_elsewhere_count_as_absent(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    write_commit(store, "embed", Commit(0, "f", [FileRecord("items/a.parquet", 1, 1, "")]))
    write_commit(store, "embed", Commit(1, "f", [FileRecord("../a.parquet", 1, 1, "")]))
    for shard, data in enumerate([b"", b"null", b'{"shard": 2}', b'{"sha'], start=2):
        store.write_bytes(layout.commit("embed", shard, 0), data)
    assert list(read_commits(store, "embed", "f")) == [0]


def name_endpoint(values: dict[str, Any]) -> None:
    values["config"]["storage"] = {"endpoint": "http://evil:9000"}


def name_function(values: dict[str, Any]) -> None:
    values["config"]["privacy"] = {"redact": "antigravity:geohash"}


def test_assign_asks_no_server_that_the_run_alone_names(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "STORAGE_EMULATOR_HOST"):
        monkeypatch.delenv(name, raising=False)
    change(finished / layout.RUN, name_endpoint)
    with pytest.raises(InputError, match=r"--set storage\.endpoint=http://evil:9000 if you trust"):
        assign(str(finished), {"path": "s3://bucket/a.parquet"}, str(tmp_path / "out"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    use_options(StorageConfig(retry_seconds=0, anonymous=True))
    try:
        with pytest.raises(Exception, match=r"127\.0\.0\.1:9"):
            assign(str(finished), {"path": "s3://bucket/a.parquet"}, str(tmp_path / "out"))
    finally:
        use_options(StorageConfig())


def test_no_function_is_called_that_the_run_alone_names(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(finished / layout.RUN, name_function)
    (tmp_path / "a.csv").write_text("text\na ferry\n")
    out = str(tmp_path / "out")
    arguments = ["assign", str(finished), str(tmp_path / "a.csv"), "--output", out]
    for more, said in (
        ([], "and this call does not; a run may be"),
        (["--redact", "a:b"], "and this call names 'a:b'; a run may be"),
    ):
        assert main([*arguments, *more]) == 2
        error = capsys.readouterr().err
        assert "the run names privacy.redact 'antigravity:geohash'" in error
        assert said in error
        assert "add --redact antigravity:geohash if you trust it" in error
    assert not Path(out).exists()
    asked = ["evaluate", str(finished), "--judge", "--judge-engine", "openai", "--judge-model", "m"]
    assert main(asked) == 2
    assert "add --redact antigravity:geohash" in capsys.readouterr().err
    values = small_config(tmp_path / "a.csv", finished)
    with pytest.raises(InputError, match=r"--set privacy\.redact=antigravity"):
        show_prompt(parse_config(values), 1, 0)


def test_a_judge_at_an_endpoint_of_the_run_is_asked_for_by_the_caller(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def edit(values: dict[str, Any]) -> None:
        theirs = {"engine": "openai", "model": "m", "endpoint": "http://evil/v1"}
        values["config"]["summaries"] |= theirs

    change(finished / layout.RUN, edit)
    assert main(["evaluate", str(finished), "--judge"]) == 2
    assert "add --endpoint http://evil/v1 if you trust it" in capsys.readouterr().err
