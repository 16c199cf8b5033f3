"""Tables of an imported model of pyhercules: of items, a shard at a time, and of clusters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hercules_scale.clustering.levels import Level, compute_memberships
from hercules_scale.clustering.nearest_centroids import Float32, Int32
from hercules_scale.pyhercules.export_model import OURS
from hercules_scale.pyhercules.model_json import Item, Model, Node, finite_numbers
from hercules_scale.reading.column_statistics import Moments
from hercules_scale.storage import schemas
from hercules_scale.storage.tables import memberships_table, vector_column

EXEMPLARS = 4
STATUSES = ("ok", "fallback", "failed")
SOURCES = ("model", "keyphrases", schemas.PARTS)
# End of the titles that pyhercules gives when its language model fails.
FAILED_TITLE = "(LLM Failed)"


@dataclass
class _Counts:
    """Sums over the items for the clusters of one level."""

    sizes: NDArray[np.int64]
    inertia: NDArray[np.float64]
    nearest: list[list[tuple[float, int, str]]]


@dataclass
class ImportedTree:
    """Clusters of a model, and sums over its items.

    Attributes:
        model: The model.
        levels: Centroids and parents, finest level first; NaN for missing centroids.
        placed: Whether distances can be computed, since all clusters and items have vectors.
        counts: Sums over the items counted so far, by level.
    """

    model: Model
    levels: list[Level]
    placed: bool
    counts: list[_Counts] = field(default_factory=list)


def open_tree(model: Model) -> ImportedTree:
    """Return centroids and parents of a model's clusters, with no items counted yet."""
    levels, placed = [], model.dimension > 0
    for nodes, above in zip(model.levels, [*model.levels[1:], []], strict=True):
        places = {node.values["id"]: place for place, node in enumerate(above)}
        parents = np.array([places[node.values["parent_id"]] for node in nodes]) if above else None
        vectors = _vectors(nodes, "representation_vector", model.dimension)
        placed = placed and bool(np.isfinite(vectors).all())
        levels.append(Level(vectors, None if parents is None else parents.astype(np.int32)))
    counts = [
        _Counts(np.zeros(len(nodes), np.int64), np.zeros(len(nodes)), [[] for _ in nodes])
        for nodes in model.levels
    ]
    return ImportedTree(model, levels, placed, counts)


def _vectors(nodes: list[Node], key: str, dimension: int) -> Float32:
    """Return a vector of each cluster, shape (k, dimension); NaN for missing ones."""
    vectors = np.full((len(nodes), max(dimension, 1)), np.nan, np.float32)
    for place, node in enumerate(nodes):
        vector = finite_numbers(node.values.get(key), 1)
        if vector is not None and len(vector) == dimension > 0:
            vectors[place] = vector
    return vectors


def item_tables(tree: ImportedTree, items: list[Item], start: int) -> dict[str, pa.Table]:
    """Return the tables of some items, with rows from ``start``."""
    model = tree.model
    rows = np.arange(start, start + len(items))
    names: dict[str, Any] = {"row": rows, "item_id": [item.item_id for item in items]}
    columns = names | {
        "title": [item.title for item in items],
        "description": [item.description for item in items],
    }
    raw = [item.raw for item in items]
    if model.modality == "numeric":
        numbers = zip(*raw, strict=True)
        columns |= {name: list(each) for name, each in zip(model.variables, numbers, strict=True)}
    elif model.modality == "text":
        columns["text"] = pa.array(raw, pa.large_string())
    else:
        columns["image_uri"] = raw
    tables = {"items": pa.table(columns)}
    leaves = np.array([item.leaf for item in items], np.int32)
    tables["memberships"] = _memberships(tree, items, leaves, names)
    vectors = [item.vector for item in items if item.vector is not None]
    if len(vectors) == len(items):
        tables["embeddings"] = pa.table({**names, "embedding": vector_column(np.stack(vectors))})
    if model.components:
        places = [[None] * model.components if item.place is None else item.place for item in items]
        tables["reductions"] = pa.table(
            {
                **names,
                **{
                    f"pca_{index + 1}": pa.array([place[index] for place in places], pa.float32())
                    for index in range(model.components)
                },
            }
        )
    return tables


def _memberships(
    tree: ImportedTree, items: list[Item], leaves: Int32, names: dict[str, Any]
) -> pa.Table:
    """Return the memberships of some items, and add the items to ``tree.counts``."""
    n_levels = len(tree.levels)
    if tree.placed:
        vectors = np.stack([item.vector for item in items if item.vector is not None])
        found = compute_memberships(vectors, leaves, tree.levels)
        labels, distances, margins = found.labels, found.distances, found.margins
    else:
        path = [leaves]
        for level in tree.levels[:-1]:
            assert level.parents is not None
            path.append(level.parents[path[-1]])
        labels = np.stack(path, axis=1)
        distances = margins = np.full((len(items), n_levels), np.nan, np.float32)
    for counts, own, distance in zip(
        tree.counts, labels.T, np.nan_to_num(distances.T), strict=True
    ):
        counts.sizes += np.bincount(own, minlength=len(counts.sizes))
        counts.inertia += np.bincount(own, distance, minlength=len(counts.sizes))
        order = np.lexsort((distance, own))
        firsts = np.searchsorted(own[order], own[order])
        for index in order[np.arange(len(order)) - firsts < EXEMPLARS].tolist():
            near = counts.nearest[own[index]]
            near.append((float(distance[index]), int(names["row"][index]), items[index].item_id))
            near.sort()
            del near[EXEMPLARS:]
    return memberships_table(names["row"], names["item_id"], labels, distances, margins)


def clusters_table(tree: ImportedTree) -> pa.Table:
    """Return the table ``clusters``; all items must have been counted."""
    model = tree.model
    nodes = [node for level in model.levels for node in level]
    lengths = {
        key: len(value) if isinstance(value := nodes[0].values.get(key), list) else 0
        for key in ("representation_vector", "description_embedding")
    }
    lengths["reduction"] = model.components
    rows: list[dict[str, Any]] = []
    for number, (level, counts) in enumerate(zip(tree.levels, tree.counts, strict=True), start=1):
        below = tree.levels[number - 2].parents if number > 1 else None
        n_children = (
            counts.sizes if below is None else np.bincount(below, minlength=len(counts.sizes))
        )
        for place, node in enumerate(model.levels[number - 1]):
            rows.append(
                {
                    "level": number,
                    "cluster_id": place,
                    "parent_cluster_id": None
                    if level.parents is None
                    else int(level.parents[place]),
                    "n_items": int(counts.sizes[place]),
                    "n_children": int(n_children[place]),
                    **_labels(node, number, place),
                    "exemplar_item_ids": [item_id for _, _, item_id in counts.nearest[place]],
                    "inertia": float(counts.inertia[place]) if tree.placed else None,
                    "numeric_stats": _statistics(node, model.variables),
                }
            )
    schema = schemas.clusters(*(max(length, 1) for length in lengths.values()))
    vectors = {
        "centroid": _vectors(nodes, "representation_vector", lengths["representation_vector"]),
        "description_embedding": _vectors(
            nodes, "description_embedding", lengths["description_embedding"]
        ),
        "reduction": _vectors([_placed(node) for node in nodes], "pca", model.components),
    }
    for name, column in vectors.items():
        for row, vector in zip(rows, column, strict=True):
            row[name] = vector if np.isfinite(vector).all() else None
    return pa.Table.from_pylist(rows, schema)


def _placed(node: Node) -> Node:
    reductions = node.values.get("representation_vector_reductions")
    return Node(node.where, reductions if isinstance(reductions, dict) else {}, None)


def _labels(node: Node, level: int, place: int) -> dict[str, Any]:
    """Return title, description, status, source and key phrases.

    Models that ``export_model`` wrote have status, source and key phrases of the run.
    """
    title, description = node.values.get("title"), node.values.get("description")
    status, source, error = "ok", "model", None
    if not title:
        status, error = "failed", "the model holds no title"
        title = f"Cluster {level}/{place}"
    elif title.endswith(FAILED_TITLE):
        status, error = "failed", description or title
    ours = node.values.get(OURS)
    ours = ours if isinstance(ours, dict) else {}
    if ours.get("summary_status") in STATUSES and ours.get("summary_source") in SOURCES:
        status, source = ours["summary_status"], ours["summary_source"]
        error = ours.get("summary_error")
    phrases = ours.get("keyphrases")
    phrases = phrases if isinstance(phrases, list) else []
    return {
        "title": title,
        "description": description or title,
        "summary_status": status,
        "summary_source": source,
        "summary_error": error if isinstance(error, str) else None,
        "keyphrases": [each for each in phrases if isinstance(each, str)],
    }


def _statistics(node: Node, variables: list[str]) -> list[dict[str, str | float]] | None:
    """Return mean, bounds and standard deviation of each variable, in the variable's unit."""
    if node.numbers is None or node.numbers.shape[1] != len(variables) or not len(node.numbers):
        return None
    (figures,) = Moments.of(node.numbers).of_variables(variables)
    return figures
