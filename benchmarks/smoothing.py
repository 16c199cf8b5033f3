"""Neighbourhood smoothing out of core: its recall, time and memory.

    python benchmarks/smoothing.py [--rows 1000000] [--workers 2] [--json OUT]

Generated unit vectors are written as the table ``embeddings`` and smoothed as a run would, with 10
neighbours and 3 rounds. Recall is of the true neighbours of 256 rows among all.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray
from kmeans import Planted
from scaling import LOOK_SECONDS, Memory

from hercules_scale.clustering.tiles import TILE_ROWS
from hercules_scale.config.file import parse_config
from hercules_scale.config.resolved import ResolvedConfig
from hercules_scale.runtime.context import RunContext, Shards
from hercules_scale.runtime.progress import Reporter, repeating
from hercules_scale.stages.embed import Embeddings
from hercules_scale.stages.smooth import smooth_vectors
from hercules_scale.stages.vectors import ShardTiles
from hercules_scale.storage import layout
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import vector_column, write_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", help="where to write the figures")
    options = parser.parse_args()
    source = Planted(options.rows, options.dimension)
    shards = Shards(options.rows, TILE_ROWS)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        for shard in range(len(shards)):
            start, stop = shards.bounds(shard)
            vectors = np.empty((stop - start, options.dimension), np.float32)
            source.read(shard, vectors)
            table = pa.table({"embedding": vector_column(vectors)})
            write_table(store, layout.part("embeddings", shard), table)
        written = parse_config(
            {
                "input": {"path": folder, "modality": "embedding"},
                "hierarchy": {"smoothing": {"neighbours": 10, "rounds": 3}},
                "resources": {"workers": options.workers},
                "output": {"path": folder},
            }
        )
        ray.init(
            address="local", num_cpus=options.workers, include_dashboard=False, log_to_driver=False
        )
        memory = Memory()
        started = time.perf_counter()
        config = ResolvedConfig.of(written, written.input)
        context = RunContext(config, store, "benchmark", Reporter())
        embeddings = Embeddings(ShardTiles(store, shards, options.dimension), [])
        with repeating(LOOK_SECONDS, memory.look):
            report = smooth_vectors(context, embeddings).report
        seconds = time.perf_counter() - started
        ray.shutdown()
    figures = {
        "rows": options.rows,
        "workers": options.workers,
        "seconds": seconds,
        "recall": report["recall"],
        "driver_bytes": memory.driver,
        "worker_bytes": memory.worker,
    }
    print(
        f"{options.rows:,} rows, {options.workers} workers: {seconds:.0f} s, recall "
        f"{report['recall']:.3f}, driver {memory.driver / 2**30:.2f} GiB, worker "
        f"{memory.worker / 2**30:.2f} GiB"
    )
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
