"""A Serve application is taken down at its end, however that comes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve.schema import ApplicationStatus

from hercules_scale.config.file import parse_config
from hercules_scale.errors import StageError
from hercules_scale.serving import vllm

CONFIG = parse_config({"input": {"path": "-"}, "output": {"path": "-"}})
FAILED = ApplicationStatus.DEPLOY_FAILED


class Serve:
    """Takes the place of Ray Serve; an application deploys until its states run out."""

    def __init__(self, *states: str) -> None:
        self.states = list(states)
        self.deleted: list[str] = []

    RunTarget = staticmethod(lambda app, **named: SimpleNamespace(app=app, **named))

    def run_many(self, targets: list[Any], wait_for_applications_running: bool) -> list[str]:
        assert not wait_for_applications_running
        return [f"handle of {targets[0].name}"]

    def status(self) -> Any:
        deployments = {"d": SimpleNamespace(message="a trace\nno such file")}
        found = SimpleNamespace(status=self.states.pop(0), deployments=deployments, message="")
        return SimpleNamespace(applications={"app": found})

    def delete(self, name: str) -> None:
        self.deleted.append(name)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    stub = Serve()
    monkeypatch.setattr(vllm, "serve", stub)
    monkeypatch.setattr(vllm, "POLL_SECONDS", 0)
    return stub


def run(serve: Serve, look: vllm.Look) -> str:
    with vllm._running(CONFIG, "deployment", "app", None, look) as handle:
        assert serve.deleted == []
        return str(handle)


def test_a_wait_that_ends_takes_the_application_down_and_says_why(serve: Serve) -> None:
    serve.states = ["DEPLOYING"] * 3
    looks: list[Any] = []

    def look(has_room: Any) -> None:
        looks.append(has_room)
        if len(looks) == 2:
            raise StageError("nothing of it could begin", stage="summarize")

    with pytest.raises(StageError, match="nothing of it could begin"):
        run(serve, look)
    assert serve.deleted == ["app"]
    assert len(looks) == 2


def test_an_application_that_does_not_start_is_taken_down(serve: Serve) -> None:
    serve.states = ["DEPLOYING", FAILED]
    with pytest.raises(StageError, match=r"did not start in vLLM \(no such file\)"):
        run(serve, lambda has_room: None)
    assert serve.deleted == ["app"]


def test_an_application_that_runs_is_given_and_taken_down(serve: Serve) -> None:
    serve.states = ["DEPLOYING", "RUNNING"]
    assert run(serve, lambda has_room: None) == "handle of app"
    assert serve.deleted == ["app"]
