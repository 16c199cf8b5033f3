"""Every modality with every engine: each cluster ends with a label and a status that is true."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_wine

from hercules_scale import Hierarchy
from hercules_scale.commands.cli import main
from hercules_scale.config.file import parse_config
from hercules_scale.jobs import cluster
from hercules_scale.jobs.cluster import run
from hercules_scale.models.names import resolve_chat_model
from hercules_scale.serving.vllm import serve_vllm
from hercules_scale.stages import judge
from hercules_scale.stages.label_options import NO_MODEL, WORDLESS
from hercules_scale.storage.tables import vector_column
from hercules_scale.summarization.chat import Model
from tests.integration.conftest import Endpoint

pytestmark = [pytest.mark.ray, pytest.mark.slow]

LEVELS = {"one": [4], "three": [5, 3, 2]}
N_TEXTS = 32
MODALITIES = ["text", "image", "numeric", "embedding", "wordless"]


@pytest.fixture(scope="module")
def inputs(icd: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The section ``input`` of each modality, over some forty items."""
    folder = tmp_path_factory.mktemp("inputs")
    pq.write_table(icd.slice(0, N_TEXTS), folder / "icd.parquet")
    pictures = folder / "pictures"
    pictures.mkdir()
    for row in range(36):
        name = ["red ferry", "green train", "blue plane"][row % 3]
        colour = [(250, row, 0), (0, 250, row), (row, 0, 250)][row % 3]
        Image.new("RGB", (32, 32), colour).save(pictures / f"{name} {row:02d}.png")
    load_wine(as_frame=True).data[::4].to_csv(folder / "wine.csv", index=False)
    vectors = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    words = [f"{animal} number {row}" for row, animal in enumerate(["cat", "crow"] * 20)]
    table = pa.table({"vector": vector_column(vectors), "words": words})
    pq.write_table(table, folder / "vectors.parquet")
    of_vectors = {"path": str(folder / "vectors.parquet"), "embedding_column": "vector"}
    return {
        "text": {"path": str(folder / "icd.parquet"), "text_column": "text"},
        "image": {"path": str(pictures)},
        "numeric": {"path": str(folder / "wine.csv")},
        "embedding": {**of_vectors, "modality": "embedding", "text_column": "words"},
        "wordless": {**of_vectors, "modality": "embedding"},
    }


def labelled(
    tmp_path: Path, source: dict[str, Any], levels: str, summaries: dict[str, Any]
) -> Hierarchy:
    """A finished run."""
    values = {
        "input": source,
        "hierarchy": {"levels": LEVELS[levels]},
        "summaries": summaries,
        "output": {"path": str(tmp_path / "run")},
    }
    run(parse_config(values))
    return Hierarchy.open(str(tmp_path / "run"))


def check_labels(hierarchy: Hierarchy, levels: str) -> pd.DataFrame:
    """The clusters, of which each has a label with the status of its sources."""
    clusters = hierarchy.clusters()
    assert clusters.groupby("level").size().tolist() == LEVELS[levels]
    assert (clusters["title"].str.len() > 0).all()
    assert (clusters["description"].str.len() > 0).all()
    assert not clusters["description"].str.contains("Key phrases:").any()
    ok = clusters["summary_status"] == "ok"
    assert set(clusters["summary_status"]) <= {"ok", "fallback"}
    assert (clusters["summary_source"][ok] == "model").all()
    assert clusters["summary_error"][ok].isna().all()
    assert (clusters["summary_error"][~ok].str.len() > 0).all()
    measured = hierarchy.evaluations().set_index(["level", "metric"])["value"]
    for level, own in clusters.groupby("level"):
        assert measured[level, "share_ok"] == (own["summary_status"] == "ok").mean()
        assert measured[level, "share_titles_by_model"] == (own["summary_source"] == "model").mean()
    assert hierarchy.run["summary_source"] == clusters["summary_source"].value_counts().to_dict()
    return clusters


# The real model goes through the other pairs.
@pytest.mark.parametrize(("candidates", "levels"), [(1, "one"), (4, "three")])
@pytest.mark.parametrize("modality", MODALITIES)
def test_an_endpoint_labels_everything(
    modality: str,
    candidates: int,
    levels: str,
    inputs: dict[str, dict[str, Any]],
    endpoint: Endpoint,
    local_ray: None,
    tmp_path: Path,
) -> None:
    summaries = {
        "engine": "openai", "model": "tester", "endpoint": endpoint.url, "candidates": candidates,
    }  # fmt: skip
    hierarchy = labelled(tmp_path, inputs[modality], levels, summaries)
    clusters = check_labels(hierarchy, levels)
    if modality == "wordless":
        # Nothing is known of the items that a model could put into words.
        assert endpoint.requests == []
        assert set(clusters["summary_error"]) == {WORDLESS}
        assert any("was not asked about" in alarm for alarm in hierarchy.run["alarms"])
    elif modality != "text" or candidates == 1:
        assert set(clusters["summary_status"]) == {"ok"}


@pytest.mark.parametrize(
    ("modality", "levels"), [("text", "one"), *((each, "three") for each in MODALITIES)]
)
def test_key_phrases_label_everything(
    modality: str,
    levels: str,
    inputs: dict[str, dict[str, Any]],
    local_ray: None,
    tmp_path: Path,
) -> None:
    hierarchy = labelled(tmp_path, inputs[modality], levels, {"engine": "keyphrases"})
    clusters = check_labels(hierarchy, levels)
    assert set(clusters["summary_source"]) == {"keyphrases"}
    assert set(clusters["summary_error"]) == {NO_MODEL}


@pytest.fixture(scope="module")
def served(local_ray: None) -> Iterator[Model]:
    """The small model on vLLM and Ray Serve, for all runs of this file."""
    from ray import serve

    values = {"input": {"path": "-"}, "output": {"path": "-"}}
    config = parse_config(values)
    source = resolve_chat_model(config.summaries.model)
    with serve_vllm(config, source, 0, "every_engine") as model:
        yield model
    # Serve's own actors would keep CPUs of the shared Ray.
    serve.shutdown()


# Its answers take most of the time of this file.
@pytest.mark.llm
@pytest.mark.parametrize(
    ("modality", "candidates", "levels"),
    [("text", 1, "three"), ("image", 4, "one"), ("numeric", 1, "three"), ("embedding", 4, "one")],
)
def test_the_real_model_labels_everything(
    modality: str,
    candidates: int,
    levels: str,
    inputs: dict[str, dict[str, Any]],
    served: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A run would serve the model for itself, which takes longer than all the rest.
    monkeypatch.setattr(cluster, "open_model", lambda context: nullcontext(served))
    # It invents much, and would be asked again and again, in long answers.
    summaries = {
        "candidates": candidates, "max_attempts": 1, "exemplars": 2, "max_answer_tokens": 64,
    }  # fmt: skip
    hierarchy = labelled(tmp_path, inputs[modality], levels, summaries)
    clusters = check_labels(hierarchy, levels)
    # A cluster with one child may have the question of the child's, which is asked once.
    assert hierarchy.run["tokens"]["calls"] >= LEVELS[levels][0]
    if modality != "text":
        assert (clusters["summary_source"] == "model").any()


@pytest.mark.llm
def test_the_real_model_judges_a_run(
    inputs: dict[str, dict[str, Any]],
    served: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(judge, "open_model", lambda context: nullcontext(served))
    monkeypatch.setattr(judge, "CODEBOOK_TOKENS", 300)
    hierarchy = labelled(tmp_path, inputs["text"], "one", {"engine": "keyphrases"})
    assert main(["evaluate", hierarchy.uri, "--judge-model", "smollm2-135m"]) == 2
    assert "--judge-model needs --judge; add it" in capsys.readouterr().err
    assert main(["evaluate", hierarchy.uri, "--judge"]) == 2
    assert "--judge needs a model, and the engine is 'keyphrases'" in capsys.readouterr().err

    command = [
        "evaluate",
        hierarchy.uri,
        "--judge",
        "--judge-engine",
        "vllm",
        "--judge-model",
        "smollm2-135m",
    ]
    assert main(command) == 0
    judged = judgement(hierarchy.uri)
    fit = judged[1, "fit_accuracy"]
    assert 0 <= fit["low"] <= fit["value"] <= fit["high"] <= 1
    assert 0.8 * N_TEXTS < fit["n"] <= N_TEXTS
    assert judged[1, "fit_chance"]["value"] == 1 / 4
    calls = Hierarchy.open(hierarchy.uri).table("llm_calls")
    assert len(calls) > N_TEXTS
    # What was asked is known the second time, and a plain measurement keeps the rows.
    assert main(command) == 0
    assert len(Hierarchy.open(hierarchy.uri).table("llm_calls")) == len(calls)
    assert main(["evaluate", hierarchy.uri]) == 0
    assert repr(judgement(hierarchy.uri)) == repr(judged)


def judgement(uri: str) -> dict[tuple[int, str], dict[str, float]]:
    """Rows of a judge, by level and metric."""
    rows = Hierarchy.open(uri).evaluations().to_dict("records")
    return {
        (int(row["level"]), str(row["metric"])): {
            name: float(row[name]) for name in ("value", "n", "low", "high")
        }
        for row in rows
        if row["basis"] == "judge"
    }
