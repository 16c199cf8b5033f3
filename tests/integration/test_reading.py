"""The queries of docs/reading.md, run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hercules_scale import Hierarchy
from hercules_scale.config.file import parse_config
from hercules_scale.jobs.cluster import run
from tests.conftest import small_config

pytestmark = [pytest.mark.ray, pytest.mark.s3, pytest.mark.slow]
PAGE = Path(__file__).parents[2] / "docs" / "reading.md"


def blocks() -> dict[str, str]:
    """The code of each section."""
    found = re.findall(r"^## (\w+)\n.*?^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    return dict(found)


def execute(section: str, uri: str) -> dict[str, Any]:
    code = blocks()[section].replace("s3://bucket/runs/news", uri)
    assert uri in code
    names: dict[str, Any] = {}
    exec(compile(code, f"docs/reading.md {section}", "exec"), names)
    return names


def test_every_section_has_a_query_that_compiles() -> None:
    assert blocks().keys() == {"DuckDB", "pandas", "Polars", "Spark"}
    for section, code in blocks().items():
        compile(code, section, "exec")


def test_duckdb_pandas_and_polars_read_a_run_on_s3(
    s3: str, icd: pa.Table, tmp_path: Path, local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    pq.write_table(icd.slice(0, 300), tmp_path / "icd.parquet")
    uri = f"{s3}/reading"
    run(parse_config(small_config(tmp_path / "icd.parquet", uri)))
    hierarchy = Hierarchy.open(uri)
    clusters, memberships = hierarchy.clusters(), hierarchy.memberships()
    fine = clusters[clusters.level == 1].set_index("cluster_id")
    top = clusters[clusters.level == 2].set_index("cluster_id")

    found = execute("DuckDB", uri)
    assert list(found["largest"].n_items) == sorted(fine.n_items, reverse=True)[:10]
    own = memberships[memberships.level_1 == found["largest"].cluster_id[0]]
    assert list(found["items"].item_id) == list(own.sort_values(["distance_1", "row"]).item_id)
    assert list(found["paths"].item_id) == list(memberships.item_id)
    assert list(found["paths"].fine) == list(fine.title[memberships.level_1])
    assert list(found["paths"].top) == list(top.title[memberships.level_2])

    found = execute("pandas", uri)
    assert list(found["titled"].title) == list(fine.title[memberships.level_1])
    assert found["unsure"].margin_1.iloc[0] == memberships.margin_1.min()
    assert found["share"].sum() == pytest.approx(1)

    found = execute("Polars", uri)
    assert found["summary"]["items"].to_list() == sorted(top.n_items, reverse=True)
    assert found["summary"]["title"].to_list() == list(top.title[found["summary"]["level_2"]])
    assert found["matrix"].shape == (100, 384)
