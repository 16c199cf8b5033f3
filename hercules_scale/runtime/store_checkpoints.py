"""States of the clustering loops on the run's storage."""

from __future__ import annotations

import hashlib
import io
import json
import time

import numpy as np

from hercules_scale.clustering.checkpoints import State
from hercules_scale.runtime.progress import Measure
from hercules_scale.storage import layout
from hercules_scale.storage.json_records import to_json
from hercules_scale.storage.store import Store

# A state is kept at most this often, so that a loop of short iterations is not slowed down.
EVERY_SECONDS = 10.0


class StoreCheckpoints:
    """Keeps the last state of each loop: the arrays first, then the record that vouches for them.

    Args:
        store: The run's output.
        fingerprint: Fingerprint of the run; states of other runs are ignored.
        measure: Called with every state, kept or not.
    """

    def __init__(self, store: Store, fingerprint: str, measure: Measure | None = None) -> None:
        self._store, self._fingerprint, self._measure = store, fingerprint, measure
        self._saved = time.monotonic()
        self._turn: dict[str, int] = {}

    def load(self, loop: str) -> State | None:
        """Return the last state of a loop; None if there is none or its arrays are damaged.

        A record that was cut off, such as by a loss of power, counts as absent.
        """
        name = layout.checkpoint(loop)
        if not self._store.exists(name):
            return None
        try:
            record = json.loads(self._store.read_bytes(name))
            if record["fingerprint"] != self._fingerprint:
                return None
            turn, digest, numbers = int(record["turn"]), record["sha256"], dict(record["numbers"])
        except (ValueError, TypeError, KeyError):
            return None
        self._turn[loop] = turn
        data = self._store.read_bytes(layout.checkpoint_arrays(loop, turn))
        if hashlib.sha256(data).hexdigest() != digest:
            return None
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return State(dict(arrays), numbers)

    def save(self, loop: str, state: State, last: bool = False) -> None:
        """Keep a state if it is the last one, or if no state was kept a moment ago."""
        objective = state.numbers.get("objective")
        if self._measure is not None and objective is not None:
            self._measure("hercules_iterations", 1, "cluster", loop=loop)
            self._measure("hercules_objective", objective, "cluster", loop=loop)
        if not last and time.monotonic() - self._saved < EVERY_SECONDS:
            return
        # The arrays that the present record names stay intact until the new record is written.
        turn = 1 - self._turn.get(loop, 1)
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **state.arrays)
        data = buffer.getvalue()
        self._store.write_bytes(layout.checkpoint_arrays(loop, turn), data)
        record = {
            "fingerprint": self._fingerprint,
            "turn": turn,
            "sha256": hashlib.sha256(data).hexdigest(),
            "numbers": state.numbers,
        }
        self._store.write_bytes(layout.checkpoint(loop), to_json(record))
        self._turn[loop] = turn
        self._saved = time.monotonic()
