"""Content of items, from columns of any type, and reasons for rows that cannot be used."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hercules_scale.errors import SchemaError
from hercules_scale.reading.columns import (
    Columns,
    is_bytes,
    is_number,
    is_text,
    is_vector,
    plain_type,
)
from hercules_scale.reading.decimals import as_number, is_missing
from hercules_scale.reading.images import UnusableImageError, read_image, thumbnail
from hercules_scale.reading.sources import SourceFile
from hercules_scale.sanitize import without_secrets
from hercules_scale.storage.tables import vector_column

# Object stores answer many requests at a time, and decoders release Python's lock.
IMAGE_THREADS = 8
# Numbers in vectors must be below this, so that they fit in float64.
LARGEST = 1e308
# Squares of larger numbers, summed over all rows, would not be finite.
LARGEST_NUMBER = 1e100
# A row that some programs draw below the names.
RULED = r"^[-=+|: ]{3,}$"
Reasons = dict[int, str]
# Columns of the items, and a reason for each row that cannot be used.
Payload = tuple[dict[str, pa.Array], Reasons]


def payload(
    raw: pa.Table, columns: Columns, source: SourceFile, dimension: int, marks: str = "."
) -> Payload:
    """Return the columns of the items of some rows, by modality.

    Args:
        raw: Rows as they were read.
        columns: Columns by role.
        source: The file, for messages.
        dimension: Length of a vector.
        marks: Decimal mark of numbers in text and, if it is known, the mark of thousands.

    Raises:
        SchemaError: A column has a type that cannot be used.
    """
    if columns.modality == "numeric":
        return _numbers(raw, columns, source, marks)
    reasons: Reasons = {}
    found: dict[str, pa.Array] = {}
    if columns.modality == "embedding":
        assert columns.embedding
        found["embedding"], reasons = _vectors(raw.column(columns.embedding), dimension)
    if columns.modality == "image":
        assert columns.image
        found, reasons = _images(raw.column(columns.image), columns, source)
    if columns.text:
        text, bad = as_text(raw.column(columns.text), columns.text, source)
        if columns.modality == "text":
            reasons = _text_reasons(text, bad)
            if source.format == "csv":
                # Joined files keep the byte order marks before their headers.
                bare = pc.utf8_trim(text, '\ufeff" \t')
                repeated = true_rows(pc.equal(bare, columns.text.strip()))
                reasons |= dict.fromkeys(repeated, "the row repeats the header")
                ruled = true_rows(pc.match_substring_regex(text, RULED))
                reasons |= dict.fromkeys(ruled, "the row is a ruled line")
        found["text"] = text if columns.modality == "text" else pc.fill_null(text, "")
    return found, reasons


def _text_reasons(text: pa.Array, bad: list[int]) -> Reasons:
    reasons: Reasons = {}
    for index in true_rows(pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(text)), 0)):
        reasons[index] = "the text is empty"
    for index in true_rows(pc.is_null(text)):
        reasons[index] = "the text is missing"
    for index in bad:
        reasons[index] = "the text is not valid UTF-8"
    return reasons


def _numbers(raw: pa.Table, columns: Columns, source: SourceFile, marks: str) -> Payload:
    found: dict[str, pa.Array] = {}
    reasons: Reasons = {}
    for name in columns.numbers:
        values, unreadable = _as_numbers(flatten(raw.column(name)), name, source, marks)
        plain = values.to_numpy(zero_copy_only=False)
        for index in np.flatnonzero(np.isnan(plain)).tolist():
            reasons.setdefault(index, f"column {name!r} is missing")
        with np.errstate(invalid="ignore"):
            large = np.abs(plain) > LARGEST_NUMBER
        for index in np.flatnonzero(large).tolist():
            finite = np.isfinite(plain[index])
            problem = f"holds {plain[index]:g}, too large to compute with" if finite else ""
            reasons[index] = f"column {name!r} {problem or 'is not finite'}"
        reasons |= unreadable
        found[name] = values
    return found, reasons


def _as_numbers(
    array: pa.Array, name: str, source: SourceFile, marks: str
) -> tuple[pa.Array, Reasons]:
    """Return a column as numbers, and the rows that hold something else (null in the result)."""
    if is_number(array.type):
        return array.cast(pa.float64(), safe=False), {}
    if not is_text(array.type):
        raise SchemaError(
            f"{source.uri}: input.columns {name!r} must hold numbers, got {array.type}; leave it "
            "out or convert it"
        )
    values: list[float | None] = []
    reasons: Reasons = {}
    for index, cell in enumerate(array.cast(pa.large_binary()).to_pylist()):
        text = (cell or b"").strip()
        values.append(None if is_missing(text) else as_number(text, marks))
        if values[-1] is None and not is_missing(text):
            shown = text[:40].decode("utf-8", "replace")
            reasons[index] = f"column {name!r} holds {shown!r}, not a number"
    return pa.array(values, pa.float64()), reasons


def vector_length(column: pa.ChunkedArray) -> int:
    """Return the most common length of the vectors of a column; 0 if there is no vector."""
    lists, _ = _as_lists(flatten(column))
    if pa.types.is_fixed_size_list(lists.type) and len(lists):
        return int(lists.type.list_size)
    counts = pc.value_counts(pc.list_value_length(lists).drop_null()).to_pylist()
    # Among equally common lengths, the longest is taken, so that the order of rows does not matter.
    most = max(counts, key=lambda each: (each["counts"], each["values"]), default={"values": 0})
    return int(most["values"])


def _vectors(column: pa.ChunkedArray, dimension: int) -> tuple[pa.Array, Reasons]:
    """Return vectors of one length, and reasons for rows without such a vector (zeros in the
    result)."""
    lists, reasons = _as_lists(flatten(column))
    lengths = pc.list_value_length(lists)
    vectors = np.zeros((len(lists), dimension), np.float32)
    fits = pc.fill_null(pc.equal(lengths, dimension), False)
    values = lists.filter(fits).flatten().to_numpy(zero_copy_only=False)
    vectors[fits.to_numpy(zero_copy_only=False)] = values.reshape(-1, dimension)
    for index in true_rows(pc.invert(fits)):
        length = lengths[index].as_py()
        missing = "the embedding is missing"
        other = f"the embedding has {length} numbers, not {dimension}"
        reasons.setdefault(index, missing if length is None else other)
    for index in np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist():
        reasons[index] = "the embedding is not finite"
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.square(vectors).sum(axis=1)
    for index in np.flatnonzero(~np.isfinite(squares)).tolist():
        reasons.setdefault(index, "the embedding holds numbers that are too large to compute with")
    return vector_column(vectors), reasons


def _as_lists(array: pa.Array) -> tuple[pa.Array, Reasons]:
    """Return a column as lists of numbers; texts are read as JSON, and null where that fails."""
    if is_vector(array.type):
        return array, {}
    rows: list[list[float] | None] = []
    reasons: Reasons = {}
    for index, cell in enumerate(array.cast(pa.large_binary()).to_pylist()):
        rows.append(None if cell is None else as_vector(cell))
        if rows[-1] is None and cell is not None and cell.strip() not in (b"", b"null"):
            reasons[index] = "the embedding is not a list of numbers"
    return pa.array(rows, pa.list_(pa.float64())), reasons


def as_vector(text: bytes) -> list[float] | None:
    """Return a list of numbers, as JSON or NumPy writes it; None for any other text."""
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        own = text.strip()
        row = own[1:-1].split() if own[:1] == b"[" and own[-1:] == b"]" else None
        try:
            row = row and [float(each) for each in row if b"_" not in each]
        except ValueError:
            return None
    return row if _is_numbers(row) else None


def _is_numbers(row: object) -> bool:
    return isinstance(row, list) and all(
        isinstance(each, int | float) and not isinstance(each, bool) and not abs(each) >= LARGEST
        for each in row
    )


def _images(column: pa.ChunkedArray, columns: Columns, source: SourceFile) -> Payload:
    """Return thumbnails and places of images, and reasons for rows without a usable image."""
    array = flatten(column)
    data: list[bytes | None] = [None] * len(array)
    places: list[str | None] = [None] * len(array)
    in_table = source.format == "parquet"
    if pa.types.is_struct(array.type):
        fields = {array.type.field(place).name for place in range(array.type.num_fields)}
        for index, cell in enumerate(array.to_pylist()):
            data[index] = (cell or {}).get("bytes")
            places[index] = (cell or {}).get("path") if "path" in fields else None
    elif in_table and is_bytes(array.type):
        data = array.to_pylist()
    elif is_text(array.type):
        text, _ = as_text(column, columns.image or "", source)
        places = text.to_pylist()
    else:
        raise SchemaError(
            f"{source.uri}: input.image_column {columns.image!r} must hold bytes, paths or URIs, "
            f"got {array.type}; name another column"
        )

    # In a folder of images, links are the user's own, but a table may be somebody else's.
    allowed = ("/",) if source.format == "image" else columns.image_sources

    def load(index: int) -> tuple[bytes | None, str | None, str]:
        place = places[index]
        try:
            content = data[index]
            if content is None:
                if not place:
                    return None, None, "the image is missing"
                content, place = read_image(place, source.folder, allowed, source.storage)
            return thumbnail(content), without_secrets(place or "") or None, ""
        except UnusableImageError as error:
            return None, None, without_secrets(str(error))

    with ThreadPoolExecutor(IMAGE_THREADS) as threads:
        # Images are loaded in parallel, and results come in the order of rows.
        found_by = [threads.submit(load, i) for i in range(len(array))]
        loaded = [each.result() for each in found_by]
    found: dict[str, pa.Array] = {
        "image_uri": pa.array([place for _, place, _ in loaded], pa.string()),
        "thumbnail": pa.array([small for small, _, _ in loaded], pa.binary()),
    }
    return found, {index: reason for index, (_, _, reason) in enumerate(loaded) if reason}


def true_rows(mask: pa.Array) -> list[int]:
    """Return the rows of a mask that are true."""
    return list(pc.indices_nonzero(pc.fill_null(mask, False)).to_pylist())


def flatten(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array, its dictionary decoded; without any value it has the null
    type."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.chunks else pa.array([], column.type)
    if len(array) and array.null_count == len(array):
        return pa.nulls(len(array))
    while isinstance(array, pa.ExtensionArray):
        array = array.storage
    if plain_type(array.type) != array.type:
        array = array.field("data")
    if pa.types.is_list_view(array.type) or pa.types.is_large_list_view(array.type):
        array = array.cast(pa.large_list(array.type.value_type))
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return array


def as_text(column: pa.ChunkedArray, name: str, source: SourceFile) -> tuple[pa.Array, list[int]]:
    """Return a column as strings, and the rows of invalid UTF-8 (null in the result)."""
    array = flatten(column)
    if not is_text(array.type):
        raise SchemaError(
            f"{source.uri}: column {name!r} must hold text, got {array.type}; convert it"
        )
    raw = array.cast(pa.large_binary())
    try:
        return raw.cast(pa.large_string()), []
    except pa.ArrowInvalid:
        values: list[str | None] = []
        bad = []
        for index, cell in enumerate(raw.to_pylist()):
            try:
                values.append(None if cell is None else cell.decode("utf-8"))
            except UnicodeDecodeError:
                values.append(None)
                bad.append(index)
        return pa.array(values, pa.large_string()), bad
