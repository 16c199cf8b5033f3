"""Searches for nearest centroids on a GPU.

A search proposes; ``exact_nearest.find_labels`` decides in float64 where float32 cannot, so all
searches lead to the same labels.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from hercules_scale.clustering.faiss_import import faiss
from hercules_scale.clustering.nearest_centroids import Float32, Int64, with_offsets


def nearest_torch_gpu(
    vectors: Float32, centroids: Float32, n_nearest: int, offsets: Float32 | None
) -> tuple[Float32, Int64]:
    """Search with torch on a GPU, to which vectors and centroids are copied for each search."""
    # torch takes seconds to load, and a process without a GPU has no need of it here.
    from hercules_scale.clustering.torch_nearest import nearest_torch

    distances, ids = nearest_torch(vectors, centroids, n_nearest, offsets)
    return distances.cpu().numpy(), ids.cpu().numpy()


class FaissGpuSearch:
    """Search with a build of FAISS for GPUs.

    Its memory on the GPU and its indices of centroids are kept between the tiles of a pass.
    """

    def __init__(self) -> None:
        self._resources = faiss.StandardGpuResources()
        self._held: list[tuple[Float32, Float32 | None, Any]] = []
        # An index on a GPU serves one thread at a time.
        self._turn = threading.Lock()

    def __call__(
        self, vectors: Float32, centroids: Float32, n_nearest: int, offsets: Float32 | None
    ) -> tuple[Float32, Int64]:
        """Return squared distances and ids of the nearest centroids, both (n, n_nearest)."""
        if offsets is not None:
            vectors = np.pad(vectors, ((0, 0), (0, 1)))
        with self._turn:
            distances, ids = self._index(centroids, offsets).search(vectors, n_nearest)
        return distances, ids

    def _index(self, centroids: Float32, offsets: Float32 | None) -> Any:
        for held, added, index in self._held:
            if held is centroids and added is offsets:
                return index
        points = centroids if offsets is None else with_offsets(centroids, offsets)
        index = faiss.GpuIndexFlatL2(self._resources, points.shape[1])
        index.add(points)
        # Two indices are kept: all centroids of a pass, and the centroids that moved farthest.
        self._held = [*self._held[-1:], (centroids, offsets, index)]
        return index
