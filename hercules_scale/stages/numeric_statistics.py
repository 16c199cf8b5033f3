"""Statistics of numeric variables by cluster, in original units."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hercules_scale.config.reading import VariableConfig
from hercules_scale.reading.column_statistics import Moments
from hercules_scale.reading.numbers_in_words import variable_name, with_unit
from hercules_scale.runtime.context import RunContext, Shards
from hercules_scale.runtime.pipeline import Product
from hercules_scale.runtime.shard_tasks import ShardResult
from hercules_scale.runtime.shards import Stage, run_shards
from hercules_scale.stages.cluster import Clustering, Clusters
from hercules_scale.stages.read import Items
from hercules_scale.storage import layout, schemas
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import (
    column_matrix,
    column_numbers,
    read_table,
    vector_column,
    write_table,
)

STAGE = "statistics"
# A mean this many standard deviations from the mean of all items is called high or low.
TELLING = 0.25


@dataclass(frozen=True)
class Statistics(Product):
    """Statistics of numeric variables.

    Attributes:
        columns: Columns of the variables; none if the items are not numeric.
        metadata: Names, units and descriptions of the variables.
        whole: Moments of all items.
        levels: Moments of the clusters of each level, finest first.
        precision: Significant digits of the numbers in sentences.
    """

    columns: list[str]
    metadata: Mapping[str, VariableConfig]
    whole: Moments
    levels: list[Moments]
    precision: int = 4

    @property
    def record(self) -> dict[str, Any]:
        """Figures of each variable over all items; items were standardised by mean and std."""
        (figures,) = self.whole.of_variables(self.columns)
        return {"variables": {str(own.pop("variable")): own for own in figures}}

    def deviations(self, level: int) -> NDArray[np.float64]:
        """Return the differences between the means of each cluster and of all items.

        Returns:
            Differences in standard deviations of all items, shape (k, p).
        """
        return (self.levels[level - 1].mean - self.whole.mean) / self.whole.std

    def phrases(self, level: int, n_phrases: int) -> list[list[str]]:
        """Return the variables that distinguish each cluster of a level, most distinctive first."""
        names = [variable_name(column, self.metadata) for column in self.columns]
        found = []
        for own in self.deviations(level):
            order = np.argsort(-np.abs(own), kind="stable")[:n_phrases].tolist()
            telling = [place for place in order if abs(own[place]) >= TELLING] or order[:1]
            found.append(
                [f"{'high' if own[place] > 0 else 'low'} {names[place]}" for place in telling]
            )
        return found

    def sentences(self, level: int) -> list[list[str]]:
        """Return sentences on the variables of each cluster of a level, most distinctive first.

        Source: HERCULES, section 3.4, on statistics in prompts.
        """
        figures = self.levels[level - 1]
        found = []
        for cluster, own in enumerate(self.deviations(level)):
            order = np.argsort(-np.abs(own), kind="stable").tolist()
            found.append([self._sentence(figures, cluster, place, own[place]) for place in order])
        return found

    def _sentence(self, figures: Moments, cluster: int, place: int, deviation: float) -> str:
        column = self.columns[place]
        name = variable_name(column, self.metadata)
        known = self.metadata.get(column)
        if known is not None and known.description:
            name += f" ({known.description})"
        mean, low, high = (
            with_unit(values[cluster, place], column, self.metadata, self.precision)
            for values in (figures.mean, figures.low, figures.high)
        )
        std = figures.std[cluster, place]
        side = "above" if deviation > 0 else "below"
        return (
            f"{name} {mean} on average, {low} to {high}, standard deviation {std:.3g}; "
            f"{abs(deviation):.1f} {side} the mean of all"
        )

    def column(self) -> pa.Array:
        """Return the column ``numeric_stats`` of the table ``clusters``, by level and id."""
        rows = [own for level in self.levels for own in level.of_variables(self.columns)]
        return pa.array(rows, schemas.NUMERIC_STATS)


NO_STATISTICS = Statistics([], {}, Moments.of(np.zeros((0, 0))), [])


def known_moments(variables: dict[str, dict[str, float]], columns: Sequence[str]) -> Moments | None:
    """Return the moments of all items from ``run.json``; None without numeric columns.

    The number of items is not known, and set to 1.

    Args:
        variables: Figures by column, in any order.
        columns: Numeric columns of the run.
    """
    if not columns:
        return None
    mean, std, low, high = (
        np.array([[variables[column][name] for column in columns]])
        for name in ("mean", "std", "min", "max")
    )
    return Moments(np.ones(1, np.int64), mean, std**2, low, high)


@dataclass(frozen=True)
class _Worker:
    """Computes the moments of one shard's items by finest cluster."""

    store: Store
    columns: tuple[str, ...]
    k: int

    def __call__(self, shard: int) -> ShardResult:
        """Write one row for each cluster in the shard."""
        items = read_table(self.store, layout.part("items", shard), list(self.columns))
        members = read_table(self.store, layout.part("memberships", shard), ["level_1"])
        leaves = members["level_1"].to_numpy().astype(np.int64)
        figures = Moments.of(column_numbers(items, list(self.columns)), leaves, self.k)
        held = np.flatnonzero(figures.n)
        columns = {"cluster": held, "n": figures.n[held]}
        table = pa.table(
            columns
            | {
                name: vector_column(getattr(figures, name)[held])
                for name in ("mean", "squares", "low", "high")
            }
        )
        file = write_table(self.store, layout.work_part(STAGE, shard), table)
        return ShardResult([file], units=items.num_rows)


def measure_statistics(context: RunContext, items: Items, clustering: Clustering) -> Statistics:
    """Return the statistics of every cluster of every level."""
    return statistics_of(context, items.shards, clustering, items.moments)


def statistics_of(
    context: RunContext, shards: Shards, clustering: Clusters, whole: Moments | None
) -> Statistics:
    """Return the statistics of every cluster of every level.

    Args:
        context: The run.
        shards: Shards of the run's items.
        clustering: Clusters of the run.
        whole: Moments of all items; None if they are not numeric.
    """
    if whole is None:
        return NO_STATISTICS
    columns = list(context.config.input.columns)
    k = clustering.level(1).num_rows
    worker = _Worker(context.store, tuple(columns), k)
    stage = Stage(STAGE, "items", shards.n_items, context.config.resources.n_tasks)
    commits = run_shards(context, stage, len(shards), worker)
    parts = (
        _read_part(context.store, file.path, k, len(columns))
        for commit in commits.values()
        for file in commit.files
    )
    levels = [functools.reduce(Moments.add, parts)]
    for level in range(1, clustering.n_levels):
        parents = clustering.level(level)["parent_cluster_id"].to_numpy().astype(np.int32)
        levels.append(levels[-1].grouped(parents, clustering.level(level + 1).num_rows))
    config = context.config
    precision = config.summaries.numeric_precision
    return Statistics(columns, config.input.metadata, whole, levels, precision)


def _read_part(store: Store, path: str, k: int, p: int) -> Moments:
    table = read_table(store, path)
    figures = Moments.of(np.zeros((0, p)), np.zeros(0, np.int64), k)
    held = table["cluster"].to_numpy()
    figures.n[held] = table["n"].to_numpy()
    for name in ("mean", "squares", "low", "high"):
        getattr(figures, name)[held] = column_matrix(table[name])
    return figures
