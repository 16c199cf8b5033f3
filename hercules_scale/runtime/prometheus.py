"""Prometheus metrics of a run, through Ray: each node of a cluster exports them.

Ray adds ``ray_`` before all names, and ``_total`` after the names of counters.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from ray.util.metrics import Counter, Gauge

from hercules_scale.runtime.progress import Measure, repeating
from hercules_scale.summarization.ledger import Call

REPEAT_SECONDS = 5.0


@dataclass(frozen=True)
class Metric:
    """One metric; every one has the tags ``run`` and ``stage`` besides its own."""

    kind: Literal["counter", "gauge"]
    description: str
    tags: tuple[str, ...] = ()

    @property
    def all_tags(self) -> tuple[str, ...]:
        """Names of all tags of the metric."""
        return ("run", "stage", *self.tags)


METRICS = {
    "hercules_units_done": Metric("gauge", "items, or what a stage counts, done", ("unit",)),
    "hercules_units_expected": Metric("gauge", "the same, in all", ("unit",)),
    "hercules_units_per_second": Metric("gauge", "the same, a second", ("unit",)),
    "hercules_iterations": Metric("counter", "iterations of clustering loops", ("loop",)),
    "hercules_objective": Metric("gauge", "objective of the last iteration", ("loop",)),
    "hercules_rejected_rows": Metric("gauge", "rows of the input that cannot be used"),
    "hercules_llm_calls": Metric("counter", "calls to the language model", ("level", "outcome")),
    "hercules_llm_tokens": Metric("counter", "their tokens", ("level", "kind")),
    "hercules_llm_retries": Metric("counter", "calls after the first about a cluster", ("level",)),
}


class RunMetrics:
    """Metrics of one run.

    Args:
        run: Output of the run.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._gauges: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}

    @contextmanager
    def exported(self) -> Iterator[None]:
        """Set the gauges repeatedly, since Ray exports each setting once."""

        def repeat() -> None:
            for (name, tags), value in list(self._gauges.items()):
                _metric(name).set(value, tags=dict(tags))

        with repeating(REPEAT_SECONDS, repeat):
            yield

    def record(self, name: str, value: float, stage: str, **tags: object) -> None:
        """Add to a counter, or set a gauge.

        Args:
            name: One of ``METRICS``.
            value: New value of a gauge, or increase of a counter.
            stage: Stage of the run.
            tags: The metric's own tags.
        """
        values = {"run": self._run, "stage": stage, **{key: str(tag) for key, tag in tags.items()}}
        if METRICS[name].kind == "gauge":
            self._gauges[name, tuple(values.items())] = value
            _metric(name).set(value, tags=values)
        elif value > 0:
            _metric(name).inc(value, tags=values)


def call_recorder(measure: Measure, stage: str) -> Callable[[Call], None]:
    """Return a function that counts calls to the language model, for a ledger."""

    def record(call: Call) -> None:
        level = call.level
        measure("hercules_llm_calls", 1, stage, level=level, outcome=call.outcome)
        for kind, n_tokens in (("prompt", call.prompt_tokens), ("answer", call.completion_tokens)):
            measure("hercules_llm_tokens", n_tokens, stage, level=level, kind=kind)
        if call.attempt > 1:
            measure("hercules_llm_retries", 1, stage, level=level)

    return record


@functools.cache
def _metric(name: str) -> Any:
    metric = METRICS[name]
    of_kind = Counter if metric.kind == "counter" else Gauge
    return of_kind(name, description=metric.description, tag_keys=metric.all_tags)
