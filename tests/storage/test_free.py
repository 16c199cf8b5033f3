"""A folder that holds something of the user's is never written into."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hercules_scale.commands.cli import main
from hercules_scale.config.file import parse_config
from hercules_scale.errors import InputError
from hercules_scale.jobs.preflight import check
from hercules_scale.storage import layout
from hercules_scale.storage.manifest import check_free
from hercules_scale.storage.store import Store

FOREIGN = ["notes.txt", "items/part-000000.parquet", ".hidden", "_work/mine.txt", "_SUCCESS"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("command", ["run", "plan", "import"])
def test_a_folder_with_other_things_is_refused_and_stays_as_it_is(
    name: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "output"
    (output / name).parent.mkdir(parents=True)
    (output / name).write_text("mine")
    (output / name).with_name(f".x.{'0' * 32}.tmp").write_text("mine")
    (tmp_path / "items.txt").write_text("a ferry\na tram\n")
    (tmp_path / "run.yaml").write_text(
        f"input: {{path: {tmp_path}/items.txt}}\nhierarchy: {{levels: [2]}}\n"
        f"summaries: {{engine: keyphrases}}\noutput: {{path: {output}}}\n"
    )
    before = contents(output)
    given = [command, str(tmp_path / "run.yaml")]
    assert main(given + ["--output", str(output)] * (command == "import")) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert "must be a new or empty folder, or hold this run, but it holds " in error
    assert "give another folder" in error
    assert contents(output) == before


@pytest.mark.parametrize(
    "path",
    [
        "{0}", "{0}/", "{0}/*", "{0}/**", "{0}/out*", "{0}/**/*.parquet", "{0}/*/*.parquet",
        "{0}/*/embeddings/*", "{0}/../data", "{0}/../*/*/*/part-*", "{0}/../link", "{0}/../link/*",
    ],
)  # fmt: skip
def test_an_output_in_the_input_is_refused(
    path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    if "parquet" in path or "part" in path or "embeddings" in path:
        folder = tmp_path / "data" / "old" / "embeddings"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"text": ["a ferry", "a tram"]}), folder / "part-1.parquet")
    else:
        (tmp_path / "data" / "items.txt").write_text("a ferry\na tram\n")
        (tmp_path / "data" / "out.txt").write_text("a ferry\na tram\n")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    (tmp_path / "run.yaml").write_text(
        f"input: {{path: '{path.format(tmp_path / 'data')}'}}\nhierarchy: {{levels: [2]}}\n"
        f"summaries: {{engine: keyphrases}}\noutput: {{path: {tmp_path}/data/output}}\n"
    )
    assert main(["plan", str(tmp_path / "run.yaml")]) == 2
    assert "lies in input.path" in capsys.readouterr().err
    assert not (tmp_path / "data" / "output").exists()


@pytest.mark.parametrize("output", ["data/x/../output", "link/output", "data/away/output"])
def test_an_output_in_the_input_by_another_way_is_refused(
    output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "items.txt").write_text("a ferry\na tram\n")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "away").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "run.yaml").write_text(
        f"input: {{path: {tmp_path}/data}}\nhierarchy: {{levels: [2]}}\n"
        f"summaries: {{engine: keyphrases}}\noutput: {{path: {tmp_path}/{output}}}\n"
    )
    assert main(["plan", str(tmp_path / "run.yaml")]) == 2
    assert "lies in input.path" in capsys.readouterr().err


def test_an_output_beside_the_files_of_a_glob_is_taken(tmp_path: Path) -> None:
    (tmp_path / "items.txt").write_text("a ferry\na tram\n")
    config = parse_config(
        {
            "input": {"path": f"{tmp_path}/*.txt"},
            "summaries": {"engine": "keyphrases"},
            "output": {"path": f"{tmp_path}/output"},
        }
    )
    assert len(check(config)[1]) == 1


def test_a_new_folder_an_empty_one_and_a_run_that_began_are_free(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    check_free(Store(str(tmp_path / "none")), "output.path")
    check_free(store, "output.path")
    store.write_bytes(layout.lock(1), b"{}")
    check_free(store, "output.path")
    store.write_bytes(layout.RUN, b"{}")
    store.write_bytes("notes.txt", b"")
    check_free(store, "output.path")


def test_only_what_our_writers_left_is_deleted(tmp_path: Path) -> None:
    ours = f".part-000000.parquet.{'0a' * 16}.tmp"
    kept = [".notes.tmp", f"notes/{ours}", "items/.part.tmp", "items/part.tmp", f"items/x{ours}"]
    gone = [f".run.json.{'0a' * 16}.tmp", f"items/{ours}", f"_work/commits/embed/{ours}"]
    for name in (*kept, *gone):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    Store(str(tmp_path)).delete_unfinished()
    assert sorted(Store(str(tmp_path)).list_files("")) == sorted(kept)


@pytest.mark.s3
def test_a_folder_of_a_bucket_that_holds_other_things_is_refused(s3: str) -> None:
    Store(f"{s3}/theirs").write_bytes("deep/notes.txt", b"mine")
    with pytest.raises(InputError, match="but it holds 'deep'; give another folder"):
        check_free(Store(f"{s3}/theirs"), "output.path")
    check_free(Store(f"{s3}/their"), "output.path")
    check_free(Store(f"{s3}/new"), "output.path")
