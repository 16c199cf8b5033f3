"""State that a loop needs to go on where it stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray


@dataclass(frozen=True)
class State:
    """The state of one loop after some iteration; nothing random is in it.

    Attributes:
        arrays: Such as centroids.
        numbers: Such as the iteration.
    """

    arrays: Mapping[str, NDArray[Any]]
    numbers: Mapping[str, Any] = field(default_factory=dict)


class Checkpoints(Protocol):
    """Store of states, by the name of the loop."""

    def load(self, loop: str) -> State | None:
        """Return the last state of a loop, or nothing."""
        ...

    def save(self, loop: str, state: State, last: bool = False) -> None:
        """Keep a state; one that is not the last may be passed over to save time."""
        ...


class NoCheckpoints:
    """Keeps nothing: for loops of a few seconds."""

    def load(self, loop: str) -> State | None:
        """Do nothing."""
        return None

    def save(self, loop: str, state: State, last: bool = False) -> None:
        """Keep nothing."""
