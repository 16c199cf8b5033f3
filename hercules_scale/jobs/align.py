"""Job that compares a finished run with an earlier one, topic by topic."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hercules_scale.clustering.nearest_centroids import Int32
from hercules_scale.errors import InputError
from hercules_scale.evaluation.crosswalk import BORN, Fates, Links, Pairs, find_fates, join_links
from hercules_scale.evaluation.drift import level_limits
from hercules_scale.results.finished_run import Run
from hercules_scale.stages.stored_assigner import read_assigner
from hercules_scale.storage import layout, schemas
from hercules_scale.storage.json_records import fingerprint, to_json
from hercules_scale.storage.lock import hold_lock
from hercules_scale.storage.manifest import next_part, published_files, replace_table
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import column_vectors, read_table, write_table

CROSSWALK, TOPICS = "crosswalk", "topics"
# Keys of ``embedding`` that two runs must share for their vectors to be in one space.
ENCODER = ("model", "prompt", "long_text", "dimensions")
# Tables by which an item of one run is assigned to another.
VECTORS = ("embeddings", "assigner", "reference")
BY_ITEMS, BY_VECTORS, BY_BOTH = "items", "vectors", "both"


@dataclass(frozen=True)
class _Moved:
    """Items of one run and their clusters in both.

    Attributes:
        own: Clusters in their own run, shape (n, L).
        other: Clusters in the other run, shape (n, L); -1 where they have none.
        shared: Whether they are items of both runs, shape (n,).
    """

    own: Int32
    other: Int32
    shared: NDArray[np.bool_]


def align_runs(old: Store, new: Store) -> list[str]:
    """Compare a run with an earlier one, and write its tables ``crosswalk`` and ``topics``.

    Each level is compared with the level of the same number. An item of both runs links its two
    clusters. An item of one run alone is assigned to the other by its vector, if both runs have
    vectors by the same encoder. Memory is that of the ids and clusters of all items.

    Args:
        old: Output of the earlier run.
        new: Output of the run.

    Returns:
        Facts about the comparison that a reader must know.

    Raises:
        InputError: One is no finished run with clusters, or nothing links them.
    """
    earlier, run = (Run(store, published_files(store)) for store in (old, new))
    for each in (earlier, run):
        _check(each)
    n_levels = min(earlier.n_levels, run.n_levels)
    moved_on, moved_back, n_shared = _moves(earlier, run, n_levels)
    notes = [_basis(earlier, run, n_shared)]
    if earlier.n_levels != run.n_levels:
        notes.append(
            f"the runs have {earlier.n_levels} and {run.n_levels} levels; levels 1 to {n_levels} "
            "are compared"
        )
    pairs, topics, known = [], [], _earlier_topics(earlier)
    for number in range(1, n_levels + 1):
        table, found = _pairs(moved_on, moved_back, number)
        sizes = [each.level(number)["n_items"].to_numpy() for each in (earlier, run)]
        fates = find_fates(found, sizes[0].astype(np.int64), sizes[1].astype(np.int64))
        pairs.append(table)
        topics.append(_topics(earlier, run, known, number, *fates))
    tables = {CROSSWALK: pa.concat_tables(pairs), TOPICS: pa.concat_tables(topics)}
    with hold_lock(new, notes.append) as lock:
        record = dict(Run(lock.store, run.files).record)
        for name, table in tables.items():
            part = layout.part(name, next_part(lock.store, name), lock.store.owner)
            replace_table(lock.store, name, [write_table(lock.store, part, table)])
            record.setdefault("rows", {})[name] = table.num_rows
        record["aligned_with"] = {"run": old.uri, "fingerprint": earlier.record["fingerprint"]}
        lock.store.write_bytes(layout.RUN, to_json(record))
    return notes


def _check(run: Run) -> None:
    """Refuse an output without clusters or memberships."""
    _ = run.cluster_paths
    if not run.files.get("memberships"):
        raise InputError(
            f"{run.store.uri}: holds no table 'memberships', by which runs are aligned; give a "
            "finished run"
        )


def _basis(old: Run, new: Run, n_shared: int) -> str:
    """Return the numbers of items that link the runs, and how the others do."""
    said = f"{n_shared:,} items are in both runs, of {old.n_items:,} and {new.n_items:,}"
    if n_shared == old.n_items == new.n_items:
        return said
    if _same_space(old, new):
        return f"{said}; the others are linked by their vectors, where they fit"
    return f"{said}; the others count as absent, since the runs have no encoder in common"


def _same_space(old: Run, new: Run) -> bool:
    """Return whether vectors of items can be assigned to the clusters of either run."""
    if not all(run.files.get(name) for run in (old, new) for name in VECTORS):
        return False
    keys = [
        (
            run.config("input").get("modality"),
            run.config("hierarchy").get("representation"),
            *(run.config("hierarchy").get(name) for name in ("criterion", "criterion_words")),
            *(run.config("embedding").get(name) for name in ENCODER),
        )
        for run in (old, new)
    ]
    # Each run scales the columns of numbers by their own spread.
    return keys[0] == keys[1] and keys[0][0] != "numeric"


def _ids_name_items(old: Run, new: Run) -> bool:
    """Return whether an id is the same item in both runs, and not the number of a row."""
    inputs = [run.record.get("inputs") for run in (old, new)]
    named = [run.config("input").get("id_column") is not None for run in (old, new)]
    are_paths = [run.config("input").get("modality") == "image" for run in (old, new)]
    return all(named) or all(are_paths) or (inputs[0] is not None and inputs[0] == inputs[1])


def _moves(old: Run, new: Run, n_levels: int) -> tuple[_Moved, _Moved, int]:
    """Return the moves of the old run's items, of the new run's, and the number of shared items."""
    members = [_members(run, n_levels) for run in (old, new)]
    (old_ids, old_own), (new_ids, new_own) = members
    there = np.full(len(old_ids), -1)
    if _ids_name_items(old, new):
        there = pc.fill_null(pc.index_in(old_ids, value_set=new_ids), -1).to_numpy()
    back = np.full(len(new_ids), -1)
    back[there[there >= 0]] = np.flatnonzero(there >= 0)
    n_shared = int((there >= 0).sum())
    by_vectors = _same_space(old, new)
    if not n_shared and not by_vectors:
        raise InputError(
            f"{new.store.uri}: shares no item ids and no encoder with {old.store.uri}, so that "
            "nothing links their clusters; run both with input.id_column, or with one "
            "embedding.model"
        )
    moves = []
    for run, other, own, others, at in (
        (old, new, old_own, new_own, there),
        (new, old, new_own, old_own, back),
    ):
        found = np.where((at >= 0)[:, None], others[at], np.int32(-1))
        if by_vectors and (at < 0).any():
            found[at < 0] = _assigned(run, other, at < 0, n_levels)
        moves.append(_Moved(own, found, at >= 0))
    return moves[0], moves[1], n_shared


def _members(run: Run, n_levels: int) -> tuple[pa.Array, Int32]:
    """Return the ids of all items, and their clusters, shape (n, L)."""
    names = [f"level_{number}" for number in range(1, n_levels + 1)]
    shards = [*run.shards({"memberships": ["item_id", *names]})]
    ids = pa.chunked_array([chunk for table in shards for chunk in table["item_id"].chunks])
    labels = [np.stack([table[name].to_numpy() for name in names], axis=1) for table in shards]
    return ids.combine_chunks(), np.concatenate(labels).astype(np.int32)


def _assigned(run: Run, other: Run, wanted: NDArray[np.bool_], n_levels: int) -> Int32:
    """Return the clusters of another run that the wanted items of a run fall into, shape (m, L).

    An item farther away than the 99th percentile of the other run's items has none: -1.
    """
    metric = other.config("hierarchy").get("metric", "squared_l2")
    assigner = read_assigner(other.store, other.files["assigner"][0].path, metric)
    limits = level_limits(read_table(other.store, other.files["reference"][0].path))[:n_levels]
    found, first = [], 0
    for table in run.shards({"embeddings": ["embedding"]}):
        own = wanted[first : first + table.num_rows]
        first += table.num_rows
        if own.any():
            vectors = assigner.to_space(column_vectors(table["embedding"])[own])
            members = assigner.memberships(vectors, assigner.find_leaves(vectors))
            labels, distances = members.labels[:, :n_levels], members.distances[:, :n_levels]
            found.append(np.where(distances > limits, np.int32(-1), labels))
    return np.concatenate(found)


def _pairs(moved_on: _Moved, moved_back: _Moved, number: int) -> tuple[pa.Table, Pairs]:
    """Return the rows of the table ``crosswalk`` of one level, and its pairs."""
    links = [
        Links.of(moved.own[:, number - 1], moved.other[:, number - 1], moved.shared)
        for moved in (moved_on, moved_back)
    ]
    pairs, n_items = join_links(links[0], links[1].swapped)
    n_all = pairs.n_old + pairs.n_new
    evidence = np.where(n_items == n_all, BY_ITEMS, np.where(n_items > 0, BY_BOTH, BY_VECTORS))
    level = pa.repeat(number, len(n_all))
    columns = (level, pairs.old, level, pairs.new, pairs.of_old, pairs.of_new, evidence)
    table = pa.table(dict(zip(schemas.CROSSWALK.names, columns, strict=True)))
    return table.cast(schemas.CROSSWALK), pairs


def _topics(
    old: Run,
    new: Run,
    known: dict[tuple[int, int], str],
    number: int,
    of_old: Fates,
    of_new: Fates,
) -> pa.Table:
    """Return the rows of the table ``topics`` of one level: the old clusters, then the new ones."""
    ids = [known.get((number, each), own) for each, own in enumerate(_own_ids(old, number))]
    titles = old.level(number)["title"].to_pylist()
    own_ids, own_titles = _own_ids(new, number), new.level(number)["title"].to_pylist()
    rows = []
    for name, run, fates in (("old", old, of_old), ("new", new, of_new)):
        sizes = run.level(number)["n_items"].to_pylist()
        for cluster_id, (status, partner) in enumerate(
            zip(fates.statuses, fates.partners.tolist(), strict=True)
        ):
            here = cluster_id if name == "old" else partner
            kept = here >= 0
            growth = float(fates.growth[cluster_id])
            rows.append(
                {
                    "run": name,
                    "level": number,
                    "cluster_id": cluster_id,
                    "status": status,
                    "topic_id": ids[here] if kept else own_ids[cluster_id],
                    "title": titles[here] if kept else own_titles[cluster_id],
                    "n_items": sizes[cluster_id],
                    "partner_id": partner if partner >= 0 else None,
                    "growth": None if status == BORN else growth,
                }
            )
    return pa.Table.from_pylist(rows, schemas.TOPICS)


def _own_ids(run: Run, number: int) -> list[str]:
    """Return the ids of topics that no earlier run has."""
    n = len(run.level(number))
    return [fingerprint([run.record["fingerprint"], number, each])[:12] for each in range(n)]


def _earlier_topics(run: Run) -> dict[tuple[int, int], str]:
    """Return the topic of each cluster, by level and id, from an earlier alignment of the run."""
    columns = ["run", "level", "cluster_id", "topic_id"]
    return {
        (row["level"], row["cluster_id"]): row["topic_id"]
        for table in run.shards({TOPICS: columns})
        for row in table.to_pylist()
        if row["run"] == "new"
    }
