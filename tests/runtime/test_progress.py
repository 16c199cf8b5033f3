"""What a run says while it goes, for people and for collectors of logs."""

from __future__ import annotations

import io
import json
import time

import pytest
from rich.console import Console

from hercules_scale.errors import ConfigError
from hercules_scale.runtime import progress as module
from hercules_scale.runtime.progress import Reporter


def reported(monkeypatch: pytest.MonkeyPatch, form: str) -> list[str]:
    monkeypatch.setenv("HERCULES_LOG", form)
    output = io.StringIO()
    monkeypatch.setattr(module, "SHOWN_AFTER_SECONDS", 0.0)
    reporter = Reporter(Console(file=output))
    reporter.run = "s3://bucket/run"
    with reporter.stage("embed", 5, "items", done=2) as progress:
        progress.advance(3, worker_peak_bytes=7)
        reporter.detail("shard done", shard=1, units=3)
        reporter.say("  level 1: [red]two[/red] clusters", level=1)
    reporter.alarm("one holds more than half")
    return output.getvalue().splitlines()


def test_lines_for_collectors_are_json_with_run_stage_level_and_shard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = [json.loads(line) for line in reported(monkeypatch, "json")]
    assert {line["run"] for line in lines} == {"s3://bucket/run"}
    assert [line["stage"] for line in lines] == ["embed", "embed", "embed", "embed", None]
    assert lines[1]["shard"] == 1
    assert (lines[2]["level"], lines[2]["message"]) == (1, "level 1: [red]two[/red] clusters")
    assert (lines[3]["done"], lines[3]["unit"]) == (5, "items")
    assert [line["severity"] for line in lines] == ["info"] * 4 + ["warning"]


def test_lines_for_people_leave_the_details_out(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = reported(monkeypatch, "text")
    assert lines[0] == "Embedding: 5 items, 2 done before"
    assert lines[1] == "  level 1: [red]two[/red] clusters"
    assert lines[2].startswith("Embedding: 5 items in ")
    assert lines[3:] == ["! one holds more than half"]


def test_stages_that_end_soon_are_not_shown_and_others_begin_with_a_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HERCULES_LOG", "text")
    monkeypatch.setattr(module, "SHOWN_AFTER_SECONDS", 0.3)
    output = io.StringIO()
    reporter = Reporter(Console(file=output, width=200))
    with reporter.stage("number", 9, "items") as progress:
        progress.advance(9)
    with reporter.stage("evaluate/sums", 9, "items") as progress:
        time.sleep(0.6)
        assert output.getvalue() == "Evaluating: 9 items\n"
        progress.advance(9)
    assert len(output.getvalue().splitlines()) == 2


def test_a_form_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="HERCULES_LOG must be text or json, got 'jsn'"):
        reported(monkeypatch, "jsn")


def test_figures_of_a_stage_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HERCULES_LOG", raising=False)
    found: dict[str, tuple[float, str, object]] = {}

    def measure(name: str, value: float, stage: str, **tags: object) -> None:
        found[name] = (value, stage, tags)

    reporter = Reporter(Console(file=io.StringIO()))
    reporter.measure = measure
    with reporter.stage("embed", 5, "items", done=2) as progress:
        progress.advance(2)
    assert found["hercules_units_expected"] == (5, "embed", {"unit": "items"})
    assert found["hercules_units_done"] == (4, "embed", {"unit": "items"})
    assert found["hercules_units_per_second"][0] > 0


def test_progress_names_units_details_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERCULES_LOG", "text")
    monkeypatch.setattr(module, "LOG_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(module, "SHOWN_AFTER_SECONDS", 0.0)
    output = io.StringIO()
    with Reporter(Console(file=output, width=200)).stage("summarize", 9, "clusters") as progress:
        progress.details = lambda: "85 tokens/s, 8 questions in flight"
        progress.refresh()
        time.sleep(0.1)
        progress.advance(3)
        progress.advance(6)
        # The model still works on titles of siblings.
        progress.refresh()
    lines = output.getvalue().splitlines()
    assert lines[4].startswith("Writing titles: 9 of 9 clusters, ")
    assert lines[4].endswith(" clusters/s, 85 tokens/s, 8 questions in flight")
    assert lines[1] == "Writing titles: 0 of 9 clusters, 85 tokens/s, 8 questions in flight"
    assert lines[2].startswith("Writing titles: 3 of 9 clusters, ")
    assert lines[2].endswith(" clusters/s, 85 tokens/s, 8 questions in flight, 0 s left")
