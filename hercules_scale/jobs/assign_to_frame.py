"""Assignment of new items, from files or memory, that returns their memberships."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from hercules_scale.config.section import names_function
from hercules_scale.errors import InputError
from hercules_scale.jobs.assign import assign
from hercules_scale.reading.in_memory_items import write_items
from hercules_scale.results.data_frames import RunFrames
from hercules_scale.results.finished_run import Run
from hercules_scale.runtime.context import Functions
from hercules_scale.runtime.progress import Reporter
from hercules_scale.storage import layout
from hercules_scale.storage.manifest import published_files
from hercules_scale.storage.run_file import read_run
from hercules_scale.storage.store import Store

if TYPE_CHECKING:
    import pandas as pd


def assign_to_frame(
    store: Store,
    items: Any,
    output: str | None,
    llm: Callable[[str], Any] | None,
    embed: Callable[[list[str]], Any] | None,
    *,
    known: Functions,
    redact: str | None,
    endpoints: Sequence[str],
    models: Sequence[str],
    verbose: bool,
) -> pd.DataFrame:
    """Put items into the clusters of a finished run, and return their memberships.

    Args:
        store: Output of the run.
        items: See ``Hierarchy.assign``.
        output: Folder of the tables; by default a temporary one.
        llm: The run's function in place of a language model, if the caller gives it.
        embed: The run's function that embeds texts, if the caller gives it.
        known: Functions remembered from the run, for those that are not given.
        redact: ``privacy.redact`` of the run, if it has one.
        endpoints: Endpoints that the caller names.
        models: Models that the caller names.
        verbose: Whether progress is shown.

    Raises:
        HerculesScaleError: The assignment failed; see ``assign``.
    """
    functions = _known_functions(store, llm, embed, known)
    with tempfile.TemporaryDirectory(prefix="hercules_scale_") as scratch:
        place = output or f"{scratch}/output"
        section: dict[str, Any] = {"path": str(items)}
        if not isinstance(items, str | Path):
            asked = read_run(store)["config"]["input"]
            path, found = write_items(
                items,
                f"{place}/{layout.INPUT}",
                asked["modality"],
                storage=store.options,
            )
            # The numeric columns of the run, since a table may have more.
            section = {"id_column": None, **found, "columns": asked["columns"], "path": path}
        reporter = Reporter(None if verbose else Console(quiet=True))
        assigned = assign(
            store.uri,
            section,
            place,
            reporter,
            functions,
            redact=redact,
            endpoints=endpoints,
            models=models,
            storage=store.options,
        )
        return RunFrames(Run(assigned, published_files(assigned))).memberships()


def _known_functions(
    store: Store,
    llm: Callable[[str], Any] | None,
    embed: Callable[[list[str]], Any] | None,
    known: Functions,
) -> Functions:
    """Return the given functions, or else the remembered ones.

    Raises:
        InputError: A function is given, but the run was made without it.
    """
    config = read_run(store)["config"]
    for name, function, section, key in (
        ("llm", llm, "summaries", "engine"),
        ("embed", embed, "embedding", "text_model"),
    ):
        value = config.get(section, {}).get(key)
        if function is not None and not names_function(value):
            raise InputError(
                f"{store.uri}: the run was made without {name} ({section}.{key} {value}); leave "
                "it out"
            )
    given = Functions.of(llm, embed)
    return Functions(given.llm or known.llm, given.embed or known.embed)
