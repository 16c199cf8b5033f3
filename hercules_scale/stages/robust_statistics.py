"""Means and standard deviations of numeric columns, without a few huge values.

One value of 1e19 would dominate the standard deviation of its column, so that the column would no
longer distinguish the other items.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hercules_scale.clustering.vector_lengths import FAR
from hercules_scale.errors import InputError
from hercules_scale.reading.column_statistics import Moments
from hercules_scale.runtime.context import RunContext, Shards
from hercules_scale.runtime.shard_tasks import ShardResult
from hercules_scale.runtime.shards import Stage, run_shards
from hercules_scale.storage import layout
from hercules_scale.storage.commits import read_commits
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import column_numbers, iterate_batches, read_table

STAGE = "near_numbers"
# Medians are taken from this many evenly spaced shards, and about this many rows of each.
SAMPLE_SHARDS, SAMPLE_ROWS = 8, 4_096

Float64 = NDArray[np.float64]


def near_moments(
    context: RunContext, shards: Shards, table: str, columns: Sequence[str], moments: Moments
) -> Moments:
    """Return the moments of numeric columns, with means and deviations of near values only.

    A value is far if its distance from the column's median is more than ``FAR`` times the median of
    all such distances that are not 0. An alarm names columns with far values. If there are none,
    the given moments are returned. Ranges always cover all values.

    Args:
        context: The run.
        shards: Shards of the run's items.
        table: Name of the table of the items.
        columns: The columns.
        moments: Moments of all values.

    Raises:
        InputError: The squares of a column's values overflow.
    """
    middle, limit = _ranges(context.store, shards, table, list(columns))
    far = (moments.low[0] < middle - limit) | (moments.high[0] > middle + limit)
    if far.any():
        worker = _Worker(context.store, table, tuple(columns), middle, limit)
        stage = Stage(STAGE, "items", shards.n_items, context.config.resources.n_tasks)
        run_shards(context, stage, len(shards), worker)
        moments = known_near_moments(context, moments)
        left = _counted(context).n
        for place in np.flatnonzero(far).tolist():
            extreme = max(
                moments.low[0, place],
                moments.high[0, place],
                key=lambda each: abs(each - middle[place]),
            )
            context.reporter.alarm(
                f"input.columns: {shards.n_items - left[place]:,} of {shards.n_items:,} values of "
                f"{columns[place]!r} lie more than {FAR:,} times as far from its median "
                f"({middle[place]:.4g}) as the median value, up to {extreme:.4g}; they were left "
                "out of its mean and standard deviation; correct them, leave their rows out, or "
                "give the column's logarithm"
            )
    if not np.isfinite(moments.std).all():
        name = columns[int(np.flatnonzero(~np.isfinite(moments.std[0]))[0])]
        raise InputError(
            f"input.columns: values of {name!r} are too large for their squares to be computed, "
            f"up to {np.abs([moments.low, moments.high]).max():.4g}; divide them by a constant"
        )
    return moments


def known_near_moments(context: RunContext, moments: Moments) -> Moments:
    """Return the moments that ``near_moments`` found earlier in a run.

    Args:
        context: The run.
        moments: Moments of all values.
    """
    if not read_commits(context.store, STAGE, context.fingerprint):
        return moments
    near, n = _counted(context), moments.n
    squares = near.squares[:, 0] * (n / near.n)
    return Moments(n, near.mean[None, :, 0], squares[None], moments.low, moments.high)


def _counted(context: RunContext) -> Moments:
    """Return the moments of the near values, with one group per column."""
    commits = read_commits(context.store, STAGE, context.fingerprint)
    parts = (Moments.from_lists(commits[shard].info["moments"]) for shard in sorted(commits))
    return functools.reduce(Moments.add, parts)


def _ranges(
    store: Store, shards: Shards, table: str, columns: list[str]
) -> tuple[Float64, Float64]:
    """Return each column's median, and the largest distance of near values, of shape (p,)."""
    wanted = np.linspace(0, len(shards) - 1, min(len(shards), SAMPLE_SHARDS)).astype(np.int64)
    step = -(-min(shards.rows, shards.n_items) // SAMPLE_ROWS)
    values = np.concatenate(
        [
            column_numbers(batch, columns)[::step]
            for shard in wanted.tolist()
            for batch in iterate_batches(store, layout.part(table, shard), columns)
        ]
    )
    middle = np.median(values, axis=0)
    with np.errstate(over="ignore"):
        distances = np.abs(values - middle)
        apart = [column[column > 0] for column in distances.T]
        limit = [FAR * np.median(column) if len(column) else np.inf for column in apart]
    return middle, np.array(limit)


@dataclass(frozen=True)
class _Worker:
    """Computes the moments of one shard's near values, with one group per column."""

    store: Store
    table: str
    columns: tuple[str, ...]
    middle: Float64
    limit: Float64

    def __call__(self, shard: int) -> ShardResult:
        """Return the moments, which the commit keeps."""
        names = list(self.columns)
        items = read_table(self.store, layout.part(self.table, shard), names)
        values = column_numbers(items, names)
        with np.errstate(over="ignore"):
            rows, groups = np.nonzero(np.abs(values - self.middle) <= self.limit)
        near = Moments.of(values[rows, groups][:, None], groups, len(names))
        return ShardResult([], {"moments": near.to_lists()}, units=len(values))
