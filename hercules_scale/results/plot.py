"""Maps of a level as figures."""

from __future__ import annotations

import io
import textwrap
from typing import Any

import numpy as np
import pyarrow as pa

from hercules_scale.errors import InputError
from hercules_scale.results.data_frames import RunFrames, check_level
from hercules_scale.results.finished_run import Run
from hercules_scale.sanitize import printable
from hercules_scale.storage.tables import column_vectors

LARGEST_POINTS2, TITLES = 3_000, 40
MOST_POINTS, WIDTH, UNLABELLED = 200_000, 20, "other clusters"
TITLE_CHARACTERS, LINE_CHARACTERS = 40, 20
# Pixels between centres of labels, below which the label of the smaller cluster is left out.
APART_X, APART_Y = 100, 28


def check_matplotlib() -> None:
    """Make sure that figures can be drawn.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise InputError(
            "a map needs the package matplotlib, which is not installed; install "
            "hercules-scale[plots]"
        ) from None


def draw_map(run: Run, level: int) -> Any:
    """Draw the clusters of a level as bubbles, with areas by size and colours by top cluster.

    Args:
        run: The run.
        level: Level to draw.

    Returns:
        A matplotlib figure, bound to no window.

    Raises:
        InputError: The clusters have no place on a map, or matplotlib is not installed.
    """
    check_matplotlib()
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
        label = "\n".join(textwrap.wrap(_short(titles[cluster_id]), LINE_CHARACTERS))
        axes.annotate(_plain(label), places[cluster_id], ha="center", va="center", fontsize=8)
    return figure


def draw_data_map(run: Run, level: int) -> Any:
    """Draw the items, coloured and labelled by the clusters of a level, with DataMapPlot.

    Args:
        run: The run.
        level: Level of the labels. Its largest clusters are labelled. Of more than
            ``MOST_POINTS`` items a part is drawn.

    Returns:
        A matplotlib figure.

    Raises:
        InputError: The run has no map of its items, or DataMapPlot is not installed.
    """
    check_matplotlib()
    try:
        import datamapplot
    except ImportError:
        raise InputError(
            "a map of the items needs DataMapPlot; install it with "
            "pip install --no-deps -r requirements-maps.txt"
        ) from None
    from matplotlib import pyplot

    if len(run.columns("reductions")) < 4:
        raise InputError(f"{run.store.uri}: its items have no place on a map")
    every = -(-run.n_items // MOST_POINTS)
    columns = {"reductions": ["pca_1", "pca_2"], "memberships": [f"level_{level}"]}
    table = pa.concat_tables(
        shard.take(pa.array(range(0, shard.num_rows, every))) for shard in run.shards(columns)
    )
    places = np.stack([table[name].to_numpy() for name in columns["reductions"]], axis=1)
    # DataMapPlot's margins and glow fit maps as wide as UMAP's.
    places *= WIDTH / max(float(np.ptp(places, axis=0).max()), 1e-12)
    clusters = run.level(level)
    largest = np.argsort(-clusters["n_items"].to_numpy(), kind="stable")[:TITLES]
    names = np.full(clusters.num_rows, UNLABELLED, object)
    for cluster_id in largest.tolist():
        # DataMapPlot would merge equal labels.
        title = _short(clusters["title"][cluster_id].as_py())
        names[cluster_id] = title if title not in names else f"{title} ({cluster_id})"
    shown = np.array([_plain(name) for name in names], object)
    figure, _ = datamapplot.create_plot(
        places,
        shown[table[f"level_{level}"].to_numpy()],
        title=_plain(printable(run.name)),
        sub_title=f"{run.n_items:,} items, level {level}: {clusters.num_rows:,} clusters",
        noise_label=UNLABELLED,
        font_family="DejaVu Sans",
        # Otherwise it would download fonts.
        use_system_fonts=True,
        label_font_size=9,
        label_wrap_width=LINE_CHARACTERS,
    )
    # A notebook would show an open figure again, and keep it in memory.
    pyplot.close(figure)
    return figure


def finish_figure(figure: Any, path: str | None = None) -> Any:
    """Let notebooks show a figure, and write it to a local file if ``path`` is given."""
    if path is not None:
        figure.savefig(path, bbox_inches="tight")
    # Notebooks show figures by themselves only if pyplot was imported.
    figure._repr_png_ = lambda: _png(figure)
    return figure


def _png(figure: Any) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png", bbox_inches="tight")
    return data.getvalue()


def _short(title: str) -> str:
    return printable(textwrap.shorten(title, TITLE_CHARACTERS, placeholder="…"))


def _plain(text: str) -> str:
    """Return text with dollar signs escaped, so that matplotlib reads no formula."""
    return text.replace("$", r"\$")


class RunPlots(RunFrames):
    """Tables of a finished run, and its maps as figures."""

    def plot(self, level: int | None = None, path: str | None = None) -> Any:
        """Draw the map: the clusters of a level as bubbles, the largest with titles.

        Args:
            level: Level to draw; by default the one below the coarsest.
            path: Local file to write, such as ``map.png`` or ``map.svg``; by default none.

        Returns:
            The matplotlib figure, which notebooks display.

        Raises:
            InputError: There is no such level, or its clusters have no place on a map.
        """
        return finish_figure(draw_map(self._source, self._drawn_level(level)), path)

    def data_map(self, level: int | None = None, path: str | None = None) -> Any:
        """Draw the items as points, coloured and labelled by their clusters, with DataMapPlot.

        Args:
            level: Level of the labels; by default the one below the coarsest.
            path: Local file to write, such as ``map.png``; by default none.

        Returns:
            The matplotlib figure, which notebooks display.

        Raises:
            InputError: There is no such level or no map of the items, or DataMapPlot is not
                installed.
        """
        return finish_figure(draw_data_map(self._source, self._drawn_level(level)), path)

    def _drawn_level(self, level: int | None) -> int:
        level = max(self.n_levels - 1, 1) if level is None else level
        check_level(self.uri, self.n_levels, level)
        return level
