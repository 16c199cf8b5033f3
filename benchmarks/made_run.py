"""Outputs of runs that nobody had to run: planted clusters of any number of items, as tables."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hercules_scale.config.file import parse_config
from hercules_scale.storage import layout, schemas
from hercules_scale.storage.cluster_items import Source, TreeOrder, write_part, write_range
from hercules_scale.storage.json_records import fingerprint, timestamp, to_json
from hercules_scale.storage.manifest import publish
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import (
    FileRecord,
    memberships_table,
    read_table,
    vector_column,
    write_table,
)

SHARD_ROWS = 65_536
EXEMPLARS = 4
ADJECTIVES = [
    "small",
    "large",
    "old",
    "new",
    "red",
    "blue",
    "green",
    "quiet",
    "loud",
    "early",
    "late",
    "northern",
    "southern",
    "dry",
    "wet",
]
NOUNS = [
    "boats",
    "cars",
    "birds",
    "trees",
    "rivers",
    "stones",
    "letters",
    "songs",
    "roads",
    "houses",
    "ships",
    "bridges",
    "storms",
    "fields",
]
VERBS = [
    "found",
    "lost",
    "painted",
    "repaired",
    "counted",
    "seen",
    "heard",
    "moved",
    "sold",
    "drawn",
    "carried",
    "measured",
    "named",
]
VARIABLES = ("length", "width", "weight")


@dataclass(frozen=True)
class Made:
    """How a made run looks.

    Attributes:
        n_items: Items in all.
        sizes: Clusters of each level, finest first.
        modality: text, image or numeric.
        components: Axes of the map.
        title: Of a cluster, by level and id.
        item_id: Of items, by row.
        text: Of items, by row and finest cluster.
    """

    n_items: int
    sizes: tuple[int, ...]
    modality: str = "text"
    components: int = 2
    dimension: int = 8
    seed: int = 0
    title: Callable[[int, int], str] = lambda level, number: (
        f"{ADJECTIVES[(number * 7 + level) % 15].title()} {NOUNS[number % 14]} "
        f"{VERBS[number * 5 % 13]} {number}"
    )
    item_id: Callable[[NDArray[np.int64]], pa.Array] = lambda rows: pc.binary_join_element_wise(
        "item", pa.array(rows).cast(pa.string()), "-"
    )
    text: Callable[[NDArray[np.int64], NDArray[np.int32]], pa.Array] | None = None


def make_run(output: str, made: Made) -> Store:
    """Write a finished run.

    Memory is that of the clusters and of one part of the items.
    """
    store, random = Store(output), np.random.default_rng(made.seed)
    parents = [
        np.sort(np.arange(k, dtype=np.int32) % above)
        for k, above in zip(made.sizes, made.sizes[1:], strict=False)
    ]
    centres = _centres(random, made, parents)
    weights = random.lognormal(0, 1, made.sizes[0])
    cumulated = np.cumsum(weights / weights.sum())
    counts = [np.zeros(k, np.int64) for k in made.sizes]
    inertia = [np.zeros(k) for k in made.sizes]
    files: dict[str, list[FileRecord]] = {
        name: [] for name in ("items", "embeddings", "memberships", "reductions", "labels")
    }
    sums = np.zeros((4, len(VARIABLES)))
    sums[2:] = [[np.inf], [-np.inf]]
    for shard, start in enumerate(range(0, made.n_items, SHARD_ROWS)):
        rows = np.arange(start, min(start + SHARD_ROWS, made.n_items))
        leaves = np.minimum(np.searchsorted(cumulated, random.random(len(rows))), len(weights) - 1)
        path = [leaves.astype(np.int32)]
        for above in parents:
            path.append(above[path[-1]])
        labels = np.stack(path, axis=1)
        noise = random.normal(0, 0.12, (len(rows), made.dimension)).astype(np.float32)
        vectors = centres[0][leaves] + noise
        distances = np.stack(
            [
                ((vectors - centre[own]) ** 2).sum(axis=1)
                for centre, own in zip(centres, labels.T, strict=True)
            ],
            axis=1,
        )
        for level, own in enumerate(labels.T):
            counts[level] += np.bincount(own, minlength=made.sizes[level])
            inertia[level] += np.bincount(own, distances[:, level], made.sizes[level])
        margins = random.normal(0.3, 0.2, distances.shape).astype(np.float32)
        ids = made.item_id(rows)
        tables = {
            "items": _items(made, random, rows, ids, labels[:, 0], vectors),
            "embeddings": pa.table(
                {"row": rows, "item_id": ids, "embedding": vector_column(vectors)}
            ),
            "memberships": memberships_table(rows, ids, labels, distances, margins),
            "reductions": pa.table(
                {"row": rows, "item_id": ids}
                | {f"pca_{axis + 1}": vectors[:, axis] for axis in range(made.components)}
            ),
            "labels": pa.table({"row": rows, "class": (labels[:, -1] % 3).astype(str)}),
        }
        for name, table in tables.items():
            files[name].append(write_table(store, layout.part(name, shard), table))
        numbers = vectors[:, : len(VARIABLES)].astype(np.float64)
        sums[0] += numbers.sum(axis=0)
        sums[1] += (numbers**2).sum(axis=0)
        sums[2] = np.minimum(sums[2], numbers.min(axis=0))
        sums[3] = np.maximum(sums[3], numbers.max(axis=0))
    clusters = _clusters(made, random, parents, centres, counts, inertia)
    source = Source.of(store, files, TreeOrder.of(clusters), store)
    cuts = [write_part(source, part)[1] for part in range(len(source.parts()))]
    files["cluster_items"] = [
        write_range(source, number, cuts) for number in range(len(source.ranges()) - 1)
    ]
    store.delete_files(layout.WORK)
    clusters = _with_exemplars(store, clusters, source.order, files["cluster_items"])
    small = {
        "clusters": clusters,
        "evaluations": _evaluations(random, made),
        "k_selection": _curve(made),
        "llm_calls": _calls(random, made),
        "rejected": schemas.REJECTED.empty_table(),
    }
    for name, table in small.items():
        files[name] = [write_table(store, layout.part(name, 0), table)]
    record = _record(store, made, files, sums)
    store.write_bytes(layout.RUN, to_json(record))
    publish(store, files, record["fingerprint"])
    return store


def _centres(
    random: np.random.Generator, made: Made, parents: list[NDArray[np.int32]]
) -> list[NDArray[np.float32]]:
    """Of each level, finest first; children lie around their parent."""
    above = random.normal(0, 1.5, (made.sizes[-1], made.dimension)).astype(np.float32)
    centres = [above]
    for depth, own in enumerate(reversed(parents), start=1):
        step = random.normal(0, 0.9 / depth, (len(own), made.dimension)).astype(np.float32)
        above = above[own] + step
        centres.insert(0, above)
    return centres


def _items(
    made: Made,
    random: np.random.Generator,
    rows: NDArray[np.int64],
    ids: pa.Array,
    leaves: NDArray[np.int32],
    vectors: NDArray[np.float32],
) -> pa.Table:
    if made.text is not None:
        texts = made.text(rows, leaves)
    else:
        words = [
            pa.array(each).take(
                pa.array((leaves * step + random.integers(0, 3, len(rows))) % len(each))
            )
            for each, step in ((ADJECTIVES, 7), (NOUNS, 1), (VERBS, 5))
        ]
        number = pa.array(rows).cast(pa.string())
        texts = pc.binary_join_element_wise(words[0], words[1], words[2], "number", number, " ")
    columns: dict[str, Any] = {"row": rows, "item_id": ids, "title": texts, "description": texts}
    if made.modality == "text":
        columns["text"] = pc.cast(texts, pa.large_string())
    elif made.modality == "image":
        columns["image_uri"] = pc.binary_join_element_wise(ids, "png", ".")
        pictures = pa.array([_picture(leaf) for leaf in range(made.sizes[0])], pa.binary())
        columns["thumbnail"] = pictures.take(pa.array(leaves))
    else:
        for place, name in enumerate(VARIABLES):
            columns[name] = vectors[:, place].astype(np.float64)
    return pa.table(columns)


def _picture(leaf: int) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    colour = (leaf * 67 % 256, leaf * 131 % 256, leaf * 29 % 256)
    Image.new("RGB", (64, 48), colour).save(stream, "PNG")
    return stream.getvalue()


def _clusters(
    made: Made,
    random: np.random.Generator,
    parents: list[NDArray[np.int32]],
    centres: list[NDArray[np.float32]],
    counts: list[NDArray[np.int64]],
    inertia: list[NDArray[np.float64]],
) -> pa.Table:
    tables = []
    for level, k in enumerate(made.sizes, start=1):
        titles = [made.title(level, number) for number in range(k)]
        children = counts[0] if level == 1 else np.bincount(parents[level - 2], minlength=k)
        bad = np.arange(k) % 17 == 5
        embeddings = random.normal(0, 1, (k, made.dimension)).astype(np.float32)
        embeddings += centres[level - 1]
        stats = None
        if made.modality == "numeric":
            stats = [
                [
                    {
                        "variable": name,
                        "mean": float(centre[place]),
                        "min": float(centre[place] - 0.4),
                        "max": float(centre[place] + 0.4),
                        "std": 0.12,
                    }
                    for place, name in enumerate(VARIABLES)
                ]
                for centre in centres[level - 1]
            ]
        columns = {
            "level": pa.repeat(level, k),
            "cluster_id": np.arange(k),
            "parent_cluster_id": pa.nulls(k) if level == len(made.sizes) else parents[level - 1],
            "n_items": counts[level - 1],
            "n_children": children,
            "title": titles,
            "description": [f"Items that are about {title.lower()}." for title in titles],
            "summary_status": np.where(bad, "fallback", "ok"),
            "summary_error": pa.array(
                [
                    f"no answer for {number}" if each else None
                    for number, each in enumerate(bad.tolist())
                ],
                pa.string(),
            ),
            "summary_source": np.where(bad, "keyphrases", "model"),
            "summary_score": random.uniform(0.5, 1, k),
            "groundedness": pa.repeat(1.0, k),
            "keyphrases": [title.lower().split() for title in titles],
            "inertia": inertia[level - 1],
            "centroid": vector_column(centres[level - 1]),
            "description_embedding": vector_column(embeddings),
            "reduction": vector_column(
                np.ascontiguousarray(centres[level - 1][:, : made.components])
            ),
            "exemplar_item_ids": pa.nulls(k, pa.list_(pa.string())),
            "exemplar_rows": pa.nulls(k, pa.list_(pa.int64())),
            "numeric_stats": pa.array(stats, schemas.NUMERIC_STATS)
            if stats
            else pa.nulls(k, schemas.NUMERIC_STATS),
        }
        schema = schemas.clusters(made.dimension, made.dimension, made.components)
        tables.append(pa.table({name: columns[name] for name in schema.names}).cast(schema))
    return pa.concat_tables(tables)


def _with_exemplars(
    store: Store, clusters: pa.Table, order: TreeOrder, files: list[FileRecord]
) -> pa.Table:
    """Return the clusters with the first items of each in the order of the tree."""
    starts = np.concatenate([span[:, 0] for span in order.spans])
    stops = np.concatenate([span[:, 1] for span in order.spans])
    found: list[tuple[list[int], list[str]]] = [([], []) for _ in starts]
    first = 0
    for file in files:
        table = read_table(store, file.path, ["row", "item_id"])
        for place in np.flatnonzero((starts >= first) & (starts < first + file.rows)).tolist():
            length = int(min(EXEMPLARS, stops[place] - starts[place]))
            part = table.slice(int(starts[place]) - first, length)
            found[place] = (part["row"].to_pylist(), part["item_id"].to_pylist())
        first += file.rows
    for column, name in enumerate(("exemplar_rows", "exemplar_item_ids")):
        place = clusters.schema.get_field_index(name)
        values = pa.array([each[column] for each in found], clusters.schema.field(name).type)
        clusters = clusters.set_column(place, name, values)
    return clusters


def _evaluations(random: np.random.Generator, made: Made) -> pa.Table:
    bases = {
        "items": ("silhouette", "davies_bouldin", "calinski_harabasz"),
        "summaries": ("label_accuracy", "share_ok", "share_distinct_siblings"),
        "labels:class": ("ari", "nmi"),
    }
    rows = [
        {"level": level, "metric": metric, "basis": basis, "value": random.random(), "n": k}
        for level, k in enumerate(made.sizes, start=1)
        for basis, metrics in bases.items()
        for metric in metrics
    ]
    return pa.Table.from_pylist(rows, schemas.EVALUATIONS)


def _curve(made: Made) -> pa.Table:
    rows = [
        {
            "level": level,
            "k": k * step // 4,
            "simplified_silhouette": 0.4 - abs(step - 4) / 20,
            "standard_error": 0.01,
            "chosen": step == 4,
        }
        for level, k in enumerate(made.sizes, start=1)
        for step in range(2, 8)
    ]
    return pa.Table.from_pylist(rows, schemas.K_SELECTION)


def _calls(random: np.random.Generator, made: Made) -> pa.Table:
    rows = [
        {
            "level": level,
            "cluster_id": number,
            "attempt": 1,
            "prompt_hash": fingerprint([level, number]),
            "model": "smollm2-135m",
            "prompt_tokens": int(random.integers(300, 600)),
            "completion_tokens": int(random.integers(20, 90)),
            "seconds": float(random.random()),
            "outcome": "ok",
        }
        for level, k in enumerate(made.sizes, start=1)
        for number in range(min(k, 200))
    ]
    return pa.Table.from_pylist(rows, schemas.LLM_CALLS)


def _record(
    store: Store, made: Made, files: dict[str, list[FileRecord]], sums: NDArray[np.float64]
) -> dict[str, Any]:
    config = parse_config(
        {
            "input": {"path": "made.parquet", "modality": made.modality},
            "hierarchy": {"levels": list(made.sizes)},
            "output": {"path": store.uri},
        }
    ).model_dump()
    mean = sums[0] / made.n_items
    std = np.sqrt(np.maximum(sums[1] / made.n_items - mean**2, 0))
    variables = {
        name: {
            "mean": float(mean[place]),
            "std": float(std[place]),
            "min": float(sums[2][place]),
            "max": float(sums[3][place]),
        }
        for place, name in enumerate(VARIABLES)
    }
    names = ("read", "embed", "cluster", "summarize", "evaluate")
    return {
        "fingerprint": fingerprint([store.uri, made.n_items, made.sizes, made.seed]),
        "status": "finished",
        "started_at": timestamp(),
        "ended_at": timestamp(),
        "seen_at": timestamp(),
        "attempts": 1,
        "config": config,
        "inputs": [{"name": "made.parquet"}],
        "versions": {"hercules-scale": "0", "python": "3.11"},
        "machine": {"processors": 2, "platform": "Linux"},
        "rows": {name: sum(file.rows for file in written) for name, written in files.items()},
        "clusters_per_level": {str(level): k for level, k in enumerate(made.sizes, start=1)},
        "variables": variables if made.modality == "numeric" else {},
        "summary_status": {"ok": sum(made.sizes), "fallback": 0},
        "summary_source": {"model": sum(made.sizes)},
        "tokens": {"calls": 10, "prompt_tokens": 4_000, "completion_tokens": 600},
        "alarms": ["level 2: cluster 0 holds more than half of the items"],
        "stages": [
            {
                "name": name,
                "unit": "items",
                "total": made.n_items,
                "done": made.n_items,
                "seconds": 1.5 * place,
                "driver_peak_bytes": 1 << 29,
                "worker_peak_bytes": 1 << 28,
            }
            for place, name in enumerate(names, start=1)
        ],
    }
