"""Everything runs on CPU tensors; what is marked ``gpu`` runs on a GPU again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hercules_scale.clustering import torch_nearest as module
from hercules_scale.clustering.nearest_centroids import Float32, Scale, move_rows
from hercules_scale.clustering.torch_nearest import DeviceTiles, nearest_torch
from hercules_scale.clustering.torch_operands import Centroids, Rows

DTYPES = [torch.bfloat16, torch.float32]
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
        ],
    ),
]

pytestmark = [pytest.mark.parametrize("device", DEVICES), pytest.mark.parametrize("dtype", DTYPES)]


def normal(n: int, d: int, seed: int = 0) -> Float32:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def table(vectors: Float32, centroids: Float32, offsets: Float32 | None = None) -> np.ndarray:
    """All squared L2 distances, in float64."""
    wide = vectors.astype(np.float64)
    distances = np.stack([((wide - centroid) ** 2).sum(axis=1) for centroid in centroids], axis=1)
    return np.asarray(distances if offsets is None else distances + offsets)


def assert_nearest(
    vectors: Float32,
    centroids: Float32,
    device: str,
    dtype: torch.dtype,
    n_nearest: int = 1,
    offsets: Float32 | None = None,
) -> np.ndarray:
    distances, ids = nearest_torch(vectors, centroids, n_nearest, offsets, device, dtype)
    exact = table(vectors, centroids, offsets)
    expected = exact.argsort(axis=1, kind="stable")[:, :n_nearest]
    assert ids.dtype == torch.int64
    assert ids.tolist() == expected.tolist()
    assert distances.dtype == torch.float32
    np.testing.assert_allclose(
        distances.cpu(), np.take_along_axis(exact, expected, axis=1), rtol=1e-5, atol=1e-30
    )
    return expected


@pytest.mark.parametrize(
    ("n", "k", "d"), [(1, 3, 1), (50, 1, 5), (300, 7, 16), (200, 1500, 24), (60, 40, 768)]
)
def test_the_nearest_centroid_is_that_of_a_full_table(
    n: int, k: int, d: int, device: str, dtype: torch.dtype
) -> None:
    assert_nearest(normal(n, d), normal(k, d, seed=1), device, dtype)


@pytest.mark.parametrize("k", [2, 5, 1100])
def test_two_nearest_come_in_order(k: int, device: str, dtype: torch.dtype) -> None:
    assert_nearest(normal(100, 12), normal(k, 12, seed=1), device, dtype, n_nearest=2)


@pytest.mark.parametrize("n_nearest", [1, 2, 3])
def test_ties_go_to_the_lowest_id(n_nearest: int, device: str, dtype: torch.dtype) -> None:
    centroids = np.array([[9, 9], [1, 0], [0, 1], [1, 0], [-1, 0]], np.float32)
    vectors = np.array([[0, 0], [1, 0], [2, 0], [0, 3]], np.float32)
    assert_nearest(vectors, centroids, device, dtype, n_nearest)


@pytest.mark.parametrize("copies", [3, 300])
def test_of_equal_centroids_the_lowest_is_taken(
    copies: int, device: str, dtype: torch.dtype
) -> None:
    centroids = np.tile(normal(5, 37, seed=1), (copies, 1))
    expected = assert_nearest(normal(40, 37), centroids, device, dtype)
    assert expected.max() < 5


def test_many_candidates_are_decided_in_parts(
    device: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_PAIRS", 1000)
    monkeypatch.setattr(module, "DIFFERENCE_BYTES", 8 * 9 * 100)
    monkeypatch.setattr(module, "MAX_ROWS", 33)
    centroids = np.repeat(normal(3, 9, seed=1), 40, axis=0)
    assert_nearest(normal(100, 9), centroids, device, dtype, n_nearest=2)


@pytest.mark.parametrize("gap", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("d", [4, 768])
def test_near_ties_are_decided_in_float64(
    gap: float, d: int, device: str, dtype: torch.dtype
) -> None:
    draw = np.random.default_rng(0)
    base = normal(20, d)
    centroids = np.concatenate([base, base * (1 + gap * draw.normal(size=(20, d)))])
    centroids = draw.permutation(centroids).astype(np.float32)
    middles = (centroids[:20] + centroids[20:]) / 2
    assert_nearest(np.concatenate([middles, base]), centroids, device, dtype, n_nearest=2)


@pytest.mark.parametrize("largest", [1.0, 100.0])
@pytest.mark.parametrize("k", [9, 1030])
def test_offsets_are_added_to_squared_distances(
    largest: float, k: int, device: str, dtype: torch.dtype
) -> None:
    offsets = np.random.default_rng(2).uniform(0, largest, k).astype(np.float32)
    assert_nearest(normal(80, 16), normal(k, 16, seed=1), device, dtype, 2, offsets)
    # All of them large.
    assert_nearest(normal(80, 16), normal(k, 16, seed=1), device, dtype, 1, offsets + 100)


def test_a_common_offset_of_100_costs_no_label(device: str, dtype: torch.dtype) -> None:
    vectors, centroids = normal(100, 32), normal(30, 32, seed=1)
    vectors, centroids = vectors + np.float32(100), centroids + np.float32(100)
    assert_nearest(vectors, centroids, device, dtype)


def test_a_far_centroid_does_not_widen_the_bound(device: str, dtype: torch.dtype) -> None:
    centroids, offsets = normal(20, 64, seed=1), np.zeros(20, np.float32)
    rows = Rows.of(torch.tensor(normal(50, 64)).to(device), dtype)
    bounds = []
    for far in (False, True):
        if far:
            centroids[3] *= 1e6
            offsets[7] = 1e9
        ready = Centroids.of(
            torch.tensor(centroids).to(device),
            torch.tensor(offsets).to(device),
            rows.longest,
            1,
            dtype,
        )
        bounds.append(ready.error(rows).max().item())
    assert bounds[1] <= bounds[0]
    assert_nearest(normal(50, 64), centroids, device, dtype, 1, offsets)


def test_bits_depend_on_neither_batch_nor_type(device: str, dtype: torch.dtype) -> None:
    vectors, centroids = normal(300, 33), normal(1100, 33, seed=1)
    whole = nearest_torch(vectors, centroids, 2, None, "cpu", torch.float32)
    for rows in (slice(0, 1), slice(17, 40), slice(0, 300)):
        some = nearest_torch(vectors[rows], centroids, 2, None, device, dtype)
        for ours, theirs in zip(some, whole, strict=True):
            assert (ours.cpu() == theirs[rows]).all()


def test_the_error_of_a_score_is_within_its_bound(device: str, dtype: torch.dtype) -> None:
    for d in (1, 16, 768):
        vectors, centroids = torch.tensor(normal(64, d)), torch.tensor(normal(50, d, seed=1))
        offsets = torch.rand(50)
        rows = Rows.of(vectors.to(device), dtype)
        ready = Centroids.of(centroids.to(device), offsets.to(device), rows.longest, 50, dtype)
        scores = module._scores(rows.product, ready.product)[:, :50].cpu().double()
        terms = centroids.double().square().sum(dim=1) + offsets
        exact = terms - terms.min() - 2 * vectors.double() @ centroids.double().T
        errors = (scores - exact).abs().amax(dim=1)
        bound = ready.error(rows).cpu()
        assert (errors <= bound).all()
        # A wide bound would leave much to be decided: 4 · 2^-8 is that of any bfloat16.
        share = 2.0**-7 if dtype == torch.bfloat16 else 2.0**-9
        lengths = vectors.double().norm(dim=1) * centroids.double().norm(dim=1).max()
        assert d < 768 or (bound <= share * lengths).all()


def test_labels_and_sums_of_tiles_over_passes_are_those_of_move_rows(
    device: str, dtype: torch.dtype
) -> None:
    vectors = normal(700, 20) * 3
    scale = Scale.of(700, float(np.abs(vectors).max()), 20)
    tiles = DeviceTiles(
        [vectors[:256], vectors[256:512], vectors[512:]], scale.vectors, device, dtype
    )
    for k, seed in [(30, 1), (30, 2), (30, 2), (12, 3)]:
        centroids = normal(k, 20, seed)
        offsets = np.random.default_rng(seed).uniform(0, 5, k).astype(np.float32)
        labels, distances = tiles.assign(centroids, offsets)
        exact = table(vectors, centroids, offsets)
        assert labels.dtype == torch.int32
        assert labels.tolist() == exact.argmin(axis=1).tolist()
        np.testing.assert_allclose(distances.cpu(), exact.min(axis=1), rtol=1e-5)
        sums, counts = np.zeros((k, 20), np.int64), np.zeros(k, np.int64)
        none, ones = np.full(700, -1, np.int32), np.ones(700, np.int64)
        move_rows(sums, counts, vectors, none, labels.cpu().numpy(), ones, scale)
        assert (tiles.sums.cpu().numpy() == sums).all()
        assert (tiles.counts.cpu().numpy() == counts).all()


def test_sums_round_halves_as_move_rows_does(device: str, dtype: torch.dtype) -> None:
    vectors = np.array([[0.5], [1.5], [-2.5], [3e-40], [2.0**30]], np.float32)
    for places in (-3, 0, 1, 20):
        tiles = DeviceTiles([vectors], places, device, dtype)
        tiles.assign(np.zeros((1, 1), np.float32))
        sums, counts = np.zeros((1, 1), np.int64), np.zeros(1, np.int64)
        none, new = np.full(5, -1, np.int32), np.zeros(5, np.int32)
        move_rows(sums, counts, vectors, none, new, np.ones(5, np.int64), Scale(places, 0))
        assert tiles.sums.item() == sums.item()


def test_read_only_arrays_are_taken_and_none_is_changed(device: str, dtype: torch.dtype) -> None:
    vectors, centroids = normal(30, 6), normal(4, 6, seed=1)
    for each in (vectors, centroids):
        each.flags.writeable = False
    assert_nearest(vectors, centroids, device, dtype)
    writable, before = normal(30, 6), normal(30, 6)
    nearest_torch(writable, centroids, 1, None, device, dtype)
    DeviceTiles([writable], 20, device, dtype).assign(centroids)
    assert (writable == before).all()


def test_no_vectors_have_no_nearest(device: str, dtype: torch.dtype) -> None:
    distances, ids = nearest_torch(normal(0, 4), normal(3, 4), 2, None, device, dtype)
    assert distances.shape == ids.shape == (0, 2)


def test_what_is_not_finite_is_refused(device: str, dtype: torch.dtype) -> None:
    bad = np.full((2, 3), np.nan, np.float32)
    with pytest.raises(ValueError, match="vectors must be finite"):
        nearest_torch(bad, normal(2, 3), 1, None, device, dtype)
    with pytest.raises(ValueError, match="centroids and offsets must be finite"):
        nearest_torch(normal(2, 3), bad, 1, None, device, dtype)
    with pytest.raises(ValueError, match="from 1 to the 2 centroids, got 3"):
        nearest_torch(normal(2, 3), normal(2, 3), 3, None, device, dtype)


def test_products_of_less_precision_are_refused(device: str, dtype: torch.dtype) -> None:
    if device == "cuda" and dtype == torch.bfloat16:
        pytest.skip("the product is bfloat16 by itself")
    torch.set_float32_matmul_precision("medium")
    try:
        with pytest.raises(ValueError, match=r"got .* 'medium'; set it to 'highest'"):
            nearest_torch(normal(2, 3), normal(2, 3), 1, None, device, dtype)
    finally:
        torch.set_float32_matmul_precision("highest")


def test_centroids_far_away_leave_others_as_sure_as_they_were(
    device: str, dtype: torch.dtype
) -> None:
    vectors, far = normal(200, 12), 1000 * normal(3, 12, seed=1)
    centroids = vectors[:40] + np.float32(0.1)
    both = np.concatenate([vectors, far])
    given = np.concatenate([centroids, far])
    for n_nearest in (1, 2):
        assert_nearest(both, given, device, dtype, n_nearest)
    rows = Rows.of(torch.as_tensor(both, device=device), dtype)
    errors = [
        Centroids.of(torch.as_tensor(each, device=device), None, rows.longest, 2, dtype)
        .error(rows)[:200]
        .max()
        .item()
        for each in (centroids, given)
    ]
    assert errors[1] <= 2 * errors[0]
