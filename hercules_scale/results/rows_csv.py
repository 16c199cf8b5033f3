"""Memberships as CSV, with the titles of each item's clusters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from hercules_scale.reading.columns import is_text
from hercules_scale.results.cut import Cut
from hercules_scale.results.finished_run import Run
from hercules_scale.storage.tables import read_schema

if TYPE_CHECKING:
    import pandas as pd

# Beginnings of formulas, and plain numbers, which are not formulas. Source: OWASP, "CSV Injection".
FORMULA, NUMBER = r"^[=+\-@\t\r\n]", r"^[+\-]?[0-9]+(\.[0-9]+)?$"


def write_rows(
    run: Run,
    stream: Any,
    own: Sequence[str] = (),
    chosen: Callable[[pa.Table], pa.Table] = lambda shard: shard,
) -> None:
    """Write a row per item: row, item_id, cluster and title at each level, distances, margins.

    Memory is that of the clusters and of one shard of items. Quoting follows RFC 4180.

    Args:
        run: The run.
        stream: Binary destination.
        own: Columns of the table ``items`` that follow the id.
        chosen: A function from a shard to the rows of it that are written.
    """
    levels = range(1, run.n_levels + 1)
    titles = {level: without_formulas(run.level(level)["title"]) for level in levels}
    numbers = [f"{name}_{level}" for name in ("distance", "margin") for level in levels]
    types = read_schema(run.store, run.files["items"][0].path) if own else pa.schema([])
    schema = pa.schema(
        [
            ("row", pa.int64()),
            ("item_id", pa.string()),
            *(types.field(name) for name in own),
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
    tables = {"memberships": read, **({"items": list(own)} if own else {})}
    with pa.csv.CSVWriter(stream, schema, write_options=options) as writer:
        for shard in run.shards(tables):
            rows = chosen(shard)
            columns = dict(zip(rows.column_names, rows.columns, strict=True))
            for name in ("item_id", *own):
                if is_text(rows[name].type):
                    columns[name] = without_formulas(rows[name])
            for level in levels:
                # Cluster ids are dense from 0, so they index the column of titles.
                columns[f"title_{level}"] = titles[level].take(rows[f"level_{level}"])
            writer.write_table(pa.table({name: columns[name] for name in schema.names}))


def write_cut_rows(run: Run, cut: Cut, stream: Any) -> None:
    """Write a row per item: row, item_id, and level, cluster_id and title in a cut.

    Memory is that of the clusters and of one shard of items.

    Args:
        run: The run.
        cut: A cut of its tree.
        stream: Binary destination.
    """
    nodes = cut.clusters.select(["level", "cluster_id"])
    nodes = nodes.append_column("title", without_formulas(cut.clusters["title"]))
    schema = pa.schema([("row", pa.int64()), ("item_id", pa.string()), *nodes.schema])
    options = pa.csv.WriteOptions(quoting_style="needed", quoting_header="none")
    with pa.csv.CSVWriter(stream, schema, write_options=options) as writer:
        for shard in run.shards({"memberships": ["row", "item_id", "level_1"]}):
            own = nodes.take(pa.array(cut.of_leaf[shard["level_1"].to_numpy()]))
            items = [shard["row"], without_formulas(shard["item_id"])]
            writer.write_table(pa.table([*items, *own.columns], schema=schema))


def harmless(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame with every text safe to open in a spreadsheet, and lists as joined words."""
    lists = [name for name in frame if frame[name].map(lambda each: np.ndim(each) == 1).any()]
    frame = frame.assign(**{str(name): frame[name].map(joined) for name in lists})
    table = pa.Table.from_pandas(frame, preserve_index=False)
    texts = [each.name for each in table.schema if is_text(each.type)]
    safe = {name: without_formulas(table[name].cast(pa.string())).to_pandas() for name in texts}
    return frame.assign(**safe)


def joined(values: Any) -> str | None:
    """Return a list as words with semicolons between; None for no list."""
    if values is None or np.ndim(values) != 1:
        return None
    return "; ".join(
        " ".join(f"{key} {each}" for key, each in value.items())
        if isinstance(value, dict)
        else f"{value}"
        for value in values
    )


def without_formulas(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return texts with an apostrophe in front of those that a spreadsheet reads as formulas."""
    starts = pc.match_substring_regex(texts, FORMULA)
    harmless = pc.match_substring_regex(texts, NUMBER)
    marked = pc.binary_join_element_wise(
        pa.scalar("'", texts.type), texts, pa.scalar("", texts.type)
    )
    return pc.if_else(pc.and_(starts, pc.invert(harmless)), marked, texts)
