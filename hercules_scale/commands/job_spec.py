"""Specification of a job on a cluster: the command, its id, and the files that it needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hercules_scale.config.run import RunConfig
from hercules_scale.jobs.run_record import fingerprinted
from hercules_scale.storage.json_records import fingerprint

CONFIG_FILE = "run.yaml"


@dataclass(frozen=True)
class JobSpec:
    """Specification of a job on a cluster.

    Attributes:
        arguments: Arguments of ``hercules-scale``.
        run_id: Submission id of its first job.
        output: Output of the run, for readers of the dashboard.
        config: Configuration of the run, which the job gets as ``CONFIG_FILE``.
        redact: Function ``privacy.redact``; the job gets its module.
    """

    arguments: tuple[str, ...]
    run_id: str
    output: str
    config: RunConfig | None = None
    redact: str | None = None


def spec_of_run(config: RunConfig, command: tuple[str, ...] = ("run",)) -> JobSpec:
    """Return the specification of a run, or of another command with a configuration.

    Equal configurations and outputs have equal ids.
    """
    name, *more = command
    arguments = (name, CONFIG_FILE, *more)
    values: dict[str, Any] = {
        "config": fingerprinted(config),
        "output": config.output.path.rstrip("/"),
    }
    if command != ("run",):
        values["command"] = list(command)
    run_id = f"hercules-{fingerprint(values)}"
    return JobSpec(arguments, run_id, config.output.path, config, config.privacy.redact)


def spec_of_command(arguments: list[str], output: str, redact: str | None) -> JobSpec:
    """Return the specification of a command on a finished run; equal arguments have equal ids."""
    run_id = f"hercules-{fingerprint({'arguments': arguments})}"
    return JobSpec(tuple(arguments), run_id, output, None, redact)
