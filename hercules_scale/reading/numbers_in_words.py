"""Descriptions of numeric items in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from hercules_scale.config.reading import VariableConfig

# Largest number of variables in the description of an item.
VARIABLES_SHOWN = 24


def variable_name(column: str, metadata: Mapping[str, VariableConfig]) -> str:
    """Return the name of a column for people."""
    return (metadata[column].name if column in metadata else None) or column.replace("_", " ")


def with_unit(
    value: float, column: str, metadata: Mapping[str, VariableConfig], precision: int = 4
) -> str:
    """Return a value with its unit, to ``precision`` digits."""
    unit = metadata[column].unit if column in metadata else None
    return f"{value:.{precision}g} {unit}" if unit else f"{value:.{precision}g}"


def verbalise_rows(
    items: pa.Table, columns: Sequence[str], metadata: Mapping[str, VariableConfig]
) -> list[str]:
    """Return each row as "variable value unit, ..."."""
    shown = [(variable_name(column, metadata), column) for column in columns[:VARIABLES_SHOWN]]
    rows = zip(*(items[column].to_pylist() for _, column in shown), strict=True)
    return [
        ", ".join(
            f"{name} {with_unit(value, column, metadata)}"
            for (name, column), value in zip(shown, row, strict=True)
        )
        for row in rows
    ]
