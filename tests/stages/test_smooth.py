"""Smoothing out of core gives what smoothing in memory gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from hercules_scale.clustering.nearest_centroids import Float32
from hercules_scale.clustering.smoothing import smooth
from hercules_scale.config.resolved import ResolvedConfig
from hercules_scale.runtime.context import RunContext, Shards
from hercules_scale.runtime.progress import Reporter
from hercules_scale.stages import smooth as module
from hercules_scale.stages import smooth_shards, tile_actors
from hercules_scale.stages import vectors as vectors_module
from hercules_scale.stages.embed import Embeddings
from hercules_scale.stages.smooth import Smoothing, smooth_vectors
from hercules_scale.stages.vectors import ShardTiles, read_vectors
from hercules_scale.storage import layout
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import vector_column, write_table
from tests.conftest import resolved

N_ROWS, DIMENSION = 3000, 12


def unit_vectors(n_rows: int = N_ROWS, seed: int = 0) -> Float32:
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(30, DIMENSION))
    rows = centres[draw.integers(0, 30, n_rows)] + 0.4 * draw.normal(size=(n_rows, DIMENSION))
    unit: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit.astype(np.float32)


def config(folder: Path, workers: int = 2, **smoothing: object) -> ResolvedConfig:
    hierarchy = {"levels": [30, 5], "smoothing": smoothing or {"neighbours": 6, "rounds": 2}}
    return resolved(
        {
            "input": {"path": str(folder)},
            "hierarchy": hierarchy,
            "resources": {"workers": workers},
            "output": {"path": str(folder)},
        }
    )


def run(folder: Path, rows: Float32, settings: ResolvedConfig) -> tuple[Smoothing, Float32]:
    store, shards = Store(str(folder)), Shards(len(rows), 256)
    for shard in range(len(shards)):
        start, stop = shards.bounds(shard)
        table = pa.table({"embedding": vector_column(rows[start:stop])})
        write_table(store, layout.part("embeddings", shard), table)
    context = RunContext(settings, store, "test", Reporter())
    smoothing = smooth_vectors(context, Embeddings(ShardTiles(store, shards, rows.shape[1]), []))
    found = [read_vectors(store, shard, smoothing.vectors.table) for shard in range(len(shards))]
    return smoothing, np.concatenate(found)


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many tiles, cells, blocks and buckets for few rows."""
    for each in (vectors_module, tile_actors):
        monkeypatch.setattr(each, "TILE_ROWS", 512)
    monkeypatch.setattr("hercules_scale.clustering.local_vectors.TILE_ROWS", 512)
    monkeypatch.setattr(smooth_shards, "TILE_ROWS", 512)
    monkeypatch.setattr(module, "EXACT_ROWS", 100)
    for each in (module, smooth_shards):
        monkeypatch.setattr(each, "CELL_ROWS", 60)
    monkeypatch.setattr(module, "BUCKET_ROWS", 700)
    for each in (module, smooth_shards):
        monkeypatch.setattr(each, "CANDIDATE_ROWS", 900)


def test_few_rows_are_smoothed_as_in_memory(tmp_path: Path) -> None:
    rows = unit_vectors()
    smoothing, found = run(tmp_path, rows, config(tmp_path))
    assert smoothing.report["recall"] == 1.0
    expected = smooth(rows - rows.mean(axis=0), 6, 2, unit=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_with_all_rows_as_candidates_cells_and_buckets_change_nothing(
    tmp_path: Path, small_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in (module, smooth_shards):
        monkeypatch.setattr(each, "CANDIDATE_ROWS", N_ROWS)
    rows = unit_vectors()
    smoothing, found = run(tmp_path, rows, config(tmp_path))
    assert smoothing.report["recall"] == 1.0
    np.testing.assert_allclose(found, smooth(rows - rows.mean(axis=0), 6, 2, True), atol=1e-5)


@pytest.mark.parametrize("max_cells", [1, 3, 8])
def test_cells_of_very_many_rows_are_divided_and_change_nothing(
    tmp_path: Path, small_files: None, monkeypatch: pytest.MonkeyPatch, max_cells: int
) -> None:
    monkeypatch.setattr(module, "MAX_CELLS", max_cells)
    rows = unit_vectors()
    smoothing, found = run(tmp_path / "few", rows, config(tmp_path / "few"))
    # Most cells lie in several buckets, of which each has a table of its own blocks.
    assert smoothing.report["recall"] > 0.97
    with np.load(tmp_path / "few/_work/smooth/index.npz") as arrays:
        assert arrays["counts"].shape == (-(-N_ROWS // 512), max_cells)
    for each in (module, smooth_shards):
        monkeypatch.setattr(each, "CANDIDATE_ROWS", N_ROWS)
    smoothing, found = run(tmp_path / "all", rows, config(tmp_path / "all"))
    assert smoothing.report["recall"] == 1.0
    np.testing.assert_allclose(found, smooth(rows - rows.mean(axis=0), 6, 2, True), atol=1e-5)


def test_recall_is_reported_and_most_neighbours_are_found(
    tmp_path: Path, small_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in (module, smooth_shards):
        monkeypatch.setattr(each, "CANDIDATE_ROWS", 200)
    rows = unit_vectors()
    smoothing, found = run(tmp_path, rows, config(tmp_path))
    assert 0.9 < smoothing.report["recall"] < 1
    expected = smooth(rows - rows.mean(axis=0), 6, 2, unit=True)
    assert float((found * expected).sum(axis=1).mean()) > 0.99


def test_numbers_of_any_length_are_averaged_as_they_are(tmp_path: Path) -> None:
    rows = unit_vectors() * np.float32(3)
    _, found = run(tmp_path, rows, config(tmp_path))
    np.testing.assert_allclose(found, smooth(rows - rows.mean(axis=0), 6, 2, False), atol=1e-4)


def test_a_thousand_equal_rows_are_smoothed_to_themselves(
    tmp_path: Path, small_files: None
) -> None:
    rows = unit_vectors()
    rows[500:1500] = rows[0]
    _, found = run(tmp_path, rows, config(tmp_path))
    # Float32 cannot tell which of equal rows lies nearest, and any of them is the same.
    np.testing.assert_allclose(found[500:1500], np.tile(found[0], (1000, 1)), atol=1e-5)


@pytest.mark.ray
def test_any_number_of_workers_gives_the_same_bits(
    tmp_path: Path, small_files: None, monkeypatch: pytest.MonkeyPatch, local_ray: None
) -> None:
    rows = unit_vectors()
    alone = run(tmp_path / "0", rows, config(tmp_path / "0", 1))[1]
    monkeypatch.setattr(module, "local_rows_of", lambda: 0)
    for workers in (1, 3):
        folder = tmp_path / str(workers)
        assert run(folder, rows, config(folder, workers))[1].tobytes() == alone.tobytes()
        assert len(list((folder / "_work/commits/smooth_round_2").iterdir())) > 3


@pytest.mark.parametrize("stopped_after", range(1, 9))
def test_smoothing_resumes_where_it_stopped_and_leaves_no_files_of_its_steps(
    tmp_path: Path, small_files: None, monkeypatch: pytest.MonkeyPatch, stopped_after: int
) -> None:
    rows = unit_vectors()
    whole = run(tmp_path / "whole", rows, config(tmp_path / "whole"))
    calls = []

    def stop(store: Store, folder: str) -> None:
        calls.append(folder)
        if len(calls) * 2 == stopped_after:
            raise KeyboardInterrupt
        original(store, folder)
        if len(calls) * 2 - 1 == stopped_after:
            raise KeyboardInterrupt

    original = Store.delete_files
    folder = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(Store, "delete_files", stop)
        with pytest.raises(KeyboardInterrupt):
            run(folder, rows, config(folder))
    smoothing, found = run(folder, rows, config(folder))
    assert found.tobytes() == whole[1].tobytes()
    assert smoothing.report == whole[0].report
    kept = {path.name for path in (folder / "_work/smooth").iterdir()}
    assert kept == {"index.npz", "bucket"}


def test_auto_says_what_it_saw_and_smooths_planted_clusters(tmp_path: Path) -> None:
    smoothing, _ = run(tmp_path, unit_vectors(), config(tmp_path, neighbours="auto"))
    report = smoothing.report
    assert report["neighbours"] == 10
    assert report["agreement_smoothed"] >= report["agreement_raw"]


def test_auto_leaves_clusters_smaller_than_a_neighbourhood_alone(tmp_path: Path) -> None:
    settings = config(tmp_path, neighbours="auto")
    smoothing, found = run(tmp_path, unit_vectors(100), settings)
    assert smoothing.report["neighbours"] == 0
    assert not smoothing.smoothed
    assert len(found) == 100


def test_off_is_off(tmp_path: Path) -> None:
    smoothing, _ = run(tmp_path, unit_vectors(50), config(tmp_path, neighbours=0))
    assert not smoothing.smoothed
    assert smoothing.record == {"smoothing": {"neighbours": 0}}
