"""Two calls of evaluate at once lose nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from benchmarks.made_run import Made, make_run
from hercules_scale import Hierarchy
from hercules_scale.jobs import evaluate as module
from hercules_scale.jobs.evaluate import EvaluatedRun, evaluate_run
from hercules_scale.runtime.resources import Machines, Node
from hercules_scale.stages.evaluate import write_evaluations
from hercules_scale.storage import layout
from hercules_scale.storage.json_records import to_json
from hercules_scale.storage.lock import hold_lock
from hercules_scale.storage.manifest import next_part, replace_table
from hercules_scale.storage.store import Store


def row(basis: str, value: float) -> dict[str, Any]:
    return {"level": 1, "metric": "m", "basis": basis, "value": value, "n": 1}


def test_what_another_call_wrote_before_the_lock_was_had_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(str(tmp_path), Made(200, (8, 3)))

    @contextmanager
    def waits(store: Store, warn: Any) -> Iterator[Any]:
        with hold_lock(store, warn) as lock:
            # The other's judge ended while this call waited for the lock.
            part = next_part(store, "evaluations")
            file = write_evaluations(lock.store, [row("judge", 0.75)], part, lock.store.owner)
            replace_table(lock.store, "evaluations", [file])
            record = json.loads(store.read_bytes(layout.RUN))
            record["rows"]["llm_calls"] = 123
            lock.store.write_bytes(layout.RUN, to_json(record))
            yield lock

    monkeypatch.setattr(module, "hold_lock", waits)
    monkeypatch.setattr(module, "local_or_cluster_ray", lambda config: nullcontext())
    monkeypatch.setattr(module, "find_machines", lambda: Machines.of([Node(2)]))
    measured = [row("items", 0.5)]
    monkeypatch.setattr(EvaluatedRun, "measure", lambda *arguments: (measured, []))
    evaluate_run(str(tmp_path))
    found = Hierarchy.open(str(tmp_path))
    table = pa.Table.from_pandas(found.evaluations()).to_pylist()
    assert {(each["basis"], each["value"]) for each in table} == {("judge", 0.75), ("items", 0.5)}
    assert found.run["rows"]["llm_calls"] == 123
    assert found.run["rows"]["evaluations"] == 2
