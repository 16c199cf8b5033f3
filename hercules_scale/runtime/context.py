"""Context that every stage receives."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hercules_scale.config.resolved import ResolvedConfig
from hercules_scale.embedding.function import FunctionEncoder
from hercules_scale.errors import ConfigError
from hercules_scale.runtime.progress import Reporter
from hercules_scale.storage.store import Store
from hercules_scale.summarization.endpoint_features import EndpointFeatures

# A shard costs about 50 ms besides its work, and texts that are sorted by length among 1,024 need
# less padding than among 512.
MIN_ENCODED_ROWS = 1024
MIN_SHARD_ROWS = 8192
MAX_SHARD_ROWS = 65_536
SHARDS_WANTED = 64


@dataclass(frozen=True)
class Functions:
    """The user's own functions in place of models; they are called in this process alone.

    Attributes:
        llm: Function from a prompt to the answer's text, or to an awaitable of it.
        embed: Encoder that calls the user's function.
    """

    llm: Callable[[str], Any] | None = None
    embed: FunctionEncoder | None = None

    @classmethod
    def of(
        cls, llm: Callable[[str], Any] | None, embed: Callable[[list[str]], Any] | None
    ) -> Functions:
        """Return the functions that a caller gave.

        Raises:
            ConfigError: One is not a function.
        """
        for name, function, section in (("llm", llm, "summaries"), ("embed", embed, "embedding")):
            if function is not None and not callable(function):
                raise ConfigError(
                    f"{name} must be a function, got {function!r}; the name of a model goes into "
                    f"{section}"
                )
        encoder = None if embed is None else FunctionEncoder(name_of(embed), embed)
        return cls(llm, encoder)


NO_FUNCTIONS = Functions()


def name_of(function: Callable[..., Any]) -> str:
    """Return the module and qualified name of a function, or of a callable object's class."""
    while isinstance(function, functools.partial):
        function = function.func
    named = function if hasattr(function, "__qualname__") else type(function)
    # Methods of built-in types name no module.
    return f"{getattr(named, '__module__', None) or 'builtins'}.{named.__qualname__}"


@dataclass(frozen=True)
class RunContext:
    """One run: its configuration, its output, its reporter and its GPUs.

    Attributes:
        endpoint_features: Features of the endpoint of ``summaries.engine: openai``; None if there
            is no endpoint or nothing is left to ask.
        functions: The user's functions in place of models.
        n_gpus: Number of GPUs that the run may use.
    """

    config: ResolvedConfig
    store: Store
    fingerprint: str
    reporter: Reporter
    endpoint_features: EndpointFeatures | None = None
    functions: Functions = NO_FUNCTIONS
    n_gpus: int = 0


@dataclass(frozen=True)
class Shards:
    """Division of items into shards: by row, the same for any number of workers.

    Attributes:
        n_items: Number of items.
        rows: Rows of every shard but the last; a power of two, so that tiles have whole shards.
    """

    n_items: int
    rows: int

    @classmethod
    def of(cls, n_items: int, encoded: bool) -> Shards:
        """Return about 64 shards for small inputs, shards of 65,536 rows for large ones.

        Args:
            n_items: Number of items.
            encoded: Whether a model embeds the items, so that small shards are worth their cost.
        """
        wanted = max(n_items // SHARDS_WANTED, 1)
        rows = 1 << (wanted - 1).bit_length()
        least = MIN_ENCODED_ROWS if encoded else MIN_SHARD_ROWS
        return cls(n_items, min(max(rows, least), MAX_SHARD_ROWS))

    def __len__(self) -> int:
        return -(-self.n_items // self.rows)

    def bounds(self, shard: int) -> tuple[int, int]:
        """Return the first row of a shard, and the row after its last."""
        start = shard * self.rows
        return start, min(start + self.rows, self.n_items)
