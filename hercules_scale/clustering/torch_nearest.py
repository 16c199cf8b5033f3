"""Nearest centroids by torch, on a GPU or a CPU: a bfloat16 product proposes, float64 decides.

The product gives every score |c|² + offset - 2 x·c with a known bound on its error. Only centroids
with a score within that bound of the best can be the nearest. Their distances are computed in
float32, and in float64 where float32 cannot tell which is least. Both add in a fixed order, so the
bits of labels and distances do not depend on the device, the product's type or the batch.

Outside this package, only numpy and torch are imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hercules_scale.clustering.torch_operands import Centroids, Rows

Array = Tensor | NDArray[np.float32]

# Bytes of scores in memory at a time; larger blocks of rows keep a GPU busy.
CPU_SCORE_BYTES = 64 << 20
CUDA_SCORE_BYTES = 4 << 30
MAX_ROWS = 65_536
# Pairs of a row and a candidate that are decided at a time, about 60 bytes each.
MAX_PAIRS = 1 << 24
# Bytes of differences in float64 in memory at a time.
DIFFERENCE_BYTES = 512 << 20
# Equal squared distances differ by less than this share when they are computed in float32: each
# number of a difference is rounded, squared, and added at most 25 times, each within 2^-24.
FLOAT32_MARGIN = 2.0**-17


def nearest_torch(
    vectors: Array,
    centroids: Array,
    n_nearest: int = 1,
    offsets: Array | None = None,
    device: str | torch.device = "cuda",
    dtype: torch.dtype = torch.bfloat16,
) -> tuple[Tensor, Tensor]:
    """Return the nearest centroids of each vector, as ``nearest_centroids.nearest`` does.

    Args:
        vectors: Shape (n, d), float32.
        centroids: Shape (k, d), float32.
        n_nearest: Number of centroids to find, at most k.
        offsets: Offset of the squared distances to each centroid, at least 0, shape (k,).
        device: Device that computes.
        dtype: Type of the product: bfloat16, or float32 where that is no slower.

    Returns:
        Squared L2 distances, float32, and centroid ids, int64, both (n, n_nearest) on the device,
        nearest first; among centroids equally near in float64, the lowest id comes first.

    Raises:
        ValueError: A number is not finite, or float32 products are not of full precision.
    """
    device = torch.device(device)
    rows = Rows.of(_on(vectors, device), dtype)
    ready = Centroids.of(
        _on(centroids, device),
        None if offsets is None else _on(offsets, device),
        rows.longest,
        n_nearest,
        dtype,
    )
    return _search(rows, ready, n_nearest)


def device_bytes(n_numbers: int) -> int:
    """Return the bytes of GPU memory that ``DeviceTiles`` with ``n_numbers`` numbers take.

    Numbers are held in float32 and in bfloat16, beside the scores.
    """
    return 6 * n_numbers + 2 * CUDA_SCORE_BYTES


class DeviceTiles:
    """Tiles that stay on a device over the passes of k-means, with the sums of their clusters.

    Memory: ``device_bytes``.

    Args:
        tiles: Tiles of shape (rows, d), float32, with equal d; 65,536 rows work well.
        places: Binary places of the sums: ``Scale.vectors``.
        device: Device that holds them.
        dtype: Type of the product.
    """

    def __init__(
        self,
        tiles: Iterable[Array],
        places: int,
        device: str | torch.device = "cuda",
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        self._device, self._dtype, self._places = torch.device(device), dtype, places
        self._tiles = [Rows.of(_on(tile, self._device), dtype) for tile in tiles]
        self._labels = [_unassigned(tile) for tile in self._tiles]
        self.sums = torch.zeros(0, 0, dtype=torch.int64, device=self._device)
        self.counts = torch.zeros(0, dtype=torch.int64, device=self._device)

    def assign(self, centroids: Array, offsets: Array | None = None) -> tuple[Tensor, Tensor]:
        """Assign every vector to its nearest centroid, and update the sums.

        ``sums`` (k, d) and ``counts`` (k,) are int64, with the same bits as ``move_rows`` gives.

        Args:
            centroids: Shape (k, d), float32.
            offsets: Offset of the squared distances to each centroid, at least 0, shape (k,).

        Returns:
            Labels, int32, and squared L2 distances, float32, of all rows, on the device.
        """
        centroids = _on(centroids, self._device)
        if len(self.counts) != len(centroids):
            self.sums = torch.zeros(centroids.shape, dtype=torch.int64, device=self._device)
            self.counts = torch.zeros(len(centroids), dtype=torch.int64, device=self._device)
            self._labels = [_unassigned(tile) for tile in self._tiles]
        longest = max(tile.longest for tile in self._tiles)
        given = None if offsets is None else _on(offsets, self._device)
        ready = Centroids.of(centroids, given, longest, 1, self._dtype)
        distances = []
        for index, tile in enumerate(self._tiles):
            near, ids = _search(tile, ready, 1)
            distances.append(near[:, 0])
            new = ids[:, 0].to(torch.int32)
            self._move(tile.exact, self._labels[index], new)
            self._labels[index] = new
        return self.labels(), torch.cat(distances)

    def labels(self) -> Tensor:
        """Return the labels of the last assignment, int32; -1 before the first."""
        return torch.cat(self._labels)

    def _move(self, vectors: Tensor, old: Tensor, new: Tensor) -> None:
        """Take rows out of their old clusters and into their new ones."""
        changed = torch.nonzero(old != new)[:, 0]
        if len(changed) < len(new):
            vectors, old, new = vectors[changed], old[changed], new[changed]
        # A product with a power of two is exact in float32, so float64 would round to the same.
        fixed = (vectors * 2.0**self._places).round_().to(torch.int64)
        ones = torch.ones_like(new, dtype=torch.int64)
        self.sums.index_add_(0, new, fixed)
        self.counts.index_add_(0, new, ones)
        leaving = torch.nonzero(old >= 0)[:, 0]
        if len(leaving):
            if len(leaving) < len(old):
                old, fixed, ones = old[leaving], fixed[leaving], ones[leaving]
            self.sums.index_add_(0, old, fixed, alpha=-1)
            self.counts.index_add_(0, old, ones, alpha=-1)


def _on(array: Array, device: torch.device) -> Tensor:
    if isinstance(array, np.ndarray) and not array.flags.writeable:
        # torch warns about read-only memory, even where it only reads.
        array = array.copy()
    return torch.as_tensor(array, dtype=torch.float32, device=device)


def _unassigned(tile: Rows) -> Tensor:
    return torch.full((len(tile.exact),), -1, dtype=torch.int32, device=tile.exact.device)


def _search(rows: Rows, centroids: Centroids, n_nearest: int) -> tuple[Tensor, Tensor]:
    """Return distances and ids of the nearest centroids, both of shape (n, n_nearest)."""
    found = [_search_block(part, centroids, n_nearest) for part in _blocks(rows, centroids)]
    none = torch.zeros(0, n_nearest, device=rows.exact.device)
    return (
        torch.cat([none, *(part[0] for part in found)]),
        torch.cat([none.long(), *(part[1] for part in found)]),
    )


def _blocks(rows: Rows, centroids: Centroids) -> Iterator[Rows]:
    """Yield blocks of rows of nearly equal size, so small that the scores of each fit in memory."""
    n, padded = len(rows.exact), len(centroids.product)
    held = (CUDA_SCORE_BYTES if rows.exact.is_cuda else CPU_SCORE_BYTES) // (4 * padded)
    n_blocks = -(-n // min(max(held, 1), MAX_ROWS))
    for block in range(n_blocks):
        yield rows.part(n * block // n_blocks, n * (block + 1) // n_blocks)


def _search_block(rows: Rows, centroids: Centroids, n_nearest: int) -> tuple[Tensor, Tensor]:
    scores = _scores(rows.product, centroids.product)
    scores = scores.view(len(scores), centroids.group, -1)
    # Minima along the middle axis, so that neighbouring threads read neighbouring numbers.
    minima = scores.amin(dim=1)
    # The n-th least minimum is no less than the n-th least score.
    if n_nearest == 1:
        worst = minima.amin(dim=1)
    else:
        worst = torch.kthvalue(minima, n_nearest, dim=1).values
    # A centroid with a score above this is farther than n others, even with the largest errors. The
    # finite maximum leaves out centroids with infinite terms.
    limits = (worst + 2 * centroids.error(rows)).float().clamp(max=torch.finfo(torch.float32).max)
    return _settle(rows.exact, scores, minima, limits, centroids, n_nearest)


def _scores(rows: Tensor, centroids: Tensor) -> Tensor:
    """Return products of rows and centroids, summed and kept in float32."""
    if rows.is_cuda and rows.dtype != torch.float32:
        return torch.mm(rows, centroids.T, out_dtype=torch.float32)
    if (precision := torch.get_float32_matmul_precision()) != "highest":
        raise ValueError(
            "float32 products must be of full precision, got "
            f"torch.get_float32_matmul_precision() {precision!r}; set it to 'highest'"
        )
    return rows.float() @ centroids.float().T


def _settle(
    vectors: Tensor,
    scores: Tensor,
    minima: Tensor,
    limits: Tensor,
    centroids: Centroids,
    n_nearest: int,
) -> tuple[Tensor, Tensor]:
    """Return distances and ids of the nearest among the centroids with scores within the limits."""
    n, group, n_groups = scores.shape
    row, which = torch.nonzero(minima <= limits[:, None]).T
    if n > 1 and len(row) * group > MAX_PAIRS:
        parts = [
            _settle(vectors[half], scores[half], minima[half], limits[half], centroids, n_nearest)
            for half in (slice(0, n // 2), slice(n // 2, n))
        ]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    pair, member = torch.nonzero(scores[row, :, which] <= limits[row, None]).T
    row, ids = row[pair], member * n_groups + which[pair]
    near = _pair_distances(vectors, centroids, row, ids, torch.float32)
    # Float64 decides what float32 cannot distinguish from the n-th nearest.
    bound = _lowest(row, ids, near, n, n_nearest)[0][:, -1]
    bound = bound * (1 + FLOAT32_MARGIN) + torch.finfo(torch.float32).tiny
    kept = torch.nonzero(near <= bound[row])[:, 0]
    row, ids, near = row[kept], ids[kept], near[kept]
    exact = near.double()
    tied = torch.nonzero(torch.bincount(row, minlength=n)[row] > 1)[:, 0]
    exact[tied] = _pair_distances(vectors, centroids, row[tied], ids[tied], torch.float64)
    found = _lowest(row, ids, exact, n, n_nearest)[1]
    # Distances are always the float32 ones, so that they do not depend on the other candidates.
    distances = torch.stack([_value_of(column, row, ids, near) for column in found.T], dim=1)
    # Distances that float32 orders the other way round become equal.
    return distances.cummax(dim=1).values, found


def _lowest(
    row: Tensor, ids: Tensor, distances: Tensor, n: int, n_nearest: int
) -> tuple[Tensor, Tensor]:
    """Return the least distances of each row and their ids, by (distance, id),
    shape (n, n_nearest)."""
    none = torch.iinfo(torch.int64).max
    values, found = [], []
    for _ in range(n_nearest):
        least = torch.full((n,), torch.inf, dtype=distances.dtype, device=row.device)
        least.scatter_reduce_(0, row, distances, "amin")
        tied = torch.where(distances == least[row], ids, none)
        lowest = torch.full((n,), none, device=row.device).scatter_reduce_(0, row, tied, "amin")
        values.append(least)
        found.append(lowest)
        distances = torch.where(lowest[row] == ids, torch.inf, distances)
    return torch.stack(values, dim=1), torch.stack(found, dim=1)


def _value_of(wanted: Tensor, row: Tensor, ids: Tensor, values: Tensor) -> Tensor:
    """Return the value of each row's pair with the wanted id, shape (n,)."""
    here = torch.nonzero(wanted[row] == ids)[:, 0]
    return torch.empty(len(wanted), device=row.device).index_copy_(0, row[here], values[here])


def _pair_distances(
    vectors: Tensor, centroids: Centroids, row: Tensor, ids: Tensor, dtype: torch.dtype
) -> Tensor:
    """Return squared L2 distances of pairs, with offsets, shape (pairs,)."""
    step = max(1, DIFFERENCE_BYTES // (8 * vectors.shape[1]))
    parts = [torch.zeros(0, dtype=dtype, device=row.device)]
    for start in range(0, len(row), step):
        which = ids[start : start + step]
        wide = vectors[row[start : start + step]].to(dtype)
        squared = _squared_l2(wide, centroids.exact[which])
        parts.append(squared + centroids.offsets[which].to(dtype))
    return torch.cat(parts)


def _squared_l2(vectors: Tensor, centroids: Tensor) -> Tensor:
    """Return squared L2 distances of pairs, in the type of the vectors, which are overwritten.

    One half of the numbers is added to the other until one number is left: the order of torch's own
    sums depends on the device and the batch, but equal distances must be equal to the bit.
    """
    vectors -= centroids
    squares = vectors.mul_(vectors)
    width = squares.shape[1]
    while width > 1:
        half = width // 2
        squares[:, :half] += squares[:, width - half : width]
        width -= half
    return squares[:, 0].clone()
