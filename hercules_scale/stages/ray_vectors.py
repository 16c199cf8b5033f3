"""Vectors in actors on Ray: calls of the clustering loop to all actors, and waits for them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import joblib
import numpy as np
import ray
from numpy.typing import NDArray

from hercules_scale.clustering.nearest_centroids import Float32, Scale, Sums
from hercules_scale.clustering.tiles import NAMED_ROWS, TILE_ROWS, Thin, Tile
from hercules_scale.errors import HerculesScaleError, StageError
from hercules_scale.runtime.waiting import DEATHS, Room, is_placed, still_waiting
from hercules_scale.stages.tile_actors import Space, Step, T

# Larger sums, in bytes from all workers together, are added by tasks, each for a range of clusters.
DRIVER_SUM_BYTES = 256 << 20
# Time that an actor without its node waits for room on the others; a cluster that scales itself
# starts another node within minutes.
NODE_SECONDS = 600.0
WAIT_SECONDS = 5.0


@dataclass(frozen=True)
class Crew:
    """Actors that are waited for together.

    Attributes:
        actors: The actors.
        needs: Resources of Ray that all actors together take.
        room: Reports the wait for these resources, and limits it.
        n_tiles: Number of tiles of all actors.
    """

    actors: list[Any]
    needs: dict[str, float]
    room: Room | None
    n_tiles: int

    def get(self, references: list[Any]) -> list[Any]:
        """Return the results of actors.

        An actor that lost its node is waited for while it may get another one.

        Raises:
            StageError: An actor died repeatedly or failed, or a lost node was not replaced.
        """
        lacking_since = None
        if self.room is not None:
            self.room.is_there()
        try:
            for dying in still_waiting(references, self.actors, WAIT_SECONDS):
                if dying is not None:
                    raise _died(range(dying, self.n_tiles, len(self.actors)))
                there = ray.cluster_resources()
                lacking = [n for n, wanted in self.needs.items() if there.get(n, 0) < wanted]
                if not lacking:
                    lacking_since = None
                    if self.room is not None:
                        self.room.look(lambda: all(map(is_placed, self.actors)))
                    continue
                lacking_since = lacking_since or time.monotonic()
                if time.monotonic() - lacking_since > NODE_SECONDS:
                    name = lacking[0]
                    raise StageError(
                        f"a node of the Ray cluster was lost: {self.needs[name]:g} {name}s are "
                        f"needed, and {there.get(name, 0):g} are left; run again, it resumes with "
                        "fewer workers",
                        stage="cluster",
                    )
            return list(ray.get(references))
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, HerculesScaleError):
                raise error.cause from error
            reason = str(error).strip().splitlines()[-1]
            raise StageError(
                f"a worker failed: {reason}; run again, it resumes", stage="cluster"
            ) from error
        except ray.exceptions.RayError as error:
            raise StageError(
                f"a worker was lost: {error}; run again, it resumes", stage="cluster"
            ) from error


def _died(tiles: range) -> StageError:
    """Return the error about an actor that died repeatedly."""
    more = f" and {len(tiles) - NAMED_ROWS:,} more" if len(tiles) > NAMED_ROWS else ""
    return StageError(
        f"{DEATHS} workers died one after another at the same vectors (tiles "
        f"{', '.join(map(str, tiles[:NAMED_ROWS]))}{more}, of {TILE_ROWS:,} items each), most "
        "likely out of memory; give each worker more memory (resources.cluster.memory_gib), or "
        "take fewer (resources.cluster.workers); run again, it resumes",
        stage="cluster",
    )


class RayVectors:
    """Vectors in tiles that actors hold.

    Args:
        crew: Actors that together hold all tiles.
        n_rows: Number of vectors.
        dimension: Length of a vector.
        space: Space of the vectors.
        scale: Binary places of sums.
    """

    def __init__(self, crew: Crew, n_rows: int, dimension: int, space: Space, scale: Scale) -> None:
        self.n_rows, self.dimension = n_rows, dimension
        self._crew, self._actors = crew, crew.actors
        self._space, self._scale = ray.put(space), scale
        self._before: Any = None
        self._number = 0

    def assign(self, centroids: Float32, offsets: Float32 | None = None) -> Sums:
        """Assign every vector to its nearest of k centroids and sum each cluster."""
        self._number += 1
        step = ray.put(Step(self._number, centroids, offsets))
        n_bytes = 8 * centroids.size * len(self._actors)
        n_parts = min(max(1, -(-n_bytes // DRIVER_SUM_BYTES)), len(centroids))
        calls = [
            actor.assign.options(num_returns=n_parts + 1).remote(
                self._space, self._scale, self._before, step, n_parts
            )
            for actor in self._actors
        ]
        if n_parts == 1:
            sums = add_up([self._crew.get([call[1]])[0] for call in calls])
        else:
            add = ray.remote(num_cpus=0)(_add_parts)
            ranges = [add.remote(*[call[1 + part] for call in calls]) for part in range(n_parts)]
            sums = np.concatenate(self._crew.get(ranges))
        small = self._crew.get([call[0] for call in calls])
        counts = add_up([each[0] for each in small])
        objective, n_changed = (sum(each[index] for each in small) for index in (1, 2))
        self._before = step
        return Sums(sums, counts, objective, n_changed, self._scale)

    def map(self, work: Callable[[Tile], T], thin: Thin[T] | None = None) -> list[T]:
        """Return the results of a pure function over the tiles, in the order of the rows."""
        shared = ray.put((work, thin))
        calls = [
            actor.map.remote(self._space, self._scale, self._before, shared)
            for actor in self._actors
        ]
        pairs = [pair for part in self._crew.get(calls) for pair in part]
        return [result for _, result in sorted(pairs, key=lambda pair: pair[0])]

    def run(self, work: Callable[[int], T]) -> T:
        """Return the result of a pure function of a number of GPUs.

        It runs in the actor with a GPU, or else with the most logical CPUs; or in this process if
        this machine is as good.
        """
        machines = self._crew.get([actor.machine.remote() for actor in self._actors])
        best = max(range(len(machines)), key=machines.__getitem__)
        if machines[best] <= (0, joblib.cpu_count()):
            return work(0)
        (result,) = self._crew.get([self._actors[best].run.remote(ray.put(work))])
        found: T = result
        return found


def add_up(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return the sum of some arrays."""
    total = parts[0].copy()
    for part in parts[1:]:
        total += part
    return total


def _add_parts(*parts: NDArray[np.int64]) -> NDArray[np.int64]:
    return add_up(list(parts))
