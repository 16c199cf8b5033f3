"""The tree as indented text."""

from __future__ import annotations

from collections.abc import Set
from typing import TYPE_CHECKING, Any

from hercules_scale.results.title_provenance import title_marks
from hercules_scale.sanitize import printable

if TYPE_CHECKING:
    import pandas as pd


# Mark of the clusters of a cut.
IN_CUT = "* "


def format_tree(
    clusters: pd.DataFrame,
    top: int,
    depth: int | None = None,
    cut: Set[tuple[int, int]] = frozenset(),
) -> str:
    """Return an indented line for each cluster, children below their parent, the largest first.

    Args:
        clusters: Clusters of every level.
        top: Level to begin at.
        depth: Number of levels shown; by default all.
        cut: Clusters that are marked, by level and id; what is below them is not shown.
    """
    marks = title_marks(clusters["summary_source"].tolist(), clusters["summary_status"].tolist())
    clusters = clusters.assign(mark=marks)
    columns = ["level", "cluster_id", "n_items", "title", "mark"]
    children: dict[tuple[int, int], list[tuple[Any, ...]]] = {}
    roots = []
    ordered = clusters.sort_values(["n_items", "cluster_id"], ascending=[False, True])
    for row, parent in zip(
        ordered[columns].itertuples(index=False, name=None),
        ordered["parent_cluster_id"].tolist(),
        strict=True,
    ):
        if row[0] == top:
            roots.append(row)
        elif row[0] < top:
            children.setdefault((row[0] + 1, int(parent)), []).append(row)
    lines: list[str] = []

    def show(row: tuple[Any, ...], indent: int) -> None:
        number, cluster_id, n_items, title, mark = row
        ends = (number, cluster_id) in cut
        begin = "  " * indent + (IN_CUT if ends else "")
        lines.append(
            f"{begin}{printable(title)}{f' [{mark}]' if mark else ''} "
            f"({n_items:,} items, {number}/{cluster_id})"
        )
        if not ends and (depth is None or indent + 1 < depth):
            for child in children.get((number, cluster_id), []):
                show(child, indent + 1)

    for root in roots:
        show(root, 0)
    return "\n".join(lines)
