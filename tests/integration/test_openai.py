"""Any OpenAI-compatible endpoint, here a small server that fails in the ways endpoints do."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from hercules_scale import Hierarchy
from hercules_scale.clustering.nearest_centroids import to_unit
from hercules_scale.config.file import parse_config
from hercules_scale.config.resolved import EncoderConfig
from hercules_scale.config.resources import StorageConfig
from hercules_scale.config.summaries import SummariesConfig
from hercules_scale.errors import ConfigError, InputError, StageError
from hercules_scale.jobs.cluster import run
from hercules_scale.jobs.preflight import check
from hercules_scale.results.status import describe_status
from hercules_scale.stages.encoders import load_encoder
from hercules_scale.stages.label_titles import PARTS_LISTED
from hercules_scale.stages.read_shards import UNDESCRIBED
from hercules_scale.storage import layout
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import vector_column
from hercules_scale.summarization.candidates import Candidates
from hercules_scale.summarization.chat import Model
from hercules_scale.summarization.clients import OpenAIClient
from hercules_scale.summarization.cluster_facts import ClusterFacts
from hercules_scale.summarization.distinct_titles import title_key
from hercules_scale.summarization.labeller import Labeller
from hercules_scale.summarization.ledger import Ledger
from hercules_scale.summarization.model_calls import Asker
from hercules_scale.summarization.prompts import PromptStyle
from hercules_scale.summarization.tokens import EstimatedTokens
from tests.conftest import small_config
from tests.integration.conftest import GOOD, Endpoint, Failure
from tests.integration.endpoints import is_by_parts
from tests.integration.processes import Forks, open_forks

pytestmark = [pytest.mark.ray, pytest.mark.slow]
N_CLUSTERS = 7


@pytest.fixture
def values(icd: pa.Table, tmp_path: Path, endpoint: Endpoint) -> dict[str, Any]:
    pq.write_table(icd.slice(0, 80), tmp_path / "icd.parquet")
    summaries = {"engine": "openai", "model": "tester", "endpoint": endpoint.url, "candidates": 1}
    return small_config(
        tmp_path / "icd.parquet",
        tmp_path / "run",
        hierarchy={"levels": [5, 2]},
        summaries=summaries,
    )


def is_joint(request: dict[str, Any]) -> bool:
    """Whether a request is about several clusters, or a cluster and its children."""
    question = str(request["messages"][-1]["content"])
    return question.startswith("Group ") or is_by_parts(question)


def with_summaries(values: dict[str, Any], **keys: object) -> dict[str, Any]:
    return {**values, "summaries": {**values["summaries"], **keys}}


def opened(tmp_path: Path) -> Hierarchy:
    return Hierarchy.open(str(tmp_path / "run"))


def test_failures_are_retried_and_kept_in_the_ledger(
    values: dict[str, Any], endpoint: Endpoint, local_ray: None, tmp_path: Path
) -> None:
    endpoint.failures = [429, 500, "no JSON here", '{"title": "cut']
    run(parse_config(values))
    hierarchy = opened(tmp_path)
    assert set(hierarchy.clusters()["summary_status"]) == {"ok"}
    calls = hierarchy.table("llm_calls")
    outcomes = calls[calls["cluster_id"].notna()]["outcome"].value_counts().to_dict()
    n_by_parts = sum(
        is_by_parts(str(each["messages"][-1]["content"])) for each in endpoint.requests
    )
    assert n_by_parts <= 2
    assert outcomes == {"ok": 7 + n_by_parts, "error": 2, "invalid": 2}
    assert len(endpoint.requests) == len(calls)
    assert endpoint.keys == {"Bearer canary-key"}
    for path in (tmp_path / "run").rglob("*"):
        assert not path.is_file() or b"canary-key" not in path.read_bytes(), path


# What users of other packages lost runs to.
MENDED = [
    f"```json\n{GOOD}\n```",
    f"Sure, here it is: {GOOD}",
    GOOD.replace("}", ",}"),
    GOOD[:-1],
    f"[{GOOD}]",
]
USELESS: list[Failure] = [
    "",
    "no idea",
    "{}",
    '{"title": "", "description": ""}',
    '{"title": 5, "description": null}',
    "[1, 2]",
    '{"title": "Ferries", "desc',
    "no choices",
]


def ask(endpoint: Endpoint, folder: Path, **keys: object) -> dict[int, Candidates]:
    """Ask the endpoint about some clusters, without a whole run around it."""
    summaries = {"engine": "openai", "model": "tester", "candidates": 1}
    values = {**summaries, "endpoint": endpoint.url, **keys}
    config = SummariesConfig.model_validate(values)
    style = PromptStyle(EstimatedTokens(), config.max_prompt_tokens, config.exemplar_tokens)
    facts = [
        ClusterFacts(1, cluster, 9, [f"ferry number {cluster}"]) for cluster in range(N_CLUSTERS)
    ]

    async def label() -> dict[int, Candidates]:
        client = OpenAIClient(config)
        asker = Asker(
            Model(client, EstimatedTokens(), 4), Ledger(Store(str(folder))), config, style
        )
        try:
            return await Labeller(asker, config, style, 0).label(facts)
        finally:
            await client.close()

    return asyncio.run(label())


@pytest.mark.parametrize("text", MENDED)
def test_slips_of_a_reply_are_corrected(text: str, endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.failures = [text] * N_CLUSTERS
    found = ask(endpoint, tmp_path)
    titles = {key: own.titles for key, own in found.items()}
    assert titles == {key: [f"Codes of ferry number {key}"] for key in range(N_CLUSTERS)}
    assert len(endpoint.requests) == N_CLUSTERS


@pytest.mark.parametrize(
    "failure", [*USELESS, 429, (429, {"Retry-After-Ms": "20"}), 500, 503, 0.6], ids=str
)
def test_an_endpoint_that_never_serves_ends_within_a_bound(
    failure: Failure, endpoint: Endpoint, tmp_path: Path
) -> None:
    endpoint.failures = [failure] * 1000
    # Only an endpoint that stalls runs out of time.
    seconds = 0.3 if isinstance(failure, float) else 30
    found = ask(endpoint, tmp_path, max_attempts=2, timeout_seconds=seconds)
    assert not any(own.complete for own in found.values())
    assert all(own.problem for own in found.values())
    assert len(endpoint.requests) == 2 * N_CLUSTERS
    # Well again, it is asked about all once more; what it answered of no use is known.
    endpoint.failures = []
    endpoint.requests.clear()
    again = ask(endpoint, tmp_path, max_attempts=3, timeout_seconds=30)
    assert all(own.complete for own in again.values())
    assert len(endpoint.requests) == N_CLUSTERS


def test_no_two_siblings_share_a_title(
    values: dict[str, Any], endpoint: Endpoint, local_ray: None, tmp_path: Path
) -> None:
    endpoint.failures = ['{"title": "Diseases", "description": "Of many kinds."}'] * 100
    run(parse_config(values))
    clusters = opened(tmp_path).clusters()
    for _, siblings in clusters.groupby(["level", clusters["parent_cluster_id"].fillna(-1)]):
        assert siblings["title"].map(title_key).is_unique
    assert "ok" in set(clusters["summary_status"])
    # Where no item speaks of diseases, key phrases stand in, or titles of parts.
    reasons = clusters["summary_error"].dropna()
    told = ("the title says what the items do not", PARTS_LISTED)
    assert reasons.str.startswith(told).all()
    # What is measured is the published title, and not the one before it was changed.
    assert (clusters["title"] != "Diseases").any()
    vectors = to_unit(
        load_encoder(EncoderConfig(model="minilm"), StorageConfig()).encode(
            list(clusters["title"] + ". " + clusters["description"])
        )
    )
    np.testing.assert_allclose(
        np.stack(clusters["description_embedding"].to_list()), vectors, atol=1e-2
    )


def test_several_answers_are_one_request_and_the_best_is_taken(
    values: dict[str, Any], endpoint: Endpoint, local_ray: None, tmp_path: Path
) -> None:
    run(parse_config(with_summaries(values, candidates=3)))
    asked = [request for request in endpoint.requests if not is_joint(request)]
    assert {request["n"] for request in asked} == {3}
    clusters = opened(tmp_path).clusters()
    assert set(clusters["summary_source"]) <= {"model", "keyphrases", "parts"}
    assert clusters["summary_score"].between(0, 1).all()


def test_an_outage_stops_the_run_and_a_second_call_asks_for_what_is_missing(
    values: dict[str, Any], endpoint: Endpoint, local_ray: None, tmp_path: Path
) -> None:
    endpoint.failures = [GOOD, GOOD, *[503] * 1000]
    config = parse_config(with_summaries(values, max_attempts=20))
    with pytest.raises(StageError, match=r"'tester' failed 20 times in a row.*the run resumes"):
        run(config)
    assert len(endpoint.requests) <= 2 + 40
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"
    endpoint.failures = []
    endpoint.requests.clear()
    run(config)
    assert set(opened(tmp_path).clusters()["summary_status"]) == {"ok"}
    asked = [request for request in endpoint.requests if not is_joint(request)]
    assert len(asked) == N_CLUSTERS - 2
    endpoint.requests.clear()
    run(config)
    assert endpoint.requests == []


def test_a_budget_stops_the_run_and_more_ends_it(
    values: dict[str, Any], endpoint: Endpoint, local_ray: None, tmp_path: Path
) -> None:
    few = with_summaries(values, max_total_tokens=1200, requests_in_flight=1)
    with pytest.raises(StageError, match=r"max_total_tokens 1,200 leaves no room"):
        run(parse_config(few))
    n_before = len(endpoint.requests)
    assert 0 < n_before < N_CLUSTERS
    run(parse_config(with_summaries(values, max_total_tokens=100_000)))
    asked = [request for request in endpoint.requests if not is_joint(request)]
    assert len(asked) == N_CLUSTERS
    assert opened(tmp_path).run["tokens"]["prompt_tokens"] == 100 * len(endpoint.requests)


def test_items_are_described_and_clustered_by_their_descriptions(
    values: dict[str, Any], endpoint: Endpoint, local_ray: None, tmp_path: Path
) -> None:
    values["hierarchy"]["representation"] = "description"
    values["summaries"]["describe_items"] = True
    endpoint.failures = ["no idea"] * 4
    run(parse_config(with_summaries(values, max_attempts=1, requests_in_flight=1)))
    hierarchy = opened(tmp_path)
    items = hierarchy.table("items")
    described = items["title"].str.startswith("Codes of ")
    assert described.sum() == len(items) - 4
    assert hierarchy.run["described_items"] == {"not_described": 4}
    calls = hierarchy.table("llm_calls")
    assert (calls["level"] == 0).sum() == len(items)
    assert len(calls) == len(endpoint.requests) == hierarchy.run["tokens"]["calls"]
    question = endpoint.requests[0]["messages"][-1]["content"]
    assert question.startswith("<item>")
    assert len(hierarchy.clusters()) == N_CLUSTERS


def test_items_assigned_by_their_descriptions_get_their_memberships_back(
    values: dict[str, Any], endpoint: Endpoint, local_ray: None, tmp_path: Path
) -> None:
    values["hierarchy"]["representation"] = "description"
    values["summaries"]["describe_items"] = True
    run(parse_config(values))
    n_asked = len(endpoint.requests)
    hierarchy = opened(tmp_path)
    again, output = str(tmp_path / "icd.parquet"), str(tmp_path / "assigned")
    with pytest.raises(InputError, match=f"add --endpoint {endpoint.url} if you trust it"):
        hierarchy.assign(again, output=output)
    hierarchy.assign(again, output=output, endpoint=endpoint.url)
    assigned = Hierarchy.open(str(tmp_path / "assigned"))
    # Of items alone: clusters have their labels.
    assert len(endpoint.requests) - n_asked == len(hierarchy.memberships())
    assert assigned.table("items")["title"].str.startswith("Codes of ").all()
    pd.testing.assert_frame_equal(assigned.memberships(), hierarchy.memberships(), check_exact=True)


def test_vectors_with_words_are_described_and_clustered_by_their_descriptions(
    values: dict[str, Any], endpoint: Endpoint, local_ray: None, tmp_path: Path
) -> None:
    vectors = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
    words = [f"{animal} number {row}" for row, animal in enumerate(["cat", "crow", "trout"] * 10)]
    table = pa.table({"vector": vector_column(vectors), "words": words})
    pq.write_table(table, tmp_path / "vectors.parquet")
    values["input"] = {
        "path": str(tmp_path / "vectors.parquet"),
        "modality": "embedding",
        "embedding_column": "vector",
        "text_column": "words",
    }
    values["hierarchy"] = {"levels": [3], "representation": "description"}
    values["summaries"]["describe_items"] = True
    run(parse_config(values))
    hierarchy = opened(tmp_path)
    described = [request["messages"][-1]["content"] for request in endpoint.requests[:30]]
    assert all(any(word in question for word in words) for question in described)
    assert hierarchy.table("items")["title"].str.startswith("Codes of ").all()
    # The words were embedded, not the user's vectors.
    assert len(hierarchy.table("embeddings")["embedding"][0]) == 384


def test_rows_of_numbers_are_described_and_clustered_by_their_descriptions(
    values: dict[str, Any], endpoint: Endpoint, local_ray: None, tmp_path: Path
) -> None:
    table = {"width": [1.0, 1.5, 8.0, 9.0] * 5, "height": [float(row) for row in range(20)]}
    pq.write_table(pa.table(table), tmp_path / "numbers.parquet")
    values["input"] = {
        "path": str(tmp_path / "numbers.parquet"),
        "metadata": {"width": {"unit": "cm"}},
    }
    values["hierarchy"] = {"levels": [4, 2], "representation": "description"}
    values["summaries"]["describe_items"] = True
    run(parse_config(values))
    hierarchy = opened(tmp_path)
    asked = [request["messages"][-1]["content"] for request in endpoint.requests]
    assert "<item>width 1 cm, height 0</item>" in asked[:20]
    assert any("Values: " in question for question in asked[20:])
    assert hierarchy.table("items")["title"].str.startswith("Codes of ").all()
    assert len(hierarchy.table("embeddings")["embedding"][0]) == 384
    assert hierarchy.clusters()["numeric_stats"].notna().all()


def test_images_are_shown_to_a_model_that_sees_and_captioned(
    values: dict[str, Any], endpoint: Endpoint, local_ray: None, tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for row in range(12):
        Image.new("RGB", (16, 16), (20 * row, 0, 255 - 20 * row)).save(folder / f"colour_{row}.png")
    values["input"] = {"path": str(folder)}
    values["hierarchy"] = {"levels": [3]}
    run(parse_config(with_summaries(values, describe_items=True, show_images=True)))
    hierarchy = opened(tmp_path)
    assert hierarchy.table("items")["title"].str.startswith("Codes of ").all()
    alone = [request for request in endpoint.requests if not is_joint(request)]
    captions, of_clusters = alone[:12], alone[12:]
    for request in captions:
        image, text = request["messages"][-1]["content"]
        assert image["image_url"]["url"].startswith("data:image/png;base64,")
        assert text["text"].startswith("<item>colour ")
    for request in of_clusters:
        kinds = [part["type"] for part in request["messages"][-1]["content"]]
        assert kinds.count("image_url") >= 1
        # Captions stand for the images in words.
        assert "<item>Items about colour" in request["messages"][-1]["content"][-1]["text"]


def test_a_missing_key_is_refused_before_anything_starts(
    values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ConfigError, match="OPENAI_API_KEY, which is not set"):
        check(parse_config(values))


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "canary-key")
        with open_forks(tmp_path_factory.mktemp("forks") / "log") as forks:
            yield forks


def test_a_run_killed_among_its_summaries_repeats_only_calls_in_flight(
    values: dict[str, Any], endpoint: Endpoint, forks: Forks, tmp_path: Path
) -> None:
    endpoint.seconds = 0.3
    in_flight = 2
    values["hierarchy"]["levels"] = [20, 4]
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(with_summaries(values, requests_in_flight=in_flight)))
    command = [sys.executable, "-m", "hercules_scale", "run", str(config)]
    environment = {**os.environ, "RAY_ADDRESS": ""}
    first = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        until = time.monotonic() + 300
        while len(endpoint.requests) < 9 and first.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        assert first.poll() is None
    finally:
        # Ray's processes of this run are of its session.
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    n_before = len(endpoint.requests)
    assert n_before >= 9
    killed = describe_status(str(tmp_path / "run"))
    assert "interrupted, started" in killed.splitlines()[0]
    assert "embed                 80 of 80 items" in killed
    assert "summarize             0 of 24 clusters" in killed
    endpoint.seconds = 0.0
    assert forks.run("run", str(config), lasting=True) == 0, forks.log.read_text()
    repeated = sum(count - 1 for count in endpoint.prompts.values())
    assert repeated <= in_flight
    finished = describe_status(str(tmp_path / "run"))
    assert "finished, attempt 2" in finished.splitlines()[0]
    assert "summarize             24 of 24 clusters" in finished
    assert set(opened(tmp_path).clusters()["summary_status"]) == {"ok"}


def test_a_run_killed_while_it_describes_items_repeats_only_calls_in_flight(
    values: dict[str, Any], endpoint: Endpoint, forks: Forks, tmp_path: Path
) -> None:
    n_items, in_flight = 24, 2
    numbers = {"width": [1.0, 1.5, 8.0] * 8, "height": [float(row) for row in range(n_items)]}
    pq.write_table(pa.table(numbers), tmp_path / "numbers.parquet")
    values["input"] = {"path": str(tmp_path / "numbers.parquet")}
    values["hierarchy"]["levels"] = [4, 2]
    config = tmp_path / "config.yaml"
    asked = with_summaries(values, describe_items=True, requests_in_flight=in_flight)
    config.write_text(yaml.safe_dump(asked))
    endpoint.seconds = 0.1
    n_ledger = 5
    points = [
        ["write", "ledger/items", n_ledger],
        ["write", "commits/describe", 1],
        ["advance", "put_descriptions", 1],
    ]
    for point in points:
        code = forks.run("run", str(config), points=[["driver", *point]], lasting=True)
        assert code == -signal.SIGKILL, forks.log.read_text()
    for lost in ("items", UNDESCRIBED):
        (tmp_path / "run" / layout.part(lost, 0)).unlink()
    assert forks.run("run", str(config), lasting=True) == 0, forks.log.read_text()
    repeated = sum(count - 1 for count in endpoint.prompts.values())
    assert repeated <= in_flight
    calls = opened(tmp_path).table("llm_calls")
    assert (calls["level"] == 0).sum() == n_items
    assert opened(tmp_path).table("items")["title"].str.startswith("Codes of ").all()
    assert len(calls) == len(endpoint.requests) - repeated
    assert opened(tmp_path).run["tokens"]["calls"] == len(calls)


SAID = {
    "hindi": {
        "मेरी साइकिल का {} खराब है": ["पहिया", "ब्रेक", "टायर", "पैडल"],
        "{} जाने वाली नाव कब चलेगी": ["मुंबई", "गोवा", "कोच्चि", "पटना"],
        "घर पर {} कैसे पकाएँ": ["खीर", "राजमा", "पुलाव", "हलवा"],
    },
    "japanese": {
        "自転車の{}が壊れて困っています": ["車輪", "ブレーキ", "タイヤ", "ペダル"],
        "{}行きの船は何時に出ますか": ["神戸", "大阪", "横浜", "長崎"],
        "{}の作り方を教えてください": ["カレー", "うどん", "寿司", "味噌汁"],
    },
}


@pytest.mark.parametrize("language", SAID)
def test_a_run_ends_with_titles_of_the_model_in_the_language_of_its_items(
    language: str, values: dict[str, Any], endpoint: Endpoint, local_ray: None, tmp_path: Path
) -> None:
    texts = [pattern.format(word) for pattern, own in SAID[language].items() for word in own]
    pq.write_table(pa.table({"text": texts * 3}), tmp_path / "icd.parquet")
    endpoint.failures = ['{"title": "TITLE", "description": "TITLE。"}'] * 100
    values["input"] = {"path": str(tmp_path / "icd.parquet")}
    values["hierarchy"] = {"levels": [3]}
    run(parse_config(with_summaries(values, candidates=4)))
    clusters = opened(tmp_path).clusters()
    assert set(clusters["summary_status"]) == {"ok"}
    # Words of the items, with all marks of their letters.
    for title in clusters["title"]:
        assert all(any(word in text for text in texts) for word in title.split())
        assert not unicodedata.combining(title[0])
