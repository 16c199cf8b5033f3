"""Memberships as CSV, with the titles of each item's clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from hercules_scale.reading.columns import is_text
from hercules_scale.results.finished_run import Run

if TYPE_CHECKING:
    import pandas as pd

# Beginnings of formulas, and plain numbers, which are not formulas. Source: OWASP, "CSV Injection".
FORMULA, NUMBER = r"^[=+\-@\t\r\n]", r"^[+\-]?[0-9]+(\.[0-9]+)?$"


def write_rows(run: Run, stream: Any) -> None:
    """Write a row per item: row, item_id, cluster and title at each level, distances, margins.

    Memory is that of the clusters and of one shard of items. Quoting follows RFC 4180.

    Args:
        run: The run.
        stream: Binary destination.
    """
    levels = range(1, run.n_levels + 1)
    titles = {level: without_formulas(run.level(level)["title"]) for level in levels}
    numbers = [f"{name}_{level}" for name in ("distance", "margin") for level in levels]
    schema = pa.schema(
        [
            ("row", pa.int64()),
            ("item_id", pa.string()),
            *(
                field
                for level in levels
                for field in ((f"level_{level}", pa.int32()), (f"title_{level}", pa.string()))
            ),
            *((name, pa.float32()) for name in numbers),
        ]
    )
    options = pa.csv.WriteOptions(quoting_style="needed", quoting_header="none")
    read = ["row", "item_id", *(f"level_{level}" for level in levels), *numbers]
    with pa.csv.CSVWriter(stream, schema, write_options=options) as writer:
        for shard in run.shards({"memberships": read}):
            columns = dict(zip(shard.column_names, shard.columns, strict=True))
            columns["item_id"] = without_formulas(shard["item_id"])
            for level in levels:
                # Cluster ids are dense from 0, so they index the column of titles.
                columns[f"title_{level}"] = titles[level].take(shard[f"level_{level}"])
            writer.write_table(pa.table({name: columns[name] for name in schema.names}))


def harmless(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame with every text safe to open in a spreadsheet."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    texts = [each.name for each in table.schema if is_text(each.type)]
    safe = {name: without_formulas(table[name].cast(pa.string())).to_pandas() for name in texts}
    return frame.assign(**safe)


def without_formulas(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return texts with an apostrophe in front of those that a spreadsheet reads as formulas."""
    starts = pc.match_substring_regex(texts, FORMULA)
    harmless = pc.match_substring_regex(texts, NUMBER)
    marked = pc.binary_join_element_wise("'", texts, "")
    return pc.if_else(pc.and_(starts, pc.invert(harmless)), marked, texts)
