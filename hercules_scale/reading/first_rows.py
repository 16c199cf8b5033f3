"""Columns of a file, from its first rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from hercules_scale.config.reading import InputConfig
from hercules_scale.errors import SchemaError
from hercules_scale.reading.columns import is_text
from hercules_scale.reading.dialect import Dialect
from hercules_scale.reading.item_content import flatten
from hercules_scale.reading.sources import SourceFile

BATCH_ROWS = 8_192
SNIFFED_ROWS = 1_000
# Longest line of a text or JSON Lines file, row of csv or cell of Parquet, so that a small .gz
# cannot fill the memory with a single line.
LONGEST_LINE_BYTES = 16 * 2**20


@dataclass(frozen=True)
class FirstRows:
    """Columns of a file, from its first rows.

    Attributes:
        kinds: Type of each column.
        cells: First values of columns of texts and numbers.
        dialect: Dialect of a text file.
        indices: Columns that pandas made from the index of a frame.
        lengths: Lengths of the first lists in columns of vectors.
    """

    kinds: dict[str, pa.DataType]
    cells: dict[str, list[Any]] = field(default_factory=dict)
    dialect: Dialect | None = None
    indices: tuple[str, ...] = ()
    lengths: dict[str, list[int]] = field(default_factory=dict)


def check_names(names: list[str], source: SourceFile) -> None:
    """Refuse columns with the same name.

    Raises:
        SchemaError: Two columns have the same name.
    """
    twice = sorted(name for name, count in Counter(names).items() if name and count > 1)
    if twice:
        raise SchemaError(
            f"{source.uri}: column names must differ, but {', '.join(map(repr, twice[:5]))} "
            "occurs more than once; rename the columns"
        )


def plain_cells(column: pa.ChunkedArray) -> list[Any]:
    """Return the values of a column; texts as bytes, which may be invalid UTF-8."""
    array = flatten(column)
    return list((array.cast(pa.large_binary()) if is_text(array.type) else array).to_pylist())


def named_columns(config: InputConfig, source: SourceFile) -> list[str]:
    """Return the columns that the user names and the file itself must have."""
    single = (
        config.id_column,
        config.text_column,
        config.image_column,
        config.embedding_column,
        config.owner_column,
    )
    names = [*(name for name in single if name), *config.columns, *config.label_columns]
    return [name for name in names if name not in source.partitions]
