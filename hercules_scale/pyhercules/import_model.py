"""Import of a model of pyhercules as a finished run."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import pyarrow as pa

import hercules_scale
from hercules_scale.config.resources import StorageConfig
from hercules_scale.errors import InputError
from hercules_scale.pyhercules.imported_tables import (
    SOURCES,
    STATUSES,
    clusters_table,
    item_tables,
    open_tree,
)
from hercules_scale.pyhercules.model_json import Item, Model, Rejected, read_items, read_model
from hercules_scale.storage import layout, schemas
from hercules_scale.storage.json_records import fingerprint, timestamp, to_json
from hercules_scale.storage.lock import hold_lock
from hercules_scale.storage.manifest import check_free, publish
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import FileRecord, write_table

SHARD_ITEMS = 16_384


def import_model(path: str, output: str, storage: StorageConfig | None = None) -> Store:
    """Write a model of pyhercules as a finished run, for ``show``, ``export`` and others.

    The file is read twice; memory is that of its clusters, of 16,384 items and of all ids.

    Args:
        path: Path or URI of the JSON that ``Hercules.save_model`` wrote.
        output: Output folder, a path or URI.
        storage: Access to object stores.

    Returns:
        Store of the output.

    Raises:
        InputError: The file is not such a model, none of its items can be used, or the output
            holds a run already.
    """
    store = Store(output, storage)
    if store.exists(layout.RUN):
        raise InputError(f"{store.uri}: holds a run already; give another output")
    check_free(store, "--output")
    model = read_model(path, storage)
    started = timestamp()
    with hold_lock(store, lambda message: None) as lock:
        _write(lock.store, model, started)
    return store


def _write(store: Store, model: Model, started: str) -> None:
    tree = open_tree(model)
    files: dict[str, list[FileRecord]] = {}
    rejected: list[Rejected] = []
    items = _accepted(model, rejected)
    row = 0
    while chunk := list(islice(items, SHARD_ITEMS)):
        tables = item_tables(tree, chunk, row)
        for name, table in tables.items():
            written = files.setdefault(name, [])
            written.append(write_table(store, layout.part(name, len(written)), table))
        row += len(chunk)
    if row == 0:
        reason = f", the first because {rejected[0].reason}" if rejected else ""
        raise InputError(f"{model.path}: none of {len(rejected)} items can be used{reason}")
    clusters = clusters_table(tree)
    small = {
        "clusters": clusters,
        "evaluations": schemas.EVALUATIONS.empty_table(),
        "rejected": _rejected_table(model.path, rejected),
    }
    for name, table in small.items():
        files[name] = [write_table(store, layout.part(name, 0), table)]
    record = _record(model, files, clusters, rejected) | {"started_at": started}
    record["config"]["output"] = {"path": store.uri}
    store.write_bytes(layout.RUN, to_json(record))
    publish(store, files, record["fingerprint"])


def _accepted(model: Model, rejected: list[Rejected]) -> Iterator[Item]:
    for item in read_items(model):
        if isinstance(item, Rejected):
            rejected.append(item)
        else:
            yield item


def _rejected_table(path: str, rejected: list[Rejected]) -> pa.Table:
    columns = [
        [item.item_id for item in rejected],
        [path] * len(rejected),
        [item.position for item in rejected],
        [item.reason for item in rejected],
    ]
    return pa.table(columns, schema=schemas.REJECTED)


def _record(
    model: Model, files: dict[str, list[FileRecord]], clusters: pa.Table, rejected: list[Rejected]
) -> dict[str, Any]:
    """Return the content of ``run.json``."""
    theirs, functions = model.section("config"), model.section("function_metadata")
    rows = {name: sum(file.rows for file in written) for name, written in files.items()}
    status, source = (clusters[name].to_pylist() for name in ("summary_status", "summary_source"))
    alarms = []
    if rejected:
        alarms.append(f"{len(rejected):,} of {rows['items'] + len(rejected):,} items were rejected")
    return {
        "status": "finished",
        "ended_at": timestamp(),
        "fingerprint": fingerprint({"imported": [file.sha256 for file in files["clusters"]]}),
        "imported": {
            "from": "pyhercules",
            "version": str(model.facts.get("__hercules_version__")),
            "config": theirs,
            "state": model.section("state"),
        },
        "config": {
            "input": {"path": model.path, "modality": model.modality},
            "embedding": {"model": _function_name(functions, "text_embedding")},
            "hierarchy": {
                "levels": [len(nodes) for nodes in model.levels],
                "representation": theirs.get("representation_mode"),
                "method": theirs.get("clustering_method"),
                "linkage": theirs.get("agglomerative_linkage"),
                "seed": theirs.get("random_state"),
            },
            "summaries": {"model": _function_name(functions, "llm")},
        },
        "inputs": [{"name": model.path.rpartition("/")[2]}],
        "versions": {"hercules-scale": hercules_scale.__version__},
        "rows": rows,
        "clusters_per_level": {
            str(level): len(nodes) for level, nodes in enumerate(model.levels, start=1)
        },
        "summary_status": {name: status.count(name) for name in STATUSES if name in status},
        "summary_source": {name: source.count(name) for name in SOURCES if name in source},
        "tokens": {"calls": 0, "prompt_tokens": 0, "completion_tokens": 0},
        "alarms": alarms,
        "stages": [],
    }


def _function_name(functions: dict[str, Any], key: str) -> str | None:
    function = functions.get(key)
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else None
