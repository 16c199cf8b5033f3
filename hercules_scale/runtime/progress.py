"""Progress that people can follow: a bar per stage on a terminal, plain lines in a log.

With ``HERCULES_LOG=json`` each line is a JSON object for a collector of logs.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import psutil
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hercules_scale.errors import ConfigError
from hercules_scale.sanitize import printable

LOG_EVERY_SECONDS = 10.0
# Stages that end sooner get no lines for people.
SHOWN_AFTER_SECONDS = 2.0
# Names of stages for people.
WORDS = {
    "scan": "Reading the input",
    "check_ids": "Checking ids",
    "number": "Writing items",
    "describe": "Describing items",
    "embed": "Embedding",
    "smooth": "Smoothing vectors",
    "cluster": "Clustering",
    "statistics": "Measuring clusters",
    "phrases": "Counting key phrases",
    "label_items": "Drawing items for titles",
    "summarize": "Writing titles",
    "reference": "Measuring distances",
    "sort_ids": "Sorting ids",
    "owners": "Counting owners",
    "near_numbers": "Measuring numbers",
    "put_descriptions": "Writing descriptions",
    "frequent_phrases": "Merging key phrases",
    "order/parts": "Sorting items",
    "order/ranges": "Merging sorted items",
    "keys": "Hashing ids",
    "known": "Finding known items",
    "assign": "Assigning items",
    "judge": "Asking the judge",
    "flags/sorted": "Sorting vectors",
    "flags/found": "Flagging items",
}
KEEP_EVERY_SECONDS = 30.0
LOG_VARIABLE = "HERCULES_LOG"


@dataclass
class StageReport:
    """Progress of a stage, and its time and memory.

    Attributes:
        unit: Noun for what is counted, such as ``items``.
        total: Number of units.
        done: Number of units that are done.
        seconds: Wall time of all attempts at the stage.
        driver_peak_bytes: Largest resident memory of the driver seen during the stage.
        worker_peak_bytes: Largest resident memory of any worker; 0 without workers.
    """

    name: str
    unit: str = ""
    total: int = 0
    done: int = 0
    seconds: float = 0.0
    driver_peak_bytes: int = 0
    worker_peak_bytes: int = 0


class Measure(Protocol):
    """Records a figure for the monitoring of runs."""

    def __call__(self, name: str, value: float, stage: str, **tags: object) -> None:
        """Add to a counter, or set a gauge."""
        ...


def _measure_nothing(name: str, value: float, stage: str, **tags: object) -> None:
    """Do nothing with a figure."""


class Reporter:
    """Shows stages as they go and keeps their reports.

    ``keep`` is called when a stage starts or ends, and every half minute in between; ``measure``
    receives figures; ``run`` is named in JSON lines.

    Raises:
        ConfigError: ``HERCULES_LOG`` names no form of lines.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self.stages: dict[str, StageReport] = {}
        self.alarms: list[str] = []
        self.keep: Callable[[], object] = lambda: None
        self.measure: Measure = _measure_nothing
        self.run = ""
        form = os.environ.get(LOG_VARIABLE) or "text"
        if form not in ("text", "json"):
            raise ConfigError(
                f"{LOG_VARIABLE} must be text or json, got {form!r}; change or unset it"
            )
        self._as_json = form == "json"
        self._stage: str | None = None

    def resume(self, stages: list[StageReport]) -> None:
        """Continue the reports of an earlier attempt."""
        self.stages = {stage.name: stage for stage in stages}

    def say(self, message: str, **fields: object) -> None:
        """Print one line for people; as JSON with ``fields`` too, such as the level."""
        if self._as_json:
            self._write("info", message, fields)
        else:
            # Titles and paths are data: they must not act as markup or as control characters.
            self.console.print(printable(message), markup=False, emoji=False, soft_wrap=True)

    def detail(self, message: str, **fields: object) -> None:
        """Print one line, in JSON logs only."""
        if self._as_json:
            self._write("info", message, fields)

    def alarm(self, message: str) -> None:
        """Print something that a user must know, once, and keep it for ``run.json``."""
        if message in self.alarms:
            return
        self.alarms.append(message)
        if self._as_json:
            self._write("warning", message, {})
        else:
            self.say(f"! {message}")

    def _write(self, severity: str, message: str, fields: dict[str, object]) -> None:
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = {"time": moment, "severity": severity, "run": self.run, "stage": self._stage}
        text = json.dumps({**line, "message": message.strip(), **fields})
        self.console.print(text, markup=False, emoji=False, soft_wrap=True)

    @contextmanager
    def stage(self, name: str, total: int, unit: str, done: int = 0) -> Iterator[StageProgress]:
        """Follow a stage of ``total`` units, ``done`` of them from earlier attempts."""
        report = self.stages.setdefault(name, StageReport(name))
        report.unit, report.total, report.done = unit, total, done
        started = time.monotonic()
        self._stage = name
        self.keep()
        self.measure("hercules_units_expected", total, name, unit=unit)
        with _watch_memory(report):
            if self.console.is_terminal and not self._as_json:
                columns = (
                    TextColumn("{task.description:<24}"),
                    BarColumn(),
                    MofNCompleteColumn(),
                    TextColumn("{task.fields[rate]}"),
                    TimeElapsedColumn(),
                )
                with Progress(*columns, console=self.console, transient=True) as bars:
                    task = bars.add_task(words(name), total=total, completed=done, rate="")
                    progress = StageProgress(report, self)
                    progress.on_change = lambda: bars.update(
                        task, total=report.total, completed=report.done, rate=progress.rate
                    )
                    yield progress
            else:
                progress = StageProgress(report, self)
                progress.on_change = lambda: self._log(progress)
                begins = (
                    f"{words(name)}: {_amount(total, unit)}"
                    + f", {done:,} done before" * bool(done)
                )
                with self._said_late(begins):
                    yield progress
        seconds = time.monotonic() - started
        report.seconds += seconds
        self.keep()
        if self._as_json or seconds >= SHOWN_AFTER_SECONDS:
            self.say(
                f"{words(name)}: {_amount(report.done, unit)} in {seconds:.1f} s{progress.note}",
                done=report.done,
                unit=unit,
                seconds=round(seconds, 3),
            )
        self._stage = None

    @contextmanager
    def _said_late(self, line: str) -> Iterator[None]:
        """Say a line at once as JSON, and for people once the block has taken some time."""
        delay = 0.0 if self._as_json else SHOWN_AFTER_SECONDS
        if not delay:
            self.say(line)
            yield
            return
        timer = threading.Timer(delay, self.say, (line,))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            # The timer may be printing.
            timer.join()

    def _log(self, progress: StageProgress) -> None:
        now, report = time.monotonic(), progress.report
        # When all clusters have titles, new ones for similar siblings are still asked for.
        goes_on = report.done < report.total or progress.details()
        if goes_on and now - progress.logged >= LOG_EVERY_SECONDS:
            progress.logged = now
            amount = f"{report.done:,} of {report.total:,} {report.unit}"
            fields = {"done": report.done, "total": report.total, "unit": report.unit}
            parts = filter(None, [f"{words(report.name)}: {amount}", progress.rate])
            self.say(", ".join(parts), **fields)


class StageProgress:
    """Counts of one stage while it runs."""

    def __init__(self, report: StageReport, reporter: Reporter) -> None:
        self.report, self._reporter = report, reporter
        self._before = report.done
        self._started = self.logged = self._kept = time.monotonic()
        self.note = ""
        self.details: Callable[[], str] = lambda: ""
        self.on_change: Callable[[], object] = lambda: None

    @property
    def rate(self) -> str:
        """Units per second since this process began the stage, details, and the time left."""
        rate, unit = self._per_second, self.report.unit
        done = self.report.done > self._before
        shown = f"{rate:,.1f} {unit}/s" if rate < 10 else f"{rate:,.0f} {unit}/s"
        parts = [shown if done else "", self.details()]
        left = self.report.total - self.report.done
        if done and left > 0:
            parts.append(f"{_duration(left / rate)} left")
        return ", ".join(filter(None, parts))

    def refresh(self) -> None:
        """Show details that have changed since the last unit."""
        self.on_change()

    @property
    def _per_second(self) -> float:
        seconds = time.monotonic() - self._started
        return (self.report.done - self._before) / seconds if seconds else 0.0

    def advance(self, count: int, worker_peak_bytes: int = 0) -> None:
        """Report that ``count`` more units are done."""
        self.report.done += count
        self.report.worker_peak_bytes = max(self.report.worker_peak_bytes, worker_peak_bytes)
        self.on_change()
        name, unit, measure = self.report.name, self.report.unit, self._reporter.measure
        measure("hercules_units_done", self.report.done, name, unit=unit)
        measure("hercules_units_per_second", self._per_second, name, unit=unit)
        now = time.monotonic()
        if now - self._kept >= KEEP_EVERY_SECONDS:
            self._kept = now
            self._reporter.keep()


def _amount(n: int, unit: str) -> str:
    """Return a number of units in words, such as 1 piece."""
    return f"{n:,} {unit.removesuffix('s') if n == 1 else unit}"


def words(stage: str) -> str:
    """Return the name of a stage for people, such as Embedding for ``embed``."""
    for beginning, shown in (("evaluate/", "Evaluating"), ("smooth_", "Smoothing vectors")):
        if stage.startswith(beginning):
            return shown
    return WORDS.get(stage, stage)


def _duration(seconds: float) -> str:
    """Return a time such as "40 s", "12 min" or "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


@contextmanager
def repeating(seconds: float, work: Callable[[], object]) -> Iterator[None]:
    """Repeat work every ``seconds`` seconds, in its own thread, until the block ends."""
    finished = threading.Event()

    def repeat() -> None:
        while not finished.wait(seconds):
            work()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()


@contextmanager
def _watch_memory(report: StageReport) -> Iterator[None]:
    """Sample the driver's resident memory every half second."""
    process = psutil.Process()

    def sample() -> None:
        report.driver_peak_bytes = max(report.driver_peak_bytes, process.memory_info().rss)

    sample()
    try:
        with repeating(0.5, sample):
            yield
    finally:
        sample()
