"""JSON values for the explorer's pages; none of them is HTML."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hercules_scale.errors import InputError
from hercules_scale.explorer.open_run import OpenRun
from hercules_scale.reduction.pca import Scatter
from hercules_scale.results.edits import ClusterKey
from hercules_scale.results.finished_run import read_files
from hercules_scale.results.title_provenance import title_marks
from hercules_scale.storage.tables import FileRecord, column_vectors, read_rows, read_tables

MAX_PAGE = 200
SAMPLED_ROWS = 131_072
NEIGHBOURS, BINS = 8, 24
# Characters of an item's text that are sent, at most.
TEXT_CHARACTERS = 200_000


def finite(values: Any) -> list[float | None]:
    """Return numbers of five digits for JSON; None for values that are missing or not finite."""
    return [
        float(f"{value:.5g}") if value is not None and math.isfinite(value) else None
        for value in values
    ]


def tree(run: OpenRun) -> dict[str, Any]:
    """Return all clusters by level, in columns in order of id."""
    marks = _marks(run)
    levels = []
    for level in range(1, run.n_levels + 1):
        table = run.level(level)
        levels.append(
            {
                "title": run.titles(level),
                "n_items": table["n_items"].to_pylist(),
                "parent": table["parent_cluster_id"].to_pylist(),
                "mark": [
                    "" if (level, cluster) in run.edits else marks[level][cluster]
                    for cluster in range(table.num_rows)
                ],
                "score": finite(table["summary_score"].to_pylist()),
                "places": places(table["reduction"]),
                "edited": [key[1] for key in run.edits if key[0] == level],
            }
        )
    return {"name": run.finished.name, "n_items": run.n_items, "levels": levels}


def _marks(run: OpenRun) -> dict[int, list[str]]:
    """Return the marks of titles by level, without edits."""
    names = ("level", "summary_source", "summary_status")
    levels, sources, statuses = (run.clusters[name].to_pylist() for name in names)
    marks: dict[int, list[str]] = {}
    for level, mark in zip(levels, title_marks(sources, statuses), strict=True):
        marks.setdefault(level, []).append(mark)
    return marks


def places(column: pa.ChunkedArray) -> list[list[float | None]]:
    """Return coordinates on the map, a list for each axis; empty if a cluster has none."""
    if column.null_count or column.type.list_size < 2:
        return []
    return [finite(axis) for axis in column_vectors(column).T.tolist()]


def description_places(run: OpenRun) -> list[list[list[float | None]]]:
    """Return the coordinates of each level's clusters on the principal axes of all description
    embeddings.

    Raises:
        InputError: Descriptions were not embedded.
    """
    vectors = [run.vectors(level, "description_embedding") for level in range(1, run.n_levels + 1)]
    if any(level is None or not level.any() for level in vectors):
        raise InputError("the descriptions of this run were not embedded; take the items' space")
    known = [level for level in vectors if level is not None]
    pca = Scatter.of(np.concatenate(known)).components(3)
    return [[finite(axis) for axis in pca.transform(level).T.tolist()] for level in known]


def cluster(run: OpenRun, key: ClusterKey) -> dict[str, Any]:
    """Return the page of one cluster, without its items and its children, which the tree has."""
    level, cluster_id = key
    values = run.cluster(key)
    edit = run.edits.get(key)
    return {
        "level": level,
        "id": cluster_id,
        **{
            name: values[name]
            for name in (
                "title", "own_title", "description", "n_items", "n_children", "summary_status",
                "summary_error", "summary_source", "keyphrases", "note",
            )
        },
        "summary_score": finite([values["summary_score"]])[0],
        "inertia": finite([values["inertia"]])[0],
        "revision": None if edit is None else edit.revision,
        "edited_at": None if edit is None else edit.edited_at,
        "exemplars": exemplars(run, values),
        "statistics": statistics(run, key, values["numeric_stats"]),
        "distributions": distributions(run, key),
        "neighbours": neighbours(run, key),
    }  # fmt: skip


def exemplars(run: OpenRun, values: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the exemplars of a cluster."""
    ids, rows = values["exemplar_item_ids"] or [], values.get("exemplar_rows")
    if rows is not None:
        return [_shown(run, item) for item in run.rows("items", rows)]
    if not run.items.files:
        return [{"item_id": item_id} for item_id in ids]
    # Some runs, such as imported ones, have no rows of exemplars, so their ids are looked up.
    start, stop = run.span((values["level"], values["cluster_id"]))
    wanted = pa.array(ids, pa.string())
    found = {}
    for first, group in run.items.groups(start, stop, ["item_id", "row"]):
        inside = group.slice(max(start - first, 0))
        for row in inside.filter(pc.is_in(inside["item_id"], value_set=wanted)).to_pylist():
            found[row["item_id"]] = row["row"]
        if len(found) == len(ids):
            break
    shown = [found[item_id] for item_id in ids if item_id in found]
    return [_shown(run, item) for item in run.rows("items", shown)]


def _shown(run: OpenRun, item: dict[str, Any]) -> dict[str, Any]:
    """Return a row of ``items`` for the browser; the thumbnail has its own request."""
    text = item.get("text")
    if text is not None and len(text) > TEXT_CHARACTERS:
        item |= {"text": text[:TEXT_CHARACTERS], "n_characters": len(text)}
    numbers = {name: value for name, value in item.items() if isinstance(value, float)}
    for name, value in numbers.items():
        item[name] = value if math.isfinite(value) else None
    return item | {"thumbnail": "thumbnail" in run.columns("items")}


def statistics(
    run: OpenRun, key: ClusterKey, own: list[dict[str, Any]] | None
) -> list[dict[str, Any]]:
    """Return the numeric variables of a cluster, each with a histogram, the largest deviation from
    the mean of all items first."""
    if not own:
        return []
    whole = run.finished.record.get("variables") or {}
    names, counts, edges = run.numbers, [], []
    if run.items.files and "numbers" in run.items.columns:
        table = run.items.sample(*run.span(key), ["numbers"], SAMPLED_ROWS)
        matrix = column_vectors(table["numbers"])
        for place in range(matrix.shape[1]):
            of_all = whole.get(names[place], {})
            low, high = of_all.get("min"), of_all.get("max")
            if low is None or high is None or not low < high:
                low, high = float(matrix[:, place].min()), float(matrix[:, place].max())
            bins, _ = np.histogram(matrix[:, place], BINS, (low, high if high > low else low + 1))
            counts.append(bins.tolist())
            edges.append([low, high])
    found = []
    for variable in own:
        name = variable["variable"]
        of_all = whole.get(name, {})
        deviation = None
        if of_all.get("std"):
            deviation = (variable["mean"] - of_all["mean"]) / of_all["std"]
        place = names.index(name) if name in names else -1
        histogram = counts[place] if 0 <= place < len(counts) else []
        bounds = edges[place] if histogram else []
        found.append(variable | {"deviation": deviation, "histogram": histogram, "bounds": bounds})
    return sorted(found, key=lambda each: -abs(each["deviation"] or 0))


def distributions(run: OpenRun, key: ClusterKey) -> dict[str, Any]:
    """Return histograms of the items' distances to their centroid, and of their margins."""
    if not run.items.files:
        return {}
    names = {name: f"{name}_{key[0]}" for name in ("distance", "margin")}
    table = run.items.sample(*run.span(key), list(names.values()), SAMPLED_ROWS)
    found: dict[str, Any] = {"n": table.num_rows}
    for name, column in names.items():
        values = table[column].drop_null().to_numpy()
        if len(values):
            counts, edges = np.histogram(values, BINS)
            found[name] = {
                "histogram": counts.tolist(),
                "bounds": finite([edges[0], edges[-1]]),
                "median": finite([np.median(values)])[0],
            }
            if name == "margin":
                found[name]["share_below_zero"] = float((values < 0).mean())
    return found


def neighbours(run: OpenRun, key: ClusterKey) -> list[dict[str, Any]]:
    """Return the nearest clusters of the level, by squared L2 distance of centroids."""
    level, cluster_id = key
    centroids = run.vectors(level, "centroid")
    if centroids is None or len(centroids) < 2:
        return []
    differences = centroids - centroids[cluster_id]
    distances = np.einsum("ij,ij->i", differences, differences)
    distances[cluster_id] = np.inf
    nearest = np.argsort(distances, kind="stable")[: min(NEIGHBOURS, len(distances) - 1)]
    return [
        {"id": int(other), "distance": finite([distances[other]])[0]} for other in nearest.tolist()
    ]


def items(run: OpenRun, key: ClusterKey, offset: int, limit: int) -> dict[str, Any]:
    """Return a page of a cluster's items: by finest cluster, the nearest to its centroid first."""
    if not 1 <= limit <= MAX_PAGE or offset < 0:
        raise InputError(f"limit must be from 1 to {MAX_PAGE} and offset at least 0")
    start, stop = run.span(key)
    begin, end = min(start + offset, stop), min(start + offset + limit, stop)
    names = ["row", "item_id", "description", "level_1"]
    own = {"distance": f"distance_{key[0]}", "margin": f"margin_{key[0]}"}
    known = run.items.columns
    extra = [name for name in ("numbers", "image_uri") if name in known]
    table = run.items.read(begin, end, [*names, *own.values(), *extra])
    rows = []
    for place, row in enumerate(table.to_pylist(), start=begin):
        shown = {name: row[name] for name in names}
        shown |= {name: finite([row[column]])[0] for name, column in own.items()}
        if "numbers" in row:
            shown["numbers"] = row["numbers"]
        if "image_uri" in row:
            shown["image_uri"] = row["image_uri"]
        rows.append(shown | {"place": place, "thumbnail": "thumbnail" in known})
    return {"offset": offset, "n_items": stop - start, "columns": run.numbers, "items": rows}


def item(run: OpenRun, row: int) -> dict[str, Any]:
    """Return one item in full, with its clusters at every level.

    Raises:
        InputError: There is no such row.
    """
    run.check_row(row)
    (found,) = run.rows("items", [row]) or run.rows("embeddings", [row])
    found.pop("embedding", None)
    (member,) = run.rows("memberships", [row])
    clusters = [
        {
            "level": level,
            "id": member[f"level_{level}"],
            "distance": finite([member[f"distance_{level}"]])[0],
            "margin": finite([member[f"margin_{level}"]])[0],
        }
        for level in range(1, run.n_levels + 1)
    ]
    (labels,) = run.rows("labels", [row]) or [{}]
    labels.pop("row", None)
    if run.withheld[member["level_1"]]:
        labels = {}
    return {
        "item": _shown(run, found),
        "clusters": clusters,
        "labels": labels,
        "columns": run.numbers,
    }


def table_rows(run: OpenRun, name: str) -> list[dict[str, Any]]:
    """Return all rows of a small table."""
    if not run.finished.files.get(name):
        return []

    def read(files: list[FileRecord]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = read_tables(
            run.store, [file.path for file in files]
        ).to_pylist()
        return found

    rows = read_files(run.finished, name, read)
    for row in rows:
        for column, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):
                row[column] = None
    return rows


def ledger(run: OpenRun, offset: int, limit: int) -> dict[str, Any]:
    """Return a page of the requests to the language model, without prompts."""
    if not 1 <= limit <= MAX_PAGE or offset < 0:
        raise InputError(f"limit must be from 1 to {MAX_PAGE} and offset at least 0")

    def read(files: list[FileRecord]) -> dict[str, Any]:
        rows: list[dict[str, Any]] = []
        first = 0
        for file in files:
            begin, end = max(offset - first, 0), min(offset + limit - first, file.rows)
            if begin < end:
                rows += read_rows(run.store, file.path, begin, end).to_pylist()
            first += file.rows
        return {"offset": offset, "n_calls": first, "calls": rows}

    return read_files(run.finished, "llm_calls", read)
