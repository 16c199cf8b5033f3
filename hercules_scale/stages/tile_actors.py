"""Actors that hold tiles of vectors."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import joblib
import numpy as np
import ray
from numpy.typing import NDArray

from hercules_scale.clustering.nearest_centroids import Float32, Int64, Scale, cut_lengths, to_unit
from hercules_scale.clustering.parallel_blocks import threads
from hercules_scale.clustering.tile_sets import TileSet, hold_tiles
from hercules_scale.clustering.tiles import TILE_ROWS, Thin, Tile, check_finite
from hercules_scale.clustering.vector_lengths import FAR, count_lengths, is_far, vector_lengths
from hercules_scale.errors import StorageError
from hercules_scale.storage.retries import explain

T = TypeVar("T")


class TileSource(Protocol):
    """Source of vectors, tile by tile; it is sent to the actors."""

    @property
    def n_rows(self) -> int:
        """Number of vectors."""
        ...

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        ...

    def read(self, tile: int, out: Float32) -> None:
        """Write the vectors of a tile into ``out``, shape (rows of the tile, d)."""
        ...


@dataclass(frozen=True)
class Space:
    """Space in which vectors are clustered.

    Attributes:
        mean: Vector that is subtracted from each vector, shape (d,).
        limit: Length that longer differences are shortened to.
        n_far: Number of shortened vectors.
        far_rows: The first rows of shortened vectors.
    """

    mean: NDArray[np.float64]
    limit: float
    n_far: int = 0
    far_rows: tuple[int, ...] = ()

    def alarms(self, n_rows: int) -> list[str]:
        """Return an alarm about the vectors that were shortened, if there are any."""
        if not self.n_far:
            return []
        named = ", ".join(map(str, self.far_rows))
        more = f" and {self.n_far - len(self.far_rows):,} more"
        return [
            f"{self.n_far:,} of {n_rows:,} items lie more than {FAR:,} times as far from the mean "
            f"as the median item (rows {named}{more * (self.n_far > len(self.far_rows))}); they "
            "were left out of the mean and clustered as if at that distance; correct or leave "
            "out those that are wrong"
        ]


class TileHolder:
    """Some tiles of a source in a memory map."""

    def __init__(self, source: TileSource, tiles: Sequence[int], metric: str) -> None:
        self._source, self._tiles, self._metric = source, tiles, metric
        self._starts = {tile: tile * TILE_ROWS for tile in tiles}
        rows = [min(TILE_ROWS, source.n_rows - start) for start in self._starts.values()]
        self._ends = np.cumsum(rows)
        self._problem: StorageError | None = None
        # The file is unlinked while it is open, so that it is deleted when the process ends.
        with tempfile.TemporaryDirectory(prefix="hercules_scale_") as folder:
            shape = (int(self._ends[-1]), source.dimension)
            path = Path(folder) / "vectors"
            try:
                _reserve(path, 4 * shape[0] * shape[1])
            except OSError as error:
                self._problem = explain(error, tempfile.gettempdir())
                if self._problem is None:
                    raise
                return
            self.vectors: Float32 = np.memmap(path, np.float32, "r+", shape=shape)
        self._totals: dict[int, NDArray[np.float64]] = {}
        self._norms: dict[int, NDArray[np.float64]] = {}
        self._counts = count_lengths(np.zeros(0))
        self._held: list[Tile] | None = None
        self._far: list[Int64] | None = None
        for tile, part in self._parts():
            source.read(tile, part)
            if metric == "cosine":
                self._norms[tile] = vector_lengths(part)
                part[:] = to_unit(part)
            self._totals[tile] = part.sum(axis=0, dtype=np.float64)
            self._counts += count_lengths(_rough_lengths(part))

    def _parts(self) -> Iterator[tuple[int, Float32]]:
        for tile, start, stop in zip(self._tiles, [0, *self._ends], self._ends, strict=False):
            yield tile, self.vectors[start:stop]

    def total(self, limit: float) -> tuple[dict[int, NDArray[np.float64]], Int64]:
        """Return the sums of each tile's vectors as they were read, and counts of lengths.

        Args:
            limit: Vectors of this length or more are left out of the sums.

        Raises:
            InputError: A number is NaN or infinite. It is raised here, since an error in the
                constructor of an actor would lose its type.
            StorageError: The temporary folder has no space for the vectors; also raised here.
        """
        if self._problem is not None:
            raise self._problem
        totals = dict(self._totals)
        for tile, part in self._parts():
            if not np.isfinite(totals[tile]).all():
                check_finite(part, self._starts[tile])
            if math.isfinite(limit):
                near = ~is_far(_rough_lengths(part), limit)
                totals[tile] = part[near].sum(axis=0, dtype=np.float64)
        return totals, self._counts

    def measure(self, space: Space) -> tuple[float, Int64]:
        """Return the largest absolute number of vectors in the space, and counts of lengths."""
        tiles = TileSet(self.prepare(space))
        return tiles.largest(), tiles.count_lengths()

    def far_rows(self, space: Space) -> Int64:
        """Return the rows of the vectors that were shortened."""
        self.prepare(space)
        return np.concatenate([np.zeros(0, np.int64), *(self._far or [])])

    def prepare(self, space: Space) -> list[Tile]:
        """Return the tiles in the space: without its mean, and shortened once it has a limit."""
        if self._held is None:
            self._held = []
            for tile, part in self._parts():
                part -= space.mean.astype(np.float32)
                held = Tile(self._starts[tile], part, np.ones(len(part), np.int64))
                held.original_lengths = self._norms.get(tile, held.lengths)
                self._held.append(held)
        if self._far is None and math.isfinite(space.limit):
            self._far = []
            for each in self._held:
                far = cut_lengths(each.vectors, each.lengths, space.limit)
                if len(far):
                    each.lengths = each.lengths.copy()
                    each.lengths[far] = vector_lengths(each.vectors[far])
                self._far.append(each.rows[far])
        return self._held


def _rough_lengths(vectors: Float32) -> Float32:
    """Return L2 norms in float32, shape (n,); infinite where squares overflow."""
    with np.errstate(over="ignore"):
        return np.asarray(np.sqrt(np.einsum("ij,ij->i", vectors, vectors)))


def _reserve(path: Path, n_bytes: int) -> None:
    """Reserve disk space, since a write to a memory map without space would kill the process."""
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, n_bytes)


@dataclass(frozen=True)
class Step:
    """One assignment: its number in the order of all, its centroids and their offsets."""

    number: int
    centroids: Float32
    offsets: Float32 | None


@ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1)
class TileActor:
    """Assigns and sums the tiles that it holds.

    Every call brings the space and the previous assignment, from which an actor restores its state
    after a restart.
    """

    def __init__(self, source: TileSource, tiles: list[int], metric: str, n_gpus: int) -> None:
        self._holder = TileHolder(source, tiles, metric)
        self._n_gpus = n_gpus
        self._tiles: TileSet | None = None
        self._last = 0

    def total(self, limit: float) -> tuple[dict[int, NDArray[np.float64]], Int64]:
        """See ``TileHolder.total``."""
        return self._holder.total(limit)

    def measure(self, space: Space) -> tuple[float, Int64]:
        """See ``TileHolder.measure``."""
        return self._holder.measure(space)

    def far_rows(self, space: Space) -> Int64:
        """See ``TileHolder.far_rows``."""
        return self._holder.far_rows(space)

    def assign(
        self,
        space: Space,
        scale: Scale,
        before: Step | None,
        step: Step,
        n_parts: int,
    ) -> list[Any]:
        """Assign the vectors to the nearest centroids.

        Returns:
            Counts, objective and number of changes, then the sums in ``n_parts`` parts.
        """
        sums = self._at(space, scale, before).assign(step.centroids, step.offsets, scale)
        self._last = step.number
        parts = np.array_split(sums.sums, n_parts)
        return [(sums.counts, sums.objective, sums.n_changed), *parts]

    def map(
        self,
        space: Space,
        scale: Scale,
        before: Step | None,
        shared: tuple[Callable[[Tile], T], Thin[T] | None],
    ) -> list[tuple[int, T]]:
        """Return the results of a function for each tile, with the tile's first row."""
        work, thin = shared
        tiles = self._at(space, scale, before).tiles
        results: list[T] = []
        with threads(_processors_of_gpu()) if self._n_gpus else nullcontext():
            for tile in tiles:
                results.append(work(tile))
                if thin is not None:
                    # At once, since the results of all tiles may not fit into memory.
                    results = thin(results)
        return [(tile.first_row, result) for tile, result in zip(tiles, results, strict=False)]

    def machine(self) -> tuple[int, int]:
        """Return the numbers of GPUs of this process and of logical CPUs of its machine."""
        return self._n_gpus, joblib.cpu_count()

    def run(self, work: Callable[[int], T]) -> T:
        """Return the result of a function of the number of GPUs, on all the machine's CPUs.

        The other actors are idle meanwhile.
        """
        with threads(joblib.cpu_count()):
            return work(self._n_gpus)

    def _at(self, space: Space, scale: Scale, before: Step | None) -> TileSet:
        """Return the tiles in their state after the previous assignment."""
        if self._tiles is None:
            self._tiles = hold_tiles(self._holder.prepare(space), self._n_gpus)
        if before is not None and self._last != before.number:
            self._tiles.assign(before.centroids, before.offsets, scale)
            self._last = before.number
        return self._tiles


def _processors_of_gpu() -> int:
    """Return the share of this machine's logical CPUs that each of its GPUs has.

    Actors with a GPU reserve few CPUs, and no other stage runs beside them.
    """
    here = ray.get_runtime_context().get_node_id()
    n_gpus = next(node["Resources"].get("GPU", 1) for node in ray.nodes() if node["NodeID"] == here)
    return max(1, int(joblib.cpu_count() / n_gpus))
