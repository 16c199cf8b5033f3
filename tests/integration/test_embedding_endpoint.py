"""Runs of which an endpoint embeds the items, by a server with the real minilm."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hercules_scale import Hierarchy
from hercules_scale.commands.plan import make_plan
from hercules_scale.config.file import parse_config
from hercules_scale.errors import ConfigError, InputError, StageError
from hercules_scale.jobs.assign import assign
from hercules_scale.jobs.cluster import run
from tests.conftest import small_config
from tests.embedding_server import KEY, MODEL, EmbeddingServer, embedding_server
from tests.integration import redactions

pytestmark = [pytest.mark.ray, pytest.mark.slow]
N_ITEMS = 300


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddingServer]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with embedding_server() as running:
        yield running


@pytest.fixture
def values(icd: pa.Table, tmp_path: Path, server: EmbeddingServer) -> dict[str, Any]:
    pq.write_table(icd.slice(0, N_ITEMS), tmp_path / "icd.parquet", row_group_size=50)
    embedding = {"engine": "openai", "model": MODEL, "endpoint": server.url, "dimensions": 128}
    return small_config(
        tmp_path / "icd.parquet",
        tmp_path / "run",
        embedding=embedding,
        hierarchy={"levels": [5, 2]},
        summaries={"engine": "keyphrases"},
    )


def with_embedding(values: dict[str, Any], **keys: object) -> dict[str, Any]:
    return {**values, "embedding": {**values["embedding"], **keys}}


def test_a_run_is_embedded_at_an_endpoint_planned_and_assigned_to(
    values: dict[str, Any], server: EmbeddingServer, local_ray: None, tmp_path: Path
) -> None:
    plan = make_plan(parse_config(with_embedding(values, price=0.02)))
    assert f"embedding: {MODEL} at {server.url}, 128 dimensions, about " in plan
    assert "tokens, about 0.0001 at the price given" in plan
    # No item has left the machine for a plan.
    assert set(server.texts) == {"Ready"}
    run(parse_config(values))
    hierarchy = Hierarchy.open(str(tmp_path / "run"))
    found = pq.read_table(tmp_path / "run/embeddings")
    texts = pq.read_table(tmp_path / "run/items")["text"].to_pylist()
    expected = server.encoder.encode(texts)[:, :128]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    vectors = np.stack(found["embedding"].to_numpy(zero_copy_only=False))
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["embedding_tokens"] == server.encoder.count_tokens(texts).sum()
    assert KEY not in (tmp_path / "run/run.json").read_text()
    # Labels too are embedded there.
    assert set(hierarchy.clusters()["title"]) <= {text.split(". ")[0] for text in server.texts}

    new = {"path": str(tmp_path / "icd.parquet")}
    with pytest.raises(InputError, match=r"names embedding\.endpoint .* --endpoint "):
        assign(str(tmp_path / "run"), new, str(tmp_path / "new"))
    assign(str(tmp_path / "run"), new, str(tmp_path / "new"), endpoints=[server.url])
    assigned = Hierarchy.open(str(tmp_path / "new")).memberships()
    assert (assigned["level_2"] == hierarchy.memberships()["level_2"]).mean() > 0.95


def test_a_budget_of_tokens_ends_a_run_and_more_resumes_it(
    values: dict[str, Any],
    server: EmbeddingServer,
    icd: pa.Table,
    local_ray: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hercules_scale.runtime.context.MIN_ENCODED_ROWS", 100)
    pq.write_table(icd.slice(0, 1_500), tmp_path / "icd.parquet")
    values["resources"] = {"workers": 1, "embed": {"workers": 1}}
    with pytest.raises(StageError, match=r"max_total_tokens is 500; give more, and run again"):
        run(parse_config(with_embedding(values, max_total_tokens=500)))
    n_before = len(server.texts)
    assert 100 < n_before < 1_000
    run(parse_config(with_embedding(values, max_total_tokens=1_000_000)))
    texts = pq.read_table(tmp_path / "run/items")["text"].to_pylist()
    # Of what was paid for before, shards that were under way alone are sent again.
    again = sum(server.texts.count(text) - texts.count(text) for text in set(texts))
    assert 0 <= again <= 300


def test_nothing_is_written_where_the_endpoint_refuses(
    values: dict[str, Any], local_ray: None, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"correct embedding\.model or embedding\.endpoint"):
        run(parse_config(with_embedding(values, model="ghost")))
    assert not (tmp_path / "run/run.json").exists()
    values["privacy"] = {"local_only": True}
    elsewhere = with_embedding(values, endpoint="https://models.example.com/v1")
    with pytest.raises(ConfigError, match=r"embedding\.endpoint is at models\.example\.com"):
        run(parse_config(elsewhere))


def test_texts_are_redacted_before_they_leave(
    values: dict[str, Any], server: EmbeddingServer, local_ray: None, tmp_path: Path
) -> None:
    rows = [{"code": str(row), "text": f"zqbert has a cold of kind {row}"} for row in range(60)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "icd.parquet")
    values["input"]["label_columns"] = []
    values["privacy"] = {"redact": f"{redactions.__name__}:mask_words"}
    run(parse_config(with_embedding(values, cache=str(tmp_path / "cache"))))
    assert sum("has a cold" in text for text in server.texts) >= 60
    assert not any("zq" in text for text in server.texts)
    # A run without redaction finds no vectors of redacted texts in the cache.
    values["privacy"], values["output"] = {}, {"path": str(tmp_path / "other")}
    run(parse_config(with_embedding(values, cache=str(tmp_path / "cache"))))
    assert sum("zqbert has a cold" in text for text in server.texts) >= 60
