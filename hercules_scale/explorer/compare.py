"""Comparison of two runs over the same items, by the overlap of their clusters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from hercules_scale.errors import InputError
from hercules_scale.evaluation.external import external_metrics
from hercules_scale.explorer.open_run import OpenRun
from hercules_scale.storage.tables import iterate_batches

# Clusters that are shown, the largest first, and clusters of the other run shown beside each.
SHOWN, PARTNERS = 300, 3
# Runs with items in another order are joined by id in memory.
MAX_JOINED = 2_000_000


def compare(one: OpenRun, other: OpenRun, level: int, other_level: int) -> dict[str, Any]:
    """Return the agreement of a level of each run, and the clusters of the second run that overlap
    most with each cluster of the first.

    Raises:
        InputError: There is no such level, or the runs have no items in common.
    """
    for run, asked in ((one, level), (other, other_level)):
        if not 1 <= asked <= run.n_levels:
            raise InputError(f"levels of {run.finished.name} are 1 to {run.n_levels}, got {asked}")
    shape = (one.level(level).num_rows, other.level(other_level).num_rows)
    counts = sparse.coo_array(shape, dtype=np.int64).tocsr()
    n_common = 0
    for own, theirs in _labels(one, other, level, other_level):
        n_common += len(own)
        ones = np.ones(len(own), np.int64)
        counts = counts + sparse.coo_array((ones, (own, theirs)), shape=shape).tocsr()
    if n_common == 0:
        raise InputError("These runs share no item IDs, so they can't be compared.")
    sizes = np.asarray(counts.sum(axis=1)).ravel()
    rows = []
    for cluster_id in np.argsort(-sizes, kind="stable")[:SHOWN].tolist():
        start, stop = counts.indptr[cluster_id], counts.indptr[cluster_id + 1]
        found = np.argsort(-counts.data[start:stop], kind="stable")[:PARTNERS] + start
        rows.append(
            {
                "id": cluster_id,
                "n_common": int(sizes[cluster_id]),
                "partners": [
                    {"id": int(counts.indices[place]), "n_items": int(counts.data[place])}
                    for place in found.tolist()
                ],
            }
        )
    measured = external_metrics(counts.tocoo())
    return {
        "n_common": n_common,
        "n_items": [one.n_items, other.n_items],
        "ari": measured["ari"],
        "nmi": measured["nmi"],
        "clusters": rows,
        "n_clusters": shape[0],
        "other_titles": other.titles(other_level),
    }


def _labels(
    one: OpenRun, other: OpenRun, level: int, other_level: int
) -> Iterator[tuple[Any, Any]]:
    """Yield the cluster ids of common items in both runs, a batch at a time."""
    n_aligned = 0
    if one.n_items == other.n_items:
        for left, right in zip(_batches(one, level), _batches(other, other_level), strict=True):
            if not left[0].equals(right[0]):
                break
            n_aligned += len(left[0])
        if n_aligned == one.n_items:
            for left, right in zip(_batches(one, level), _batches(other, other_level), strict=True):
                yield left[1].to_numpy(), right[1].to_numpy()
            return
    if max(one.n_items, other.n_items) > MAX_JOINED:
        raise InputError(
            f"the items of these runs stand in another order, and more than {MAX_JOINED:,} are "
            "not compared by id; run both over the same input"
        )
    tables = [
        pa.table(
            {
                "item_id": pa.chunked_array([ids for ids, _ in batches]),
                name: pa.chunked_array([labels for _, labels in batches]),
            }
        )
        for name, batches in (
            ("own", list(_batches(one, level))),
            ("theirs", list(_batches(other, other_level))),
        )
    ]
    places = pc.index_in(tables[0]["item_id"], value_set=tables[1]["item_id"].combine_chunks())
    known = pc.is_valid(places)
    theirs = tables[1]["theirs"].take(places.filter(known))
    yield tables[0]["own"].filter(known).to_numpy(), theirs.to_numpy()


def _batches(run: OpenRun, level: int, rows: int = 16_384) -> Iterator[tuple[pa.Array, pa.Array]]:
    """Yield ids and clusters of items in row order, in batches of ``rows`` in every run."""
    waiting: list[pa.Table] = []
    n_waiting = 0
    for file in run.finished.files["memberships"]:
        names = ["item_id", f"level_{level}"]
        for batch in iterate_batches(run.store, file.path, names):
            waiting.append(pa.table(batch))
            n_waiting += batch.num_rows
            while n_waiting >= rows:
                table = pa.concat_tables(waiting)
                yield _columns(table.slice(0, rows))
                waiting, n_waiting = [table.slice(rows)], n_waiting - rows
    if n_waiting:
        yield _columns(pa.concat_tables(waiting))


def _columns(table: pa.Table) -> tuple[pa.Array, pa.Array]:
    return table.column(0).combine_chunks(), table.column(1).combine_chunks()
