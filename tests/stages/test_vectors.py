"""The same bits from one process and from any number of actors, whatever becomes of them."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pyarrow as pa
import pytest
import ray

from hercules_scale.clustering.faiss_import import faiss
from hercules_scale.clustering.levels import build_levels
from hercules_scale.clustering.nearest_centroids import Float32, Sums
from hercules_scale.clustering.tile_sets import TileSet
from hercules_scale.clustering.tiles import (
    TILE_ROWS,
    Tile,
    VectorSet,
    labels_of,
    nearest_rows,
    sample_rows,
    take,
)
from hercules_scale.config.hierarchy import HierarchyConfig, ResamplingConfig
from hercules_scale.errors import InputError, StageError
from hercules_scale.reduction.scatter import scatter_of_tiles
from hercules_scale.runtime.context import Shards
from hercules_scale.stages import ray_vectors
from hercules_scale.stages import vectors as module
from hercules_scale.stages.ray_vectors import RayVectors
from hercules_scale.stages.vectors import ShardTiles, open_vectors, read_vectors
from hercules_scale.storage import layout
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import vector_column, write_table

pytestmark = pytest.mark.ray
# Four whole tiles and a part of one, of few dimensions.
N_ROWS, DIMENSION = 4 * 65_536 + 5_000, 6
CONFIGS = [
    HierarchyConfig(levels=[24, 6, 2], max_iterations=4),
    HierarchyConfig(
        levels=[24, 6],
        refinement="none",
        resampling=ResamplingConfig(rounds=1, points_per_cluster=50),
        max_iterations=3,
    ),
]


@dataclass(frozen=True)
class Planted:
    """Vectors around planted centres, made tile by tile."""

    n_rows: int = N_ROWS
    dimension: int = DIMENSION

    def read(self, tile: int, out: Float32) -> None:
        draw = np.random.default_rng(tile)
        centres = np.random.default_rng(99).normal(size=(24, self.dimension))
        chosen = draw.integers(0, 24, len(out))
        out[:] = 100 + centres[chosen] + 0.3 * draw.normal(size=out.shape)


def build(vectors: VectorSet) -> list[bytes]:
    """Everything that hierarchies with and without resampling are made of, as bytes."""
    arrays: list[np.ndarray] = []
    for config in CONFIGS:
        found = build_levels(vectors, config)
        arrays += [level.centroids for level in found.levels]
        arrays += [level.parents for level in found.levels if level.parents is not None]
        arrays.append(found.leaves[labels_of(vectors)])
    arrays.append(scatter_of_tiles(vectors, 1e6).products)
    return [each.tobytes() for each in arrays]


@pytest.fixture(scope="module")
def alone() -> list[bytes]:
    with open_vectors(Planted(), "squared_l2", 1, local_rows=10**9) as (vectors, space):
        np.testing.assert_allclose(space.mean, 100, atol=1)
        return build(vectors)


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_any_number_of_actors_gives_the_same_bits(
    workers: int, alone: list[bytes], local_ray: None
) -> None:
    with open_vectors(Planted(), "squared_l2", workers, local_rows=0) as (vectors, _):
        assert isinstance(vectors, RayVectors)
        assert build(vectors) == alone


def where(n_gpus: int) -> tuple[int, int, int]:
    return n_gpus, os.getpid(), faiss.omp_get_max_threads()


def test_the_start_is_made_on_a_larger_machine_than_the_drivers_to_the_same_bits(
    alone: list[bytes], local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_vectors(Planted(), "squared_l2", 2, local_rows=0) as (vectors, _):
        # The driver is on the machine of the actors.
        assert vectors.run(where)[1] == os.getpid()
        n_cpus = joblib.cpu_count()
        monkeypatch.setattr("hercules_scale.stages.vectors.joblib.cpu_count", lambda: 0)
        n_gpus, process, n_threads = vectors.run(where)
        assert n_gpus == 0
        assert process != os.getpid()
        assert n_threads == n_cpus
        assert build(vectors) == alone


@dataclass(frozen=True)
class Far(Planted):
    """Planted vectors of which some are very far away."""

    def read(self, tile: int, out: Float32) -> None:
        super().read(tile, out)
        if tile != 2:
            out[[5, 99], tile % 2] = 1e9 * (1 + tile), -3e30


def test_vectors_far_away_are_shortened_to_the_same_bits_by_any_number_of_actors(
    local_ray: None,
) -> None:
    found = []
    for local_rows in (10**9, 0):
        with open_vectors(Far(), "squared_l2", 3, local_rows=local_rows) as (vectors, space):
            assert (space.n_far, space.far_rows) == (8, (5, 99, 65_541, 65_635, 196_613))
            centroids, _ = take(vectors, np.array([0, 5, 99, 1000, 70_000]))
            sums = vectors.assign(centroids)
            near = scatter_of_tiles(vectors, space.limit)
            assert near.n == N_ROWS - 8
            products = near.products.tobytes()
            found.append((sums.sums.tobytes(), sums.counts.tolist(), sums.objective, products))
    assert found[0] == found[1]
    assert min(found[0][1]) > 0


def test_any_number_of_threads_and_any_order_of_tiles_gives_the_same_bits(
    alone: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    import faiss

    in_order = TileSet.assign

    def shuffled(self: TileSet, *arguments: Any) -> Sums:
        np.random.default_rng(0).shuffle(self.tiles)
        try:
            return in_order(self, *arguments)
        finally:
            self.tiles.sort(key=lambda tile: tile.first_row)

    monkeypatch.setattr(TileSet, "assign", shuffled)
    threads = faiss.omp_get_max_threads()
    try:
        for count in (1, 2):
            faiss.omp_set_num_threads(count)
            with open_vectors(Planted(), "squared_l2", 1, local_rows=10**9) as (vectors, _):
                assert build(vectors) == alone
    finally:
        faiss.omp_set_num_threads(threads)


def test_the_same_rows_in_other_shards_give_the_same_bits(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(3000, 5)).astype(np.float32)
    found = []
    for shard_rows in (64, 1024):
        store, shards = Store(str(tmp_path / str(shard_rows))), Shards(3000, shard_rows)
        for shard in range(len(shards)):
            start, stop = shards.bounds(shard)
            table = pa.table({"embedding": vector_column(rows[start:stop])})
            write_table(store, layout.part("embeddings", shard), table)
        assert (read_vectors(store, 1) == rows[shard_rows : 2 * shard_rows]).all()
        with open_vectors(ShardTiles(store, shards, 5), "squared_l2", 1) as (vectors, _):
            found.append(build(vectors))
    assert found[0] == found[1]


def test_a_killed_actor_changes_nothing(alone: list[bytes], local_ray: None) -> None:
    class Fatal:
        """Kills an actor in the midst of the clustering, again and again."""

        def __init__(self, vectors: RayVectors) -> None:
            self._vectors, self._passes = vectors, 0
            self.n_rows, self.dimension = vectors.n_rows, vectors.dimension
            self.killed = 0

        def assign(self, centroids: Float32, offsets: Float32 | None = None) -> object:
            self._passes += 1
            if self._passes % 4 == 3:
                self.kill()
            return self._vectors.assign(centroids, offsets)

        def map(self, work: object, thin: object = None) -> object:
            if self._passes % 5 == 2:
                self.kill()
            return self._vectors.map(work, thin)  # type: ignore[arg-type]

        def run(self, work: Any) -> object:
            return self._vectors.run(work)

        def kill(self) -> None:
            process = self._vectors.map(process_id)[self.killed % 5]
            os.kill(process, signal.SIGKILL)
            self.killed += 1

    with open_vectors(Planted(), "squared_l2", 2, local_rows=0) as (vectors, _):
        assert isinstance(vectors, RayVectors)
        fatal = Fatal(vectors)
        assert build(fatal) == alone  # type: ignore[arg-type]
        assert fatal.killed >= 3


@dataclass(frozen=True)
class Deadly(Planted):
    """Planted vectors of which one tile ends each process that reads it, as a lack of memory."""

    def read(self, tile: int, out: Float32) -> None:
        if tile == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        super().read(tile, out)


@pytest.mark.timeout(120)
def test_vectors_that_end_each_of_their_workers_end_the_run(
    local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_vectors, "WAIT_SECONDS", 0.2)
    said = (
        r"^stage cluster: 5 workers died one after another at the same vectors \(tiles 1, 3, of "
        r"65,536 items each\), most likely out of memory; give each .*; run again, it resumes$"
    )
    with (
        pytest.raises(StageError, match=said),
        open_vectors(Deadly(), "squared_l2", 2, local_rows=0),
    ):
        pass


@pytest.mark.timeout(120)
def test_work_that_ends_each_of_its_workers_ends_the_run(
    local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_vectors, "WAIT_SECONDS", 0.2)
    with (
        open_vectors(Planted(), "squared_l2", 1, local_rows=0) as (vectors, _),
        pytest.raises(StageError, match=r"5 workers died .*\(tiles 0, 1, 2, 3, 4, of 65,536"),
    ):
        vectors.map(die)


def die(tile: Tile) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def process_id(tile: Tile) -> int:
    return os.getpid()


def test_sums_by_ranges_of_clusters_are_those_of_the_driver(
    local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_vectors(Planted(), "squared_l2", 3, local_rows=0) as (vectors, _):
        centroids, _ = take(vectors, np.arange(7) * 1000)
        whole = vectors.assign(centroids)
        monkeypatch.setattr(ray_vectors, "DRIVER_SUM_BYTES", 300)
        ranges = vectors.assign(centroids)
        assert (ranges.sums == whole.sums).all()
        assert (ranges.counts == whole.counts).all()
        assert ranges.n_changed == 0


def test_the_nearest_rows_over_actors_are_those_of_one_process(local_ray: None) -> None:
    found = []
    for local_rows in (0, 10**9):
        with open_vectors(Planted(), "cosine", 3, local_rows=local_rows) as (vectors, space):
            assert (space.mean == 0).all()
            centroids, weights = take(vectors, np.array([200_000, 5, 70_000]))
            np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-5)
            assert weights.tolist() == [1, 1, 1]
            vectors.assign(centroids)
            drawn = sample_rows(vectors, 300, seed=0, level=1)
            mean = scatter_of_tiles(vectors, np.inf).mean
            # It is the mean of vectors as they came, not of unit length.
            np.testing.assert_allclose(mean, 100, atol=1)
            found.append([*nearest_rows(vectors, 40).tolist(), *drawn.tolist(), *mean.tolist()])
    assert found[0] == found[1]
    assert len(found[0]) == 120 + 300 + DIMENSION


def test_actors_send_as_much_however_many_tiles_they_hold(local_ray: None) -> None:
    sent = _SmallestRow()
    with open_vectors(Planted(), "squared_l2", 2, local_rows=0) as (vectors, _):
        assert vectors.map(sent, sent.thin) == [0, TILE_ROWS]
        assert len(vectors.map(sent)) > 2


class _SmallestRow:
    """The first row of a tile, and of the tiles of a worker the smallest."""

    def __call__(self, tile: Tile) -> int:
        return tile.first_row

    def thin(self, rows: list[int]) -> list[int]:
        return [min(rows)]


def test_what_fails_in_an_actor_is_a_stage_error(local_ray: None) -> None:
    with (
        pytest.raises(StageError, match=r"stage cluster: a worker failed: .*no such tile"),
        open_vectors(Planted(), "squared_l2", 2, local_rows=0) as (vectors, _),
    ):
        vectors.map(fail)


def fail(tile: Tile) -> None:
    raise RuntimeError("no such tile")


@dataclass(frozen=True)
class Spoilt(Planted):
    """Planted vectors of which some are not finite."""

    def read(self, tile: int, out: Float32) -> None:
        super().read(tile, out)
        if tile == 1:
            out[[3, 7], 2] = np.nan, -np.inf


@pytest.mark.parametrize("metric", ["squared_l2", "cosine"])
@pytest.mark.parametrize("local_rows", [0, 10**9])
def test_vectors_that_are_not_finite_are_refused_by_row(
    metric: str, local_rows: int, local_ray: None
) -> None:
    named = f"rows {TILE_ROWS + 3}, {TILE_ROWS + 7}: every number must be finite"
    with (
        pytest.raises(InputError, match=named),
        open_vectors(Spoilt(), metric, 2, local_rows=local_rows),
    ):
        pass


def test_actors_end_with_the_vectors(local_ray: None) -> None:
    with open_vectors(Planted(), "squared_l2", 2, local_rows=0) as (vectors, _):
        processes = set(vectors.map(process_id))
        assert len(processes) == 2
    for _ in range(100):
        if not any(_alive(process) for process in processes):
            break
        time.sleep(0.1)
    assert not any(_alive(process) for process in processes)


def _alive(process: int) -> bool:
    status = Path(f"/proc/{process}/status")
    return status.exists() and "zombie" not in status.read_text()


def test_few_rows_lie_on_a_machine_with_many_more_processors(
    local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = Planted(20_000)
    centroids = np.random.default_rng(1).normal(size=(7, DIMENSION)).astype(np.float32)
    with open_vectors(rows, "squared_l2", 3) as (here, _):
        expected = here.assign(centroids)
    node = ray.get_runtime_context().get_node_id()
    monkeypatch.setattr(module, "better_machine", lambda: (node, 2))
    monkeypatch.setattr(module, "LOCAL_ROWS_OF_THE_SMALLER", 0)
    with open_vectors(rows, "squared_l2", 3) as (vectors, _):
        assert isinstance(vectors, RayVectors)
        assert vectors.run(lambda n_gpus: faiss.omp_get_max_threads()) == joblib.cpu_count()
        found = vectors.assign(centroids)
    assert found.sums.tobytes() == expected.sums.tobytes()


def test_another_machine_is_better_with_more_than_twice_the_processors(
    local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert module.better_machine() is None
    here = ray.get_runtime_context().get_node_id()
    n_cpus = joblib.cpu_count()
    nodes = [
        {"NodeID": name, "Alive": alive, "Resources": {"CPU": float(cpus)}}
        for name, alive, cpus in (
            (here, True, 8 * n_cpus), ("dead", False, 8 * n_cpus), ("as good", True, 2 * n_cpus),
        )
    ]  # fmt: skip
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    assert module.better_machine() is None
    nodes.append({"NodeID": "better", "Alive": True, "Resources": {"CPU": 2.0 * n_cpus + 2}})
    assert module.better_machine() == ("better", n_cpus + 1)
    assert module.local_rows_of() < module.LOCAL_ROWS
