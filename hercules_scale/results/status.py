"""Progress of a run, read from its output alone."""

from __future__ import annotations

from typing import Any

from hercules_scale.config.resources import StorageConfig
from hercules_scale.errors import InputError
from hercules_scale.runtime.progress import StageReport
from hercules_scale.sanitize import printable
from hercules_scale.storage import layout
from hercules_scale.storage.commits import read_commits
from hercules_scale.storage.lock import held_by
from hercules_scale.storage.run_file import read_record
from hercules_scale.storage.store import Store


def describe_status(uri: str, storage: StorageConfig | None = None) -> str:
    """Return the state of a run and of each of its stages, a line each.

    Args:
        uri: Output of the run.
        storage: Access to the output.

    Raises:
        InputError: There is no run at this place.
    """
    store = Store(uri, storage)
    try:
        record = read_record(store)
    except FileNotFoundError:
        raise InputError(f"{uri}: holds no run; give the output path of a run") from None
    lines = [f"{store.uri}: {_state(store, record)}"]
    for stage in stage_reports(store, record):
        amount = f"{stage.done:,} of {stage.total:,} {stage.unit}"
        lines.append(f"  {stage.name:<22}{amount:<32}{stage.seconds:>9,.1f} s")
    lines += [f"! {printable(alarm)}" for alarm in record.get("alarms") or []]
    return "\n".join(lines)


def stage_reports(store: Store, record: dict[str, Any]) -> list[StageReport]:
    """Return the reports of the stages, brought up to date with later commits.

    Args:
        store: Output of the run.
        record: Result of ``read_record``.
    """
    reports = [StageReport(**values) for values in record.get("stages") or []]
    for stage in reports:
        if stage.done < stage.total:
            commits = read_commits(store, stage.name, record["fingerprint"]).values()
            committed = sum(commit.info.get("units", 0) for commit in commits)
            stage.done = max(stage.done, committed)
    return reports


def _state(store: Store, record: dict[str, Any]) -> str:
    attempt = f"attempt {record['attempts']}" if record.get("attempts", 1) > 1 else ""
    since = ", ".join(filter(None, [attempt, f"started {record['started_at']}"]))
    if store.exists(layout.SUCCESS):
        return f"finished, {since}, ended {record.get('ended_at')}"
    if record["status"] == "running":
        held = held_by(store)
        if held is not None and held[1]:
            return f"running, {since}, by {held[0]}"
        heard = record.get("seen_at")
        return f"interrupted, {since}, last heard of {heard}; run it again, it resumes"
    if record["status"] == "failed":
        return (
            f"failed, {since}, ended {record.get('ended_at')}: "
            f"{printable(record.get('error') or 'no reason')}; run it again, it resumes"
        )
    return f"done but not published, {since}; run it again, it publishes"
