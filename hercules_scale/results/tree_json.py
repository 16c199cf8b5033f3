"""The tree as JSON: facts about the run, a flat list of clusters and, on request, the items."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from typing import Any

from hercules_scale.results.finished_run import Run, json_numbers

FORMAT, FORMAT_VERSION = "hercules_scale", 1
RUN_KEYS = (
    "status",
    "started_at",
    "ended_at",
    "config",
    "versions",
    "imported",
    "rows",
    "clusters_per_level",
    "summary_status",
    "tokens",
    "alarms",
)
"""Keys of ``run.json`` that are exported."""


def write_tree(run: Run, stream: Any, items: bool) -> None:
    """Write the tree; docs/export.md describes the format.

    Memory is that of the clusters and of one shard of items.

    Args:
        run: The run.
        stream: Binary destination.
        items: Whether to add every item's clusters and distances.
    """
    facts = {key: run.record[key] for key in RUN_KEYS if key in run.record}
    head = {"format": FORMAT, "format_version": FORMAT_VERSION, "n_levels": run.n_levels}
    for name, value in {**head, "run": facts}.items():
        start = "{" if name == "format" else ","
        stream.write(f"{start}\n{to_json(name)}: {to_json(value)}".encode())
    write_array(stream, "clusters", (to_json(cluster) for cluster in run.cluster_rows))
    if items:
        write_array(stream, "items", _items(run))
    stream.write(b"\n}\n")


def _items(run: Run) -> Iterator[str]:
    levels = range(1, run.n_levels + 1)
    groups = {"cluster_ids": "level", "distances": "distance", "margins": "margin"}
    names = [f"{prefix}_{level}" for prefix in groups.values() for level in levels]
    for shard in run.shards({"memberships": ["row", "item_id", *names]}):
        texts = {name: json_numbers(shard[name]) for name in ("row", *names)}
        lists = {
            key: [",".join(row) for row in zip(*columns, strict=True)]
            for key, prefix in groups.items()
            for columns in [[texts[f"{prefix}_{level}"] for level in levels]]
        }
        for index, item_id in enumerate(shard["item_id"].to_pylist()):
            values = ", ".join(f'"{key}": [{rows[index]}]' for key, rows in lists.items())
            yield f'{{"row": {texts["row"][index]}, "item_id": {to_json(item_id)}, {values}}}'


def write_array(stream: Any, name: str, elements: Iterable[str]) -> None:
    """Write a further member of an object: an array with one element per line."""
    stream.write(f",\n{to_json(name)}: [".encode())
    for index, element in enumerate(elements):
        stream.write(f"{',' if index else ''}\n{element}".encode())
    stream.write(b"\n]")


def to_json(value: Any) -> str:
    """Return standard JSON in ASCII, with ``null`` for numbers that are not finite."""
    return json.dumps(_finite(value), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, (list, tuple)) else value
