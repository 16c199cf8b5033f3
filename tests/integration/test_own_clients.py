"""Functions of the user in place of models, as pyhercules takes them, on a local Ray."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.base import clone

from hercules_scale import Hercules, Hierarchy
from hercules_scale.commands.cli import main
from hercules_scale.embedding.function import FunctionEncoder
from hercules_scale.errors import ConfigError, InputError, StageError
from hercules_scale.explorer.forms import configuration
from hercules_scale.explorer.open_run import OpenRun
from hercules_scale.explorer.search import Meaning
from hercules_scale.storage.store import Store
from hercules_scale.summarization import labeller
from hercules_scale.summarization.chat import ChatReply, ChatRequest, ModelUnavailableError
from hercules_scale.summarization.function import FunctionClient, as_prompt
from hercules_scale.summarization.prompts import PromptStyle, fixed_messages
from hercules_scale.summarization.tokens import EstimatedTokens

pytestmark = pytest.mark.ray

TEXTS = [
    f"{place} {number} {ending}"
    for place in ("the ferry to the island", "bread and cake of the bakery", "a repair of the roof")
    for number in range(12)
    for ending in ("on Monday", "in May")
]


def letters(texts: list[str]) -> np.ndarray[Any, Any]:
    """Vectors that count the letters of a text, in 16 places."""
    counts = np.zeros((len(texts), 16))
    for row, text in enumerate(texts):
        for letter in text:
            counts[row, ord(letter) % 16] += 1
    return counts


def from_phrases(prompt: str) -> str:
    """Title and description out of what a prompt says of its cluster."""
    question = prompt.rpartition("Answer with JSON alone:\n")[2]
    lines = [line for line in question.splitlines() if line.startswith("Group ")]
    if lines:
        named = {line.split()[1].strip(","): line.rpartition(": ")[2][:30] for line in lines}
        return json.dumps({key: f"Notes on {name}" for key, name in named.items()})
    phrases = question.partition("Key phrases: ")[2].splitlines()[:1]
    name = (phrases[0] if phrases else question[6:40]).partition(",")[0]
    return json.dumps({"title": f"Notes on {name}", "description": f"Some notes on {name}."})


class Recorder:
    """A function that keeps what it is called with, and does something else at some calls."""

    def __init__(
        self, function: Callable[[Any], Any], others: dict[int, Callable[[], Any]] | None = None
    ) -> None:
        self.function, self.others = function, dict(others or {})
        self.calls: list[Any] = []
        # No process but this one can have it.
        self.lock = threading.Lock()

    def __call__(self, given: Any) -> Any:
        with self.lock:
            self.calls.append(given)
            other = self.others.pop(len(self.calls), None)
        return self.function(given) if other is None else other()


def fail(error: BaseException) -> Callable[[], Any]:
    def act() -> Any:
        raise error

    return act


def hercules(levels: list[int] | None = None, **options: Any) -> Hercules:
    """With one call a prompt, and titles by key phrases where no function is given."""
    if "llm" in options:
        options["summaries"] = {"candidates": 1, **options.get("summaries", {})}
    else:
        options.setdefault("summaries", "keyphrases")
    return Hercules(levels or [3, 2], verbose=False, **options)


@pytest.fixture
def no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labeller, "FIRST_DELAY_SECONDS", 0.01)


@pytest.fixture(scope="module")
def finished(
    local_ray: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Hierarchy, Recorder, Recorder]:
    """A run by functions that hold locks, and the functions."""
    llm, embed = Recorder(from_phrases), Recorder(letters)
    output = tmp_path_factory.mktemp("own") / "run"
    model = hercules(llm=llm, embed=embed, summaries={"record_prompts": True})
    return model.fit(TEXTS, output=output), llm, embed


def test_a_function_writes_the_titles_and_its_calls_are_kept(
    finished: tuple[Hierarchy, Recorder, Recorder],
) -> None:
    hierarchy, llm, _ = finished
    clusters = hierarchy.clusters()
    assert set(clusters["summary_status"]) == {"ok"}
    assert clusters["title"].str.startswith("Notes on ").all()
    calls = hierarchy.table("llm_calls")
    name = f"{Recorder.__module__}.Recorder"
    assert set(calls["model"]) == {name}
    assert set(calls["outcome"]) == {"ok"}
    assert (calls["prompt_tokens"] > calls["completion_tokens"]).all()
    lower = clusters[clusters["level"] == 1]
    of_parents = clusters[clusters["level"] == 2].set_index("cluster_id")["n_items"]
    # A cluster with the items of one below has its label.
    n_same = (lower["n_items"] == lower["parent_cluster_id"].map(of_parents)).sum()
    # Siblings are named together in further calls, and parents by the titles of their children.
    assert len(llm.calls) == len(calls)
    asked = calls[["level", "cluster_id"]].dropna().drop_duplicates()
    assert len(calls) > len(asked) == len(clusters) - n_same
    assert all(isinstance(prompt, str) for prompt in llm.calls)
    config = hierarchy.run["config"]
    assert (config["summaries"]["engine"], config["summaries"]["model"]) == ("callable", name)
    assert config["embedding"]["model"] == f"callable:{name}"


def test_vectors_of_a_function_are_clustered_as_the_same_vectors_that_are_brought(
    finished: tuple[Hierarchy, Recorder, Recorder],
) -> None:
    hierarchy, _, embed = finished
    brought = hercules(modality="embedding", embed=letters).fit(letters(TEXTS).astype(np.float32))
    for name in ("embeddings", "memberships"):
        pd.testing.assert_frame_equal(hierarchy.table(name), brought.table(name))
    assert embed.calls[0] == TEXTS
    assert all(isinstance(text, str) for call in embed.calls for text in call)
    # Of vectors nothing is embedded but the labels, by the same function.
    vectors = np.stack(brought.clusters()["description_embedding"].to_list())
    assert vectors.shape == (5, 16)


def test_commands_work_on_a_run_by_functions_and_say_what_does_not(
    finished: tuple[Hierarchy, Recorder, Recorder],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hierarchy, _, _ = finished
    uri = hierarchy.uri
    before = hierarchy.evaluations()
    assert main(["evaluate", uri]) == 0
    pd.testing.assert_frame_equal(Hierarchy.open(uri).evaluations(), before)
    export = ["export", uri, "--format", "html", "--output", str(tmp_path / "page.html")]
    for command in (["show", uri], ["show", uri, "--cluster", "1/0"], ["status", uri], export):
        assert main(command) == 0
    values = {
        "input": {"path": f"{uri}/items", "text_column": "text"},
        "summaries": {"engine": "keyphrases"},
        "output": {"path": uri},
    }
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(values))
    capsys.readouterr()
    assert main(["plan", str(tmp_path / "plan.yaml"), "--show-prompt", "2/0"]) == 0
    assert "Parts: " in capsys.readouterr().out
    (tmp_path / "new.txt").write_text("the ferry to the island 99 on Monday\n")
    command = ["assign", uri, str(tmp_path / "new.txt"), "--output", str(tmp_path / "new")]
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "Hierarchy.open(RUN).assign(items, embed=...)" in line
    with pytest.raises(InputError, match="search by meaning is not available"):
        Meaning(OpenRun.of(Store(uri))).find("ferries")


def test_new_items_are_assigned_by_the_function_that_is_remembered_or_given(
    finished: tuple[Hierarchy, Recorder, Recorder],
) -> None:
    hierarchy, _, embed = finished
    new = ["the ferry to the island 99 on Monday", "a repair of the roof 98 in May"]
    remembered = hierarchy.assign(new)
    assert embed.calls[-1] == new
    opened = Hierarchy.open(hierarchy.uri)
    pd.testing.assert_frame_equal(opened.assign(new, embed=letters), remembered)
    of_texts = hierarchy.memberships()["level_1"]
    assert remembered["level_1"].tolist() == [of_texts[0], of_texts[60]]
    with pytest.raises(ConfigError, match=r"embedding\.model callable:.* is for Python"):
        opened.assign(new)
    with pytest.raises(InputError, match=r"gives 8 numbers an item, and the run .* has 16"):
        opened.assign(new, embed=lambda texts: letters(texts)[:, :8])


def test_a_run_without_a_function_is_given_none_for_new_items(local_ray: None) -> None:
    hierarchy = hercules([2], embed=letters).fit(TEXTS[:9])
    message = r"made without llm \(summaries\.engine keyphrases\); leave it out"
    with pytest.raises(InputError, match=message):
        hierarchy.assign(TEXTS, llm=from_phrases)


def test_a_call_that_raises_is_tried_again(local_ray: None, no_delays: None) -> None:
    llm = Recorder(from_phrases, {1: fail(OSError("down")), 2: fail(ValueError("down too"))})
    hierarchy = hercules(llm=llm, embed=letters).fit(TEXTS)
    assert set(hierarchy.clusters()["summary_status"]) == {"ok"}
    outcomes = Counter(hierarchy.table("llm_calls")["outcome"])
    assert outcomes["error"] == 2
    assert sum(outcomes.values()) == len(llm.calls)


def test_what_a_function_raises_is_the_reason_of_a_fallback_without_secrets(
    local_ray: None, no_delays: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_API_KEY", "canary-of-the-key")

    def refuse(prompt: str) -> str:
        raise PermissionError("the key canary-of-the-key is wrong")

    hierarchy = hercules(llm=refuse, embed=letters, summaries={"max_attempts": 1}).fit(TEXTS)
    clusters = hierarchy.clusters()
    assert set(clusters["summary_source"]) == {"keyphrases"}
    assert set(clusters["summary_error"]) == {"PermissionError: the key *** is wrong"}


@pytest.mark.parametrize(
    ("answer", "shown"), [(None, r"got 'None' \(NoneType\)"), ({"title": "A"}, r"\(dict\)")]
)
def test_an_answer_that_is_no_text_ends_the_run_with_one_error(
    local_ray: None, answer: Any, shown: str
) -> None:
    model = hercules(llm=lambda prompt: answer, embed=letters)
    with pytest.raises(StageError, match=rf"llm \(.*<lambda>\) must return the answer.*{shown}"):
        model.fit(TEXTS)


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        (None, r"for 2 texts it returned None \(NoneType\)"),
        (np.ones((3, 4)), r"an array of shape \(3, 4\)"),
        (np.ones(2), r"an array of shape \(2,\)"),
        (np.ones((2, 0)), r"an array of shape \(2, 0\)"),
        ([["1", "2"], ["3", "4"]], "an array of <U1"),
        ([[1.0], [1.0, 2.0]], "a list that is no array"),
        ([[0.0, 1.0], [0.0, np.nan]], "a vector in row 1 that is not finite"),
        ([[0.0, 1e300], [0.0, 1.0]], "a vector in row 0 that is not finite in float32"),
        (np.ones((2, 5)), "5 numbers a text, and 4 before"),
    ],
)
def test_vectors_that_cannot_be_used_are_refused(result: Any, shown: str) -> None:
    results = iter([[[1, 2, 3, 4]], result])
    encoder = FunctionEncoder("mine", lambda texts: next(results))
    vectors = encoder.encode(["a"], "embed")
    assert vectors.dtype == np.float32
    assert vectors.tolist() == [[1, 2, 3, 4]]
    assert encoder.encode([], "embed").shape == (0, 4)
    with pytest.raises(ConfigError, match=rf"embed \(mine\) must return an array.*{shown}"):
        encoder.encode(["a", "b"], "embed")


def test_a_function_that_gives_no_vectors_ends_the_run(local_ray: None, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"embed \(.*\) must return an array of shape \(n, d\)"):
        hercules(embed=lambda texts: letters(texts)[1:]).fit(TEXTS, output=tmp_path / "run")
    # A connection of the function is none of the storage, which would be waited for.
    started = time.monotonic()
    with pytest.raises(StageError, match="failed: ConnectionError: no route; run again") as raised:
        hercules(embed=Recorder(letters, {1: fail(ConnectionError("no route"))})).fit(TEXTS)
    assert isinstance(raised.value.__cause__, ConnectionError)
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt()])
def test_after_an_interruption_only_texts_without_vectors_are_embedded(
    local_ray: None, tmp_path: Path, error: BaseException
) -> None:
    texts = [f"{text}, note {number}" for number in range(50) for text in TEXTS]
    embed = Recorder(letters, {3: fail(error)})
    model = hercules(embed=embed)
    with pytest.raises((StageError, KeyboardInterrupt)):
        model.fit(texts, output=tmp_path / "run")
    assert list(map(len, embed.calls)) == [1024, 1024, 1024]
    embed.calls.clear()
    hierarchy = model.fit(texts, output=tmp_path / "run")
    assert list(map(len, embed.calls[:2])) == [1024, len(texts) - 3 * 1024]
    # The rest is labels.
    assert not {text for call in embed.calls[2:] for text in call} & set(texts)
    vectors = np.stack(hierarchy.table("embeddings")["embedding"].to_list())
    np.testing.assert_array_equal(vectors, letters(texts))


def test_another_function_of_the_same_name_cannot_mix_vectors(
    local_ray: None, tmp_path: Path
) -> None:
    texts = [f"{text}, note {number}" for number in range(30) for text in TEXTS]
    interrupted = hercules(embed=Recorder(letters, {3: fail(KeyboardInterrupt())}))
    with pytest.raises(KeyboardInterrupt):
        interrupted.fit(texts, output=tmp_path / "run")
    other = hercules(embed=Recorder(lambda texts: letters(texts)[:, :8]))
    with pytest.raises(ConfigError, match="it returned 8 numbers a text, and 16 before"):
        other.fit(texts, output=tmp_path / "run")


def test_after_an_interruption_no_prompt_that_was_answered_is_asked_again(
    local_ray: None, tmp_path: Path
) -> None:
    llm = Recorder(from_phrases, {4: fail(KeyboardInterrupt())})
    model = hercules([5, 2], llm=llm, embed=letters, summaries={"requests_in_flight": 1})
    with pytest.raises(KeyboardInterrupt):
        model.fit(TEXTS, output=tmp_path / "run")
    answered = llm.calls[:3]
    assert len(llm.calls) == 4
    llm.calls.clear()
    hierarchy = model.fit(TEXTS, output=tmp_path / "run")
    assert set(hierarchy.clusters()["summary_status"]) == {"ok"}
    assert not set(answered) & set(llm.calls)
    assert len(hierarchy.table("llm_calls")) == len(answered) + len(llm.calls)


def test_a_budget_stops_a_run_by_a_function_and_more_of_it_resumes(
    local_ray: None, tmp_path: Path
) -> None:
    llm = Recorder(from_phrases)
    small: dict[str, Any] = {"requests_in_flight": 1, "candidates": 2, "max_total_tokens": 4_000}
    model = hercules([5, 2], llm=llm, embed=letters, summaries=small)
    with pytest.raises(StageError, match="max_total_tokens 4,000 leaves no room"):
        model.fit(TEXTS, output=tmp_path / "run")
    answered = set(llm.calls)
    assert answered
    llm.calls.clear()
    model.set_params(summaries={**small, "max_total_tokens": 100_000})
    hierarchy = model.fit(TEXTS, output=tmp_path / "run")
    assert not answered & set(llm.calls)
    assert hierarchy.run["tokens"]["prompt_tokens"] > 4_000


def test_lambdas_open_files_partial_functions_and_coroutines_are_functions_too(
    local_ray: None, tmp_path: Path
) -> None:
    with (tmp_path / "log").open("a") as log:

        def logged(scale: float, texts: list[str]) -> list[list[float]]:
            log.write(f"{len(texts)}\n")
            return (scale * letters(texts)).tolist()  # type: ignore[no-any-return]

        async def ask(prompt: str) -> str:
            await asyncio.sleep(0)
            return from_phrases(prompt)

        hierarchy = hercules(llm=ask, embed=functools.partial(logged, 2.0)).fit(TEXTS)
    assert set(hierarchy.clusters()["summary_status"]) == {"ok"}
    assert (tmp_path / "log").read_text().startswith("72\n")
    config = hierarchy.run["config"]
    assert config["summaries"]["model"].endswith(".<locals>.ask")
    assert config["embedding"]["model"].endswith(".<locals>.logged")
    other = hercules(llm=lambda prompt: ask(prompt), embed=lambda texts: 2 * letters(texts))
    pd.testing.assert_frame_equal(other.fit(TEXTS).memberships(), hierarchy.memberships())


def test_items_are_described_and_embedded_by_functions_and_new_ones_too(local_ray: None) -> None:
    embed = Recorder(letters)
    described = {"describe_items": True}
    model = hercules(
        llm=from_phrases, embed=embed, representation="description", summaries=described
    )
    hierarchy = model.fit(TEXTS[::6])
    items = hierarchy.table("items")
    assert items["title"].str.startswith("Notes on ").all()
    assert embed.calls[0] == (items["title"] + ". " + items["description"]).tolist()
    again = hierarchy.assign(TEXTS[1::6])
    assert again["title_1"].notna().all()


def test_descriptions_are_clustered_without_a_call_an_item(local_ray: None) -> None:
    embed, texts = Recorder(letters), [text + " and more of it" * 40 for text in TEXTS[::6]]
    ask = Recorder(from_phrases)
    hierarchy = hercules(llm=ask, embed=embed, representation="description").fit(texts)
    snippets = hierarchy.table("items")["description"]
    assert embed.calls[0] == snippets.tolist()
    assert all(own.startswith(text[:30]) for own, text in zip(snippets, texts, strict=True))
    assert set(hierarchy.table("llm_calls")["level"]) == {1, 2}
    again = hierarchy.assign(texts)
    assert again["level_1"].tolist() == hierarchy.memberships()["level_1"].tolist()


def test_rows_of_numbers_are_clustered_by_their_values_in_words(local_ray: None) -> None:
    frame = pd.DataFrame({"width": np.arange(40.0), "height": np.tile([1.0, 5.0], 20)})
    embed = Recorder(letters)
    hercules(embed=embed, representation="description").fit(frame)
    # Ids of the items are not embedded.
    assert embed.calls[0][:2] == ["width 0, height 1", "width 1, height 5"]


def test_of_numbers_a_function_embeds_the_labels_alone(local_ray: None, tmp_path: Path) -> None:
    frame = pd.DataFrame({"width": np.arange(40.0), "height": np.tile([1.0, 5.0], 20)})
    embed = Recorder(letters)
    hierarchy = hercules(embed=embed).fit(frame, output=tmp_path / "run")
    assert np.stack(hierarchy.clusters()["description_embedding"].to_list()).shape[1] == 16
    assert np.stack(hierarchy.table("embeddings")["embedding"].to_list()).shape[1] == 2
    n_calls = len(embed.calls)
    # New items have no labels, so nothing is embedded by it.
    Hierarchy.open(hierarchy.uri).assign(frame[:3])
    assert len(embed.calls) == n_calls


def test_texts_are_redacted_before_a_function_embeds_them(local_ray: None) -> None:
    embed = Recorder(letters)
    texts = [f"{text} for zqmaria" for text in TEXTS]
    model = hercules(embed=embed, privacy={"redact": "tests.integration.redactions:mask_words"})
    model.fit(texts)
    assert embed.calls[0] == [f"{text} for ***" for text in TEXTS]
    assert "zqmaria" not in str(embed.calls)


def request(n: int = 1) -> ChatRequest:
    return ChatRequest(
        [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}], {}, 0.0, 10, 0, n
    )


@pytest.mark.parametrize("n_threads", [1, 3])
def test_a_function_is_called_by_as_many_threads_as_were_asked_for(n_threads: int) -> None:
    lock, running, most = threading.Lock(), 0, 0

    def answer(prompt: str) -> str:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1
        return prompt

    async def ask() -> list[ChatReply]:
        client = FunctionClient(answer, "mine", n_threads)
        try:
            return await asyncio.gather(*(client.answer(request(2)) for _ in range(8)))
        finally:
            await client.close()

    replies = asyncio.run(ask())
    assert most == n_threads
    assert {len(reply.answers) for reply in replies} == {2}


def test_a_call_whose_time_is_over_keeps_its_thread_and_nothing_is_called_beside_it() -> None:
    go_on = threading.Event()
    calls: list[str] = []

    def answer(prompt: str) -> str:
        calls.append(prompt)
        go_on.wait(30)
        return prompt

    async def ask() -> str:
        client = FunctionClient(answer, "mine", 1)
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.answer(request()), 0.05)
        assert len(calls) == 1
        go_on.set()
        reply = await client.answer(request())
        await client.close()
        return reply.answers[0].text

    assert asyncio.run(ask()) == as_prompt(request().messages)
    # The second was given up before its turn, so it was never called.
    assert len(calls) == 2


def test_answers_that_came_before_a_failure_are_kept() -> None:
    async def ask(others: dict[int, Callable[[], Any]]) -> list[str]:
        client = FunctionClient(Recorder(lambda prompt: "yes", others), "mine", 1)
        try:
            reply = await client.answer(request(3))
        finally:
            await client.close()
        return [answer.text for answer in reply.answers]

    assert asyncio.run(ask({2: fail(OSError("down"))})) == ["yes"]
    with pytest.raises(ModelUnavailableError, match="StopIteration: over"):
        asyncio.run(ask({1: fail(StopIteration("over"))}))


def test_a_prompt_is_instructions_examples_and_the_question_in_one_text() -> None:
    messages = [
        *fixed_messages(PromptStyle(EstimatedTokens(), 1536, 48, topic="boats")),
        {"role": "user", "content": "<item>a sail</item>"},
    ]
    prompt = as_prompt(messages)
    assert prompt.startswith(messages[0]["content"])
    assert prompt.count("Example:\n") == prompt.count("Answer:\n") == (len(messages) - 2) // 2
    assert prompt.endswith("\n\nAnswer with JSON alone:\n<item>a sail</item>")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"llm": "gpt-9"}, "llm must be a function, got 'gpt-9'.*goes into summaries"),
        ({"embed": 7}, "embed must be a function, got 7"),
        ({"llm": str, "summaries": "keyphrases"}, r"summaries\.engine is 'keyphrases'; leave one"),
        ({"llm": str, "summaries": {"model": "x"}}, r"summaries\.model is 'x'; leave one of them"),
        ({"embed": letters, "embedding": "minilm"}, r"embedding\.model is 'minilm'; leave one of"),
        (
            {"embed": letters, "modality": "image", "embedding": {"text_model": "minilm"}},
            r"embedding\.text_model is 'minilm'; leave one of them out",
        ),
        (
            {"llm": str, "privacy": {"local_only": True}},
            r"privacy\.local_only cannot know where a function",
        ),
        ({"llm": str, "summaries": {"show_images": True}}, "a function .* is given text alone"),
        ({"summaries": {"engine": "callable"}}, r"engine callable is for Python.*llm=\.\.\."),
        ({"embedding": "callable:a.b"}, r"model callable:a\.b is for Python.*embed=\.\.\."),
    ],
)
def test_functions_and_models_exclude_one_another(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Hercules([2], **options).fit(["a", "b", "c"])


@pytest.mark.parametrize("key", ["summaries.engine", "embedding.model", "embedding.text_model"])
def test_files_and_forms_cannot_ask_for_a_function(
    key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.txt").write_text("a\nb")
    values = {"input": {"path": str(tmp_path / "t.txt")}, "output": {"path": str(tmp_path / "o")}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    for command in ("run", "plan"):
        assert main([command, str(tmp_path / "run.yaml"), "--set", f"{key}=callable"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{key} callable is for Python, where the function is given: Hercules(" in line
    with pytest.raises(ConfigError, match=f"{key} callable is for Python"):
        configuration({key: "callable"}, ["t.txt"], "o")


def test_parameters_that_are_functions_are_got_cloned_and_shown() -> None:
    model = Hercules([2], llm=from_phrases, embed=letters)
    assert model.llm is from_phrases
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    assert copy.embed is letters
    assert "llm=<function from_phrases" in repr(copy)


SEVERAL = """
from ray.cluster_utils import Cluster

cluster = Cluster(True, head_node_args={"num_cpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=1, node_ip_address="127.0.0.2")
import ray

ray.init(cluster.address, log_to_driver=False)
"""


@pytest.mark.parametrize(
    ("before", "variables", "reason"),
    [
        ("", {"RAY_ADDRESS": "127.0.0.1:1"}, "RAY_ADDRESS names a cluster"),
        pytest.param(SEVERAL, {}, "Ray runs on 2 machines", marks=pytest.mark.slow),
    ],
)
def test_functions_are_refused_on_a_cluster(
    tmp_path: Path, before: str, variables: dict[str, str], reason: str
) -> None:
    code = f"{before}\nfrom hercules_scale import Hercules\n"
    code += f"Hercules([2], llm=str).fit(['a', 'b', 'c'], output={str(tmp_path / 'run')!r})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    message = done.stderr.strip().splitlines()[-1]
    assert "llm and embed are functions of this process" in message
    assert reason in message
    assert "summaries.engine openai" in message
    assert not (tmp_path / "run" / "run.json").exists()
