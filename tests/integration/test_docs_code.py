"""Commands and code of the README and docs, run as they stand there, on a bucket and a folder."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from hercules_scale import Hierarchy
from hercules_scale.commands.cli import main
from hercules_scale.storage.store import Store
from tests.conftest import small_config
from tests.integration.endpoints import Form, serve
from tests.test_docs import PAGES, blocks

pytestmark = [pytest.mark.ray, pytest.mark.s3, pytest.mark.slow]
READING = Path(__file__).parents[2] / "docs" / "reading.md"
RUN = "s3://bucket/runs/news"
# Examples of this run depend on its clusters, which take a model of minutes; ``tests/results`` and
# ``tests/jobs`` test their commands.
DEMO = "runs/demo"
N_ITEMS = 160
# Its clusters would be more than the items here.
HERCULES = re.compile(r"Hercules\(\[[\d, ]+\]")


def commands() -> list[list[str]]:
    """Arguments of every command of the pages, each once, in their order."""
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    lines = [
        line.replace("s3://BUCKET/news", RUN).replace("http://minio:9000", endpoint)
        for page in PAGES
        for block in blocks(page, "")
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("hercules-scale ") and DEMO not in line
    ]
    found = [shlex.split(line, comments=True)[1:] for line in dict.fromkeys(lines)]
    # What is made of another command's output comes after it.
    return sorted(found, key=lambda each: each[0] == "import")


@pytest.fixture(scope="module")
def folder(
    s3: str, icd: pa.Table, local_ray: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A user's folder with a configuration, and what its run left on the bucket and beside it."""
    folder = tmp_path_factory.mktemp("docs")
    items = icd.slice(0, N_ITEMS).append_column("topic", icd.slice(0, N_ITEMS)["chapter"])
    for name, table in (("news/a", items), ("news-of-today/a", items.slice(0, 20))):
        store = Store("s3://bucket")
        pq.write_table(table, store.path(f"{name}.parquet"), filesystem=store.arrow)
    config = small_config("s3://bucket/news/", RUN, hierarchy={"levels": [40, 20, 5]})
    config["input"]["label_columns"] = ["topic"]
    config["summaries"]["candidates"] = 1
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("news.yaml").write_text(yaml.safe_dump(config))
        trees = small_config("s3://bucket/news/", "s3://bucket/runs/diseases")
        words = {"organ": ["lung", "gut", "skin"], "kind": ["infection", "injury", "tumour"]}
        trees["criteria"] = {
            name: {"criterion": f"which {name} it has", "words": each}
            for name, each in words.items()
        }
        Path("diseases.yaml").write_text(yaml.safe_dump(trees))
        assert main(["plan", "news.yaml"]) == 0
        assert main(["run", "news.yaml"]) == 0
        remote = Store(RUN)
        for name in ("runs/news", "runs/other"):
            remote.fsspec.get(remote.root, str(folder / name), recursive=True)
        # An earlier run.
        before = Store("s3://bucket/runs/march")
        before.fsspec.put(str(folder / "runs/news"), before.root, recursive=True)
        assert main(["export", "runs/news", "--format", "json", "--layout", "pyhercules"]) == 0
        shutil.copy("news.pyhercules.json", "model.json")
        yield folder


def test_every_command_of_the_docs_does_what_it_says(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    done = set()
    with serve(Form()) as endpoint:
        monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
        for arguments in commands():
            # Those are run where there is a cluster.
            if arguments[0] == "submit":
                continue
            # Every export writes a file that is not there.
            for path in folder.glob("news.*"):
                if path.suffix != ".yaml":
                    path.unlink()
            if arguments[0] == "explore":
                assert address_of(arguments).startswith("http://")
            else:
                assert main(arguments) == 0, (arguments, capsys.readouterr().err)
            done.add(arguments[0])
    assert done == {
        *("plan", "run", "status", "show", "evaluate", "flags", "align", "assign"),
        *("explore", "export", "import"),
    }
    assert len(Hierarchy.open("runs/theirs").clusters()) == 65


def test_every_block_of_python_runs(
    folder: Path, icd: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    some = icd.slice(0, N_ITEMS)
    names = {
        "texts": some["text"].to_pylist(),
        "data": some["text"].to_pylist(),
        "frame": some.select(["text"]).to_pandas(),
        "ask": lambda prompt: '{"title": "Codes", "description": "Codes of diseases."}',
        "vectors": lambda texts: np.random.default_rng(0).normal(size=(len(texts), 8)),
        "y": some["chapter"].to_pylist(),
        "hierarchy": Hierarchy.open(RUN),
    }
    pages = [page for page in PAGES if page != READING]
    assert sum(len(blocks(page, "python")) for page in pages) >= 5
    for page in pages:
        for block in blocks(page, "python"):
            if DEMO in block:
                continue
            assert ".explore(" not in block or ".explore()" in block
            # Key phrases in the place of a model that takes minutes.
            short = HERCULES.sub("Hercules([12, 4, 2]", block).replace("[50, 10]", "[10, 3]")
            short = short.replace('topic="news")', 'summaries="keyphrases")')
            short = short.replace('summaries="smollm2-135m"', 'summaries="keyphrases"')
            short = short.replace("llm=ask", "levels=[4, 2], llm=ask")
            short = short.replace(".explore()", ".explore().stop()")
            exec(compile(short, page.name, "exec"), names)


def queries() -> dict[str, str]:
    """The code of each section of the page on reading."""
    found = re.findall(r"^## (\w+)\n.*?^```python\n(.*?)^```", READING.read_text(), re.M | re.S)
    return dict(found)


def execute(section: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(queries()[section], f"docs/reading.md {section}", "exec"), names)
    return names


def test_duckdb_pandas_and_polars_read_a_run_on_s3(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A Spark is not at hand.
    assert queries().keys() == {"DuckDB", "pandas", "Polars", "Spark"}
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    hierarchy = Hierarchy.open(RUN)
    clusters, memberships = hierarchy.clusters(), hierarchy.memberships()
    fine = clusters[clusters.level == 1].set_index("cluster_id")
    top = clusters[clusters.level == 2].set_index("cluster_id")

    found = execute("DuckDB")
    assert list(found["largest"].n_items) == sorted(fine.n_items, reverse=True)[:10]
    own = memberships[memberships.level_1 == found["largest"].cluster_id[0]]
    assert list(found["items"].item_id) == list(own.sort_values(["distance_1", "row"]).item_id)
    assert list(found["paths"].item_id) == list(memberships.item_id)
    assert list(found["paths"].fine) == list(fine.title[memberships.level_1])
    assert list(found["paths"].top) == list(top.title[memberships.level_2])

    found = execute("pandas")
    assert list(found["titled"].title) == list(fine.title[memberships.level_1])
    assert found["unsure"].margin_1.iloc[0] == memberships.margin_1.min()
    assert found["share"].sum() == pytest.approx(1)

    found = execute("Polars")
    assert found["summary"]["items"].to_list() == sorted(top.n_items, reverse=True)
    assert found["summary"]["title"].to_list() == list(top.title[found["summary"]["level_2"]])
    assert found["matrix"].shape == (100, 384)


def test_storage_that_the_command_line_names_reaches_every_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = f"storage.endpoint={os.environ['AWS_ENDPOINT_URL']}"
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    for command in (
        ["status", RUN],
        ["show", RUN],
        ["evaluate", RUN],
        ["export", RUN, "--format", "csv", "--output", "s3://bucket/named.csv"],
    ):
        assert main([*command, "--set", named]) == 0


def address_of(arguments: list[str]) -> str:
    """The address that an explorer prints, which is then stopped; its port is any."""
    kept = [each for each in arguments if each not in ("--host", "0.0.0.0", "--port", "80")]
    program = [sys.executable, "-m", "hercules_scale", *kept, "--port", "0"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as explorer:
        try:
            assert explorer.stdout is not None
            return explorer.stdout.readline().split()[1]
        finally:
            explorer.kill()
