"""Plot of the scores by which the numbers of clusters were chosen."""

from __future__ import annotations

import io

from hercules_scale.clustering.cluster_scores import CurvePoint


def plot_curve(points: list[CurvePoint], score: str) -> bytes:
    """Return the curve as a PNG with one panel per level.

    Args:
        points: Points of every level.
        score: Name of the score that chose k, as in ``hierarchy.k_score``.
    """
    # Only runs that choose k draw, and matplotlib is slow to load.
    from matplotlib.figure import Figure

    levels = sorted({point.level for point in points})
    figure = Figure(figsize=(4.5 * len(levels), 3.6), layout="constrained")
    for index, level in enumerate(levels):
        axes = figure.add_subplot(1, len(levels), index + 1)
        shown = [point for point in points if point.level == level and point.k > 1]
        counts = [point.k for point in shown]
        values = [getattr(point, score) for point in shown]
        errors = None
        if score in ("simplified_silhouette", "silhouette"):
            errors = [point.standard_error or 0.0 for point in shown]
        axes.errorbar(counts, values, yerr=errors, marker="o", markersize=4, capsize=3)
        for point in shown:
            if point.chosen:
                axes.axvline(point.k, color="grey", linestyle="--", label=f"chosen: {point.k:,}")
                axes.legend()
        axes.set_xscale("log")
        axes.set_xticks(counts, [f"{k:,}" for k in counts], rotation=60)
        axes.set_xticks([], minor=True)
        axes.set_title(f"level {level}")
        axes.set_xlabel("clusters k")
        axes.set_ylabel(score.replace("_", " "))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()
