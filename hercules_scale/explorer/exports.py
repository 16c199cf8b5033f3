"""Exports of a run that the explorer offers as downloads."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hercules_scale.explorer.item_pages import withhold
from hercules_scale.explorer.open_run import OpenRun
from hercules_scale.hierarchy import Hierarchy
from hercules_scale.results.edits import ClusterKey
from hercules_scale.results.finished_run import Run
from hercules_scale.results.plot import check_matplotlib
from hercules_scale.results.rows_csv import harmless, write_rows
from hercules_scale.storage.cluster_items import NOT_NUMBERS
from hercules_scale.storage.manifest import published_files

BINARY = "application/octet-stream"
EXPORTS = {
    # A browser must save an HTML export; opened here it would be a page of the explorer.
    "html": BINARY,
    "json": "application/json",
    "csv": "text/csv",
    "clusters.csv": "text/csv",
    "map.png": "image/png",
}


def write_export(run: OpenRun, form: str, path: str) -> None:
    """Write a run to a local file, in one of the formats of ``EXPORTS``."""
    hierarchy = Hierarchy(run.store)
    if form == "clusters.csv":
        vectors = ["centroid", "description_embedding"]
        clusters = hierarchy.clusters().drop(columns=vectors)
        harmless(clusters).to_csv(path, index=False)
    elif form == "map.png":
        check_matplotlib()
        import matplotlib

        # A backend with windows would need the main thread.
        matplotlib.use("Agg")
        hierarchy.data_map(path=path)
    elif form == "csv":
        write_items(run, path)
    else:
        {"html": hierarchy.to_html, "json": hierarchy.to_json}[form](path)


def write_items(
    run: OpenRun,
    path: str,
    rows: list[int] | None = None,
    clusters: list[ClusterKey] | None = None,
) -> None:
    """Write items with their texts, numbers and clusters to a local CSV file.

    The texts and numbers of withheld items are left out.

    Args:
        run: The run.
        path: Path of the file.
        rows: Rows of the items.
        clusters: Clusters with items to write too; with neither, all items are written.
    """
    wanted = None if rows is None and clusters is None else np.unique(rows or [])
    keys = [run.check(key) for key in clusters or []]

    def chosen(shard: pa.Table) -> pa.Table:
        if wanted is not None:
            kept: NDArray[np.bool_] = np.isin(shard["row"].to_numpy(), wanted)
            for level, cluster_id in keys:
                kept |= shard[f"level_{level}"].to_numpy() == cluster_id
            shard = shard.filter(pa.array(kept))
        return withhold(shard, run.withheld, own)

    own = _shown_columns(run.columns("items"), run.columns("memberships"))
    with open(path, "wb") as stream:
        write_rows(Run(run.store, published_files(run.store)), stream, own, chosen)


def _shown_columns(items: list[str], memberships: list[str]) -> list[str]:
    """Return the columns of ``items`` that say what an item is: its text or picture, and its
    numbers."""
    named = [name for name in ("text", "image_uri", "description") if name in items]
    if len(named) > 1:
        named.remove("description")
    return named + [name for name in items if name not in (*NOT_NUMBERS, *memberships)]
