import asyncio
import itertools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hercules_scale.config.summaries import SummariesConfig
from hercules_scale.errors import StageError
from hercules_scale.storage.store import Store
from hercules_scale.summarization import labeller as module
from hercules_scale.summarization import request_limits
from hercules_scale.summarization.candidates import Candidates
from hercules_scale.summarization.chat import (
    Answer,
    ChatReply,
    ChatRequest,
    Model,
    ModelUnavailableError,
)
from hercules_scale.summarization.cluster_facts import Child, ClusterFacts
from hercules_scale.summarization.grounding import Grounding
from hercules_scale.summarization.keyphrases import PhraseCounts, count_phrases
from hercules_scale.summarization.labeller import Labeller
from hercules_scale.summarization.ledger import Call, Ledger
from hercules_scale.summarization.model_calls import Asker
from hercules_scale.summarization.prompts import PromptStyle
from hercules_scale.summarization.request_limits import OUTAGE_CALLS
from hercules_scale.summarization.tokens import EstimatedTokens

GOOD = '{"title": "Ferries of the north", "description": "When ferries leave."}'
# What the stand-in answers to the n-th question about a cluster: one text, or several.
Script = Callable[[int, int], str | list[str]]


class StandIn:
    """A model that answers by a script and remembers what it was asked."""

    def __init__(self, script: Script, finish_reason: str = "stop") -> None:
        self.script, self.finish_reason = script, finish_reason
        self.requests: list[ChatRequest] = []
        self.asked: dict[int, int] = {}
        self.running = self.most_running = 0

    def n_prompts(self, request: ChatRequest) -> int:
        return 1

    async def answer(self, request: ChatRequest) -> ChatReply:
        self.requests.append(request)
        question = request.messages[-1]["content"]
        if "Group " in question:
            return ChatReply([Answer(self.joint(question), "stop")], 100, 10)
        cluster = int(question.split("ferry number ")[1].split("<")[0])
        self.asked[cluster] = self.asked.get(cluster, 0) + 1
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await asyncio.sleep(0)
            texts = self.script(cluster, self.asked[cluster])
            if texts == "silence":
                await asyncio.sleep(60)
            if texts == "refused":
                raise ModelUnavailableError("connection refused")
            if texts == "too much":
                raise ModelUnavailableError("429", wait_seconds=0.05)
        finally:
            self.running -= 1
        texts = [texts] if isinstance(texts, str) else texts
        return ChatReply([Answer(text, self.finish_reason) for text in texts], 100, 10)

    def joint(self, question: str) -> str:
        """An answer about several clusters; those that the script refuses are not in it."""
        ids = [int(line.split()[1]) for line in question.splitlines() if line.startswith("Group ")]
        entries = {each: self.script(each, len(ids)) for each in ids}
        return json.dumps({key: json.loads(text) for key, text in entries.items() if text == GOOD})

    async def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_DELAY_SECONDS", 0.0)
    monkeypatch.setattr(request_limits, "FIRST_PROBE_SECONDS", 0.001)
    monkeypatch.setattr(request_limits, "OUTAGE_SECONDS", 0.01)


class KilledError(Exception):
    """The run ends here."""


class Run:
    """Labels clusters with a model over one folder, as a run and its resumptions do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(str(folder))

    def label(
        self,
        model: StandIn,
        n_clusters: int = 1,
        on_done: Callable[[], None] = lambda: None,
        in_flight: int = 32,
        grounding: Grounding | None = None,
        children: Sequence[Child] = (),
        **options: Any,
    ) -> dict[int, Candidates]:
        config = SummariesConfig.model_validate({"max_attempts": 3, "candidates": 1, **options})
        style = PromptStyle(EstimatedTokens(), config.max_prompt_tokens, config.exemplar_tokens)
        facts = [
            ClusterFacts(2, cluster, 5, ["ferry"], [f"ferry number {cluster}"], [*children])
            for cluster in range(n_clusters)
        ]

        async def label() -> dict[int, Candidates]:
            self.ledger = Ledger(self.store)
            asker = Asker(Model(model, EstimatedTokens(), in_flight), self.ledger, config, style)
            return await Labeller(asker, config, style, 7, on_done).label(facts, grounding)

        return asyncio.run(label())

    @property
    def calls(self) -> list[Call]:
        """Calls that are stored, in the order of the clusters."""

        async def read() -> Ledger:
            return Ledger(self.store)

        calls = asyncio.run(read()).calls
        return sorted(calls, key=lambda call: (call.cluster_id or 0, call.attempt))

    @property
    def outcomes(self) -> list[tuple[int | None, int, str]]:
        return [(call.cluster_id, call.attempt, call.outcome) for call in self.calls]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_every_cluster_gets_the_models_answer(run: Run) -> None:
    found = run.label(StandIn(lambda cluster, attempt: GOOD), 5)
    assert sorted(found) == list(range(5))
    titles = {title for each in found.values() for title in each.titles}
    assert titles == {"Ferries of the north"}
    assert run.outcomes == [(cluster, 1, "ok") for cluster in range(5)]
    assert {(call.level, call.prompt_tokens, call.completion_tokens) for call in run.calls} == {
        (2, 100, 10)
    }


def test_of_several_answers_those_of_use_are_kept_once(run: Run) -> None:
    other = GOOD.replace("north", "south")
    model = StandIn(lambda cluster, attempt: [GOOD, "no idea", other, GOOD])
    found = run.label(model, candidates=4)
    titles = found[0].titles
    assert titles == ["Ferries of the north", "Ferries of the south"]
    payload = model.requests[0].payload("m")
    assert payload["n"] == 4
    # Answers of temperature 0 would all be the same.
    assert payload["temperature"] > 0


def test_a_bad_answer_is_asked_for_again_at_another_draw(run: Run) -> None:
    model = StandIn(lambda cluster, attempt: GOOD if attempt == 3 else "no idea")
    found = run.label(model)
    assert len(found[0].titles) == 1
    assert run.outcomes == [(0, 1, "invalid"), (0, 2, "invalid"), (0, 3, "ok")]
    assert len({request.seed for request in model.requests}) == 3
    assert model.requests[0].temperature == 0
    assert model.requests[1].temperature > 0


def test_a_cluster_without_an_answer_says_why(run: Run) -> None:
    found = run.label(StandIn(lambda cluster, attempt: "no idea"))
    assert found[0].titles == []
    assert "no JSON object" in found[0].problem
    assert len(run.calls) == 3


def test_one_bad_cluster_does_not_touch_its_neighbours(run: Run) -> None:
    found = run.label(StandIn(lambda cluster, attempt: "no idea" if cluster == 2 else GOOD), 4)
    assert [len(found[cluster].titles) for cluster in range(4)] == [1, 1, 0, 1]


def test_an_answer_that_was_cut_off_says_so(run: Run) -> None:
    found = run.label(StandIn(lambda cluster, attempt: '{"title": "Fer', "length"))
    assert found[0].problem == "it was too long and was cut off"


@pytest.mark.parametrize(("failure", "outcome"), [("refused", "error"), ("silence", "timeout")])
def test_a_call_without_an_answer_is_made_again(run: Run, failure: str, outcome: str) -> None:
    model = StandIn(lambda cluster, attempt: failure if attempt == 1 else GOOD)
    found = run.label(model, timeout_seconds=0.05)
    assert len(found[0].titles) == 1
    assert run.outcomes == [(0, 1, outcome), (0, 2, "ok")]
    assert run.calls[0].completion_tokens == 0


def test_a_model_that_never_answers_stops_the_stage_early(run: Run) -> None:
    model = StandIn(lambda cluster, attempt: "refused")
    with pytest.raises(StageError, match=r"stage summarize, level 2: .*connection refused; run ag"):
        run.label(model, 200, in_flight=4)
    # Those in flight, and a few one after another at growing delays.
    assert OUTAGE_CALLS < len(model.requests) <= OUTAGE_CALLS + 4 + 6


def test_a_model_that_dies_under_many_requests_is_waited_for(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_limits, "OUTAGE_SECONDS", 60.0)
    in_flight, dead = 2 * OUTAGE_CALLS, OUTAGE_CALLS + 8 + 3

    def script(cluster: int, attempt: int) -> str:
        return "refused" if len(model.requests) <= dead else GOOD

    model = StandIn(script)
    found = run.label(model, 100, in_flight=in_flight, max_attempts=8)
    assert all(each.complete for each in found.values())
    assert len(model.requests) == 100 + dead


def test_scattered_failures_are_no_outage(run: Run) -> None:
    model = StandIn(lambda cluster, attempt: "refused" if cluster % 2 and attempt < 3 else GOOD)
    found = run.label(model, 60, in_flight=1)
    assert all(each.complete for each in found.values())


@pytest.mark.parametrize("in_flight", [1, 3])
def test_no_more_requests_than_allowed_are_in_flight(run: Run, in_flight: int) -> None:
    model = StandIn(lambda cluster, attempt: GOOD)
    run.label(model, 10, in_flight=in_flight)
    assert model.most_running == in_flight


@pytest.mark.parametrize("in_flight", [1, 8])
def test_the_ledger_does_not_depend_on_how_many_run_at_a_time(
    tmp_path: Path, in_flight: int
) -> None:
    def script(cluster: int, attempt: int) -> str:
        return GOOD if attempt > cluster % 3 else "no idea"

    one, two = Run(tmp_path / "1"), Run(tmp_path / "2")
    one.label(StandIn(script), 9, in_flight=in_flight)
    expected = [(cluster, attempt) for cluster in range(9) for attempt in range(1, cluster % 3 + 2)]
    assert [(cluster, attempt) for cluster, attempt, _ in one.outcomes] == expected
    hashes = [call.prompt_hash for call in one.calls]
    two.label(StandIn(script), 9, in_flight=2)
    assert [call.prompt_hash for call in two.calls] == hashes
    assert len(set(hashes)) == len(hashes)


def test_prompts_are_kept_only_if_asked(tmp_path: Path) -> None:
    model = StandIn(lambda cluster, attempt: GOOD)
    one, two = Run(tmp_path / "1"), Run(tmp_path / "2")
    one.label(model)
    assert (one.calls[0].prompt, one.calls[0].response) == (None, None)
    two.label(model, record_prompts=True)
    (call,) = two.calls
    assert json.loads(call.response or "") == [GOOD]
    assert "ferry number 0" in json.loads(call.prompt or "")[-1]["content"]


def test_progress_is_told_after_each_cluster(run: Run) -> None:
    done: list[int] = []
    model = StandIn(lambda cluster, attempt: "no idea" if cluster else GOOD)
    run.label(model, 3, lambda: done.append(1), max_attempts=1)
    assert len(done) == 3


def test_a_request_asks_for_the_schema_and_the_likeliest_answer(run: Run) -> None:
    model = StandIn(lambda cluster, attempt: GOOD)
    run.label(model, max_answer_tokens=64)
    payload = model.requests[0].payload("some-model")
    asked = (payload["model"], payload["temperature"], payload["max_tokens"])
    assert asked == ("some-model", 0, 64)
    schema = payload["response_format"]["json_schema"]["schema"]
    assert schema["required"] == ["title", "description"]


class TestAgain:
    """What was asked before is not asked again."""

    def test_a_second_run_over_the_same_output_asks_nothing(self, run: Run) -> None:
        first = StandIn(lambda cluster, attempt: GOOD if attempt > cluster % 2 else "no idea")
        found = run.label(first, 6)
        second = StandIn(lambda cluster, attempt: "refused")
        assert run.label(second, 6) == found
        assert second.requests == []
        assert len(run.calls) == 9

    def test_a_killed_run_repeats_only_calls_in_flight(self, run: Run) -> None:
        model = StandIn(lambda cluster, attempt: "silence" if cluster == 7 else GOOD)

        done = []

        def kill() -> None:
            done.append(1)
            if len(done) == 5:
                raise KilledError

        with pytest.raises(KilledError):
            run.label(model, 8, kill, in_flight=2, timeout_seconds=0.2)
        kept = {call.cluster_id for call in run.calls if call.outcome == "ok"}
        again = StandIn(lambda cluster, attempt: GOOD)
        found = run.label(again, 8)
        assert all(each.complete for each in found.values())
        assert len(kept) >= 5
        assert set(again.asked) == set(range(8)) - kept

    def test_after_an_outage_only_what_is_missing_is_asked(self, run: Run) -> None:
        model = StandIn(lambda cluster, attempt: GOOD if cluster < 12 else "refused")
        with pytest.raises(StageError):
            run.label(model, 60, in_flight=1)
        again = StandIn(lambda cluster, attempt: GOOD)
        run.label(again, 60)
        assert set(again.asked) == set(range(12, 60))

    def test_other_parameters_are_another_question(self, run: Run) -> None:
        run.label(StandIn(lambda cluster, attempt: GOOD))
        again = StandIn(lambda cluster, attempt: GOOD)
        run.label(again, temperature=0.5)
        assert len(again.requests) == 1


class TestBudget:
    """Spending stops before the limit, keeps what was made, and goes on with more."""

    def test_tokens(self, run: Run) -> None:
        model = StandIn(lambda cluster, attempt: GOOD)
        limit = 2_000
        with pytest.raises(StageError, match=r"max_total_tokens 2,000 leaves no room.*resumes"):
            run.label(model, 30, max_total_tokens=limit, in_flight=3)
        spent = sum(call.prompt_tokens + call.completion_tokens for call in run.calls)
        assert 0 < spent <= limit
        n_before = len(run.calls)
        again = StandIn(lambda cluster, attempt: GOOD)
        found = run.label(again, 30, max_total_tokens=100_000)
        assert all(each.complete for each in found.values())
        assert len(again.requests) == 30 - n_before

    def test_the_judge_has_an_option_for_it(self, run: Run) -> None:
        config, style = (
            SummariesConfig(max_total_tokens=10),
            PromptStyle(EstimatedTokens(), 1024, 32),
        )
        model = Model(StandIn(lambda cluster, attempt: GOOD), EstimatedTokens(), 4)
        request = ChatRequest([{"role": "user", "content": "Which?"}], {}, 0.0, 64, 0)

        async def ask() -> object:
            asker = Asker(model, Ledger(run.store), config, style, stage="judge")
            return await asker.ask(request, 1, None, 1, lambda reply: reply)

        with pytest.raises(StageError, match=r"judge.*: --max-total-tokens 10 leaves no room"):
            asyncio.run(ask())

    def test_calls_in_flight_end_and_are_kept(self, run: Run) -> None:
        model = StandIn(lambda cluster, attempt: GOOD)
        with pytest.raises(StageError):
            run.label(model, 30, max_total_tokens=3_000, in_flight=8)
        assert len(run.calls) == len(model.requests)

    def test_cost(self, run: Run) -> None:
        price = {"prompt": 1000, "completion": 2000}
        with pytest.raises(StageError, match=r"max_cost 2 leaves no room"):
            run.label(
                StandIn(lambda cluster, attempt: GOOD),
                30,
                max_cost=2,
                price=price,
                in_flight=1,
            )
        cost = sum(call.prompt_tokens + 2 * call.completion_tokens for call in run.calls) / 1000
        assert 0 < cost <= 2


class TestTogether:
    """Several clusters in a request."""

    def test_they_share_requests(self, run: Run) -> None:
        model = StandIn(lambda cluster, size: GOOD)
        found = run.label(model, 20, clusters_per_request=5, in_flight=1)
        assert all(each.complete for each in found.values())
        assert len(model.requests) == 4
        assert run.outcomes == [(None, 1, "ok")] * 4
        assert model.requests[0].max_tokens == 5 * 128

    def test_halves_are_asked_again_until_the_bad_one_is_alone(self, run: Run) -> None:
        model = StandIn(lambda cluster, size: "no idea" if cluster == 3 else GOOD)
        found = run.label(model, 8, clusters_per_request=8, max_attempts=2)
        assert [len(found[cluster].titles) for cluster in range(8)] == [1, 1, 1, 0] + [1] * 4
        # One for all, then the one that was left, alone, as often as is allowed.
        assert len(model.requests) == 3

    def test_a_reply_of_no_use_is_halved_within_a_bound(self, run: Run) -> None:
        model = StandIn(lambda cluster, size: "no idea")
        found = run.label(model, 8, clusters_per_request=8, max_attempts=2)
        assert not any(each.complete for each in found.values())
        assert len(model.requests) <= 2 * 8 - 1 + 8 * 2

    def test_groups_grow_smaller_after_a_failure_and_larger_after_answers(self, run: Run) -> None:
        model = StandIn(lambda cluster, size: "no idea" if cluster < 8 and size > 2 else GOOD)
        run.label(model, 40, clusters_per_request=8, in_flight=1)
        sizes = [request.messages[-1]["content"].count("Group ") or 1 for request in model.requests]
        assert sizes[0] == 8
        assert min(sizes) <= 2
        assert max(sizes[sizes.index(min(sizes)) :]) > 2


def test_an_endpoint_that_is_asked_too_much_is_left_alone_for_a_while(run: Run) -> None:
    asked_at: list[float] = []

    def script(cluster: int, attempt: int) -> str:
        asked_at.append(time.monotonic())
        return "too much" if cluster == 0 and attempt == 1 else GOOD

    model = StandIn(script)
    found = run.label(model, 12, in_flight=4)
    assert all(each.complete for each in found.values())
    gaps = [later - earlier for earlier, later in itertools.pairwise(asked_at)]
    assert max(gaps) >= 0.04


def test_new_titles_are_asked_for_together(run: Run) -> None:
    class Renamer(StandIn):
        def joint(self, question: str) -> str:
            return '{"0": "Ferries of the north", "1": "..."}'

    model = Renamer(lambda cluster, attempt: GOOD)
    config = SummariesConfig()
    style = PromptStyle(EstimatedTokens(), 1024, 32)
    facts = [ClusterFacts(1, cluster, 5, ["ferry"]) for cluster in range(2)]

    async def rename() -> list[dict[int, str]]:
        asker = Asker(Model(model, EstimatedTokens(), 4), Ledger(run.store), config, style)
        groups = [[(each, "Ferries") for each in facts]]
        return await Labeller(asker, config, style, 0).name_siblings(groups)

    assert asyncio.run(rename()) == [{0: "Ferries of the north"}]
    assert len(model.requests) == 1


def test_what_no_item_says_is_asked_for_again_and_then_left_out(run: Run) -> None:
    counts = PhraseCounts(count_phrases(["the ferry leaves north"] * 3, np.zeros(3, np.int32)), 1)
    said = counts.words_of_level(np.zeros(1, np.int32), np.array([3.0]))
    grounding = Grounding(said, [ClusterFacts(2, 0, 3, ["ferry"])], None)
    invented = '{"title": "Ferries of the north", "description": "Cows and zebras in a zoo."}'
    model = StandIn(lambda cluster, attempt: GOOD if attempt == 2 else invented)
    again = run.label(model, grounding=grounding)
    assert again[0].titles == ["Ferries of the north"]
    assert again[0].complete
    assert run.outcomes == [(0, 1, "invalid"), (0, 2, "ok")]
    # The title is kept where no description is of use.
    model = StandIn(lambda cluster, attempt: invented)
    never = Run(run.folder / "never").label(model, grounding=grounding)
    assert (never[0].titles, never[0].descriptions) == (["Ferries of the north"], [])
    assert never[0].problem == "the description says what the items do not: cows, zebras, zoo"
    assert len(model.requests) == 3


def test_a_description_of_topics_has_those_that_the_items_speak_of(run: Run) -> None:
    texts = ["the ferry leaves north at nine", "a ferry north", "harbour fees of the ferry"]
    counts = PhraseCounts(count_phrases(texts, np.zeros(3, np.int32)), 1)
    said = counts.words_of_level(np.zeros(1, np.int32), np.array([3.0]))
    grounding = Grounding(said, [ClusterFacts(2, 0, 3, ["ferry"])], None)

    def answer(*topics: str) -> str:
        return json.dumps({"title": "Ferries of the north", "topics": topics})

    model = StandIn(
        lambda cluster, attempt: answer("ferry north", "cows in a zoo", "Ferries north")
    )
    found = run.label(model, grounding=grounding)[0]
    assert found.descriptions == ["Ferry north."]
    # Of several answers the topics that most items speak of are one more.
    several = [answer("harbour fees", "leaves at nine"), answer("ferry north", "harbour fees")]
    model = StandIn(lambda cluster, attempt: several)
    found = Run(run.folder / "several").label(model, grounding=grounding, candidates=2)[0]
    assert found.descriptions[:2] == ["Harbour fees, leaves at nine.", "Ferry north, harbour fees."]
    assert found.descriptions[2:] == ["Harbour fees, leaves at nine, ferry north."]
    # A topic alone says little, where there are others.
    several[0] = answer("ferry north", "cows in a zoo")
    found = Run(run.folder / "lone").label(model, grounding=grounding, candidates=2)[0]
    assert found.descriptions[0] == "Ferry north, harbour fees."
    assert "Ferry north." not in found.descriptions
    # Nothing is left of what no item speaks of.
    model = StandIn(lambda cluster, attempt: answer("cows in a zoo", "zebras"))
    found = Run(run.folder / "none").label(model, grounding=grounding, max_attempts=1)[0]
    assert (found.titles, found.descriptions) == (["Ferries of the north"], [])
    assert "the description says what the items do not: cows, zoo, zebras" in found.problem


@pytest.mark.parametrize(
    ("texts", "title", "description"),
    [
        (
            ["मेरी साइकिल की चेन उतरती है", "साइकिल का टायर बदलना", "साइकिल की चेन कैसे ठीक करें"],
            "साइकिल की चेन और टायर",
            "साइकिल की चेन ठीक करना और टायर बदलना।",
        ),
        (
            ["自転車のチェーンが外れた", "古い自転車の修理方法", "自転車を修理する"],
            "自転車のチェーン修理",
            "自転車の修理方法と、外れたチェーンについて。",
        ),
    ],
    ids=["hindi", "japanese"],
)
def test_labels_of_the_model_are_taken_at_once_in_the_language_of_the_items(
    run: Run, texts: list[str], title: str, description: str
) -> None:
    counts = PhraseCounts(count_phrases(texts, np.zeros(3, np.int32)), 1)
    said = counts.words_of_level(np.zeros(1, np.int32), np.array([3.0]))
    phrases = counts.of_level(np.zeros(1, np.int32), 8)[0]
    grounding = Grounding(said, [ClusterFacts(1, 0, 3, phrases, texts)], None)
    answer = json.dumps({"title": title, "description": description})
    found = run.label(StandIn(lambda cluster, attempt: answer), grounding=grounding)
    assert (found[0].titles, found[0].descriptions) == ([title], [description])
    assert run.outcomes == [(0, 1, "ok")]


class SlowModel(StandIn):
    """A model that takes a time for each answer, alone or shared among those in flight."""

    def __init__(self, seconds: float, at_once: int = 1) -> None:
        super().__init__(lambda cluster, attempt: GOOD)
        self.seconds = seconds
        self.free = asyncio.Semaphore(at_once)
        self.lost = -1

    async def answer(self, request: ChatRequest) -> ChatReply:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            if f"ferry number {self.lost}<" in str(request.messages[-1]["content"]):
                self.lost = -1
                await asyncio.sleep(60)
            async with self.free:
                await asyncio.sleep(self.seconds)
        finally:
            self.running -= 1
        self.requests.append(request)
        return ChatReply([Answer(GOOD, "stop")], 100, 10)


def test_a_request_has_its_time_limit_once_the_requests_before_it_are_answered(run: Run) -> None:
    # Each answer takes most of the limit, and eight questions wait for one processor.
    model = SlowModel(0.3)
    found = run.label(model, 12, in_flight=64, timeout_seconds=0.6)
    assert all(each.complete for each in found.values())
    assert {outcome for _, _, outcome in run.outcomes} == {"ok"}
    # More at a time than one processor works on would only wait.
    assert model.most_running <= 9


def test_a_slow_model_with_many_processors_is_asked_as_much_as_it_takes(run: Run) -> None:
    model = SlowModel(0.25, at_once=64)
    found = run.label(model, 64, in_flight=40, timeout_seconds=0.4)
    assert all(each.complete for each in found.values())
    assert model.most_running > 16


def test_a_request_that_is_lost_among_others_is_sent_again(run: Run) -> None:
    model = SlowModel(0.01, at_once=4)
    model.lost = 3
    started = time.monotonic()
    found = run.label(model, 40, in_flight=4, timeout_seconds=0.5)
    assert time.monotonic() - started < 20
    assert all(each.complete for each in found.values())
    assert [outcome for cluster, _, outcome in run.outcomes if cluster == 3] == ["timeout", "ok"]


def test_the_limit_halves_once_for_all_requests_that_were_late_together() -> None:
    async def slots_after(n_late: int) -> int:
        slots = request_limits.ConcurrencyLimit(64, 8, 10.0)
        started = time.monotonic()
        slots.answered(started)
        for _ in range(n_late):
            slots.late(started)
        return slots._slots

    assert asyncio.run(slots_after(0)) == 9
    assert asyncio.run(slots_after(1)) == asyncio.run(slots_after(5)) == 5


def test_a_model_that_hangs_runs_out_of_time_once_for_all_in_flight(run: Run) -> None:
    model = SlowModel(60, at_once=64)
    started = time.monotonic()
    with pytest.raises(StageError, match=r"failed 20 times in a row.*no answer in 0\.4 s"):
        run.label(model, 60, in_flight=64, timeout_seconds=0.4, max_attempts=20)
    # Eight at once, then four, two, and one at a time.
    assert time.monotonic() - started < 10
    assert {outcome for _, _, outcome in run.outcomes} == {"timeout"}
    # The questions were read, and count.
    assert all(call.prompt_tokens > 0 for call in run.calls)


def test_an_endpoint_that_is_asked_too_much_by_a_burst_loses_one_slot() -> None:
    async def slots() -> int:
        slots = request_limits.ConcurrencyLimit(64, 8, 10.0)
        started = time.monotonic()
        for _ in range(6):
            slots.close_for(0.0, started)
        return slots._slots

    assert asyncio.run(slots()) == 7
