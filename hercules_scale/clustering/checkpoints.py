"""State that a loop needs to resume where it stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray


@dataclass(frozen=True)
class State:
    """State of one loop after an iteration, without any state of random generators.

    Attributes:
        arrays: Arrays, such as centroids.
        numbers: Numbers, such as the iteration.
    """

    arrays: Mapping[str, NDArray[Any]]
    numbers: Mapping[str, Any] = field(default_factory=dict)


class Checkpoints(Protocol):
    """Store of states, by the name of the loop."""

    def load(self, loop: str) -> State | None:
        """Return the last state of a loop, or None if there is none."""
        ...

    def save(self, loop: str, state: State, last: bool = False) -> None:
        """Save a state; a store may skip states that are not the last, to save time."""
        ...


class NoCheckpoints:
    """Checkpoints that keep nothing, for loops of a few seconds."""

    def load(self, loop: str) -> State | None:
        """Return None."""
        return None

    def save(self, loop: str, state: State, last: bool = False) -> None:
        """Do nothing."""
