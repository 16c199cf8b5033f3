from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch

from hercules_scale.clustering.distance_errors import error_bounds
from hercules_scale.clustering.gpu_search import FaissGpuSearch, nearest_torch_gpu
from hercules_scale.clustering.nearest_centroids import Float32, Scale, nearest
from hercules_scale.clustering.tile_sets import DeviceTileSet, TileSet, hold_tiles
from hercules_scale.clustering.tiles import Tile
from hercules_scale.clustering.vector_lengths import vector_lengths

HAS_GPU = torch.cuda.is_available() or faiss.get_num_gpus() > 0
needs_gpu = pytest.mark.skipif(not HAS_GPU, reason="there is no GPU")


def normal(n: int, d: int, seed: int = 0) -> Float32:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def table(vectors: Float32, centroids: Float32, offsets: Float32) -> np.ndarray:
    wide = vectors.astype(np.float64)
    distances = [((wide - centroid) ** 2).sum(axis=1) for centroid in centroids]
    return np.asarray(np.stack(distances, axis=1) + offsets)


def near_ties(d: int) -> tuple[Float32, Float32]:
    """Vectors whose nearest centroids float32 cannot tell apart, and the centroids."""
    base = normal(30, d)
    centroids = np.concatenate([base * (1 + step * 1e-6) for step in range(8)] + [base[:5]])
    centroids = np.random.default_rng(1).permutation(centroids).astype(np.float32)
    return base + np.float32(1e-3) * normal(30, d, seed=2), centroids


def test_a_process_without_a_gpu_searches_on_the_cpu() -> None:
    tiles = [Tile(0, normal(50, 4), np.ones(50, np.int64))]
    assert type(hold_tiles(tiles, 0)) is TileSet
    if not HAS_GPU:
        assert type(hold_tiles(tiles, 1)) is TileSet


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu])]
)
def test_tiles_on_a_device_are_assigned_and_summed_as_on_the_cpu(device: str) -> None:
    vectors = np.concatenate([normal(700, 20) * 3, near_ties(20)[0]])
    scale = Scale.of(len(vectors), float(np.abs(vectors).max()), 20)

    def tiles() -> list[Tile]:
        starts = [256, 0, 512]
        parts = [vectors[start : start + 256] for start in starts]
        return [
            Tile(start, part, np.ones(len(part), np.int64))
            for start, part in zip(starts, parts, strict=True)
        ]

    ours, theirs = DeviceTileSet(tiles(), device), TileSet(tiles())
    for k, seed in [(30, 1), (30, 2), (30, 2), (12, 3)]:
        centroids = normal(k, 20, seed)
        centroids[: k // 2] = near_ties(20)[1][: k // 2]
        offsets = np.random.default_rng(seed).uniform(0, 5, k).astype(np.float32)
        for given in (None, offsets):
            found = ours.assign(centroids, given, scale)
            expected = theirs.assign(centroids, given, scale)
            assert (found.sums == expected.sums).all()
            assert (found.counts == expected.counts).all()
            assert found.n_changed == expected.n_changed
            assert found.inertia == pytest.approx(expected.inertia, rel=1e-6)
            for own, other in zip(ours.tiles, theirs.tiles, strict=True):
                assert (own.labels == other.labels).all()
                np.testing.assert_allclose(own.distances, other.distances, rtol=1e-4, atol=1e-6)


def test_a_tile_set_uses_the_search_it_was_given() -> None:
    calls = []

    def counted(
        vectors: Float32, centroids: Float32, n_nearest: int, offsets: Float32 | None
    ) -> tuple[Float32, np.ndarray]:
        calls.append(len(vectors))
        return nearest(vectors, centroids, n_nearest, offsets)

    tile = Tile(0, normal(50, 4), np.ones(50, np.int64))
    sums = TileSet([tile], counted).assign(normal(3, 4, seed=1), None, Scale(40, 40))
    assert calls == [50]
    assert sums.counts.sum() == 50


def test_the_search_on_a_gpu_needs_numpy_and_torch_alone() -> None:
    code = (
        "import sys, hercules_scale.clustering.torch_nearest; "
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    repository = Path(__file__).parents[2]
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True
    ).stdout.split()
    assert {"faiss", "scipy", "sklearn", "pydantic", "pyarrow", "ray"}.isdisjoint(loaded)


@pytest.mark.parametrize("with_offsets", [False, True])
def test_faiss_on_a_gpu_keeps_an_index_for_all_tiles_of_a_pass(
    with_offsets: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def index(resources: object, dimension: int) -> faiss.IndexFlatL2:
        made.append(dimension)
        return faiss.IndexFlatL2(dimension)

    # What a FAISS that is built for GPUs has besides; its index does here what it does there.
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1, raising=False)
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "GpuIndexFlatL2", index, raising=False)
    vectors, centroids = normal(3000, 16), normal(40, 16, seed=3)
    offsets = np.linspace(0, 1, 40, dtype=np.float32) if with_offsets else None
    parts = [Tile(at, vectors[at : at + 500], np.ones(500, np.int64)) for at in range(0, 3000, 500)]
    again = [Tile(at, vectors[at : at + 500], np.ones(500, np.int64)) for at in range(0, 3000, 500)]
    tiles, here = hold_tiles(parts, 1), TileSet(again)
    scale = Scale.of(3000, here.largest(), 16)
    for step in range(3):
        moved = centroids + np.float32(1e-3 * step) * normal(40, 16, seed=4)
        found, known = (each.assign(moved, offsets, scale) for each in (tiles, here))
        np.testing.assert_array_equal(found.sums, known.sums)
        assert len(made) <= 1 + 2 * step
    assert set(made) == {16 + with_offsets}


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("with_offsets", [False, True])
def test_a_gpu_gives_the_labels_of_the_cpu_but_where_float32_cannot_tell(
    with_offsets: bool,
) -> None:
    chosen = FaissGpuSearch() if faiss.get_num_gpus() > 0 else nearest_torch_gpu
    ties, tied_centroids = near_ties(768)
    vectors = np.concatenate([ties, normal(20_000, 768, seed=5)])
    centroids = np.concatenate([tied_centroids, normal(1200, 768, seed=6)])
    offsets = np.random.default_rng(7).uniform(0, 100, len(centroids)).astype(np.float32)
    given = offsets if with_offsets else None
    distances, ids = chosen(vectors, centroids, 1, given)
    cpu_distances, cpu_ids = nearest(vectors, centroids, 1, given)
    np.testing.assert_allclose(distances, cpu_distances, rtol=1e-4, atol=1e-2)
    differ = np.flatnonzero(ids[:, 0] != cpu_ids[:, 0])
    exact = table(vectors[differ], centroids, offsets * np.float32(with_offsets))
    rows = np.arange(len(differ))
    ours, theirs = exact[rows, ids[differ, 0]], exact[rows, cpu_ids[differ, 0]]
    errors = error_bounds(vector_lengths(vectors[differ]), vectors.shape[1], centroids, given)
    assert (ours <= theirs).all()
    assert (theirs - ours <= 2 * errors).all()
