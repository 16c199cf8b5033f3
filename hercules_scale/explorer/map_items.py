"""Items on the explorer's map: their places, the values that colour them, and a glimpse of one.

A glimpse is read by the item's place in the order of the tree, from one row group of
``cluster_items``, so that it takes as long in a run of any size. The values of a whole column are
read when a reader colours the map by them, and the values of the last column are kept.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hercules_scale.errors import InputError
from hercules_scale.explorer.open_run import OpenRun
from hercules_scale.explorer.views import SAMPLED_ROWS, finite
from hercules_scale.results.edits import ClusterKey
from hercules_scale.storage.tables import column_vectors

# Most items drawn as points; more are drawn as a density on a grid of this size.
MAX_POINTS, GRID = 20_000, 96
# Shown as the name of what colours; and the column of the finest level.
MARGIN, MARGINS = "margin to the next centroid", "margin_1"
# Classes with a colour of their own, the other classes share one; and most classes of a column.
CLASSES, MAX_CLASSES = 11, 1_000
OTHER = "other classes"
BANDS = 5
# Most items that one request asks for.
MAX_SPOTS = 50


def points(run: OpenRun, key: ClusterKey | None, by: str = "") -> dict[str, Any]:
    """Return the items of a cluster on the map: as points if they are few, else as a density.

    Args:
        run: The run.
        key: Level and id of the cluster; None for all items.
        by: Column that colours the points; empty for none.

    Raises:
        InputError: The run has no map of its items, or no such column.
    """
    axes = _axes(run.items.columns)
    if not axes:
        raise InputError("this run has no map of its items")
    start, stop = run.span(key)
    if stop - start <= MAX_POINTS:
        own = [] if not by else ["numbers"] if by in run.numbers else [MARGINS]
        table = run.items.read(start, stop, ["row", "level_1", *axes, *own])
        found = {
            "kind": "points",
            "start": start,
            "rows": table["row"].to_pylist(),
            "leaves": table["level_1"].to_pylist(),
            "places": [finite(table[name].to_pylist()) for name in axes],
        }
        return found if not by else found | {"values": _values(run, by, table)}
    table = run.items.sample(start, stop, axes[:2], SAMPLED_ROWS)
    x, y = (table[name].to_numpy() for name in axes[:2])
    counts, x_edges, y_edges = np.histogram2d(x, y, GRID)
    box = finite([x_edges[0], y_edges[0], x_edges[-1], y_edges[-1]])
    return {
        "kind": "density",
        "grid": GRID,
        "box": box,
        "counts": counts.astype(int).ravel().tolist(),
        "n_sampled": table.num_rows,
        "n_items": stop - start,
    }


def _values(run: OpenRun, by: str, table: pa.Table) -> list[float | None] | list[int]:
    """Return the value of each item, or the number of its class; None or -1 if it is withheld."""
    column = shades(run, by)
    if column.codes is not None:
        codes: list[int] = column.codes[table["row"].to_numpy()].tolist()
        return codes
    if by == MARGIN:
        numbers = table[MARGINS].to_numpy().astype(float)
    else:
        numbers = column_vectors(table["numbers"])[:, run.numbers.index(by)].astype(float)
    return finite(np.where(run.withheld[table["level_1"].to_numpy()], np.nan, numbers).tolist())


def glimpses(run: OpenRun, places: list[int]) -> list[dict[str, Any]]:
    """Return of each item the beginning of its text, its numbers, and whether it has a picture.

    Args:
        run: The run.
        places: Places of the items in the order of the tree, at most ``MAX_SPOTS``.

    Raises:
        InputError: There are too many places, or there is no such place.
    """
    _check_number(places)
    if max(places) >= run.n_items:
        raise InputError(f"there is no place {max(places)}; places are 0 to {run.n_items - 1}")
    known = run.items.columns
    extra = [name for name in ("numbers", "image_uri") if name in known]
    # With the id among the columns, the texts and numbers of withheld items are left out.
    columns = ["row", "item_id", "level_1", "description", *extra]
    found = []
    for place in places:
        (item,) = run.items.read(place, place + 1, columns).to_pylist()
        hidden = bool(run.withheld[item["level_1"]])
        numbers = finite(item.pop("numbers", None) or [])
        found.append(
            item
            | {
                "place": place,
                "withheld": hidden,
                "thumbnail": "thumbnail" in known and not hidden,
                "numbers": [list(pair) for pair in zip(run.numbers, numbers, strict=False)],
            }
        )
    return found


def spots(run: OpenRun, rows: list[int]) -> list[list[float | None]]:
    """Return the places of some items on the map, a list of coordinates for each.

    Args:
        run: The run.
        rows: Rows of the items, at most ``MAX_SPOTS``.

    Raises:
        InputError: There are too many rows, or there is no such row.
    """
    _check_number(rows)
    for row in rows:
        run.check_row(row)
    axes = _axes(run.columns("reductions"))
    return [finite([item[name] for name in axes]) for item in run.rows("reductions", rows)]


def _axes(columns: list[str]) -> list[str]:
    """Return the columns of an item's place on the map."""
    return [name for name in columns if name.startswith("pca_")]


def _check_number(asked: list[int]) -> None:
    if len(asked) > MAX_SPOTS:
        raise InputError(f"at most {MAX_SPOTS} items are asked for at once, got {len(asked)}")


@dataclass(frozen=True)
class Shades:
    """Values of one column that colour the map.

    Attributes:
        edges: Bounds between bands of a number, ascending; empty for classes.
        classes: Names of the classes, the most frequent first; empty for numbers.
        levels: Mean, or number of the most frequent class, of each cluster by level, finest first;
            None where there is none.
        codes: Number of the class of each item by row, -1 for none; None for numbers.
    """

    edges: list[float | None]
    classes: list[str]
    levels: list[list[float | None]]
    codes: NDArray[np.int8] | None = None


def shade_columns(run: OpenRun) -> list[dict[str, str]]:
    """Return the columns that can colour the map: name, and kind ``margin``, ``class`` or
    ``number``."""
    found = [{"name": MARGIN, "kind": "margin"}] if MARGINS in run.items.columns else []
    found += [{"name": name, "kind": "class"} for name in run.columns("labels") if name != "row"]
    if "numbers" in run.items.columns:
        found += [{"name": name, "kind": "number"} for name in run.numbers]
    return found


def shades(run: OpenRun, name: str) -> Shades:
    """Return the values of a column that colour the map.

    Memory: 1 byte per item for classes, and 8 while they are counted. The last column is
    kept.

    Raises:
        InputError: There is no such column, or it has too many classes.
    """
    kinds = {column["name"]: column["kind"] for column in shade_columns(run)}
    if name not in kinds:
        raise InputError(
            f"by must be one of {', '.join(kinds) or 'no column, as this run has none'}, got "
            f"{name[:40]!r}"
        )
    with run.shades_lock:
        if run.shades is None or run.shades[0] != name:
            make = {"margin": _of_margins, "class": _of_classes, "number": _of_numbers}[kinds[name]]
            run.shades = (name, make(run, name))
        found: Shades = run.shades[1]
        return found


def _of_margins(run: OpenRun, name: str) -> Shades:
    k = run.level(1).num_rows
    sums, counts = np.zeros(k), np.zeros(k)
    kept = []
    for place, (_, table) in enumerate(run.items.groups(0, run.n_items, ["level_1", MARGINS])):
        values = table[MARGINS].to_numpy().astype(float)
        known = np.isfinite(values)
        leaves = table["level_1"].to_numpy()[known]
        sums += np.bincount(leaves, values[known], k)
        counts += np.bincount(leaves, minlength=k)
        if place % max(run.n_items // SAMPLED_ROWS, 1) == 0:
            kept.append(values[known])
    sums[run.withheld] = counts[run.withheld] = 0
    levels = []
    for level in range(1, run.n_levels + 1):
        means = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
        levels.append(finite(means.tolist()))
        sums, counts = (_above(run, level, each) for each in (sums, counts))
    return Shades(_edges(np.concatenate(kept) if kept else np.zeros(0)), [], levels)


def _of_numbers(run: OpenRun, name: str) -> Shades:
    sample = run.items.sample(0, run.n_items, ["numbers"], SAMPLED_ROWS)
    values = column_vectors(sample["numbers"])[:, run.numbers.index(name)].astype(float)
    levels = []
    for level in range(1, run.n_levels + 1):
        means = [
            next((each["mean"] for each in own or [] if each["variable"] == name), None)
            for own in run.level(level)["numeric_stats"].to_pylist()
        ]
        levels.append(finite(means))
    return Shades(_edges(values[np.isfinite(values)]), [], levels)


def _of_classes(run: OpenRun, name: str) -> Shades:
    numbers: dict[Any, int] = {}
    totals: Counter[int] = Counter()
    coded, leaves = [], []
    for shard in run.finished.shards({"memberships": ["level_1"], "labels": [name]}):
        encoded = pc.dictionary_encode(shard[name].cast(pa.string()).combine_chunks())
        own = [numbers.setdefault(text, len(numbers)) for text in encoded.dictionary.to_pylist()]
        if len(numbers) > MAX_CLASSES:
            raise InputError(f"{name} has more than {MAX_CLASSES:,} classes; take another column")
        places = pc.fill_null(encoded.indices, -1).to_numpy()
        leaf = shard["level_1"].to_numpy()
        codes = np.append(own, -1)[places].astype(np.int32)
        codes[run.withheld[leaf]] = -1
        coded.append(codes)
        leaves.append(leaf)
        totals.update(dict(enumerate(np.bincount(codes[codes >= 0]).tolist())))
    order = [number for number, n in totals.most_common() if n]
    names = {number: text for text, number in numbers.items()}
    classes = [str(names[number]) for number in order[:CLASSES]]
    if len(order) > CLASSES:
        classes.append(OTHER)
    # The last one is for items without a class.
    new = np.full(len(numbers) + 1, -1, np.int8)
    for rank, number in enumerate(order):
        new[number] = min(rank, CLASSES)
    codes_by_row = new[np.concatenate(coded)]
    leaf = np.concatenate(leaves)
    known = codes_by_row >= 0
    n, k = max(len(classes), 1), run.level(1).num_rows
    counts = np.bincount(leaf[known] * n + codes_by_row[known], minlength=k * n).reshape(k, n)
    levels = []
    for level in range(1, run.n_levels + 1):
        most, empty = counts.argmax(axis=1), counts.sum(axis=1) == 0
        levels.append([None if no else code for code, no in zip(most.tolist(), empty, strict=True)])
        counts = _above(run, level, counts)
    return Shades([], classes, levels, codes_by_row)


def _above(run: OpenRun, level: int, values: NDArray[Any]) -> NDArray[Any]:
    """Return the sums by cluster of the level above; the values themselves at the top."""
    if level == run.n_levels:
        return values
    parents = run.level(level)["parent_cluster_id"].to_numpy()
    sums = np.zeros((run.level(level + 1).num_rows, *values.shape[1:]), values.dtype)
    np.add.at(sums, parents.astype(np.int64), values)
    return sums


def _edges(values: NDArray[np.float64]) -> list[float | None]:
    """Return the bounds between bands of as many values each."""
    if not len(values):
        return []
    shares = np.arange(1, BANDS) / BANDS
    return finite(np.unique(np.quantile(values, shares)).tolist())


def shown_shades(run: OpenRun, name: str) -> dict[str, Any]:
    """Return edges, classes and values of clusters of a column; see ``shades``."""
    found = shades(run, name)
    return {"edges": found.edges, "classes": found.classes, "levels": found.levels}
