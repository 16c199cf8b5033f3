"""The map of a level as a figure."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np

from hercules_scale.errors import InputError
from hercules_scale.exchange.source import FinishedRun
from hercules_scale.printable import printable
from hercules_scale.storage.tables import column_vectors

LARGEST_POINTS2, TITLES = 3_000, 40
TITLE_CHARACTERS, LINE_CHARACTERS = 40, 20
# Points between centres of labels, below which the smaller cluster's is left out.
APART_X, APART_Y = 100, 28


def draw_map(run: FinishedRun, level: int) -> Any:
    """Draw the clusters of a level: areas by items, colours by the coarsest clusters above.

    Args:
        run: Whose.
        level: Which.

    Returns:
        A matplotlib figure, bound to no window.

    Raises:
        InputError: The clusters have no place on a map.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    clusters = run.level(level)
    if clusters["reduction"].null_count or clusters["reduction"].type.list_size < 2:
        raise InputError(f"{run.store.uri}: its clusters have no place on a map")
    places = column_vectors(clusters["reduction"])[:, :2]
    tops = np.arange(clusters.num_rows)
    for number in range(level, run.n_levels):
        tops = run.level(number)["parent_cluster_id"].to_numpy()[tops]
    sizes = clusters["n_items"].to_numpy()
    areas = LARGEST_POINTS2 * sizes / max(sizes.max(), 1)
    figure = Figure(figsize=(11, 8), layout="constrained", dpi=100)
    axes = figure.subplots()
    order = np.argsort(-sizes, kind="stable")
    colours = colormaps["tab20"](tops % 20)
    x, y = places[order].T
    axes.scatter(x, y, s=areas[order] + 8, c=colours[order], alpha=0.6, linewidths=0)
    axes.set_axis_off()
    axes.margins(0.08)
    axes.set_title(printable(f"{run.name}: level {level}, {clusters.num_rows:,} clusters"))
    figure.draw_without_rendering()
    spots = axes.transData.transform(places)
    titles = clusters["title"].to_pylist()
    taken: list[Any] = []
    for cluster_id in order.tolist():
        apart = [np.abs(spots[cluster_id] - other) / (APART_X, APART_Y) for other in taken]
        if len(taken) == TITLES or any((each < 1.2).all() for each in apart):
            continue
        taken.append(spots[cluster_id])
        title = printable(textwrap.shorten(titles[cluster_id], TITLE_CHARACTERS, placeholder="…"))
        # A dollar would begin a formula.
        label = "\n".join(textwrap.wrap(title, LINE_CHARACTERS)).replace("$", r"\$")
        axes.annotate(label, places[cluster_id], ha="center", va="center", fontsize=8)
    return figure
