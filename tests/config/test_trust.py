"""A run that somebody else made is data: it names no path, server or function that counts."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks.made_run import Made, make_run
from hercules_scale.api import Hercules
from hercules_scale.commands.cli import main
from hercules_scale.commands.show_prompt import show_prompt
from hercules_scale.config.file import parse_config
from hercules_scale.config.resources import StorageConfig
from hercules_scale.config.run import RunConfig
from hercules_scale.errors import InputError
from hercules_scale.hierarchy import Hierarchy
from hercules_scale.jobs.assign import NEEDED, assign
from hercules_scale.jobs.evaluate import EvaluatedRun, evaluate_run
from hercules_scale.runtime.progress import Reporter
from hercules_scale.storage import layout
from hercules_scale.storage.commits import Commit, read_commits, write_commit
from hercules_scale.storage.json_records import to_json
from hercules_scale.storage.run_file import read_run
from hercules_scale.storage.store import Store
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


BARE = {
    "fingerprint": "a" * 16,
    "config": {"input": {}},
    "status": "finished",
    "started_at": "",
    "versions": {},
    "inputs": [],
}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (dict.fromkeys(BARE.keys() - {"fingerprint", "config"}) | {"config": {}}, "status must be"),
        ({"config": {}}, "config.input must be an object, got 'None'"),
        ({"config": {"input": 3}}, "config.input must be an object, got '3'"),
        ({"config": {"input": {}, "privacy": []}}, "config.privacy must be an object"),
        ({"started_at": 3}, "started_at must be text, got '3'"),
        ({"versions": None}, "versions must be an object"),
        ({"inputs": [3]}, "inputs must be files with a name, got '3'"),
        ({"attempts": "x"}, "attempts must be a whole number"),
        ({"alarms": 3}, "alarms must be a list"),
        ({"rows": []}, "rows must be an object"),
        ({"stages": 3}, "stages must have a name"),
        ({"stages": [{"name": "a", "done": 1, "total": 1, "x": 1}]}, "stages must have a name"),
        ({}, "configuration: input.path is required"),
    ],
)
def test_a_record_that_lacks_what_every_run_has_is_one_line_that_names_it(
    changed: dict[str, Any], said: str, finished: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (finished / layout.RUN).write_bytes(to_json(BARE | changed))
    (tmp_path / "a.csv").write_text("text\na ferry\n")
    (tmp_path / "run.yaml").write_text(json.dumps(small_config(tmp_path / "a.csv", finished)))
    run, out = str(finished), str(tmp_path / "out")
    commands = [
        ["evaluate", run],
        ["assign", run, str(tmp_path / "a.csv"), "--output", out],
        ["plan", str(tmp_path / "run.yaml"), "--show-prompt", "1/0"],
    ]
    if changed:
        commands += [["status", run], ["export", run, "--format", "html", "--output", out]]
    for command in commands:
        assert main(command) == 2, command
        (line,) = capsys.readouterr().err.splitlines()
        assert f"run.json: {said}" in line
    assert not Path(out).exists()


@pytest.mark.parametrize("status", ["running", "failed", "finished", "x"])
@pytest.mark.parametrize("is_finished", [True, False])
def test_the_status_of_a_record_with_the_least_that_a_run_has_is_shown(
    status: str, is_finished: bool, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (finished / layout.RUN).write_bytes(to_json(BARE | {"status": status}))
    if not is_finished:
        (finished / layout.SUCCESS).unlink()
    assert main(["status", str(finished)]) == 0
    assert str(finished) in capsys.readouterr().out


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
    hasty = StorageConfig(retry_seconds=0, anonymous=True)
    section, output = {"path": "s3://bucket/a.parquet"}, str(tmp_path / "out")
    with pytest.raises(Exception, match=r"127\.0\.0\.1:9"):
        assign(str(finished), section, output, storage=hasty)


def test_evaluate_reaches_storage_as_the_caller_does(finished: Path) -> None:
    change(finished / layout.RUN, name_endpoint)
    run = EvaluatedRun.open(Store(str(finished)), Reporter(Console(quiet=True)))
    assert run.context.config.storage == StorageConfig()


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


def test_a_model_of_the_run_that_judges_is_asked_for_by_the_caller(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def edit(values: dict[str, Any]) -> None:
        values["config"]["summaries"] |= {"engine": "vllm", "model": "evil/judge"}

    change(finished / layout.RUN, edit)
    assert main(["evaluate", str(finished), "--judge"]) == 2
    assert "add --judge-model evil/judge if you trust it" in capsys.readouterr().err


@pytest.fixture
def items(tmp_path: Path) -> str:
    (tmp_path / "a.csv").write_text("text\na ferry\n")
    return str(tmp_path / "a.csv")


class CheckedError(Exception):
    """Nothing is loaded: the configuration would be checked and carried out now."""


@pytest.fixture
def configured(
    finished: Path, items: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., RunConfig]:
    """Gives the configuration that items are assigned by, once it is trusted."""

    def check(config: RunConfig, functions: object) -> None:
        raise CheckedError(config)

    monkeypatch.setattr("hercules_scale.jobs.assign.check", check)

    def assign_by(**given: Any) -> RunConfig:
        with pytest.raises(CheckedError) as caught:
            assign(str(finished), {"path": items}, str(tmp_path / "out"), **given)
        found: RunConfig = caught.value.args[0]
        return found

    return assign_by


def describe(values: dict[str, Any]) -> None:
    """Let a language model describe every item."""
    values["config"]["hierarchy"]["representation"] = "description"
    values["config"]["summaries"]["describe_items"] = True


@pytest.mark.parametrize("name", ["evil/model", "/tmp/evil", "~/evil"])
@pytest.mark.parametrize("section", ["embedding", "summaries"])
def test_assign_loads_no_model_that_the_run_alone_names(
    section: str, name: str, finished: Path, items: str, configured: Callable[..., RunConfig],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def edit(values: dict[str, Any]) -> None:
        values["config"]["embedding"]["model"] = "mpnet"
        values["config"]["summaries"]["engine"] = "vllm"
        values["config"][section]["model"] = name
        describe(values)

    change(finished / layout.RUN, edit)
    arguments = ["assign", str(finished), items, "--output", str(finished.parent / "out")]
    for more, said in (([], "this call does not"), (["--model", "a/b"], "this call names 'a/b'")):
        assert main([*arguments, *more]) == 2
        error = capsys.readouterr().err
        assert f"the run names {section}.model {name!r}, and {said}; a run may be" in error
        assert f"add --model {name} if you trust it" in error
    config = configured(models=["a/b", name])
    assert name in (config.embedding.model, config.summaries.model)


def test_models_of_a_run_that_assign_does_not_load_are_not_asked_for(
    finished: Path, configured: Callable[..., RunConfig]
) -> None:
    def edit(values: dict[str, Any]) -> None:
        values["config"]["embedding"] |= {"model": "minilm", "text_model": "evil/model"}
        values["config"]["summaries"] |= {"engine": "vllm", "model": "evil/model"}

    change(finished / layout.RUN, edit)
    assert configured().summaries.engine == "keyphrases"


def test_assign_reads_and_writes_no_other_place_that_the_run_names(
    finished: Path, configured: Callable[..., RunConfig]
) -> None:
    def edit(values: dict[str, Any]) -> None:
        values["config"]["embedding"]["cache"] = "s3://evil/cache"
        values["config"]["input"]["image_sources"] = ["https://evil/"]
        values["config"]["summaries"]["vocabulary"] = "/etc/passwd"

    change(finished / layout.RUN, edit)
    config = configured()
    assert config.embedding.cache is None
    assert config.input.image_sources == []
    assert config.summaries.vocabulary is None


def test_assign_asks_no_endpoint_that_the_run_alone_names(
    finished: Path, items: str, configured: Callable[..., RunConfig],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def edit(values: dict[str, Any]) -> None:
        theirs = {"engine": "openai", "model": "m", "endpoint": "http://evil/v1"}
        values["config"]["summaries"] |= theirs
        describe(values)

    change(finished / layout.RUN, edit)
    arguments = ["assign", str(finished), items, "--output", str(finished.parent / "out")]
    assert main(arguments) == 2
    assert "add --endpoint http://evil/v1 if you trust it" in capsys.readouterr().err
    assert main([*arguments, "--endpoint", "http://other/v1"]) == 2
    assert "this call names 'http://other/v1'" in capsys.readouterr().err
    assert configured(endpoints=["http://evil/v1"]).summaries.endpoint == "http://evil/v1"


def test_assign_embeds_at_no_endpoint_that_the_run_alone_names(
    finished: Path, items: str, configured: Callable[..., RunConfig],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def edit(values: dict[str, Any]) -> None:
        theirs = {"engine": "openai", "model": "m", "endpoint": "http://evil/v1"}
        values["config"]["input"]["modality"] = "text"
        values["config"]["embedding"] |= theirs

    change(finished / layout.RUN, edit)
    arguments = ["assign", str(finished), items, "--output", str(finished.parent / "out")]
    assert main(arguments) == 2
    assert "the run names embedding.endpoint 'http://evil/v1'" in capsys.readouterr().err


def test_what_fit_returned_knows_the_models_that_it_was_given(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[str, ...]] = []

    def assign_by(*arguments: Any, models: tuple[str, ...], **options: Any) -> None:
        given.append(models)
        raise CheckedError

    monkeypatch.setattr("hercules_scale.jobs.assign_to_frame.assign", assign_by)
    monkeypatch.setattr("hercules_scale.api.run", lambda *arguments: Store(str(finished)))
    monkeypatch.setattr("hercules_scale.api._labels", lambda *arguments: None)
    hierarchy = Hercules(embedding="own/model").fit(["a", "b"], output=str(finished))
    for each in (hierarchy, pickle.loads(pickle.dumps(hierarchy))):
        with pytest.raises(CheckedError):
            each.assign("new.csv")
    assert "own/model" in given[0]
    assert given[1] == given[0]
    with pytest.raises(CheckedError):
        Hierarchy.open(str(finished)).assign("new.csv", models=["own/model"])
    assert given[2] == ("own/model",)
