"""How a run starts over what an output holds, and ends without what it needs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hercules_scale import __version__
from hercules_scale.config.file import parse_config
from hercules_scale.errors import ManifestMismatchError
from hercules_scale.jobs import run_record
from hercules_scale.jobs.cluster import run
from hercules_scale.reading.listing import list_sources
from hercules_scale.runtime.context import RunContext
from hercules_scale.runtime.progress import Reporter
from hercules_scale.storage import layout
from hercules_scale.storage.json_records import to_json
from hercules_scale.storage.run_file import FORMAT
from hercules_scale.storage.store import Store
from tests.conftest import resolved


@pytest.mark.parametrize("recorded", [{}, {"format": FORMAT + 1}])
def test_an_unfinished_run_of_another_format_is_refused_with_one_line(
    recorded: dict[str, int], tmp_path: Path
) -> None:
    (tmp_path / "items.txt").write_text("a ferry\nan aeroplane\na tram\n")
    versions = {"hercules-scale": "0.0.9"}
    record = {
        "fingerprint": "1" * 16,
        "config": {"input": {}},
        "status": "running",
        "started_at": "",
        "versions": versions,
        "inputs": [],
        **recorded,
    }
    Store(str(tmp_path / "run")).write_bytes(layout.RUN, to_json(record))
    values = {
        "input": {"path": str(tmp_path / "items.txt")},
        "hierarchy": {"levels": [2]},
        "summaries": {"engine": "keyphrases"},
        "output": {"path": str(tmp_path / "run")},
    }
    told = (
        rf"holds an unfinished run with files of format {recorded.get('format', 0)}, by "
        rf"hercules-scale 0\.0\.9, and this is {__version__} with format {FORMAT}; finish it with "
        "the version that began it, give another output, or remove the old one$"
    )
    with pytest.raises(ManifestMismatchError, match=told):
        run(parse_config(values))
    assert not (tmp_path / "run" / layout.PROGRESS).exists()


def test_a_run_is_resumed_over_the_input_that_it_recorded(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text\na\nb\n")
    config = resolved({"input": {"path": str(path)}, "output": {"path": str(tmp_path / "run")}})
    store, sources = Store(config.output.path), list_sources([str(path)])
    of_run = run_record.fingerprint_of(config, sources, None)
    record = run_record.new_record(RunContext(config, store, of_run, Reporter()), sources, None)
    older = [{key: file[key] for key in file.keys() - {"state"}} for file in record["inputs"]]
    for inputs in (record["inputs"], older):
        store.write_bytes(layout.RUN, to_json(record | {"inputs": inputs, "status": "running"}))
        assert run_record.earlier_run(store, config, sources, of_run, None)
    # Equal length, the old time: a version that recorded nothing else cannot tell.
    before = path.stat()
    path.write_text("text\nc\nd\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    sources = list_sources([str(path)])
    assert run_record.fingerprint_of(config, sources, None) == of_run
    assert run_record.earlier_run(store, config, sources, of_run, None)
    store.write_bytes(layout.RUN, to_json(record | {"status": "running"}))
    with pytest.raises(
        ManifestMismatchError, match=r"file \S+t\.csv has changed \(ctime_ns \d+ be"
    ):
        run_record.earlier_run(store, config, sources, of_run, None)
