"""Check of the disk space that a run needs."""

from __future__ import annotations

import os
import shutil
import tempfile

from hercules_scale.config.run import RunConfig
from hercules_scale.errors import InputError
from hercules_scale.reading.sources import SourceFile
from hercules_scale.reading.survey import Survey
from hercules_scale.storage.store import Store

# Dimension of the smallest models in use, assumed if only the model knows its dimension.
LEAST_DIMENSION = 384
# Texts of plain files are kept twice and compressed; together they take about this share of the
# files' size.
SHARE_OF_PLAIN_TEXT = 0.5
PLAIN = ("csv", "jsonl", "txt", "document")


def dimension_of(config: RunConfig, taken: Survey) -> int:
    """Return the dimension of vectors, or a lower bound if only the model knows it."""
    columns = taken.columns
    if columns.modality == "embedding":
        return taken.dimension
    if columns.modality == "text" and config.embeds_by_function:
        return 1
    return len(columns.numbers) if columns.modality == "numeric" else LEAST_DIMENSION


def check_space(
    config: RunConfig, sources: list[SourceFile], n_rows: int | None, dimension: int
) -> str:
    """Compare the least space that a run needs with the free space.

    Args:
        config: The run.
        sources: Input files of the run.
        n_rows: Number of their rows, if known.
        dimension: Dimension of vectors.

    Returns:
        Needed and free space of the output and of the temporary folder, for the plan.

    Raises:
        InputError: There is not enough free space.
    """
    store = Store(config.output.path, config.storage)
    vectors = 4 * dimension * (n_rows or 0)
    size = sum(source.size_bytes for source in sources)
    text = int(SHARE_OF_PLAIN_TEXT * size) if sources[0].format in PLAIN else 0
    # Vectors from the input are kept a second time, as they were read.
    kept = 2 * vectors if config.input.modality == "embedding" else vectors
    wanted = {"temporary": vectors, "output": kept + text}
    places = {"temporary": tempfile.gettempdir(), "output": store.root}
    if not store.is_local:
        del places["output"]
    elif os.path.isdir(store.root):
        # Files of an earlier attempt need no new space.
        wanted["output"] = max(0, wanted["output"] - sum(store.list_sizes("").values()))
    if os.environ.get("RAY_ADDRESS"):
        # The vectors lie on the nodes.
        del places["temporary"]
    said = []
    for name, place in places.items():
        free = shutil.disk_usage(_existing(place)).free
        if free < wanted[name]:
            remedy = "give another output.path" if name == "output" else "set TMPDIR to another one"
            what = f"output.path {store.uri}" if name == "output" else f"temporary folder {place}"
            raise InputError(
                f"{what}: the run writes about {_mib(wanted[name])} there, and {_mib(free)} are "
                f"free; make space or {remedy}"
            )
        said.append(f"{_mib(wanted[name])} of {_mib(free)} free in {place}")
    return "; ".join(said) or "not checked, the storage is remote"


def _existing(place: str) -> str:
    while not os.path.exists(place):
        place = os.path.dirname(place)
    return place


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
