"""Export of a run as the model JSON of the package pyhercules, for its ``load_model`` and its app.

Source: pyhercules 1.1.1, the format of ``Hercules.save_model`` and ``load_model``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hercules_scale.errors import InputError
from hercules_scale.results.finished_run import Run, json_numbers
from hercules_scale.results.tree_json import to_json, write_array
from hercules_scale.storage.schemas import WITHHELD

VERSION = "1.1.1"
SPACE = "text_embedding"
OURS = "hercules_scale"
"""Member of a cluster with values that pyhercules has no place for; pyhercules ignores it."""
OUR_COLUMNS = ["summary_status", "summary_error", "summary_source", "keyphrases"]
# Rows of items that are gathered by cluster at a time, 8 bytes each.
GATHERED_ROWS = 1 << 21
MAX_SEED = 2**32


def write_model(run: Run, stream: Any) -> None:
    """Write the model: items at level 0 with text, vector and map place, clusters above them.

    An item takes about 5 kB. Memory is that of the clusters, of one shard of items, and of the
    rows of 2 million items or of the largest cluster. Memberships are read once for every 2
    million items.

    Args:
        run: The run.
        stream: Binary destination.

    Raises:
        InputError: The items are not texts, or some clusters are withheld for privacy.
    """
    columns = run.columns("items")
    if "text" not in columns:
        raise InputError(
            f"{run.store.uri}: layout pyhercules holds texts, and the items have none (columns "
            f"{', '.join(columns)}); leave --layout out"
        )
    n_withheld = run.level(1)["summary_source"].to_pylist().count(WITHHELD)
    if n_withheld:
        raise InputError(
            f"{run.store.uri}: layout pyhercules holds the text of every item, and the section "
            f"privacy withholds {n_withheld:,} small clusters; leave --layout out"
        )
    stream.write(f'{{\n"__hercules_version__": {to_json(VERSION)}'.encode())
    _write_state(run, stream)
    components = run.level(1)["reduction"].type.list_size
    rest: dict[str, Any] = {
        "config": _config(run),
        "function_metadata": {
            "text_embedding": _function(run.config("embedding").get("model")),
            "llm": _function(run.config("summaries").get("model")),
        },
        "reducers_config": {SPACE: {"pca": {"type": "pca", "n_components": components}}},
        "top_cluster_ids": _ids(run, run.n_levels, run.level(run.n_levels)["cluster_id"]),
        "prompt_log": [],
    }
    for name, value in rest.items():
        stream.write(f",\n{to_json(name)}: {to_json(value)}".encode())
    write_array(stream, "clusters", _nodes(run))
    stream.write(b"\n}\n")


def _write_state(run: Run, stream: Any) -> None:
    dimension = run.clusters["centroid"].type.list_size
    state = {
        "variable_names": None,
        "numeric_metadata_by_name": None,
        "input_data_type": "text",
        "embedding_dims": {SPACE: dimension, "image_embedding": None, "numeric": None},
        "max_level_achieved": run.n_levels,
        "scaler_params": None,
    }
    stream.write(f',\n"state": {to_json(state)[:-1]}'.encode())
    ids = (
        to_json(item_id)
        for shard in run.shards({"items": ["item_id"]})
        for item_id in shard["item_id"].to_pylist()
    )
    write_array(stream, "_l0_original_ids_ordered", ids)
    stream.write(b"}")


def _config(run: Run) -> dict[str, Any]:
    """Return the options of pyhercules that a run has; pyhercules has defaults for the others."""
    hierarchy = run.config("hierarchy")
    seed = hierarchy.get("seed")
    return {
        "level_cluster_counts": [run.level(level).num_rows for level in range(1, run.n_levels + 1)],
        "clustering_method": hierarchy.get("method", "kmeans"),
        "agglomerative_linkage": hierarchy.get("linkage", "ward"),
        "representation_mode": hierarchy.get("representation", "direct"),
        "n_reduction_components": run.clusters["reduction"].type.list_size,
        # NumPy accepts no larger seed.
        "random_state": seed if isinstance(seed, int) and seed < MAX_SEED else None,
        "save_run_details": False,
        "verbose": 1,
    }


def _function(name: str | None) -> dict[str, Any]:
    return {"name": name, "module": OURS, "signature": None, "docstring": None}


def _ids(run: Run, level: int, cluster_ids: pa.ChunkedArray) -> list[int]:
    """Return the numbers of clusters in the model, which follow the items' rows level by level."""
    start = run.n_items + sum(run.level(below).num_rows for below in range(1, level))
    return [start + cluster_id for cluster_id in cluster_ids.to_pylist()]


def _nodes(run: Run) -> Iterator[str]:
    yield from _items(run)
    parents: NDArray[np.int64] | None = None
    for level in range(1, run.n_levels + 1):
        below = _item_rows(run) if parents is None else _members(parents, run.level(level).num_rows)
        yield from _clusters(run, level, below)
        parents = run.level(level)["parent_cluster_id"].fill_null(-1).to_numpy()


def _items(run: Run) -> Iterator[str]:
    parents = _ids(run, 1, run.level(1)["cluster_id"])
    components = run.columns("reductions")[2:]
    tables = {
        "items": ["row", "item_id", "title", "description", "text"],
        "memberships": ["level_1"],
        "embeddings": ["embedding"],
        "reductions": components,
    }
    for shard in run.shards(tables):
        places = [json_numbers(shard[name]) for name in components]
        known = "embedding" in shard.column_names
        vectors = _vectors(shard["embedding"]) if known else iter(["null"] * shard.num_rows)
        columns = [*tables["items"], "level_1"]
        for index, row in enumerate(shard.select(columns).to_pylist()):
            node = {
                "level": 0,
                "id": row["row"],
                "original_id": row["item_id"],
                "original_data_type": "text",
                "children_ids": [],
                "parent_id": parents[row["level_1"]],
                "title": row["title"],
                "description": row["description"],
                "description_embedding": None,
                "description_embedding_reductions": {},
                "original_numeric_data": None,
                "_raw_item_data": row["text"],
                "_raw_item_data_type": "str",
            }
            place = f"[{','.join(column[index] for column in places)}]"
            yield _node(node, next(vectors), place if places else "null")


def _clusters(run: Run, level: int, below: Iterator[NDArray[np.int64]]) -> Iterator[str]:
    table = run.level(level)
    ids = _ids(run, level, table["cluster_id"])
    first_below = 0 if level == 1 else _ids(run, level - 1, run.level(level - 1)["cluster_id"])[0]
    first_above = (
        run.n_items
        + run.clusters.num_rows
        - run.clusters.filter(pc.greater(run.clusters["level"], level)).num_rows
    )
    kept = table.select(["parent_cluster_id", "title", "description"]).to_pylist()
    ours = table.select(OUR_COLUMNS).to_pylist()
    vectors, embeddings = _vectors(table["centroid"]), _vectors(table["description_embedding"])
    places = _vectors(table["reduction"])
    for node_id, row, extra, children in zip(ids, kept, ours, below, strict=True):
        parent = row["parent_cluster_id"]
        node = {
            "level": level,
            "id": node_id,
            "original_id": None,
            "original_data_type": "text",
            "children_ids": (children + first_below).tolist(),
            "parent_id": None if parent is None else first_above + parent,
            "title": row["title"],
            "description": row["description"],
            "original_numeric_data": None,
            "_raw_item_data": None,
            "_raw_item_data_type": "NoneType",
            OURS: extra,
        }
        text = _node(node, next(vectors), next(places))
        yield f'{text[:-1]}, "description_embedding": {next(embeddings)}}}'


def _node(node: dict[str, Any], vector: str, place: str) -> str:
    reductions = "{}" if place == "null" else f'{{"pca": {place}}}'
    return (
        f'{to_json(node)[:-1]}, "representation_vector": {vector}, '
        f'"representation_vector_space": "{SPACE}", '
        f'"representation_vector_reductions": {reductions}}}'
    )


def _vectors(column: pa.ChunkedArray) -> Iterator[str]:
    """Yield each vector as JSON, or ``null``; about a thousand are converted at a time."""
    for start in range(0, len(column), 1024):
        part = column.slice(start, 1024).combine_chunks()
        width = part.type.list_size
        # flatten() leaves the numbers of missing vectors out.
        numbers = iter(json_numbers(part.flatten()))
        for known in part.is_valid().to_pylist():
            yield f"[{','.join(next(numbers) for _ in range(width))}]" if known else "null"


def _members(parents: NDArray[np.int64], n_clusters: int) -> Iterator[NDArray[np.int64]]:
    """Yield the members of each cluster, in ascending order."""
    order = np.argsort(parents, kind="stable")
    ends = np.cumsum(np.bincount(parents, minlength=n_clusters))
    yield from np.split(order, ends[:-1])


def _item_rows(run: Run) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of each finest cluster's items, gathered for some clusters at a time."""
    sizes = run.level(1)["n_items"].to_numpy()
    first = 0
    while first < len(sizes):
        fitting = int(np.searchsorted(np.cumsum(sizes[first:]), GATHERED_ROWS, side="right"))
        stop = first + max(fitting, 1)
        rows, labels = [], []
        for shard in run.shards({"memberships": ["row", "level_1"]}):
            label = shard["level_1"].to_numpy()
            here = (label >= first) & (label < stop)
            rows.append(shard["row"].to_numpy()[here])
            labels.append(label[here] - first)
        gathered = np.concatenate(rows)
        for members in _members(np.concatenate(labels), stop - first):
            yield gathered[members]
        first = stop
