"""Endpoints that take and answer only part of OpenAI's API: each is learned once and asked so."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from hercules_scale import Hierarchy
from hercules_scale.commands.cli import main
from hercules_scale.config.summaries import SummariesConfig
from hercules_scale.errors import ConfigError, StageError
from hercules_scale.storage.store import Store
from hercules_scale.summarization import clients, labeller, request_limits
from hercules_scale.summarization.candidates import Candidates
from hercules_scale.summarization.chat import (
    ChatReply,
    ChatRequest,
    Model,
    ModelUnavailableError,
    RefusedRequestError,
)
from hercules_scale.summarization.clients import OpenAIClient
from hercules_scale.summarization.cluster_facts import ClusterFacts
from hercules_scale.summarization.endpoint_features import EndpointFeatures
from hercules_scale.summarization.labeller import Labeller
from hercules_scale.summarization.ledger import Ledger
from hercules_scale.summarization.model_calls import Asker
from hercules_scale.summarization.prompts import PromptStyle, answer_schema
from hercules_scale.summarization.tokens import EstimatedTokens
from tests.conftest import small_config
from tests.integration.endpoints import (
    KEY,
    MODEL,
    PAGE,
    Azure,
    DeepSeek,
    Form,
    LiteLLM,
    LlamaCpp,
    Misbehaving,
    Ollama,
    Plain,
    Proxy,
    Reply,
    Request,
    choice,
    completion,
    error,
    serve,
)

N_CLUSTERS, CANDIDATES, IN_FLIGHT = 7, 3, 4
STYLE = PromptStyle(EstimatedTokens(), 1024, 32)
GOOD = '{"title": "Codes of ferries", "description": "Codes of ferries alone."}'


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key, no proxies, and short waits."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr(labeller, "FIRST_DELAY_SECONDS", 0.01)
    monkeypatch.setattr(request_limits, "FIRST_PROBE_SECONDS", 0.01)
    monkeypatch.setattr(request_limits, "OUTAGE_SECONDS", 0.1)
    monkeypatch.setattr(clients, "PROBE_DELAY_SECONDS", 0.05)


def config_of(url: str, **keys: object) -> SummariesConfig:
    values = {"engine": "openai", "model": MODEL, "candidates": CANDIDATES, "endpoint": url}
    return SummariesConfig.model_validate({**values, **keys})


@dataclass
class Asked:
    """Results of a probe and of questions about clusters.

    Attributes:
        features: That the probe found.
        said: Its lines.
        n_probes: Requests that it took.
        n_refused: How many of them were refused.
        found: Of each cluster.
        ledger: The calls.
    """

    features: EndpointFeatures = field(default_factory=EndpointFeatures)
    said: list[str] = field(default_factory=list)
    n_probes: int = 0
    n_refused: int = 0
    found: dict[int, Candidates] = field(default_factory=dict)
    ledger: Ledger | None = None

    @property
    def titles(self) -> dict[int, set[str]]:
        return {key: set(own.titles) for key, own in self.found.items()}


ALL_TITLES = {key: {f"Codes of ferry number {key}"} for key in range(N_CLUSTERS)}


def ask(
    form: Form,
    folder: Path,
    n_clusters: int = N_CLUSTERS,
    then: Callable[[], object] = lambda: None,
    asked: Asked | None = None,
    **keys: object,
) -> Asked:
    """Probe an endpoint and ask it about some clusters, without a whole run around it.

    Args:
        form: The endpoint.
        folder: Where the ledger is.
        n_clusters: How many are asked about.
        then: Called between the two.
        asked: Filled in, also where the questions end with an error.
        keys: Of the summaries section.
    """
    config = config_of(form.url, **keys)
    facts = [
        ClusterFacts(1, cluster, 9, [f"ferry number {cluster}"]) for cluster in range(n_clusters)
    ]
    asked = asked or Asked()

    async def run() -> Asked:
        client = OpenAIClient(config)
        try:
            await client.probe(asked.said.append)
            asked.features, asked.n_probes = client.features, len(form.requests)
            asked.n_refused = form.refused
            then()
            asked.ledger = Ledger(Store(str(folder)))
            asker = Asker(Model(client, EstimatedTokens(), IN_FLIGHT), asked.ledger, config, STYLE)
            asked.found = await Labeller(asker, config, STYLE, 0).label(facts)
        finally:
            await client.close()
        return asked

    return asyncio.run(run())


def probe(form: Form, **keys: object) -> EndpointFeatures:
    """Probe an endpoint alone."""

    async def run() -> EndpointFeatures:
        client = OpenAIClient(config_of(form.url, **keys))
        try:
            await client.probe(print)
        finally:
            await client.close()
        return client.features

    return asyncio.run(run())


def answer(form: Form, then: Callable[[], object], n: int = 1) -> ChatReply:
    """The reply to one question, after a good probe and what is done then."""

    async def run() -> ChatReply:
        client = OpenAIClient(config_of(form.url))
        try:
            await client.probe(print)
            then()
            messages = [{"role": "user", "content": "Key phrases: ferry"}]
            request = ChatRequest(messages, answer_schema(), 0.0, 64, 1, n)
            return await client.answer(request)
        finally:
            await client.close()

    return asyncio.run(run())


def warm_azure() -> Azure:
    form = Azure()
    form.warm = True
    return form


def new_llama() -> LlamaCpp:
    form = LlamaCpp()
    form.status = 400
    return form


FORMS: list[tuple[Callable[[], Form], EndpointFeatures, tuple[str, ...]]] = [
    (Form, EndpointFeatures(), ()),
    (
        Azure,
        EndpointFeatures(limit_key="max_completion_tokens", temperature=False),
        ("max_tokens", "temperature"),
    ),
    (warm_azure, EndpointFeatures(limit_key="max_completion_tokens"), ("max_tokens",)),
    (Ollama, EndpointFeatures(several=False), ("several answers",)),
    (LlamaCpp, EndpointFeatures(several=False), ("several answers",)),
    (new_llama, EndpointFeatures(several=False), ("several answers",)),
    (LiteLLM, EndpointFeatures(several=False, seed=False), ("several answers", "seed")),
    (DeepSeek, EndpointFeatures("json_object", several=False), ("schema", "several answers")),
    (Plain, EndpointFeatures("none"), ("schema", "JSON mode")),
]


@pytest.mark.parametrize(
    ("make", "features", "words"), FORMS, ids=[make.__name__ for make, *_ in FORMS]
)
def test_an_endpoint_is_learned_once_and_then_answers_all(
    make: Callable[[], Form], features: EndpointFeatures, words: tuple[str, ...], tmp_path: Path
) -> None:
    with serve(make()) as form:
        asked = ask(form, tmp_path)
        assert asked.features == features
        assert len(asked.said) == bool(words)
        for line in asked.said:
            assert "\n" not in line
            assert all(word in line for word in (MODEL, *words)), line
        # One good request, and one for each thing that is refused.
        assert asked.n_probes == 1 + asked.n_refused <= 5
        # From then on nothing is refused.
        assert form.refused == asked.n_refused
        assert asked.titles == ALL_TITLES
        sent = [request.body for request in form.requests[asked.n_probes :]]
        assert len(sent) == N_CLUSTERS * (1 if features.several else CANDIDATES)
        for body in sent:
            assert body.get("n", 1) == (CANDIDATES if features.several else 1)
            assert {"max_tokens", "max_completion_tokens"} & body.keys() == {features.limit_key}
        draws = {(body["messages"][-1]["content"], body.get("seed")) for body in sent}
        assert len(draws) == (len(sent) if features.seed else N_CLUSTERS)
        # All of it is in the ledger, and not asked again.
        n_before = len(form.requests)
        again = ask(form, tmp_path)
        assert again.titles == ALL_TITLES
        assert len(form.requests) == again.n_probes <= n_before + asked.n_probes


@pytest.mark.parametrize("make", [Form, Ollama, DeepSeek, Plain])
def test_an_endpoint_that_is_asked_for_one_answer_needs_no_several(
    make: Callable[[], Form], tmp_path: Path
) -> None:
    with serve(make()) as form:
        asked = ask(form, tmp_path, candidates=1)
        assert asked.titles == ALL_TITLES
        assert len(form.requests) == asked.n_probes + N_CLUSTERS
        assert not any("several answers" in line for line in asked.said)


def test_questions_about_several_clusters_are_asked_in_the_dialect(tmp_path: Path) -> None:
    with serve(DeepSeek()) as form:
        asked = ask(form, tmp_path, clusters_per_request=4)
        assert asked.titles == ALL_TITLES
        assert form.refused == asked.n_refused
        sent = [request.body for request in form.requests[asked.n_probes :]]
        assert {body["response_format"]["type"] for body in sent} == {"json_object"}
        assert len(sent) == 2 * CANDIDATES


def test_a_query_of_the_endpoint_and_its_header_go_with_every_request(tmp_path: Path) -> None:
    with serve(Azure()) as form:
        ask(form, tmp_path)
        assert {request.query["api-version"] for request in form.requests} == {"2024-10-21"}
        assert {request.headers["api-key"] for request in form.requests} == {KEY}
    with serve(Form()) as other:
        ask(other, tmp_path / "other")
        assert not any("api-key" in request.headers for request in other.requests)


@pytest.mark.parametrize("failed", [1, 2])
def test_draws_that_fail_leave_the_others(failed: int) -> None:
    with serve(Ollama()) as form:
        reply = answer(form, lambda: form.next.extend([error(503)] * failed), n=3)
        assert len(reply.answers) == 3 - failed
        assert (reply.prompt_tokens, reply.completion_tokens) == (
            100 * (3 - failed),
            10 * (3 - failed),
        )


def test_draws_that_all_fail_are_a_failure() -> None:
    with (
        serve(Ollama()) as form,
        pytest.raises(ModelUnavailableError, match="503: planned failure"),
    ):
        answer(form, lambda: form.next.extend([error(503)] * 3), n=3)


# Statuses, bodies and words of what no other form of the request cures.
PERMANENT = [
    (error(401, f"Incorrect API key provided: {KEY}."), "OPENAI_API_KEY.*Incorrect API key"),
    (error(403, "Country not supported"), "OPENAI_API_KEY.*Country not supported"),
    (error(402, "Insufficient Balance"), "Insufficient Balance"),
    (
        error(429, "You exceeded your current quota", code="insufficient_quota"),
        "You exceeded your current quota",
    ),
    (
        error(429, "You exceeded your current quota", type="insufficient_quota"),
        "You exceeded your current quota",
    ),
    (
        Reply(404, {"object": "error", "message": "The model `tester` does not exist."}),
        r"summaries\.model.*The model `tester` does not exist.*summaries\.endpoint",
    ),
    (error(404, "Not found"), r"summaries\.model.*summaries\.endpoint"),
    (Reply(404, b"404 page not found", "text/plain"), r"page not found.*summaries\.endpoint"),
    (Reply(405, {"detail": "Method Not Allowed"}), r"Method Not Allowed.*summaries\.endpoint"),
    (error(400, "This is not a chat model"), "This is not a chat model"),
    (error(400, "Invalid model name passed in model=tester"), "Invalid model name"),
    (Reply(400, {"error": "Model is unloaded."}), "Model is unloaded"),
    (Reply(400, {"object": "error", "message": "No template"}), "No template"),
    (Reply(422, {"detail": "No chat here"}), "No chat here"),
    (Reply(400, b"bad request", "text/plain"), "bad request"),
    (Reply(400), r"summaries\.endpoint"),
    (Reply(200, PAGE, "text/html"), r"no JSON.*summaries\.endpoint"),
    (Reply(200, b"OK", "text/plain"), r"no JSON.*summaries\.endpoint"),
    (Reply(200), r"no JSON.*summaries\.endpoint"),
]


@pytest.mark.parametrize(("reply", "words"), PERMANENT)
def test_what_no_request_cures_is_said_at_once(reply: Reply, words: str) -> None:
    started = time.monotonic()
    with serve(Misbehaving()) as form:
        form.always = reply
        with pytest.raises(ConfigError, match=words) as raised:
            probe(form)
        assert KEY not in str(raised.value)
        assert "\n" not in str(raised.value)
        assert len(form.requests) <= (8 if reply.status in (400, 422) else 1)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("base", "hint"), [("", True), ("/", True), ("/api", True), ("/v1", False), ("/v1/", False)]
)
def test_a_url_without_v1_gets_a_hint(base: str, hint: bool) -> None:
    with serve(Form()) as form:
        url = form.url.removesuffix("/v1") + base
        form.paths = ("/elsewhere",)
        with pytest.raises(ConfigError, match=r"Not Found.*summaries\.endpoint") as raised:
            probe(form, endpoint=url)
        assert (f"{url.rstrip('/')}/v1" in str(raised.value)) == hint


def test_a_deployment_without_a_version_or_with_another_name_is_not_found() -> None:
    with serve(Azure()) as form:
        without = form.url.partition("?")[0]
        with pytest.raises(ConfigError, match="Resource not found"):
            probe(form, endpoint=without)
        with pytest.raises(ConfigError, match="deployment for this resource does not exist"):
            probe(form, endpoint=form.url.replace("/gpt?", "/other?"))


@pytest.mark.parametrize(
    "reply",
    [
        error(503, "planned failure"),
        error(429, "planned failure"),
        error(500, "planned failure"),
        Reply(502, b"<html>planned failure</html>", "text/html"),
        Reply(200, {"error": {"message": "planned failure", "code": 429}}),
    ],
)
def test_an_endpoint_that_is_busy_is_waited_for(
    reply: Reply, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(Misbehaving()) as form:
        form.next = [reply] * 3
        assert probe(form) == EndpointFeatures()
        assert len(form.requests) == 4
        form.always = reply
        monkeypatch.setattr(clients, "PROBE_SECONDS", 1.0)
        with pytest.raises(ConfigError, match=r"planned failure.*summaries\.endpoint"):
            probe(form)
        assert len(form.requests) < 20


def test_an_endpoint_that_never_answers_is_not_waited_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clients, "PROBE_SECONDS", 0.3)
    with serve(Misbehaving()) as form:
        form.always = Reply(200, PAGE, seconds=3)
        started = time.monotonic()
        with pytest.raises(ConfigError, match=r"no answer in 0\.3 s.*summaries\.endpoint"):
            probe(form, timeout_seconds=0.3)
        assert time.monotonic() - started < 2.5


def test_a_first_answer_that_takes_long_is_said_to_be_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(clients, "SILENT_SECONDS", 0.1)
    with serve(Form()) as form:
        choices = [{"message": {"content": "{}"}}]
        form.next = [Reply(200, {"choices": choices}, seconds=0.6)]
        probe(form, candidates=1)
        assert capsys.readouterr().out == f"waiting for the first answer of tester at {form.url}\n"


def test_a_server_that_starts_late_is_waited_for() -> None:
    with serve(Form(), after_seconds=0.5) as form:
        assert probe(form) == EndpointFeatures()


def test_a_server_that_is_not_there_is_waited_for_and_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clients, "PROBE_SECONDS", 0.3)
    absent = Form()
    try:
        with pytest.raises(ConfigError, match=r"(?i)connection error.*summaries\.endpoint"):
            probe(absent)
    finally:
        absent.server_close()


BUSY = {"error": {"message": "Provider returned error", "code": 429}}
UNAVAILABLE = [
    (error(408), "planned failure"),
    (error(409), "planned failure"),
    (error(429), "planned failure"),
    (error(500), "planned failure"),
    (error(503), "planned failure"),
    (Reply(502, PAGE, "text/html"), "502"),
    (Reply(529), "529"),
    (Reply(200, PAGE, "text/html"), "no JSON"),
    (Reply(200), "no JSON"),
    (Reply(200, b'{"choices": [{"mess'), "no JSON"),
    (Reply(200, b"\xff\xfe\x00\xd8"), "no JSON"),
    pytest.param(Reply(200, b"[" * 100_000), "no JSON", id="nested"),
    (Reply(200, BUSY), "Provider returned error"),
    (Reply(200, completion(None, usage=None, **BUSY)), "Provider returned error"),
    (Reply(200, {"error": "busy"}), "busy"),
    (Reply(200, {}), "without choices"),
    (Reply(200, completion(None)), "without choices"),
    (Reply(200, completion([])), "without choices"),
    (Reply(200, completion([None])), "without choices"),
    (Reply(200, completion("none")), "without choices"),
    (Reply(200, completion(5)), "without choices"),
    (Reply(200, completion({"index": 0})), "without choices"),
    (Reply(200, b'"busy"'), "no chat completion"),
    (Reply(200, b"null"), "no chat completion"),
    (Reply(200, b"[]"), "no chat completion"),
    (Reply(0), "(?i)connection"),
    (Reply(200, b'{"choices": []}', length=1000), "(?i)connection"),
]


@pytest.mark.parametrize(("reply", "words"), UNAVAILABLE)
def test_a_failure_that_may_pass_is_told_from_others(reply: Reply, words: str) -> None:
    with serve(Misbehaving()) as form:
        with pytest.raises(ModelUnavailableError, match=words):
            answer(form, lambda: form.next.append(reply))
        # Well again, it is asked again.
        assert answer(form, lambda: None).answers


@pytest.mark.parametrize("status", [400, 403, 413, 422])
def test_a_question_that_is_refused_after_a_good_probe_is_refused_alone(status: int) -> None:
    with serve(Misbehaving()) as form:
        with pytest.raises(RefusedRequestError, match="planned failure") as raised:
            answer(form, lambda: form.fail(status))
        assert KEY not in str(raised.value)


@pytest.mark.parametrize(
    ("status", "more"),
    [(401, {}), (402, {}), (404, {}), (429, {"code": "insufficient_quota"})],
)
def test_an_endpoint_that_stops_for_good_ends_the_run_at_once(
    status: int, more: dict[str, str], tmp_path: Path
) -> None:
    asked = Asked()
    with serve(Misbehaving()) as form:
        with pytest.raises(StageError, match=r"planned failure.*the run resumes") as raised:
            ask(form, tmp_path, 60, lambda: form.fail(status, **more), asked)
        assert KEY not in str(raised.value)
        assert len(form.requests) - asked.n_probes <= IN_FLIGHT


WITHOUT_USAGE = completion([choice({"content": GOOD})])
del WITHOUT_USAGE["usage"]
NULLS = {"prompt_tokens": None, "completion_tokens": None}
READ = [
    completion([choice({"content": [{"type": "text", "text": GOOD}]})]),
    completion([choice({"content": [{"type": "text", "text": GOOD[:9]}, {"text": GOOD[9:]}]})]),
    completion([choice({"content": GOOD, "tool_calls": None, "refusal": None})]),
    completion([choice({"content": GOOD}, finish_reason=None)]),
    completion([{"message": {"content": GOOD}}]),
    completion([choice({"content": GOOD})], usage=None),
    completion([choice({"content": GOOD})], usage=NULLS),
    completion([choice({"content": GOOD})], usage={}),
    completion([choice({"content": GOOD})], usage="none"),
    completion([choice({"content": GOOD})], id=None, object=None, created=None, model=None),
    completion([choice({"content": GOOD})], error=None),
    WITHOUT_USAGE,
]


@pytest.mark.parametrize("body", READ)
def test_an_answer_is_read_however_it_is_wrapped(body: dict[str, Any]) -> None:
    counts = (100, 10) if body.get("usage") == completion([])["usage"] else (None, None)
    with serve(Misbehaving()) as form:
        for data in (body, b" \n\n\n" + json.dumps(body).encode()):
            reply = answer(form, partial(form.next.append, Reply(200, data)))
            assert [each.text for each in reply.answers] == [GOOD]
            assert (reply.prompt_tokens, reply.completion_tokens) == counts


EMPTY = [
    choice(None),
    {"index": 0, "finish_reason": "stop"},
    choice({}),
    choice({"content": None}),
    choice({"role": "assistant"}, finish_reason="content_filter"),
    choice({"content": ""}),
    choice({"content": []}),
    choice({"content": [None, {"type": "image_url"}, {"text": None}]}),
    choice({"content": 5}),
    choice("text"),
    choice({"content": "", "reasoning_content": "Perhaps ferries?"}, finish_reason="length"),
]


@pytest.mark.parametrize("each", EMPTY)
def test_an_answer_without_words_is_no_answer(each: dict[str, Any], tmp_path: Path) -> None:
    with serve(Misbehaving()) as form:

        def spoil() -> None:
            form.always = Reply(200, completion([each]))

        asked = ask(form, tmp_path, 1, spoil, max_attempts=2)
        assert asked.titles == {0: set()}
        assert asked.found[0].problem
        assert len(form.requests) == asked.n_probes + 2


def estimate(body: dict[str, Any]) -> int:
    """Tokens that a request may take."""
    return STYLE.count(body["messages"]) + int(body.get("n", 1)) * int(body["max_tokens"])


@pytest.mark.parametrize("candidates", [1, CANDIDATES])
def test_a_budget_holds_where_the_endpoint_counts_no_tokens(
    candidates: int, tmp_path: Path
) -> None:
    most, asked = 6_000, Asked()
    with serve(LiteLLM()) as form:
        with pytest.raises(StageError, match=r"max_total_tokens 6,000 leaves no room"):
            ask(form, tmp_path, 60, asked=asked, candidates=candidates, max_total_tokens=most)
        sent = [request.body for request in form.requests[asked.n_probes :]]
        assert sent
        assert sum(map(estimate, sent)) <= most
        # It is spent for the next attempt too.
        with pytest.raises(StageError, match=r"max_total_tokens 6,000 leaves no room"):
            ask(form, tmp_path, 60, asked=asked, candidates=candidates, max_total_tokens=most)
        assert len(form.requests) == asked.n_probes


def test_counts_of_a_silent_endpoint_are_estimates(tmp_path: Path) -> None:
    with serve(LiteLLM()) as form:
        asked = ask(form, tmp_path, candidates=1)
        assert asked.ledger is not None
        spent = sum(map(estimate, (request.body for request in form.requests[asked.n_probes :])))
        assert sum(asked.ledger.tokens) == spent


def test_a_filtered_question_costs_its_cluster_alone(tmp_path: Path) -> None:
    with serve(Azure()) as form:
        form.filtered = "ferry number 3"
        asked = ask(form, tmp_path)
        assert asked.titles == {**ALL_TITLES, 3: set()}
        assert "content management policy" in asked.found[3].problem
        assert len(form.requests) == asked.n_probes + N_CLUSTERS
        assert asked.ledger is not None
        assert len(asked.ledger.calls) == N_CLUSTERS


def test_a_filtered_question_about_several_costs_one_cluster_alone(tmp_path: Path) -> None:
    with serve(Azure()) as form:
        form.filtered = "ferry number 3"
        asked = ask(form, tmp_path, clusters_per_request=4)
        assert asked.titles == {**ALL_TITLES, 3: set()}
        assert "content management policy" in asked.found[3].problem


def test_a_model_that_refuses_every_question_ends_the_run(tmp_path: Path) -> None:
    asked = Asked()
    with serve(Azure()) as form:
        form.filtered = "ferry"
        with pytest.raises(StageError, match=r"refused 20 requests.*content management policy"):
            ask(form, tmp_path, 60, asked=asked)
        assert 20 <= len(form.requests) - asked.n_probes < 20 + IN_FLIGHT


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_an_endpoint_of_this_machine_is_asked_through_no_proxy(
    host: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with serve(Proxy()) as proxy, serve(Form()) as form:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
            monkeypatch.setenv(name.lower(), f"http://127.0.0.1:{proxy.port}")
        asked = ask(form, tmp_path, endpoint=form.url.replace("127.0.0.1", host))
        assert asked.titles == ALL_TITLES
        assert proxy.requests == []
        # Others are.
        asked = ask(proxy, tmp_path / "other", endpoint="http://models.example/v1")
        assert asked.titles == ALL_TITLES
        assert len(proxy.requests) == asked.n_probes + N_CLUSTERS


LEVELS = [4, 2]
N_RUN_CLUSTERS = sum(LEVELS)


@pytest.fixture
def values(icd: pa.Table, tmp_path: Path) -> dict[str, Any]:
    """A small run without an endpoint yet."""
    pq.write_table(icd.slice(0, 60), tmp_path / "icd.parquet")
    summaries = {"engine": "openai", "model": MODEL, "candidates": 2}
    return small_config(
        tmp_path / "icd.parquet",
        tmp_path / "run",
        hierarchy={"levels": LEVELS},
        summaries=summaries,
    )


def run(tmp_path: Path, values: dict[str, Any], **summaries: object) -> int:
    """The exit code of ``hercules-scale run``."""
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({**values, "summaries": {**values["summaries"], **summaries}}))
    return main(["run", str(path)])


def last_words(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command ended with."""
    lines = capsys.readouterr().err.splitlines()
    assert "Traceback" not in "".join(lines)
    said = [line for line in lines if line.startswith("hercules-scale: ")]
    assert len(said) == 1
    return said[0]


def nothing_was_made(folder: Path) -> bool:
    return not (folder / "run.json").exists() and not any(folder.rglob("*.parquet"))


@pytest.mark.ray
@pytest.mark.slow
def test_a_wrong_model_or_url_ends_the_run_before_anything_is_embedded(
    values: dict[str, Any],
    tmp_path: Path,
    local_ray: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with serve(Ollama()) as form, serve(Misbehaving()) as page:
        page.always = Reply(200, PAGE, "text/html")
        for summaries, words in (
            ({"endpoint": form.url, "model": "testr"}, 'model "testr" not found'),
            ({"endpoint": form.url.removesuffix("/v1")}, f"{form.url}"),
            ({"endpoint": page.url}, "no JSON"),
        ):
            started = time.monotonic()
            assert run(tmp_path, values, **summaries) == 2
            assert time.monotonic() - started < 30
            assert words in last_words(capsys)
            assert nothing_was_made(tmp_path / "run")
        # The same folder is good for the corrected run, and nothing is asked for it twice.
        assert run(tmp_path, values, endpoint=form.url) == 0
        calls = Hierarchy.open(str(tmp_path / "run")).table("llm_calls")
        assert (calls["outcome"] == "ok").all()
        # A parent may be asked for again by the titles of its children.
        asked = calls[["level", "cluster_id"]].dropna().drop_duplicates()
        assert len(asked) == N_RUN_CLUSTERS
        n_before = len(form.requests)
        assert run(tmp_path, values, endpoint=form.url) == 0
        assert len(form.requests) == n_before
    # Finished, it does not even need the endpoint.
    assert run(tmp_path, values, endpoint=form.url) == 0


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_says_once_what_its_endpoint_does_not_take(
    values: dict[str, Any],
    tmp_path: Path,
    local_ray: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with serve(LiteLLM()) as form:
        assert run(tmp_path, values, endpoint=form.url, describe_items=True) == 0
        lines = [line for line in capsys.readouterr().err.splitlines() if "does not take" in line]
        assert len(lines) == 1, lines
        calls = Hierarchy.open(str(tmp_path / "run")).table("llm_calls")
        assert (calls["outcome"] == "ok").all()
        assert (calls["prompt_tokens"] > 0).all()
        assert (calls["completion_tokens"] > 0).all()


@pytest.mark.ray
@pytest.mark.slow
def test_an_endpoint_that_refuses_a_run_that_resumes_spoils_nothing(
    values: dict[str, Any],
    tmp_path: Path,
    local_ray: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with serve(DeepSeek()) as form:
        assert run(tmp_path, values, endpoint=form.url, max_total_tokens=1500) == 1
        assert "max_total_tokens 1,500" in last_words(capsys)
        record = (tmp_path / "run" / "run.json").read_text()
        form.paid = False
        assert run(tmp_path, values, endpoint=form.url) == 2
        assert "Insufficient Balance" in last_words(capsys)
        assert (tmp_path / "run" / "run.json").read_text() == record
        form.paid = True
        assert run(tmp_path, values, endpoint=form.url) == 0


class Greedy(Form):
    """vLLM, which gives several answers only where they are drawn."""

    def refuse(self, request: Request) -> Reply | None:
        if request.body.get("n", 1) > 1 and request.body.get("temperature") == 0:
            return error(400, "n must be 1 when using greedy sampling, got 4.")
        return None


class Gemini(Form):
    """An endpoint that names neither its parameter nor its value in a refusal."""

    def refuse(self, request: Request) -> Reply | None:
        if request.body.get("n", 1) > 1:
            return error(400, "Multiple candidates is not enabled for this model")
        return None


class NoSystem(Form):
    """A chat template without a system role."""

    def refuse(self, request: Request) -> Reply | None:
        if any(message["role"] == "system" for message in request.body["messages"]):
            return error(400, "System role not supported")
        return None


@pytest.mark.parametrize(
    ("form", "features"),
    [
        (Greedy, EndpointFeatures()),
        (Gemini, EndpointFeatures(several=False)),
        (NoSystem, EndpointFeatures(system=False)),
    ],
)
def test_only_the_part_that_is_refused_is_left_out(
    form: type[Form], features: EndpointFeatures, tmp_path: Path
) -> None:
    with serve(form()) as server:
        asked = ask(server, tmp_path)
        assert asked.features == features
        assert asked.n_probes <= 2
        assert asked.titles == ALL_TITLES
        if not features.system:
            assert "You name groups" in server.requests[-1].body["messages"][0]["content"]


def test_a_model_that_thinks_past_the_probe_has_answered_it() -> None:
    with serve(Form()) as form:
        form.always = error(400, "Could not finish the message because max_tokens was reached")
        assert probe(form) == EndpointFeatures()
        assert len(form.requests) == 1


@pytest.mark.parametrize(
    "reply",
    [
        error(500, "litellm.APIError: 'NoneType' object has no attribute 'choices'"),
        error(
            400, "Failed to generate JSON. Please adjust your prompt.", code="json_validate_failed"
        ),
    ],
)
def test_a_draw_that_failed_is_made_again(reply: Reply, tmp_path: Path) -> None:
    with serve(Form()) as form:
        assert ask(form, tmp_path, then=lambda: form.next.extend([reply] * 4)).titles == ALL_TITLES


def test_a_question_that_is_moderated_costs_its_cluster_alone(tmp_path: Path) -> None:
    with serve(Form()) as form:
        flagged = error(403, "Your chosen model requires moderation and your input was flagged")
        titles = ask(form, tmp_path, then=lambda: form.next.append(flagged)).titles
        assert sum(map(bool, titles.values())) == N_CLUSTERS - 1


def test_requests_in_flight_hold_where_each_answer_is_a_request(tmp_path: Path) -> None:
    class Counting(LiteLLM):
        running = most = 0

        def answer(self, request: Request) -> Reply:
            with self.lock:
                self.running += 1
                self.most = max(self.most, self.running)
            time.sleep(0.02)
            with self.lock:
                self.running -= 1
            return super().answer(request)

    with serve(Counting()) as form:
        ask(form, tmp_path, requests_in_flight=2)
        assert form.most == 2
