import asyncio
import json
from collections.abc import Callable

import pytest

from hercules_scale.config import SummariesConfig
from hercules_scale.errors import StageError
from hercules_scale.summarization import label as module
from hercules_scale.summarization.clients import ChatReply, ChatRequest, ModelUnavailableError
from hercules_scale.summarization.label import OUTAGE_CALLS, Labeller, Labelling
from hercules_scale.summarization.prompts import ClusterFacts, EstimatedTokens

GOOD = '{"title": "Ferries of the north", "description": "When ferries leave."}'
# What the stand-in answers to the n-th question about a cluster.
Script = Callable[[int, int], str]


class StandIn:
    """A model that answers by a script and remembers what it was asked."""

    def __init__(self, script: Script, finish_reason: str = "stop") -> None:
        self.script, self.finish_reason = script, finish_reason
        self.requests: list[ChatRequest] = []
        self.asked: dict[int, int] = {}
        self.running = self.most_running = 0

    async def answer(self, request: ChatRequest) -> ChatReply:
        self.requests.append(request)
        cluster = int(request.messages[-1]["content"].split("ferry number ")[1].split("<")[0])
        self.asked[cluster] = self.asked.get(cluster, 0) + 1
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await asyncio.sleep(0)
            text = self.script(cluster, self.asked[cluster])
            if text == "silence":
                await asyncio.sleep(60)
            if text == "refused":
                raise ModelUnavailableError("connection refused")
        finally:
            self.running -= 1
        return ChatReply(text, self.finish_reason, 100, 10)

    async def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_DELAY_SECONDS", 0.0)


def label(model: StandIn, n_clusters: int = 1, **options: object) -> Labelling:
    config = SummariesConfig.model_validate({"max_attempts": 3, **options})
    labeller = Labeller(model, config, EstimatedTokens(), seed=7)
    facts = [
        ClusterFacts(2, cluster, 5, ["ferry"], [f"ferry number {cluster}"])
        for cluster in range(n_clusters)
    ]
    return asyncio.run(labeller.label(facts))


def outcomes(labelling: Labelling) -> list[tuple[int, int, str]]:
    return [(call.cluster_id, call.attempt, call.outcome) for call in labelling.calls]


def test_every_cluster_gets_the_models_answer() -> None:
    found = label(StandIn(lambda cluster, attempt: GOOD), 5)
    assert sorted(found.summaries) == list(range(5))
    assert {summary.title for summary in found.summaries.values()} == {"Ferries of the north"}
    assert outcomes(found) == [(cluster, 1, "ok") for cluster in range(5)]
    assert {(call.level, call.prompt_tokens, call.completion_tokens) for call in found.calls} == {
        (2, 100, 10)
    }


def test_a_bad_answer_is_asked_for_again_at_another_draw() -> None:
    model = StandIn(lambda cluster, attempt: GOOD if attempt == 3 else "no idea")
    found = label(model)
    assert found.summaries[0].status == "ok"
    assert outcomes(found) == [(0, 1, "invalid"), (0, 2, "invalid"), (0, 3, "ok")]
    assert len({request.seed for request in model.requests}) == 3
    assert model.requests[0].temperature == 0
    assert model.requests[1].temperature > 0


def test_key_phrases_stand_in_after_the_last_attempt() -> None:
    found = label(StandIn(lambda cluster, attempt: "no idea"))
    summary = found.summaries[0]
    assert (summary.title, summary.status) == ("Ferry", "fallback")
    assert summary.error is not None
    assert "no JSON object" in summary.error
    assert len(found.calls) == 3


def test_one_bad_cluster_does_not_touch_its_neighbours() -> None:
    found = label(StandIn(lambda cluster, attempt: "no idea" if cluster == 2 else GOOD), 4)
    assert [found.summaries[cluster].status for cluster in range(4)] == [
        "ok",
        "ok",
        "fallback",
        "ok",
    ]


def test_an_answer_that_was_cut_off_says_so() -> None:
    found = label(StandIn(lambda cluster, attempt: '{"title": "Fer', "length"))
    assert found.summaries[0].error == "it was too long and was cut off"


@pytest.mark.parametrize(("failure", "outcome"), [("refused", "error"), ("silence", "timeout")])
def test_a_call_without_an_answer_is_made_again(failure: str, outcome: str) -> None:
    model = StandIn(lambda cluster, attempt: failure if attempt == 1 else GOOD)
    found = label(model, timeout_seconds=0.05)
    assert found.summaries[0].status == "ok"
    assert outcomes(found) == [(0, 1, outcome), (0, 2, "ok")]
    assert found.calls[0].completion_tokens == 0


def test_a_model_that_never_answers_stops_the_stage_early() -> None:
    model = StandIn(lambda cluster, attempt: "refused")
    with pytest.raises(StageError, match=r"stage summarize, level 2: .*connection refused; run ag"):
        label(model, 200, requests_in_flight=4)
    assert OUTAGE_CALLS <= len(model.requests) <= OUTAGE_CALLS + 4


def test_scattered_failures_are_no_outage() -> None:
    model = StandIn(lambda cluster, attempt: "refused" if cluster % 2 and attempt < 3 else GOOD)
    found = label(model, 60, requests_in_flight=1)
    assert {summary.status for summary in found.summaries.values()} == {"ok"}


@pytest.mark.parametrize("in_flight", [1, 3])
def test_no_more_requests_than_allowed_are_in_flight(in_flight: int) -> None:
    model = StandIn(lambda cluster, attempt: GOOD)
    label(model, 10, requests_in_flight=in_flight)
    assert model.most_running == in_flight


@pytest.mark.parametrize("in_flight", [1, 8])
def test_the_ledger_does_not_depend_on_how_many_run_at_a_time(in_flight: int) -> None:
    model = StandIn(lambda cluster, attempt: GOOD if attempt > cluster % 3 else "no idea")
    found = label(model, 9, requests_in_flight=in_flight)
    expected = [(cluster, attempt) for cluster in range(9) for attempt in range(1, cluster % 3 + 2)]
    assert [(cluster, attempt) for cluster, attempt, _ in outcomes(found)] == expected
    hashes = [call.prompt_hash for call in found.calls]
    again = label(StandIn(model.script), 9, requests_in_flight=2)
    assert [call.prompt_hash for call in again.calls] == hashes
    assert len(set(hashes)) == len(hashes)


def test_prompts_are_kept_only_if_asked() -> None:
    (call,) = label(StandIn(lambda cluster, attempt: GOOD)).calls
    assert (call.prompt, call.response) == (None, None)
    (call,) = label(StandIn(lambda cluster, attempt: GOOD), record_prompts=True).calls
    assert call.response == GOOD
    assert call.prompt is not None
    assert "ferry number 0" in json.loads(call.prompt)[-1]["content"]


def test_progress_is_told_after_each_cluster() -> None:
    done: list[int] = []
    model = StandIn(lambda cluster, attempt: "no idea" if cluster else GOOD)
    config = SummariesConfig(max_attempts=1)
    labeller = Labeller(model, config, EstimatedTokens(), 0, lambda: done.append(1))
    facts = [ClusterFacts(1, cluster, 5, [], [f"ferry number {cluster}"]) for cluster in range(3)]
    asyncio.run(labeller.label(facts))
    assert len(done) == 3


def test_a_request_asks_for_the_schema_and_the_likeliest_answer() -> None:
    model = StandIn(lambda cluster, attempt: GOOD)
    label(model, max_answer_tokens=64)
    payload = model.requests[0].payload("some-model")
    assert (payload["model"], payload["temperature"], payload["max_tokens"]) == (
        "some-model",
        0,
        64,
    )
    schema = payload["response_format"]["json_schema"]["schema"]
    assert schema["required"] == ["title", "description"]
