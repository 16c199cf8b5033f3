"""Items in memory, in common types of Python, written to a file that the stages read."""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hercules_scale.config.reading import Modality
from hercules_scale.config.resources import StorageConfig
from hercules_scale.errors import InputError
from hercules_scale.reading.image_fetching import WEB
from hercules_scale.reading.images import as_rgb
from hercules_scale.reading.listing import FORMATS
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import vector_column

if TYPE_CHECKING:
    import pandas as pd

ID_COLUMN = "item_id"
# Number of strings that are examined to tell paths of images from texts.
SNIFFED = 20
IMAGE_ENDINGS = tuple(ending for ending, kind in FORMATS.items() if kind == "image")
# Names of the columns of an array.
ARRAY_COLUMN = "column_{}"


def write_items(
    data: Any,
    folder: str,
    modality: Modality | None = None,
    labels: object = None,
    storage: StorageConfig | None = None,
) -> tuple[str, dict[str, Any]]:
    """Write items as one Parquet file, named by its content, so that a resumed run finds it.

    Args:
        data: Texts, images (paths, URIs, bytes, PIL images), numbers or vectors in a list, tuple,
            Series or array, which get row numbers for ids; or any of these by id, as a mapping; or
            a table: a DataFrame, an Arrow table, a list of mappings. The index of a Series or
            DataFrame, unless it is the default one, holds the ids; but whole numbers that repeat,
            as in concatenated frames, are no ids.
        folder: A path or URI.
        modality: Modality of the items; by default it is detected, and a 2-D array is numeric.
        labels: Ground truth of each item, in order, for evaluation only.
        storage: Access to the folder.

    Returns:
        The file's URI, and the keys of the section ``input`` that say how to read it.

    Raises:
        InputError: There is no item, or an id or item is of a wrong type.
    """
    ids, values = _split_ids(data)
    table, section = _table(values, modality)
    if not table.num_rows:
        raise InputError("items must hold at least one item, got none")
    if ids is not None:
        if ID_COLUMN in table.schema.names:
            raise InputError(f"items must not have a column {ID_COLUMN!r} beside an index of ids")
        table = table.append_column(ID_COLUMN, _ids(ids))
        section["id_column"] = ID_COLUMN
    if labels is not None:
        table, section["label_columns"] = _with_labels(table, labels)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    content = buffer.getvalue()
    name = f"items-{hashlib.sha256(content).hexdigest()[:16]}.parquet"
    store = Store(folder, storage)
    # A resumed run must find the file as it was, with the same time of change.
    if not store.exists(name):
        store.write_bytes(name, content)
    return f"{store.uri}/{name}", section


def _split_ids(data: Any) -> tuple[list[object] | None, Any]:
    """Return the ids of items, None if they have none, and the items."""
    import pandas as pd

    # Some sparse arrays are mappings too.
    if hasattr(data, "toarray"):
        raise InputError(
            f"items must be dense, got a sparse {type(data).__name__}; give items.toarray(), or "
            "fewer columns, as TruncatedSVD makes them"
        )
    if isinstance(data, Mapping):
        return list(data), list(data.values())
    if isinstance(data, pd.Series | pd.DataFrame):
        index = data.index
        default = isinstance(index, pd.RangeIndex) and (index.start, index.step) == (0, 1)
        # Concatenated frames repeat row numbers, which then identify no item.
        joined = pd.api.types.is_integer_dtype(index.dtype) and not index.is_unique
        ids = None if default or joined else index.tolist()
        return ids, data if isinstance(data, pd.DataFrame) else data.to_list()
    if hasattr(data, "to_arrow"):
        # The data are a frame of Polars.
        data = data.to_arrow()
    if isinstance(data, str | bytes) or not isinstance(data, Iterable | pa.Table):
        raise InputError(
            "items must be a list, mapping, Series, DataFrame, array or Arrow table, or the path "
            f"or URI of files, got {type(data).__name__}"
        )
    return None, data


def _table(values: Any, modality: Modality | None) -> tuple[pa.Table, dict[str, Any]]:
    """Return items as a table, and the configuration that reads it."""
    import pandas as pd

    if isinstance(values, pa.Table):
        return values, {"modality": modality} if modality else {}
    if isinstance(values, pd.DataFrame):
        return _frame(values, modality)
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiuc":
        return _array(values, modality)
    items = list(values)
    first = next((each for each in items if not _is_missing(each)), None)
    if isinstance(first, Mapping):
        return _frame(pd.DataFrame(items), modality)
    if isinstance(first, int | float | np.number) and not isinstance(first, bool):
        numbers = [math.nan if _is_missing(each) else each for each in items]
        try:
            array = _numbers(numbers)
        except (TypeError, ValueError):
            raise _of_wrong_type(items, "a number", (int, float, np.number)) from None
        return _array(array, modality)
    if isinstance(first, Sequence | np.ndarray) and not isinstance(first, str | bytes):
        return _lists(items, modality)
    if _are_images(items, first, modality):
        images, sources = _images(items)
        section = _section("image", image_column="image", image_sources=sources)
        return pa.table({"image": images}), section
    if first is not None and not isinstance(first, str):
        raise _of_wrong_type(items, "text, an image, a number or a list of numbers", (str,))
    return pa.table({"text": _texts(items)}), _section("text", text_column="text")


def _section(modality: Modality, **columns: Any) -> dict[str, Any]:
    """Return the configuration that reads items from named columns, without columns for other
    roles."""
    roles = dict.fromkeys(("text_column", "image_column", "embedding_column"))
    return {"modality": modality, **roles, **columns}


def _frame(frame: pd.DataFrame, modality: Modality | None) -> tuple[pa.Table, dict[str, Any]]:
    import pandas as pd

    frame = frame.rename(columns=str)
    names = frame.columns
    if not names.is_unique:
        twice = ", ".join(map(repr, names[names.duplicated()].unique()[:5]))
        raise InputError(
            f"items: column names must differ, but {twice} occurs more than once; rename them"
        )
    sparse = [name for name in names if isinstance(frame[name].dtype, pd.SparseDtype)]
    if sparse:
        raise InputError(
            f"items: column {sparse[0]!r} is sparse; give frame.sparse.to_dense(), or fewer columns"
        )
    try:
        table = pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowException, UnicodeEncodeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"items: a column holds values of several types ({reason})") from None
    return table, {"modality": modality} if modality else {}


def _numbers(values: list[Any]) -> np.ndarray[Any, Any]:
    array = np.asarray(values)
    # A complex array would lose its imaginary part as float64.
    return array if np.iscomplexobj(array) else array.astype(np.float64)


def _array(
    values: np.ndarray[Any, Any], modality: Modality | None
) -> tuple[pa.Table, dict[str, Any]]:
    if values.ndim not in (1, 2):
        raise InputError(
            f"items must be an array of shape (items, numbers), got {values.shape}; reshape it"
        )
    if isinstance(values, np.ma.MaskedArray):
        values = np.ma.filled(values.astype(np.float64), np.nan)
    if np.iscomplexobj(values):
        raise InputError(
            f"items must be real numbers, got {values.dtype}. Complex data not supported; give "
            "the parts or the absolute values"
        )
    if values.ndim == 2 and not values.shape[1]:
        raise InputError(
            f"items have 0 feature(s) (shape={values.shape}) while a minimum of 1 is required; "
            "give an array with a column at least"
        )
    matrix = values.reshape(len(values), values.size // max(len(values), 1))
    if modality == "embedding":
        vectors = vector_column(np.ascontiguousarray(matrix, np.float32))
        return pa.table({"embedding": vectors}), _section("embedding", embedding_column="embedding")
    names = [ARRAY_COLUMN.format(place) for place in range(matrix.shape[1])]
    columns = [pa.array(np.ascontiguousarray(column, np.float64)) for column in matrix.T]
    return pa.table(columns, names=names), _section("numeric", columns=names)


def _lists(items: list[Any], modality: Modality | None) -> tuple[pa.Table, dict[str, Any]]:
    """Return lists of numbers as numeric rows if all have one length, or else as embeddings."""
    rows = [None if _is_missing(each) else list(each) for each in items]
    lengths = {len(row) for row in rows if row is not None}
    if modality != "embedding" and len(lengths) == 1 and None not in rows:
        try:
            array = _numbers(rows)
        except (TypeError, ValueError):
            raise InputError("items must be lists of numbers; convert what is not") from None
        return _array(array, modality)
    try:
        vectors = pa.array(rows, pa.list_(pa.float64()))
    except (pa.ArrowException, TypeError):
        raise InputError("items must be lists of numbers; convert what is not") from None
    return pa.table({"embedding": vectors}), _section("embedding", embedding_column="embedding")


def _is_missing(value: object) -> bool:
    """Return whether a value marks a missing one in Python, NumPy or pandas."""
    import pandas as pd

    if value is None or value is pd.NA or value is pd.NaT:
        return True
    if isinstance(value, float | np.floating):
        return math.isnan(value)
    return isinstance(value, np.datetime64 | np.timedelta64) and bool(np.isnat(value))


def _are_images(items: list[Any], first: object, modality: Modality | None) -> bool:
    if modality is not None:
        return modality == "image"
    if isinstance(first, bytes | Path) or hasattr(first, "getbands"):
        return True
    texts = [each for each in items[:SNIFFED] if isinstance(each, str)]
    return bool(texts) and all(each.lower().endswith(IMAGE_ENDINGS) for each in texts)


def _images(items: list[Any]) -> tuple[pa.Array, list[str]]:
    """Return the images, and the folder and hosts of images that the caller names by path or
    URL."""
    hosts, folders = set(), set()
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows: list[dict[str, object] | None] = []
    for place, item in enumerate(items):
        if _is_missing(item):
            rows.append(None)
        elif isinstance(item, str | Path):
            path = str(item)
            if "://" in path:
                url = urlsplit(path)
                hosts |= {f"{url.scheme}://{url.netloc}/"} if url.scheme in WEB else set()
            else:
                path = str(Path(path).absolute())
                folders.add(str(Path(path).resolve().parent))
            rows.append({"path": path})
        elif isinstance(item, bytes):
            rows.append({"bytes": item})
        elif hasattr(item, "getbands"):
            data = io.BytesIO()
            as_rgb(item).save(data, "PNG")
            rows.append({"bytes": data.getvalue()})
        else:
            raise InputError(
                f"item {place} must be an image's path, bytes or PIL image, got "
                f"{type(item).__name__}"
            )
    common = [os.path.commonpath(folders)] if folders else []
    return pa.array(rows, kind), [*common, *sorted(hosts)]


def _texts(values: list[Any]) -> pa.Array:
    texts: list[str | None] = []
    for place, value in enumerate(values):
        if _is_missing(value):
            texts.append(None)
        elif isinstance(value, str):
            texts.append(value)
        else:
            raise InputError(
                f"item {place} must be text, got {type(value).__name__} {value!r:.80}; convert it"
            )
    return _strings(texts)


def _of_wrong_type(items: list[Any], what: str, kinds: tuple[type, ...]) -> InputError:
    place = next(
        place
        for place, each in enumerate(items)
        if not _is_missing(each) and (isinstance(each, bool) or not isinstance(each, kinds))
    )
    wrong = items[place]
    return InputError(
        f"item {place} must be {what}, got {type(wrong).__name__} {wrong!r:.80}; convert it"
    )


def _ids(ids: list[object]) -> pa.Array:
    """Return ids of one scalar type as texts; null where one is missing."""
    kinds = {type(each) for each in ids if not _is_missing(each)}
    if len(kinds) > 1:
        names = " and ".join(sorted(kind.__name__ for kind in kinds))
        raise InputError(f"ids of items must be of one type, got {names}; convert them")
    return _strings([None if _is_missing(each) else str(each) for each in ids])


def _with_labels(table: pa.Table, labels: Any) -> tuple[pa.Table, list[str]]:
    """Return the table with columns of ground truth added, and the names of these."""
    import pandas as pd

    named = (
        labels
        if isinstance(labels, pd.DataFrame)
        else pd.DataFrame({"label": pd.Series(list(labels), dtype=object)})
    )
    names = [str(name) for name in named.columns]
    for place, name in enumerate(names):
        values = [None if _is_missing(each) else str(each) for each in named.iloc[:, place]]
        if len(values) != table.num_rows:
            raise InputError(
                f"labels must be as many as the items ({table.num_rows:,}), got {len(values):,}"
            )
        if name in table.schema.names:
            raise InputError(f"labels must not have the name of a column of the items, {name!r}")
        table = table.append_column(name, _strings(values))
    return table, names


def _strings(values: Sequence[str | None]) -> pa.Array:
    """Return texts as an array; as bytes if one is invalid Unicode, which is rejected when read."""
    try:
        return pa.array(values, pa.large_string())
    except UnicodeEncodeError:
        coded = [None if each is None else each.encode("utf-8", "surrogatepass") for each in values]
        return pa.array(coded, pa.binary())
