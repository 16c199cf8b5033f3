"""Cuts of the tree: clusters of any levels that hold every item exactly once.

A cut begins with the coarsest level. The cluster that gains most by it is divided into its
children, again and again, until there are about as many clusters as asked. A cluster with one child
is the same set of items at two levels; the coarser one is in the cut.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hercules_scale.errors import InputError
from hercules_scale.results.finished_run import Run

# Columns of the clusters of a cut.
COLUMNS = ["level", "cluster_id", "title", "description", "n_items"]
# Candidates that a message names.
NAMED = 10
_NAME = re.compile(r"(\d+)/(\d+)", re.ASCII)


@dataclass(frozen=True)
class Cut:
    """Clusters that hold every item exactly once.

    Attributes:
        clusters: Columns ``level``, ``cluster_id``, ``title``, ``description``, ``n_items`` and
            ``share`` of all items; a row per cluster, in the order of the printed tree.
        of_leaf: Place in ``clusters`` of each finest cluster, by its id, shape (k_1,).
    """

    clusters: pa.Table
    of_leaf: NDArray[np.int64]


def find_cut(run: Run, about: int | None, fine: Sequence[str] = ()) -> Cut:
    """Return a cut of about ``about`` clusters.

    Memory is that of the clusters.

    Args:
        run: The run.
        about: Wanted number of clusters; None for the coarsest level, divided as ``fine`` says.
        fine: Clusters to divide down to the finest level, as ``LEVEL/ID`` or as a part of a title
            that no other cluster has.

    Raises:
        InputError: No cut has that number within 10%, or a name is unknown or ambiguous.
    """
    if about is None and not fine:
        raise InputError("about must be a number of clusters, got none; give it, or fine")
    if about is not None and about < 1:
        raise InputError(f"about must be at least 1 cluster, got {about}")
    tree = _Tree(run)
    nodes = tree.begin([tree.find(name) for name in fine])
    if about is not None:
        nodes = _grown(tree, nodes, about, bool(fine))
    chosen = tree.in_order(nodes)
    table = run.clusters.select(COLUMNS).take(pa.array(chosen))
    share = pa.array(tree.n_items[chosen] / max(run.n_items, 1), pa.float64())
    return Cut(table.append_column("share", share), tree.places_of_leaves(chosen))


def bounds(about: int) -> tuple[int, int]:
    """Return the least and the largest number of clusters within 10% of a number."""
    return -(-9 * about // 10), 11 * about // 10


class _Tree:
    """Clusters by their row in ``Run.clusters``, the coarsest level first.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        self._uri, table = run.store.uri, run.clusters
        self.levels = table["level"].to_numpy().astype(np.int64)
        self.ids = table["cluster_id"].to_numpy().astype(np.int64)
        self.n_items = table["n_items"].to_numpy().astype(np.int64)
        self._titles = [str(title or "") for title in table["title"].to_pylist()]
        self._first = {
            int(level): int(row)
            for level, row in zip(*np.unique(self.levels, return_index=True), strict=True)
        }
        parents = table["parent_cluster_id"].to_pylist()
        self._parents = [
            -1 if parent is None else self._first[int(level) + 1] + int(parent)
            for level, parent in zip(self.levels, parents, strict=True)
        ]
        children: list[list[int]] = [[] for _ in self._parents]
        for row, parent in enumerate(self._parents):
            if parent >= 0:
                children[parent].append(row)
        self._children = children
        # Parents come first, so each chain of only children has the row of its coarsest cluster.
        self._coarsest: list[int] = []
        for row, parent in enumerate(self._parents):
            only = parent >= 0 and len(children[parent]) == 1
            self._coarsest.append(self._coarsest[parent] if only else row)
        self._gains = self._measure(table)

    @property
    def roots(self) -> list[int]:
        """Rows of the coarsest level."""
        return [row for row, parent in enumerate(self._parents) if parent < 0]

    def parts(self, row: int) -> list[int]:
        """Return the clusters that a cluster is divided into: at least two, or none."""
        while len(self._children[row]) == 1:
            row = self._children[row][0]
        return self._children[row]

    def leaves(self, row: int) -> Iterator[int]:
        """Yield the finest division of a cluster."""
        parts = self.parts(row)
        if not parts:
            yield row
        for part in parts:
            yield from self.leaves(part)

    def gain(self, row: int) -> float:
        """Return the gain of the division of a cluster."""
        return float(self._gains[row])

    def begin(self, fine: list[int]) -> list[int]:
        """Return the coarsest cut in which the given clusters are at their finest level."""
        finest, above = set(fine), set()
        for row in fine:
            while row >= 0:
                above.add(row)
                row = self._parents[row]

        def divided(row: int) -> Iterator[int]:
            if row in finest:
                yield from self.leaves(row)
            elif row in above and self.parts(row):
                for part in self.parts(row):
                    yield from divided(part)
            else:
                yield row

        return [row for root in self.roots for row in divided(root)]

    def in_order(self, nodes: Sequence[int]) -> NDArray[np.int64]:
        """Return clusters in the order of the printed tree: the largest of siblings first."""
        wanted = set(nodes)

        def walk(rows: list[int]) -> Iterator[int]:
            for row in sorted(rows, key=lambda row: (-self.n_items[row], self.ids[row])):
                if row in wanted:
                    yield row
                else:
                    yield from walk(self._children[row])

        return np.fromiter(walk(self.roots), np.int64)

    def places_of_leaves(self, nodes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the place in ``nodes`` of each finest cluster, by id."""
        places = np.full(len(self.ids), -1, np.int64)
        places[nodes] = np.arange(len(nodes))
        for row, parent in enumerate(self._parents):
            if parent >= 0 and places[parent] >= 0:
                places[row] = places[parent]
        return places[self._first[1] :]

    def find(self, name: str) -> int:
        """Return the cluster of a name, ``LEVEL/ID`` or a part of a title.

        Raises:
            InputError: There is no such cluster, or there are several.
        """
        match = _NAME.fullmatch(name.strip())
        if match:
            level, number = int(match[1]), int(match[2])
            count = int((self.levels == level).sum())
            if number >= count:
                has = f"level {level} has clusters 0 to {count - 1}" if count else "no such level"
                raise InputError(f"{self._uri}: fine {name!r}: {has}; see hercules-scale show")
            return self._coarsest[self._first[level] + number]
        text = name.strip().casefold()
        titles = [title.casefold() for title in self._titles]
        same = {self._coarsest[row] for row, title in enumerate(titles) if title == text}
        within = {self._coarsest[row] for row, title in enumerate(titles) if text in title}
        found = sorted(same if len(same) == 1 else within)
        if not text or not found:
            raise InputError(
                f"{self._uri}: fine must be LEVEL/ID or a part of a title, and no title has "
                f"{name!r}; see hercules-scale show"
            )
        if len(found) > 1:
            named = ", ".join(f"{self._name(row)} {self._titles[row]!r}" for row in found[:NAMED])
            more = f" and {len(found) - NAMED:,} more" * (len(found) > NAMED)
            raise InputError(
                f"{self._uri}: fine {name!r} is in {len(found):,} titles: {named}{more}; give "
                "LEVEL/ID of one"
            )
        return found[0]

    def _name(self, row: int) -> str:
        return f"{self.levels[row]}/{self.ids[row]}"

    def _measure(self, table: pa.Table) -> list[float]:
        """Return the gain of the division of each cluster; 0 where it has no parts.

        It is the number of items that match the label of their part better than the labels of its
        siblings, beyond those that would by chance. Parts without a score count with the mean of
        all others. Without any score it is the inertia that the division removes, and without
        inertia the number of items.
        """
        scores = table["summary_score"].to_numpy().astype(np.float64)
        inertia = np.nan_to_num(table["inertia"].to_numpy().astype(np.float64))
        known = ~np.isnan(scores)
        mean = scores[known].mean() if known.any() else np.nan
        scores = np.where(known, scores, mean)
        gains = []
        for row in range(len(scores)):
            parts = self.parts(row)
            if not parts:
                gains.append(0.0)
            elif known.any():
                chance = 1 / len(parts)
                beyond = (scores[parts] - chance) / (1 - chance)
                gains.append(float(self.n_items[parts] @ beyond))
            elif inertia.any():
                gains.append(float(inertia[row] - inertia[parts].sum()))
            else:
                gains.append(float(self.n_items[row]))
        return gains


def _grown(tree: _Tree, start: list[int], about: int, with_fine: bool) -> list[int]:
    """Return a cut of about ``about`` clusters that begins with another.

    Raises:
        InputError: There is none.
    """
    least, most = len(start), sum(1 for row in start for _ in tree.leaves(row))
    low, high = bounds(about)
    if high < least:
        why = "clusters that fine leads to" if with_fine else "clusters of the coarsest level"
        fewer = "name fewer clusters in fine, or " if with_fine else ""
        raise InputError(
            f"about must be at least {least:,}, the {why}, got {about:,}; {fewer}ask for about "
            f"{least:,}"
        )
    if low > most:
        raise InputError(
            f"about must be at most {most:,}, the clusters of the finest level, got {about:,}; "
            f"ask for about {most:,}"
        )
    found = _divide(tree, start, about)
    if len(found) < low:
        near = (n for step in range(1, about + most) for n in (about - step, about + step))
        reached = next(
            n for n in near if least <= n <= most and len(_divide(tree, start, n)) >= bounds(n)[0]
        )
        raise InputError(
            f"about {about:,}: no cut has {low:,} to {high:,} clusters, since each further "
            f"division of {len(found):,} clusters leads beyond; ask for about {reached:,}"
        )
    return found


def _divide(tree: _Tree, start: list[int], about: int) -> list[int]:
    """Divide clusters of a cut, the largest gain first, until it has ``about`` clusters or no
    division stays within 10%."""
    high = bounds(about)[1]

    def entry(row: int) -> tuple[float, int, int]:
        # Rows are in the order of the levels, coarsest first, and of ids.
        return -tree.gain(row), -int(tree.n_items[row]), row

    chosen = set(start)
    waiting = [entry(row) for row in start if tree.parts(row)]
    heapq.heapify(waiting)
    while waiting and len(chosen) < about:
        row = heapq.heappop(waiting)[2]
        parts = tree.parts(row)
        # The cut only grows, so a division that is too large now is too large later.
        if len(chosen) + len(parts) - 1 <= high:
            chosen.remove(row)
            chosen.update(parts)
            for part in parts:
                if tree.parts(part):
                    heapq.heappush(waiting, entry(part))
    return sorted(chosen)
