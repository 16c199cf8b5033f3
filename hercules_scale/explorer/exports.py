"""Exports of a run that the explorer offers as downloads."""

from __future__ import annotations

from hercules_scale.hierarchy import Hierarchy
from hercules_scale.results.plot import check_matplotlib
from hercules_scale.results.rows_csv import harmless
from hercules_scale.storage.store import Store

BINARY = "application/octet-stream"
EXPORTS = {
    # A browser must save an HTML export; opened here it would be a page of the explorer.
    "html": BINARY,
    "json": "application/json",
    "csv": "text/csv",
    "clusters.csv": "text/csv",
    "map.png": "image/png",
}


def write_export(store: Store, form: str, path: str) -> None:
    """Write a run to a local file, in one of the formats of ``EXPORTS``."""
    hierarchy = Hierarchy(store)
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
    else:
        {"html": hierarchy.to_html, "csv": hierarchy.to_csv, "json": hierarchy.to_json}[form](path)
