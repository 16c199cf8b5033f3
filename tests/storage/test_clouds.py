"""Google's and Azure's storage, as emulators on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

from hercules_scale.commands.cli import main
from hercules_scale.config.resources import StorageConfig
from hercules_scale.errors import InputError
from hercules_scale.reading.listing import list_sources
from hercules_scale.reading.sources import check_unchanged
from hercules_scale.storage.manifest import published_files
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import read_rows, read_table, write_table
from tests.cloud_servers import CONTAINER, azure_storage, google_storage


@pytest.fixture(scope="module", params=["gs", pytest.param("az", marks=pytest.mark.slow)], ids=str)
def cloud(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, azure_port: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The URI of a bucket and the section ``storage`` for it."""
    folder = tmp_path_factory.mktemp("cloud")
    if request.param == "gs":
        with google_storage(folder) as storage:
            yield f"gs://{CONTAINER}", {**storage, "anonymous": True}
    else:
        with azure_storage(folder, azure_port) as storage:
            yield f"az://{CONTAINER}", storage


@pytest.fixture
def options(cloud: tuple[str, dict[str, Any]]) -> StorageConfig:
    return StorageConfig(**cloud[1])


def test_small_files_are_written_read_made_once_listed_and_deleted(
    cloud: tuple[str, dict[str, Any]], options: StorageConfig
) -> None:
    store = Store(f"{cloud[0]}/small", options)
    assert not store.exists("a")
    assert store.list_files("a") == []
    store.write_bytes("a/b", b"old and long")
    store.write_bytes("a/b", b"\x00\xff")
    assert store.read_bytes("a/b") == b"\x00\xff"
    with pytest.raises(FileNotFoundError):
        store.read_bytes("a/c")
    assert store.create("mark", b"1")
    # The emulator of Google's storage takes no notice of conditions, which is noticed.
    assert store.create("mark", b"2") is not store.creates_conditionally
    assert store.creates_conditionally is (store.scheme == "az")
    assert store.list_sizes("") == {"a/b": 2, "mark": 1}
    assert store.exists("a")
    store.delete_files("a")
    assert store.list_files("") == ["mark"]


def test_tables_are_written_and_read_in_parts(
    cloud: tuple[str, dict[str, Any]], options: StorageConfig
) -> None:
    store = Store(f"{cloud[0]}/tables", options)
    numbers = np.random.default_rng(0).normal(size=300_000)
    table = pa.table({"x": numbers})
    file = write_table(store, "t/part.parquet", table)
    assert store.list_sizes("t") == {"t/part.parquet": file.size_bytes}
    assert read_table(store, "t/part.parquet").equals(table)
    part = read_rows(store, "t/part.parquet", 200_000, 200_007)
    assert part["x"].to_pylist() == numbers[200_000:200_007].tolist()
    assert store.read_range("t/part.parquet", 0, 4) == b"PAR1"


def test_a_changed_input_is_noticed(
    cloud: tuple[str, dict[str, Any]], options: StorageConfig
) -> None:
    store = Store(f"{cloud[0]}/input", options)
    found = []
    for text in (b"one\n", b"two\n"):
        store.write_bytes("texts.txt", text)
        for path in ("texts.txt", "", "*.txt"):
            (source,) = list_sources([f"{store.uri}/{path}".rstrip("/")], storage=options)
            assert (source.uri, source.size_bytes) == (f"{store.uri}/texts.txt", 4)
            check_unchanged([source])
        found.append(source.version)
    store.write_bytes("texts.txt", b"six\n")
    with pytest.raises(InputError, match=r"texts\.txt has changed \(version "):
        check_unchanged([source])
    assert len(set(found)) == 2
    assert all(found)


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_makes_the_tables_of_one_on_local_files(
    cloud: tuple[str, dict[str, Any]],
    options: StorageConfig,
    local_ray: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    uri, storage = cloud
    random = np.random.default_rng(0)
    groups = np.arange(3_000) % 5
    columns = {f"x{axis}": random.normal(size=3_000) + 6 * (groups == axis) for axis in range(5)}
    source = Store(f"{uri}/numbers", options)
    write_table(source, "numbers.parquet", pa.table(columns))
    outputs = (f"{uri}/run", str(tmp_path / "run"))
    for output in outputs:
        config = {
            "input": {"path": source.uri, "columns": list(columns)},
            "hierarchy": {"levels": [20, 5]},
            "summaries": {"engine": "keyphrases"},
            "storage": storage,
            "output": {"path": output},
        }
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
        code = main(["run", str(tmp_path / "run.yaml")])
        said = "".join(capsys.readouterr())
        assert code == 0, said
        unsafe = "two runs that start at once on this output may not notice each other"
        assert (unsafe in said) is output.startswith("gs://")
    one, other = (published_files(Store(output, options)) for output in outputs)
    assert one.keys() == other.keys()
    for name in ("clusters", "memberships", "reductions"):
        assert [file.sha256 for file in one[name]] == [file.sha256 for file in other[name]], name
