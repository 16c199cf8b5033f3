"""Commands that add a table to a finished run: evaluate, flags and align."""

from __future__ import annotations

import argparse

from hercules_scale.commands.show import describe_flags, describe_metrics, describe_topics
from hercules_scale.config.resources import StorageConfig
from hercules_scale.errors import InputError
from hercules_scale.hierarchy import Hierarchy
from hercules_scale.jobs.align import align_runs
from hercules_scale.jobs.evaluate import evaluate_run
from hercules_scale.jobs.flags import flag_run
from hercules_scale.runtime.progress import Reporter
from hercules_scale.storage.store import Store

# Options of ``evaluate`` for the judge.
JUDGE_OPTIONS = ("engine", "model", "endpoint", "criterion", "max_total_tokens")


def evaluate(options: argparse.Namespace, storage: StorageConfig) -> str:
    """Replace the table ``evaluations`` and return what it holds, as text.

    Raises:
        InputError: An option is wrong, or there is no finished run.
    """
    asked = {name: getattr(options, name) for name in JUDGE_OPTIONS}
    given = {name: value for name, value in asked.items() if value is not None}
    if given and not options.judge:
        name = next(iter(given)).replace("_", "-")
        name = f"judge-{name}" if name in ("engine", "model") else name
        raise InputError(f"--{name} needs --judge; add it, or leave --{name} out")
    judge = given if options.judge else None
    notes = evaluate_run(options.run, options.labels, judge, options.redact, storage)
    metrics = describe_metrics(Hierarchy.open(options.run, storage).evaluations())
    return _text([*metrics, ""], notes, options.run, "evaluations")


def flag(options: argparse.Namespace, storage: StorageConfig) -> str:
    """Replace the table ``flags`` and return its counts as text.

    Raises:
        InputError: An option is wrong, or there is no finished run.
    """
    store = Store(options.run, storage)
    flagged = flag_run(store, options.cosine, options.share, Reporter())
    return _text([describe_flags(flagged.counts)], flagged.notes, options.run, "flags")


def align(options: argparse.Namespace, storage: StorageConfig) -> str:
    """Replace the tables ``topics`` and ``crosswalk`` and return the changes as text.

    Raises:
        InputError: One is no finished run, or nothing links the runs.
    """
    new = Store(options.run, storage)
    notes = align_runs(Store(options.old, storage), new)
    run = Hierarchy.open(options.run, storage)
    changes = describe_topics(run.table("topics"), run.table("crosswalk"))
    return _text([changes], notes, options.run, "topics", "crosswalk")


def _text(lines: list[str], notes: list[str], run: str, *tables: str) -> str:
    written = ", ".join(f"{run.rstrip('/')}/{table}" for table in tables)
    return "\n".join([*lines, *(f"! {note}" for note in notes), f"written: {written}"])
