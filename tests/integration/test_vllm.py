"""The real language model on vLLM behind Ray Serve."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hercules_scale import Hierarchy
from hercules_scale.config.file import parse_config
from hercules_scale.jobs.cluster import run
from hercules_scale.models.names import resolve_chat_model
from tests.conftest import small_config
from tests.s3_server import upload

pytestmark = [pytest.mark.ray, pytest.mark.llm, pytest.mark.slow]


def kill_replica(ledger: Path, killed: list[int], ended: threading.Event) -> None:
    """Kill the replica once it has answered and works on more."""
    while not (killed or ended.wait(0.2)):
        if not any(part.stat().st_size for part in ledger.glob("**/*.jsonl")):
            continue
        # The next questions have reached it.
        ended.wait(1)
        # Other tests may have a Ray of their own.
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if " ".join(process.cmdline()).startswith("ray::ServeReplica"):
                    process.kill()
                    killed.append(process.pid)


def test_the_model_titles_and_describes_every_cluster_though_its_replica_is_killed(
    icd: pa.Table, tmp_path: Path, local_ray: None, s3: str
) -> None:
    from ray import serve

    path = tmp_path / "icd.parquet"
    pq.write_table(icd.slice(0, 200), path)
    config = small_config(
        path,
        tmp_path / "run",
        hierarchy={"levels": [6, 2]},
        summaries={
            "engine": "vllm",
            "model": upload(resolve_chat_model("smollm2-135m"), f"{s3}/models/smollm2-135m"),
            "record_prompts": True,
            "topic": "diseases",
            "candidates": 2,
            "max_attempts": 2,
            "exemplars": 4,
            "max_answer_tokens": 96,
        },
    )
    killed: list[int] = []
    ended = threading.Event()
    ledger = tmp_path / "run/_work/ledger"
    killer = threading.Thread(target=kill_replica, args=(ledger, killed, ended))
    killer.start()
    try:
        run(parse_config(config))
    finally:
        ended.set()
        killer.join()
    assert killed
    hierarchy = Hierarchy.open(str(tmp_path / "run"))
    clusters = hierarchy.clusters()
    assert clusters["title"].str.len().min() > 0
    assert clusters["description"].str.len().min() > 0
    assert max(len(title.split()) for title in clusters["title"]) <= 7
    assert set(clusters["summary_status"]) <= {"ok", "fallback"}
    failed = clusters[clusters["summary_status"] == "fallback"]
    assert failed["summary_error"].notna().all()

    assert clusters["summary_score"].between(0, 1).all()
    # Most of what this model says its items do not.
    assert (clusters["summary_source"] == "model").any()

    every_call = hierarchy.table("llm_calls")
    # Siblings with like titles share a request.
    calls = every_call[every_call["cluster_id"].notna()]
    # Serve itself sends a question again that the replica had not begun.
    assert (calls["outcome"] == "error").sum() <= len(clusters)
    assert len(calls) >= len(clusters)
    answered = calls[calls["outcome"].isin(["ok", "invalid"])]
    assert len(answered) >= len(clusters) / 2
    keys = ["level", "cluster_id"]
    labelled = clusters[clusters["summary_status"] == "ok"][keys]
    good = calls[calls["outcome"] == "ok"][keys]
    assert len(labelled.merge(good.drop_duplicates())) == len(labelled)
    assert len(json.loads(answered["response"].iloc[0])) == 2
    assert (answered["prompt_tokens"] > 100).all()
    assert (answered["completion_tokens"] > 5).all()
    prompt = json.loads(calls["prompt"].iloc[0])
    assert "diseases" in prompt[0]["content"]
    assert "<item>" in prompt[-1]["content"]
    upper = json.loads(calls[calls["level"] == 2]["prompt"].iloc[0])
    assert "Parts: " in upper[-1]["content"]
    tokens = hierarchy.run["tokens"]
    assert tokens["calls"] == len(every_call)
    assert tokens["prompt_tokens"] == every_call["prompt_tokens"].sum()
    measured = hierarchy.evaluations().set_index(["level", "metric"])["value"]
    assert (
        measured[1, "share_ok"]
        == (clusters[clusters["level"] == 1]["summary_status"] == "ok").mean()
    )
    for level in (1, 2):
        assert (
            measured[level, "label_accuracy_chance"] < measured[level, "label_accuracy_centroids"]
        )
        assert -1 <= measured[level, "topic_alignment"] <= 1
    assert -1 <= measured[2, "llm_silhouette"] <= 1
    # The deployment goes when the run ends.
    assert not serve.status().applications
    serve.shutdown()
