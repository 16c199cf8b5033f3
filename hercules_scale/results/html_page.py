"""The tree as one HTML page that needs no network, and as HTML for notebooks.

Titles, items and file names are not trusted: all text goes through ``escaped``, and the page's
policy allows only its own script and style, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import html
import importlib.resources
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from hercules_scale.results.finished_run import Run
from hercules_scale.results.title_provenance import chat_model, describe_sources, title_marks
from hercules_scale.sanitize import printable

Cluster = dict[str, Any]
ClusterKey = tuple[int, int | None]
Children = dict[ClusterKey, list[Cluster]]
Exemplars = dict[int, list[tuple[str, str]]]

# Exemplars are shown at the finest level; together they take at most some 2 MB.
EXEMPLAR_CHARACTERS, MAX_EXEMPLARS, ALL_EXEMPLAR_CHARACTERS = 160, 4, 2_000_000
NOTEBOOK_LEVELS, NOTEBOOK_CLUSTERS = 2, 100
FILES_NAMED = 3


def escaped(text: str) -> str:
    """Return text for an element or a quoted attribute, with control characters made visible."""
    return html.escape(printable(text), quote=True)


def write_page(run: Run, stream: Any) -> None:
    """Write the page.

    Memory is that of the clusters and of one shard of items; the page takes about 1 kB per cluster.

    Args:
        run: The run.
        stream: Binary destination.
    """
    files = importlib.resources.files("hercules_scale.results")
    style = files.joinpath("page.css").read_text(encoding="utf-8")
    script = files.joinpath("page.js").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    name = escaped(run.name)
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n',
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
        f"<title>{name}</title>\n<style>{style}</style>\n</head>\n<body>\n",
        f"<header>\n<h1>{name}</h1>\n{_facts(run)}</header>\n",
        _tools(run.n_levels),
        '<main id="tree">\n',
    ]
    for part in parts:
        stream.write(part.encode())
    children = _children(run.cluster_rows)
    exemplars = _exemplars(run)
    for piece in _nodes(children, (run.n_levels + 1, None), run.n_items, exemplars):
        stream.write(piece.encode())
    stream.write(f"</main>\n<script>{script}</script>\n</body>\n</html>\n".encode())


def notebook_tree(run: Run) -> str:
    """Return the top levels as collapsible HTML, without style or script."""
    children = _children(run.cluster_rows)
    parts = [f"<div><b>{escaped(run.name)}</b>: {run.n_items:,} items"]
    left = NOTEBOOK_CLUSTERS

    def show(parent: ClusterKey, depth: int) -> None:
        nonlocal left
        for index, cluster in enumerate(below := children.get(parent, [])):
            if left == 0:
                parts.append(f"<div>… {len(below) - index:,} more</div>")
                return
            left -= 1
            line = f"{escaped(cluster['title'])}{_mark(cluster)} ({cluster['n_items']:,} items)"
            if depth == NOTEBOOK_LEVELS or cluster["level"] == 1:
                parts.append(f"<li>{line}</li>")
                continue
            opened = "<details open>" if depth == 0 else "<details>"
            parts.append(f"{opened}<summary>{line}</summary><ul>")
            show((cluster["level"], cluster["cluster_id"]), depth + 1)
            parts.append("</ul></details>")

    show((run.n_levels + 1, None), 1)
    return "".join(parts) + "</div>"


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _children(clusters: list[Cluster]) -> Children:
    """Return the clusters by level and id of their parent, the largest first, with marks."""
    marks = title_marks(
        [cluster["summary_source"] for cluster in clusters],
        [cluster["summary_status"] for cluster in clusters],
    )
    clusters = [{**row, "mark": mark} for row, mark in zip(clusters, marks, strict=True)]
    children: Children = {}
    for cluster in sorted(clusters, key=lambda row: (-row["n_items"], row["cluster_id"])):
        key = (cluster["level"] + 1, cluster["parent_cluster_id"])
        children.setdefault(key, []).append(cluster)
    return children


def _facts(run: Run) -> str:
    """Return the facts of the run as a list of terms, and its alarms."""
    record = run.record
    config = record.get("config", {})
    counts = ", ".join(f"{len(run.level(level)):,}" for level in range(run.n_levels, 0, -1))
    rows = run.cluster_rows
    titles = describe_sources(
        [row["summary_source"] for row in rows],
        [row["summary_status"] for row in rows],
        chat_model(config.get("summaries", {})),
    )
    inputs = [str(source["name"]) for source in record.get("inputs", [])]
    more = f" and {len(inputs) - FILES_NAMED:,} more" if len(inputs) > FILES_NAMED else ""
    facts = {
        "Titles": titles,
        "Items": f"{run.n_items:,}",
        "Clusters": f"{counts} (coarsest level first)",
        "Embedding": config.get("embedding", {}).get("model"),
        "Input": ", ".join(inputs[:FILES_NAMED]) + more,
        "Finished": record.get("ended_at"),
        "Made by": f"hercules-scale {record.get('versions', {}).get('hercules-scale', '')}",
    }
    lines = [
        f"<div><dt>{term}</dt><dd>{escaped(str(fact))}</dd></div>\n"
        for term, fact in facts.items()
        if fact
    ]
    alarms = [f"<li>{escaped(alarm)}</li>\n" for alarm in record.get("alarms", [])]
    shown = f'<ul class="alarms" aria-label="Alarms">\n{"".join(alarms)}</ul>\n' if alarms else ""
    return f"<dl>\n{''.join(lines)}</dl>\n{shown}"


def _tools(n_levels: int) -> str:
    """Return the search field and buttons, which the script makes visible."""
    levels = "".join(
        f'<button type="button" data-level="{level}">level {level}</button>\n'
        for level in range(n_levels, 0, -1)
    )
    return (
        '<div id="tools" role="search" hidden>\n'
        '<input id="search" type="search" placeholder="Search titles, phrases, items" '
        'aria-label="Search titles, phrases and items" autocomplete="off">\n'
        f'<span class="levels">Open to {levels}</span>\n'
        '<span id="found" role="status"></span>\n</div>\n'
    )


def _exemplars(run: Run) -> Exemplars:
    """Return ids and texts of the shown exemplars, by finest cluster."""
    leaves = [row for row in run.cluster_rows if row["level"] == 1]
    most = ALL_EXEMPLAR_CHARACTERS // (EXEMPLAR_CHARACTERS * max(len(leaves), 1))
    n_shown = min(max(most, 1), MAX_EXEMPLARS)
    ids = {leaf["cluster_id"]: (leaf["exemplar_item_ids"] or [])[:n_shown] for leaf in leaves}
    wanted = pa.array([item_id for shown in ids.values() for item_id in shown], pa.string())
    texts: dict[str, str] = {}
    for shard in run.shards({"items": ["item_id", "title", "description"]}):
        here = shard.filter(pc.is_in(shard["item_id"], value_set=wanted))
        for row in here.to_pylist():
            text = row["description"] or row["title"] or ""
            cut = "…" if len(text) > EXEMPLAR_CHARACTERS else ""
            texts[row["item_id"]] = text[:EXEMPLAR_CHARACTERS] + cut
    return {
        cluster_id: [(item_id, texts.get(item_id, "")) for item_id in shown]
        for cluster_id, shown in ids.items()
    }


def _nodes(
    children: Children, parent: ClusterKey, n_items: int, exemplars: Exemplars
) -> Iterator[str]:
    """Yield the HTML of a parent's children with their subtrees; bars show shares of the parent."""
    below = children.get(parent, [])
    n_below = sum(cluster["n_items"] for cluster in below)
    for cluster in below:
        level, cluster_id = cluster["level"], cluster["cluster_id"]
        yield (
            f'<details id="c{level}-{cluster_id}" data-level="{level}"><summary>'
            # Width by attribute: the policy forbids style attributes.
            f'<svg aria-hidden="true"><rect width="{_share(cluster, n_below)}"/></svg>'
            f'<span class="title">{escaped(cluster["title"])}</span>{_mark(cluster)}'
            f'<span class="size">{cluster["n_items"]:,}<i> items, {_share(cluster, n_items)}</i>'
            f"</span></summary>\n<div>{_body(cluster, exemplars)}</div>\n"
        )
        yield from _nodes(children, (level, cluster_id), n_items, exemplars)
        yield "</details>\n"


def _share(cluster: Cluster, n_items: int) -> str:
    return f"{cluster['n_items'] / max(n_items, 1):.1%}"


def _mark(cluster: Cluster) -> str:
    if not cluster["mark"]:
        return ""
    reason = escaped(cluster["summary_error"] or "")
    return f' <mark title="{reason}">{escaped(cluster["mark"])}</mark>'


def _body(cluster: Cluster, exemplars: Exemplars) -> str:
    parts = []
    if cluster["description"] and cluster["description"] != cluster["title"]:
        parts.append(f"<p>{escaped(cluster['description'])}</p>")
    if cluster["keyphrases"]:
        phrases = "".join(f"<li>{escaped(phrase)}</li>" for phrase in cluster["keyphrases"])
        parts.append(f'<ul class="phrases" aria-label="Key phrases">{phrases}</ul>')
    shown = "".join(
        f"<dt>{escaped(item_id)}</dt><dd>{escaped(text)}</dd>"
        for item_id, text in (exemplars[cluster["cluster_id"]] if cluster["level"] == 1 else [])
    )
    return "".join(parts) + (f'<dl class="items">{shown}</dl>' if shown else "")
