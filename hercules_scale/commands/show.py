"""Runs and clusters as text for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hercules_scale.errors import InputError
from hercules_scale.evaluation.crosswalk import DIED, GROWN, MAIN, MERGED, SHRUNK, SPLIT, STATUSES
from hercules_scale.hierarchy import Hierarchy
from hercules_scale.results.title_provenance import chat_model, describe_sources
from hercules_scale.results.tree_text import format_tree
from hercules_scale.sanitize import printable
from hercules_scale.storage import layout

if TYPE_CHECKING:
    import pandas as pd

    from hercules_scale.stages.flags import Counts

# Lines of the tree that a run prints at its end.
TREE_LINES = 60
# Clusters with the most growth that a summary names.
N_GROWN = 3
# Topics that a comparison of runs names for each level and status.
SHOWN_TOPICS = 10


def describe_run(hierarchy: Hierarchy, verbose: bool = False) -> str:
    """Return the summary of a run: output, command to explore it, sources and fit of titles.

    Args:
        hierarchy: The run.
        verbose: Whether to add tables, metrics and stages.
    """
    record, clusters = hierarchy.run, hierarchy.clusters()
    summaries = record["config"].get("summaries", {})
    titles = describe_sources(
        clusters["summary_source"], clusters["summary_status"], chat_model(summaries)
    )
    lines = [
        "",
        f"output: {hierarchy.uri}",
        f"explore: hercules-scale explore {hierarchy.uri}",
        f"titles: {titles}{_fit(hierarchy.evaluations())}",
    ]
    if verbose:
        lines += _details(hierarchy)
    return "\n".join([*lines, *(f"! {alarm}" for alarm in record["alarms"])])


def shown_tree(hierarchy: Hierarchy) -> str:
    """Return the upper levels of the tree, as many as fit into ``TREE_LINES`` lines."""
    counts = hierarchy.clusters().groupby("level").size().sort_index(ascending=False).cumsum()
    depth = max(int((counts <= TREE_LINES).sum()), 1)
    lines = hierarchy.tree_text(depth).split("\n")
    shown, hidden = lines[:TREE_LINES], int(counts.iloc[-1]) - len(lines[:TREE_LINES])
    more = f"and {hidden:,} more: hercules-scale show {hierarchy.uri}"
    return "\n".join([*shown, *([more] if hidden else [])])


def _fit(evaluations: pd.DataFrame) -> str:
    """Return the label accuracy of held-out items, at the finest level that has siblings."""
    values = evaluations[evaluations["basis"] == "summaries"].set_index(["metric", "level"])[
        "value"
    ]
    for level in sorted(set(evaluations["level"])):
        if ("label_accuracy", level) in values.index:
            share, chance = (
                values[name, level] for name in ("label_accuracy_weighted", "label_accuracy_chance")
            )
            return (
                f"; {share:.0%} of sampled items match their own label better than any sibling's "
                f"(by chance {chance:.0%})"
            )
    return ""


def _details(hierarchy: Hierarchy) -> list[str]:
    """Return tables, metrics and stages of a run."""
    record = hierarchy.run
    lines = [""]
    width = max(len(table) for table in layout.TABLES)
    lines += [
        f"  {table:<{width}}  {record['rows'][table]:>10,} rows"
        for table in layout.TABLES
        if table in record["rows"]
    ]
    lines.append(f"clusters per level: {list(record['clusters_per_level'].values())}")
    if record["tokens"]["calls"]:
        lines.append(
            "language model: {calls:,} calls, {prompt_tokens:,} prompt and "
            "{completion_tokens:,} generated tokens".format(**record["tokens"])
        )
    lines += describe_metrics(hierarchy.evaluations())
    lines += ["", f"{'stage':<24}{'seconds':>9}{'driver MiB':>12}{'worker MiB':>12}"]
    for stage in record["stages"]:
        driver, worker = stage["driver_peak_bytes"] >> 20, stage["worker_peak_bytes"] >> 20
        lines.append(f"{stage['name']:<24}{stage['seconds']:>9.1f}{driver:>12,}{worker or '':>12}")
    return lines


def describe_assignment(assigned: Hierarchy, run: Hierarchy) -> str:
    """Return a summary of an assignment: its counts, and its drift from the run's own items."""
    counts, rejected = assigned.run["assigned"], assigned.run["rows"]["rejected"]
    drift = assigned.table("drift")
    lines = [
        "",
        f"output: {assigned.uri}",
        f"items: {counts['items']:,} assigned, {counts['known']:,} of them already in the run; "
        f"{rejected:,} rejected",
    ]
    for level in range(1, run.n_levels + 1):
        own = drift[drift["level"] == level]
        whole, clusters = own.iloc[0], own.iloc[1:]
        lines.append(
            f"level {level}: mean squared distance {whole['distance_ratio']:.2f} times the run's, "
            f"{whole['share_beyond_p99']:.1%} of items beyond its 99th percentile, shares differ "
            f"by {whole['jensen_shannon']:.3f} bits"
        )
        titles = run.clusters(level)["title"]
        growth = clusters["share_new"] - clusters["share_old"]
        for row in growth[growth > 0].nlargest(N_GROWN).index:
            cluster = clusters.loc[row]
            number = int(cluster["cluster_id"])
            lines.append(
                f"  grew from {cluster['share_old']:.1%} to {cluster['share_new']:.1%}: "
                f"{printable(titles[number])} ({level}/{number})"
            )
    return "\n".join(lines)


def describe_metrics(evaluations: pd.DataFrame) -> list[str]:
    """Return metrics, a line per level: agreement with ground truth, of clusters, of labels."""
    basis = evaluations["basis"]
    of_labels, of_vectors = basis.str.startswith("labels:"), basis.isin(["items", "children"])
    lines = []
    for chosen in (of_labels, of_vectors, ~of_labels & ~of_vectors):
        part = evaluations[chosen]
        if not part.empty:
            part = part.assign(basis=part["basis"].map(printable))
            table = part.pivot_table(
                index=["basis", "level"], columns="metric", values="value", sort=False
            )
            text = table.round(3).reset_index().to_string(index=False, na_rep="")
            lines += ["", *text.splitlines()]
    lines += [
        f"level {row['level']}: {row['metric']} is of a sample of {row['n']:,} {row['basis']}, "
        f"95% confidence {row['low']:.3f} to {row['high']:.3f}"
        for row in evaluations[evaluations["low"].notna()].to_dict("records")
    ]
    return lines


def describe_cut(hierarchy: Hierarchy, about: int | None, fine: Sequence[str]) -> str:
    """Return the tree down to a cut, and a line about it.

    Raises:
        InputError: There is no such cut.
    """
    cut = hierarchy.cut(about, fine)
    keys = set(zip(cut["level"].tolist(), cut["cluster_id"].tolist(), strict=True))
    n, sizes = len(cut), cut["n_items"]
    return (
        f"{format_tree(hierarchy.clusters(), hierarchy.n_levels, cut=keys)}\n"
        f"{n:,} {'cluster' if n == 1 else 'clusters'}, marked *, with {sizes.min():,} to "
        f"{sizes.max():,} items, hold all {sizes.sum():,} items once"
    )


def describe_flags(counts: dict[str, Counts]) -> str:
    """Return the numbers of flags by kind."""
    return "\n".join(
        f"{kind:<16}{own.items:>8,} {'item' if own.items == 1 else 'items'} in {own.clusters:,} "
        f"{'cluster' if own.clusters == 1 else 'clusters'}"
        for kind, own in counts.items()
    )


def describe_topics(topics: pd.DataFrame, crosswalk: pd.DataFrame) -> str:
    """Return the changes between two runs, level by level, the coarsest first.

    Args:
        topics: Table ``topics``.
        crosswalk: Table ``crosswalk``.
    """
    lines = []
    for level in sorted(topics["level"].unique(), reverse=True):
        own = topics[topics["level"] == level]
        old, new = (own[own["run"] == run].set_index("cluster_id") for run in ("old", "new"))
        pairs = crosswalk[crosswalk["new_level"] == level]
        into = pairs[pairs["share_of_old"] >= MAIN].groupby("new_id")["old_id"].apply(list)
        out_of = pairs[pairs["share_of_new"] >= MAIN].groupby("old_id")["new_id"].apply(list)
        lines.append(f"level {level}: {len(old):,} topics before, {len(new):,} now")
        for status in STATUSES:
            side = old if status in (SPLIT, DIED) else new
            found = side[side["status"] == status].sort_values("n_items", ascending=False)
            for topic in found.head(SHOWN_TOPICS).itertuples():
                line = f"  {status:<7} {printable(topic.title)} ({topic.n_items:,} items)"
                if status in (GROWN, SHRUNK):
                    line += f", {topic.growth:.1f} times its share before"
                elif status == SPLIT:
                    line += f" into {_titles(new, out_of.get(topic.Index, []))}"
                elif status == MERGED:
                    line += f" from {_titles(old, into.get(topic.Index, []))}"
                lines.append(line)
            if len(found) > SHOWN_TOPICS:
                lines.append(f"  {status:<7} ... and {len(found) - SHOWN_TOPICS:,} more")
    return "\n".join(lines)


def _titles(topics: pd.DataFrame, ids: list[int]) -> str:
    found = topics.loc[ids].sort_values("n_items", ascending=False)["title"]
    return "; ".join(map(printable, found)) or "parts of several"


def describe_cluster(hierarchy: Hierarchy, level: int, cluster_id: int) -> str:
    """Return one cluster as text: its labels, its place in the tree and its exemplars.

    Raises:
        InputError: There is no such cluster.
    """
    clusters = hierarchy.clusters(level)
    if cluster_id >= len(clusters):
        raise InputError(
            f"{hierarchy.uri}: level {level} has clusters 0 to {len(clusters) - 1}, "
            f"got {cluster_id}"
        )
    cluster = clusters.iloc[cluster_id]
    lines = [
        f"{level}/{cluster_id}  {printable(cluster['title'])}",
        printable(cluster["description"]),
        "",
        f"items: {cluster['n_items']:,}   inertia: {cluster['inertia']:.4g}   "
        f"label: {cluster['summary_status']}, from {cluster['summary_source']}",
    ]
    if not math.isnan(cluster["summary_score"]):
        lines.append(
            f"label score: {cluster['summary_score']:.0%} of sampled items match this label better "
            "than any sibling's"
        )
    if isinstance(cluster["summary_error"], str):
        lines.append(f"label error: {printable(cluster['summary_error'])}")
    lines.append("key phrases: " + ", ".join(printable(text) for text in cluster["keyphrases"]))
    if level < hierarchy.n_levels:
        parent = int(cluster["parent_cluster_id"])
        title = hierarchy.clusters(level + 1).iloc[parent]["title"]
        lines.append(f"parent: {level + 1}/{parent}  {printable(title)}")
    if level > 1:
        below = hierarchy.clusters(level - 1)
        children = below[below["parent_cluster_id"] == cluster_id]
        lines.append("children:")
        lines += [
            f"  {level - 1}/{child_id}  {printable(title)} ({n_items:,} items)"
            for child_id, title, n_items in children.sort_values("n_items", ascending=False)[
                ["cluster_id", "title", "n_items"]
            ].itertuples(index=False, name=None)
        ]
    lines.append("items nearest to the centroid:")
    lines += [
        f"  {printable(str(item['item_id']))}: {printable(item['description'] or '')[:160]}"
        for item in hierarchy.exemplars(level, cluster_id)
    ]
    return "\n".join(lines)
