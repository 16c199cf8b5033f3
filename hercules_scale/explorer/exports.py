"""Files that the explorer makes of a run, for a browser to save."""

from __future__ import annotations

from hercules_scale.hierarchy import Hierarchy
from hercules_scale.results.rows_csv import harmless
from hercules_scale.storage.store import Store

BINARY = "application/octet-stream"
EXPORTS = {
    # As files to be saved: opened here they would be pages of the explorer.
    "html": BINARY,
    "json": "application/json",
    "csv": "text/csv",
    "clusters.csv": "text/csv",
    "map.png": "image/png",
}


def write_export(store: Store, form: str, path: str) -> None:
    """Write a run in one of the ``EXPORTS`` to a file of this machine."""
    hierarchy = Hierarchy(store)
    if form == "clusters.csv":
        vectors = ["centroid", "description_embedding"]
        clusters = hierarchy.clusters().drop(columns=vectors)
        harmless(clusters).to_csv(path, index=False)
    elif form == "map.png":
        import matplotlib

        # Windows belong to a main thread, which this is not.
        matplotlib.use("Agg")
        hierarchy.data_map(path=path)
    else:
        {"html": hierarchy.to_html, "csv": hierarchy.to_csv, "json": hierarchy.to_json}[form](path)
