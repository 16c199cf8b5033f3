"""The embedding stage beside sentence-transformers' own ``encode``, on the same texts and cores.

    python benchmarks/embedding.py [--input FILE.parquet] [--rows N] [--rounds 3] [--json OUT]

Without an input, the texts are the demo's corpus. Three ways to embed are measured in turn, round
by round, and medians are reported:

- encode: ``SentenceTransformer.encode`` with its defaults, on all cores;
- direct: our encoder in plain processes, one a core, over the stage's shards;
- stage: the embedding stage on Ray Data, as many workers.

The rates of direct and stage run from the end of the first shard to the end of the last, so that
loading the model and starting processes, which do not grow with the input, are left out; encode is
timed after loading and one warm-up batch.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hercules_scale.commands.demo import icd_table
from hercules_scale.config.file import parse_config
from hercules_scale.config.resolved import ResolvedConfig
from hercules_scale.models.names import resolve_embedding_model
from hercules_scale.reading.columns import Columns
from hercules_scale.reading.items import Layout
from hercules_scale.runtime.context import RunContext, Shards
from hercules_scale.runtime.progress import Reporter
from hercules_scale.runtime.ray_session import local_or_cluster_ray
from hercules_scale.stages.describe import Descriptions
from hercules_scale.stages.embed import EmbedWorker, embed_items
from hercules_scale.stages.read import Items
from hercules_scale.stages.vectors import read_vectors
from hercules_scale.storage import layout
from hercules_scale.storage.schemas import items as items_schema
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import write_table

WORKERS = os.cpu_count() or 1
TEXT_ITEMS = items_schema("text", (), with_text=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", help="Parquet file with a column text")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="where to write the figures")
    options = parser.parse_args()
    texts = load_texts(options.input, options.rows)

    rates: dict[str, list[float]] = {"encode": [], "direct": [], "stage": []}
    whole_stage: list[float] = []
    cosine = 1.0
    for _ in range(options.rounds):
        reference, rate = time_encode(texts)
        rates["encode"].append(rate)
        with tempfile.TemporaryDirectory() as folder:
            store, shards = write_items(folder, texts)
            rates["direct"].append(time_direct(store, shards))
        with tempfile.TemporaryDirectory() as folder:
            store, shards = write_items(folder, texts)
            rate, seconds = time_stage(store, shards)
            rates["stage"].append(rate)
            whole_stage.append(seconds)
            ours = np.concatenate([read_vectors(store, shard) for shard in range(len(shards))])
        cosine = min(cosine, float((ours * reference).sum(axis=1).min()))

    medians = {name: statistics.median(values) for name, values in rates.items()}
    figures = {
        "input": options.input or "ICD-10-CM",
        "texts": len(texts),
        "mean_characters": statistics.mean(map(len, texts)),
        "workers": WORKERS,
        "machine": platform.processor() or platform.machine(),
        "bfloat16": has_bfloat16(),
        "rates": rates,
        "median_rates": medians,
        "stage_over_encode": medians["stage"] / medians["encode"],
        "ray_overhead": medians["direct"] / medians["stage"] - 1,
        "stage_seconds_with_start": statistics.median(whole_stage),
        "least_cosine_to_float32": cosine,
    }
    print(f"{len(texts):,} texts, {figures['mean_characters']:.0f} characters on average")
    for name, rate in medians.items():
        listed = ", ".join(f"{value:.0f}" for value in rates[name])
        print(f"{name:<8}{rate:>9.1f} texts/s   ({listed})")
    print(f"stage over encode: {figures['stage_over_encode']:.2f}")
    print(f"Ray's overhead: {figures['ray_overhead']:+.1%}")
    print(f"stage with start: {figures['stage_seconds_with_start']:.1f} s")
    print(f"least cosine to float32: {cosine:.5f}")
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=1))


def load_texts(path: str | None, rows: int) -> list[str]:
    if path is None:
        table = icd_table()
    elif Path(path).exists():
        table = pq.read_table(path, columns=["text"])
    else:
        sys.exit(f"--input {path}: no such file; leave it out to take the demo's corpus")
    texts = [text for text in table["text"].to_pylist() if text and text.strip()]
    # Spread over the file, so that a sorted one is sampled fairly; repeated where it has fewer.
    texts *= -(-rows // len(texts))
    chosen = np.linspace(0, len(texts) - 1, rows).astype(int)
    return [texts[row] for row in chosen]


def has_bfloat16() -> bool:
    from hercules_scale.embedding.sentence_transformer import cpu_has_bfloat16

    return cpu_has_bfloat16()


def time_encode(
    texts: list[str],
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.float32]], float]:
    """Vectors and texts a second of sentence-transformers with its defaults, in a new process."""
    context = multiprocessing.get_context("spawn")
    results: SimpleQueue[tuple[bytes, float]] = context.SimpleQueue()
    process = context.Process(target=_encode, args=(texts, results))
    process.start()
    data, rate = results.get()
    process.join()
    return np.frombuffer(data, np.float32).reshape(len(texts), -1), rate


def _encode(texts: list[str], results: SimpleQueue[tuple[bytes, float]]) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(resolve_embedding_model("minilm"), device="cpu")
    model.encode(texts[:32])
    started = time.perf_counter()
    vectors = model.encode(texts)
    rate = len(texts) / (time.perf_counter() - started)
    results.put((np.asarray(vectors, np.float32).tobytes(), rate))


def write_items(folder: str, texts: list[str]) -> tuple[Store, Shards]:
    """Return the ``items`` table of these texts, as reading would leave it."""
    store, shards = Store(folder), Shards.of(len(texts), encoded=True)
    for shard in range(len(shards)):
        start, stop = shards.bounds(shard)
        rows = list(range(start, stop))
        part = texts[start:stop]
        columns = [rows, [str(row) for row in rows], part, part, part]
        table = pa.table(dict(zip(TEXT_ITEMS.names, columns, strict=True)), TEXT_ITEMS)
        write_table(store, layout.part("items", shard), table)
    return store, shards


def time_direct(store: Store, shards: Shards) -> float:
    """Texts a second of the encoder in plain processes of one thread each."""
    context = multiprocessing.get_context("spawn")
    todo: SimpleQueue[int] = context.SimpleQueue()
    done: SimpleQueue[tuple[int, float]] = context.SimpleQueue()
    for shard in range(len(shards)):
        todo.put(shard)
    for _ in range(WORKERS):
        todo.put(-1)
    os.environ["OMP_NUM_THREADS"] = "1"
    processes = [
        context.Process(target=_embed_shards, args=(store, todo, done)) for _ in range(WORKERS)
    ]
    for process in processes:
        process.start()
    finished = [done.get() for _ in range(len(shards))]
    for process in processes:
        process.join()
    del os.environ["OMP_NUM_THREADS"]
    return steady_rate(shards, finished, WORKERS)


def _embed_shards(
    store: Store, todo: SimpleQueue[int], done: SimpleQueue[tuple[int, float]]
) -> None:
    worker = EmbedWorker(store, run_config(store, 1).text_embedding)
    while (shard := todo.get()) >= 0:
        worker(shard)
        done.put((shard, time.time()))


def time_stage(store: Store, shards: Shards, workers: int = WORKERS) -> tuple[float, float]:
    """Texts a second of the stage, and its seconds from nothing."""
    config = run_config(store, workers)
    with local_or_cluster_ray(config):
        context = RunContext(config, store, "benchmark", Reporter())
        started = time.perf_counter()
        items = Items(shards, "items", {"embeddings": []}, Layout(Columns("text")), None, {})
        embed_items(context, items, Descriptions(shards, []))
        seconds = time.perf_counter() - started
    finished = [
        (shard, Path(store.path(layout.commit("embed", shard, 0))).stat().st_mtime)
        for shard in range(len(shards))
    ]
    return steady_rate(shards, finished, workers), seconds


def run_config(store: Store, workers: int) -> ResolvedConfig:
    config = parse_config(
        {
            "input": {"path": store.uri, "modality": "text"},
            "resources": {"workers": workers},
            "output": {"path": store.uri},
        }
    )
    return ResolvedConfig.of(config, config.input)


def steady_rate(shards: Shards, finished: list[tuple[int, float]], workers: int) -> float:
    """Texts a second from when as many shards have ended as there are workers, to the last.

    Each of them has loaded its model then, and is about to begin another shard.
    """
    times = sorted((seconds, shard) for shard, seconds in finished)
    after = [shards.bounds(shard) for _, shard in times[workers:]]
    n_texts = sum(stop - start for start, stop in after)
    return n_texts / (times[-1][0] - times[workers - 1][0])


if __name__ == "__main__":
    main()
