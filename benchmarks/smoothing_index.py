"""Memory of a worker of smoothing beside vectors, for numbers of rows too large to run.

python benchmarks/smoothing_index.py [--rows 100000000] [--dimension 384]

An index as of that many rows is written, with cells of nearly equal size in random places. A
process then reads it, as every worker does, and finds the blocks that one bucket is compared with.
"""

from __future__ import annotations

import argparse
import io
import itertools
import tempfile
import time

import numpy as np

from hercules_scale.clustering.tiles import TILE_ROWS
from hercules_scale.stages.smooth import MAX_CELLS, _cut
from hercules_scale.stages.smooth_files import INDEX, Place, bucket_name
from hercules_scale.stages.smooth_shards import CANDIDATE_ROWS, CELL_ROWS
from hercules_scale.storage.store import Store


def write_index(store: Store, n_rows: int, dimension: int) -> None:
    """Write an index and the blocks of every bucket."""
    draw = np.random.default_rng(0)
    n_tiles, n_cells = -(-n_rows // TILE_ROWS), min(n_rows // CELL_ROWS, MAX_CELLS)
    counts = np.full((n_tiles, n_cells), TILE_ROWS // n_cells, np.int32)
    counts[:, : TILE_ROWS % n_cells] += 1
    centroids = draw.normal(size=(n_cells, dimension)).astype(np.float32)
    parts, part_cells, buckets = _cut(counts.sum(axis=0, dtype=np.int64))
    buffer = io.BytesIO()
    np.savez(
        buffer,
        counts=counts,
        centroids=centroids,
        parts=parts,
        part_cells=part_cells,
        buckets=buckets,
        divided=n_cells < n_rows // CELL_ROWS,
        recall_rows=np.zeros(0, np.int64),
        recall_neighbours=np.zeros((0, 10), np.int64),
    )
    store.write_bytes(INDEX, buffer.getvalue())
    place = Place(store)
    for bucket, (start, stop) in enumerate(itertools.pairwise(buckets)):
        rows = int(parts[stop] - parts[start])
        sizes = np.full(max(1, rows // CELL_ROWS), CELL_ROWS, np.int64)
        sizes[-1] += rows - sizes.sum()
        near = centroids[part_cells[start]]
        place.write(bucket_name(bucket, "sizes"), sizes)
        spread = 0.5 * draw.normal(size=(len(sizes), dimension))
        place.write(bucket_name(bucket, "centroids"), (near + spread).astype(np.float32))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10**8)
    parser.add_argument("--dimension", type=int, default=384)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        write_index(store, options.rows, options.dimension)
        started = time.perf_counter()
        place = Place(store)
        blocks = place.near_blocks(len(place.index.buckets) // 2)
        opened = time.perf_counter() - started
        own = blocks.of(len(place.index.buckets) // 2).tolist()
        for block in own:
            blocks.candidates(block, CANDIDATE_ROWS)
        index = place.index
        held = sum(
            array.nbytes
            for array in (*vars(index).values(), *vars(blocks).values())
            if isinstance(array, np.ndarray)
        )
        print(
            f"{options.rows:,} rows: {len(index.counts):,} tiles, {len(index.buckets) - 1:,} "
            f"buckets; held {held / 2**20:.1f} MiB; opened in {opened:.2f} s; {len(own)} blocks "
            f"compared with {len(blocks.sizes):,} in {time.perf_counter() - started - opened:.2f} s"
        )


if __name__ == "__main__":
    main()
