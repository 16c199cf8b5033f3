from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch

from hercules_scale.clustering import search
from hercules_scale.clustering.assign import Float32, Scale, nearest
from hercules_scale.clustering.search import choose_search, decide
from hercules_scale.clustering.tiles import Tile, TileSet

HAS_GPU = torch.cuda.is_available() or faiss.get_num_gpus() > 0


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
    assert choose_search(0) is nearest
    if not HAS_GPU:
        assert choose_search(1) is nearest


@pytest.mark.parametrize("n_nearest", [1, 2, 3])
@pytest.mark.parametrize("n_found", [1, 4, 12])
def test_near_ties_of_float32_are_decided_in_float64(n_nearest: int, n_found: int) -> None:
    vectors, centroids = near_ties(64)
    vectors = np.concatenate([vectors, normal(40, 64, seed=3)])
    offsets = np.random.default_rng(4).uniform(0, 1e-6, len(centroids)).astype(np.float32)
    found = faiss.knn(vectors, centroids, n_nearest + n_found)
    distances, ids = decide(vectors, centroids, n_nearest, offsets, *found)
    exact = table(vectors, centroids, offsets)
    expected = exact.argsort(axis=1, kind="stable")[:, :n_nearest]
    assert ids.tolist() == expected.tolist()
    np.testing.assert_allclose(
        distances, np.take_along_axis(exact, expected, axis=1), rtol=1e-3, atol=1e-5
    )


def test_all_centroids_may_be_found() -> None:
    vectors, centroids = normal(20, 5), normal(2, 5, seed=1)
    for n_nearest in (1, 2):
        found = faiss.knn(vectors, centroids, 2)
        ids = decide(vectors, centroids, n_nearest, None, *found)[1]
        assert (ids == nearest(vectors, centroids, n_nearest)[1]).all()


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


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="there is no GPU")
@pytest.mark.parametrize("with_offsets", [False, True])
def test_a_gpu_gives_the_labels_of_the_cpu_but_where_float32_cannot_tell(
    with_offsets: bool,
) -> None:
    chosen = choose_search(1)
    assert chosen is not nearest
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
    errors = search.error_bounds(
        search.vector_lengths(vectors[differ]), vectors.shape[1], centroids, given
    )
    assert (ours <= theirs).all()
    assert (theirs - ours <= 2 * errors).all()
