"""Work for a job on a cluster: the command, its name, and what goes along."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hercules_scale.config.run import RunConfig
from hercules_scale.jobs.run_record import fingerprinted
from hercules_scale.storage.json_records import fingerprint

CONFIG_FILE = "run.yaml"


@dataclass(frozen=True)
class Work:
    """Work that a job does.

    Attributes:
        arguments: Arguments of ``hercules-scale``.
        run_id: Name of its first job.
        output: Output of the run, for people who read the dashboard.
        config: Configuration of the run, which goes along as ``CONFIG_FILE``.
        redact: ``privacy.redact``, of which the module goes along.
    """

    arguments: tuple[str, ...]
    run_id: str
    output: str
    config: RunConfig | None = None
    redact: str | None = None


def work_of_run(config: RunConfig, command: tuple[str, ...] = ("run",)) -> Work:
    """Return a run, or another command with its configuration.

    Its id is the same for the same configuration and output.
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
    return Work(arguments, run_id, config.output.path, config, config.privacy.redact)


def work_of_command(arguments: list[str], output: str, redact: str | None) -> Work:
    """Return a command on a finished run; its id is the same for the same arguments."""
    run_id = f"hercules-{fingerprint({'arguments': arguments})}"
    return Work(tuple(arguments), run_id, output, None, redact)
