"""Items in memory into a file that the stages read."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from hercules_scale.errors import InputError
from hercules_scale.storage.store import Store

if TYPE_CHECKING:
    import pandas as pd

    Items = Sequence[str | None] | Mapping[Any, str | None] | pd.Series[Any]


def write_items(data: Items, folder: str) -> tuple[str, dict[str, str | None]]:
    """Write items as one Parquet file, named by its content, so that a resumed run finds it.

    Args:
        data: Texts, which get row numbers for ids, or texts by id; ``None`` and NaN stand for
            missing texts, which are set aside in ``rejected``. The index of a Series is not read.
        folder: A path or URI.

    Returns:
        The file's URI, and its columns by their keys in the section ``input``.

    Raises:
        InputError: There is no item, or an id or item is of a wrong type.
    """
    columns: dict[str, str | None] = {"id_column": None, "text_column": "text"}
    arrays = {}
    values: Iterable[object] = data
    if isinstance(data, Mapping):
        columns["id_column"] = "item_id"
        arrays["item_id"] = _ids(list(data))
        values = data.values()
    elif isinstance(data, str | bytes) or not isinstance(data, Iterable):
        raise InputError(
            f"items must be a list or Series of texts, or a dict of id to text, got {data!r:.80}"
        )
    arrays["text"] = _texts(list(values))
    if not len(arrays["text"]):
        raise InputError("items must hold at least one item, got none")
    buffer = io.BytesIO()
    pq.write_table(pa.table(arrays), buffer, compression="zstd")
    content = buffer.getvalue()
    name = f"items-{hashlib.sha256(content).hexdigest()[:16]}.parquet"
    store = Store(folder)
    # A resumed run must find the file as it was, time of change and all.
    if not store.exists(name):
        store.write_bytes(name, content)
    return f"{store.uri}/{name}", columns


def _ids(ids: list[object]) -> pa.Array:
    kinds = {type(each) for each in ids}
    if not kinds <= {str} and not kinds <= {int}:
        names = " and ".join(sorted(kind.__name__ for kind in kinds))
        raise InputError(f"ids of items must be all text or all whole numbers, got {names}")
    return _strings([str(each) for each in ids], "id")


def _texts(values: list[object]) -> pa.Array:
    texts: list[str | None] = []
    for place, value in enumerate(values):
        if value is None or (isinstance(value, float) and math.isnan(value)):
            texts.append(None)
        elif isinstance(value, str):
            texts.append(value)
        else:
            raise InputError(
                f"item {place} must be text, got {type(value).__name__} {value!r:.80}; convert it"
            )
    return _strings(texts, "text")


def _strings(values: list[str | None] | list[str], what: str) -> pa.Array:
    try:
        return pa.array(values, pa.large_string())
    except UnicodeEncodeError as error:
        raise InputError(
            f"{what} {error.object!r:.80} must be valid Unicode ({error.reason}); mend it"
        ) from None
