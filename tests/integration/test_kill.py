"""A driver that is killed in any phase of the clustering: run again, it ends with the same bits."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hercules_scale.runtime.context import Shards
from hercules_scale.storage.store import Store
from tests.conftest import write_embeddings
from tests.integration.processes import open_forks

pytestmark = [pytest.mark.ray, pytest.mark.slow]
Start = Callable[..., int]
N_ROWS, DIMENSION, SHARD_ROWS = 65_536 + 4_000, 8, 16_384

# The cluster stage alone, with actors, that kills itself when a loop has saved its n-th state: once
# the record is written, or between the arrays and their record.
PROGRAM = """
import os, signal
from tests.conftest import resolved
from hercules_scale.runtime import store_checkpoints
from hercules_scale.runtime.context import RunContext, Shards
from hercules_scale.runtime.progress import Reporter
from hercules_scale.stages import cluster
from hercules_scale.stages.smooth import Smoothing
from hercules_scale.stages.vectors import ShardTiles
from hercules_scale.storage.store import Store

folder, loop, count, torn, *numbers = arguments
n_rows, shard_rows, dimension, resampling = map(int, numbers)
store_checkpoints.EVERY_SECONDS = 0.0
saved = 0
write_bytes = Store.write_bytes

def write(self, name, data):
    global saved
    if f"checkpoints/{loop}" in name and name.endswith(".json"):
        saved += 1
        if saved == int(count):
            if torn == "no":
                write_bytes(self, name, data)
            os.kill(os.getpid(), signal.SIGKILL)
    write_bytes(self, name, data)

Store.write_bytes = write
config = resolved({
    "input": {"path": folder},
    "hierarchy": {
        "levels": [40, 8, 3],
        "init": "kmeans||",
        "n_init": 2,
        "refinement": "none" if resampling else "tree",
        "resampling": {"rounds": 2 * resampling, "points_per_cluster": 50},
    },
    "output": {"path": folder},
})
shards = Shards(n_rows, shard_rows)
store = Store(folder)
context = RunContext(config, store, "kill", Reporter())
cluster.cluster_items(context, Smoothing(ShardTiles(store, shards, dimension), {}))
"""


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(60, DIMENSION))
    own = draw.integers(0, 60, N_ROWS)
    rows: np.ndarray = centres[own] + 0.5 * draw.normal(size=(N_ROWS, DIMENSION))
    return rows.astype(np.float32)


def prepare(folder: Path, vectors: np.ndarray) -> None:
    store, shards = Store(str(folder)), Shards(N_ROWS, SHARD_ROWS)
    write_embeddings(store, shards, vectors)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    with open_forks(tmp_path_factory.mktemp("forks") / "log") as forks:

        def start(
            folder: Path,
            loop: str = "none",
            count: int = 0,
            torn: bool = False,
            resampling: bool = False,
            points: list[list[Any]] | None = None,
        ) -> int:
            numbers = [str(number) for number in (N_ROWS, SHARD_ROWS, DIMENSION, int(resampling))]
            arguments = [str(folder), loop, str(count), "yes" if torn else "no", *numbers]
            return forks.run(*arguments, points=points, program=PROGRAM, lasting=True)

        yield start


def digest(folder: Path) -> str:
    hashed = hashlib.sha256()
    for table in ("memberships", "reductions"):
        for path in sorted(folder.glob(f"{table}/*.parquet")):
            hashed.update(path.read_bytes())
    hashed.update((folder / "_work/cluster/clusters.parquet").read_bytes())
    return hashed.hexdigest()


@pytest.fixture(scope="module")
def undisturbed(
    vectors: np.ndarray, start: Start, tmp_path_factory: pytest.TempPathFactory
) -> dict[bool, str]:
    digests = {}
    for resampling in (False, True):
        folder = tmp_path_factory.mktemp("undisturbed")
        prepare(folder, vectors)
        assert start(folder, resampling=resampling) == 0
        digests[resampling] = digest(folder)
    return digests


@pytest.mark.parametrize(
    ("loop", "count", "torn", "resampling"),
    [
        ("sample", 1, False, False),
        ("refinement", 2, True, False),
        ("level-1-start-1", 3, True, True),
        ("level-1-resampling", 1, False, True),
        ("level-2", 1, True, True),
        ("refinement", 3, False, False),
    ],
)
def test_a_driver_killed_in_any_phase_resumes_to_the_same_bits(
    loop: str,
    count: int,
    torn: bool,
    resampling: bool,
    vectors: np.ndarray,
    start: Start,
    undisturbed: dict[bool, str],
    tmp_path: Path,
) -> None:
    prepare(tmp_path, vectors)
    assert start(tmp_path, loop, count, torn, resampling) == -signal.SIGKILL
    assert not (tmp_path / "_work/commits/cluster").exists()
    assert start(tmp_path, resampling=resampling) == 0
    assert digest(tmp_path) == undisturbed[resampling]


def test_a_driver_killed_while_it_writes_memberships_resumes_to_the_same_bits(
    vectors: np.ndarray, start: Start, undisturbed: dict[bool, str], tmp_path: Path
) -> None:
    prepare(tmp_path, vectors)
    points = [["driver", "file", f"{tmp_path}/memberships/*.parquet", 1]]
    assert start(tmp_path, points=points) == -signal.SIGKILL
    fitted = (tmp_path / "_work/commits/fit_pca/000000-000000.json").stat().st_mtime_ns
    assert start(tmp_path) == 0
    again = (tmp_path / "_work/commits/fit_pca/000000-000000.json").stat().st_mtime_ns
    assert again == fitted
    assert digest(tmp_path) == undisturbed[False]
