"""Files, modules and variables that are sent with a job."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from hercules_scale.commands.cli import _parse, _spec_of, main
from hercules_scale.commands.job_files import pack
from hercules_scale.commands.job_spec import spec_of_command
from hercules_scale.commands.submit import _environment
from hercules_scale.runtime.job_environment import (
    VERSIONS_VARIABLE,
    describe_differences,
    versions,
)

ADDRESS = ("--address", "http://127.0.0.1:1")


def configured(folder: Path, **summaries: object) -> Path:
    config = folder / "c.yaml"
    values = {
        "input": {"path": "s3://b/in"},
        "summaries": {"engine": "keyphrases", **summaries},
        "privacy": {"redact": "own_redaction:mask"},
        "output": {"path": "s3://b/out"},
    }
    config.write_text(yaml.safe_dump(values))
    return config


def test_modules_and_vocabularies_of_this_machine_go_with_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_redaction.py").write_text("def mask(text): return text")
    (tmp_path / "words.txt").write_text("ferry\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    config = configured(tmp_path, vocabulary=str(tmp_path / "words.txt"))
    spec = _spec_of(_parse(["submit", str(config), *ADDRESS]))
    assert spec.arguments == ("run", "run.yaml")
    folder = tmp_path / "job"
    folder.mkdir()
    secrets = pack(folder, spec, {"A": "b"})
    assert json.loads((folder / secrets).read_text()) == {"A": "b"}
    assert (folder / "own_redaction.py").read_text() == "def mask(text): return text"
    assert (folder / "vocabulary.txt").read_text() == "ferry\n"
    sent = yaml.safe_load((folder / "run.yaml").read_text())
    assert sent["summaries"]["vocabulary"] == "vocabulary.txt"
    assert (folder / "hercules_scale" / "__main__.py").exists()
    sys.modules.pop("own_redaction", None)


def test_installed_modules_do_not_go_with_a_run(tmp_path: Path) -> None:
    for name in ("numpy.linalg:norm", "json:loads", "not_there:any"):
        folder = tmp_path / name.partition(":")[0]
        folder.mkdir()
        pack(folder, spec_of_command(["evaluate", "s3://b/out"], "s3://b/out", name), {})
        assert {path.name.partition("-")[0] for path in folder.iterdir()} == {
            "hercules_scale",
            "environment",
        }


def test_other_commands_are_submitted_with_their_own_arguments(tmp_path: Path) -> None:
    def spec(*arguments: str) -> tuple[tuple[str, ...], str]:
        found = _spec_of(_parse(["submit", *arguments]))
        return found.arguments, found.run_id

    evaluate = spec("evaluate", *ADDRESS, "s3://b/out", "--labels", "kind")
    assert evaluate[0] == ("evaluate", "s3://b/out", "--labels", "kind")
    assign, assign_id = spec("assign", "s3://b/out", "s3://b/new", "--output", "s3://b/a", *ADDRESS)
    assert assign == ("assign", "s3://b/out", "s3://b/new", "--output", "s3://b/a")
    assert len({evaluate[1], assign_id, spec("evaluate", "s3://b/out", *ADDRESS)[1]}) == 3
    config = configured(tmp_path)
    serve, serve_id = spec("serve", str(config), "--port", "9000", *ADDRESS)
    assert serve == ("serve", "run.yaml", "--port", "9000")
    assert serve_id != spec(str(config), *ADDRESS)[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["submit", "assign", "s3://b/out", *ADDRESS], "the following arguments are required"),
        (
            ["submit", "evaluate", "s3://b/out", "--what", *ADDRESS],
            "unrecognized arguments: --what",
        ),
        (["submit", "c.yaml", "more", *ADDRESS], "unrecognized arguments: more"),
        (["show", "s3://b/out", "--what"], "unrecognized arguments: --what"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_sent(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_variables_that_are_named_go_besides_the_usual_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "HF_TOKEN", "OWN"):
        monkeypatch.setenv(name, name.lower())
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("HTTP_PROXY", "http://user@127.0.0.1:3128")
    usual = _environment([])
    assert (
        usual.items() >= {"AWS_ACCESS_KEY_ID": "aws_access_key_id", "HF_TOKEN": "hf_token"}.items()
    )
    assert usual["HTTPS_PROXY"] == "http://proxy.example:3128"
    # Nothing listens there on a node.
    assert "HTTP_PROXY" not in usual
    assert _environment(["OWN"]) == {**usual, "OWN": "own"}
    assert _environment(None) == {}


def test_versions_that_differ_are_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert describe_differences() == ""
    here = versions()
    monkeypatch.setenv(VERSIONS_VARIABLE, json.dumps(here))
    assert describe_differences() == ""
    other = {**here, "Python": "3.9.1", "ray": "1.0", "more": "2"}
    monkeypatch.setenv(VERSIONS_VARIABLE, json.dumps(other))
    assert describe_differences() == (
        f"the cluster has Python {here['Python']} instead of 3.9.1, ray {here['ray']} instead of "
        "1.0"
    )
