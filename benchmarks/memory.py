"""Memory that small or hostile inputs take: one part a process, the largest resident is printed.

- parquet: 287 bytes, in which a dictionary repeats a text of 512 KiB in 8,192 rows, read by a run;
- word: a word of 4,000 letters, twice among the 40,000 phrases of a cluster;
- phrases: counts of phrases as the driver of a run holds them, of ``--clusters`` clusters with
  4,000 phrases each; with ``--all`` every count goes to it;
- ids: ``--ids`` ids of 36 letters in pieces of 65,536, looked through for those that occur twice.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hercules_scale.config.reading import InputConfig
from hercules_scale.reading.input_pieces import split_into_pieces
from hercules_scale.reading.items import Layout, examine, read_piece
from hercules_scale.reading.listing import list_sources
from hercules_scale.stages import duplicate_ids, phrase_counts
from hercules_scale.storage import layout
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import read_tables, write_table
from hercules_scale.summarization.keyphrases import COUNTS, PhraseCounts, count_phrases

PHRASES_OF_CLUSTER, SHARDS = 4_000, 8
IDS_OF_PIECE = 65_536


def read_parquet(folder: Path) -> None:
    """Read a small file of much text."""
    indices, text = pa.array([0] * 8_192, pa.int32()), pa.array(["a" * 2**19])
    column = pa.DictionaryArray.from_arrays(indices, text)
    path = folder / "t.parquet"
    pq.write_table(pa.table({"text": column}), path, compression="zstd", store_schema=False)
    config = InputConfig(path=str(path))
    sources = list_sources(config.paths)
    layout = Layout.of(examine(config, sources))
    for piece in split_into_pieces(sources):
        n_rows = sum(batch.items.num_rows for batch in read_piece(config, layout, piece))
    print(f"{path.stat().st_size} bytes, {n_rows:,} items")


def count_long_word() -> None:
    """Choose phrases of a cluster of 20,000 words, one of which is long."""
    texts = [" ".join(f"w{row}" for row in range(at, at + 500)) for at in range(0, 20_000, 500)]
    counts = count_phrases([*texts, "a" * 4_000, "a" * 4_000], np.zeros(42, np.int32))
    print(PhraseCounts(counts, 1).of_level(np.zeros(1, np.int32), 8)[0])


def write_counts(folder: Path, n_clusters: int) -> None:
    """Write counts as the workers of a run do; many clusters have one phrase in ten."""
    store, rng = Store(str(folder)), np.random.default_rng(0)
    for shard in range(SHARDS):
        clusters = np.repeat(np.arange(n_clusters, dtype=np.int32), PHRASES_OF_CLUSTER // SHARDS)
        common = rng.random(len(clusters)) < 0.1
        ids = np.where(
            common, rng.integers(0, 2_000, len(common)), rng.integers(0, 10**7, len(common))
        )
        phrases = pa.array([f"some phrase {number}" for number in ids.tolist()])
        counts = pa.array(np.where(common, rng.integers(2, 50, len(common)), 1))
        table = pa.table([pa.array(clusters), phrases, counts], COUNTS.names)
        write_table(store, f"{shard}.parquet", table)


def leave_out_rare(folder: Path, n_clusters: int) -> None:
    """Do what one worker after another does."""
    paths = tuple(f"{shard}.parquet" for shard in range(SHARDS))
    n_parts = max(n_clusters * PHRASES_OF_CLUSTER // phrase_counts.MOST_COUNTS, 1)
    bounds = tuple(np.linspace(0, n_clusters, n_parts + 1).astype(int).tolist())
    n_phrases = max(phrase_counts.MOST_COUNTS // n_clusters, phrase_counts.LEAST_COUNTS)
    worker = phrase_counts._FrequentWorker(Store(str(folder)), paths, bounds, n_phrases)
    for part in range(n_parts):
        worker(part)
    print(f"worker: {largest_mib()} MiB")


def hold_phrases(folder: Path, n_clusters: int, every: bool) -> None:
    """Hold the counts of a run and choose the phrases of every cluster."""
    # Spawned, so that their memory is not this process's.
    context = multiprocessing.get_context("spawn")
    for work in (write_counts,) if every else (write_counts, leave_out_rare):
        child = context.Process(target=work, args=(folder, n_clusters))
        child.start()
        child.join()
    place = folder if every else folder / "_work" / phrase_counts.FREQUENT
    paths = sorted(path.name for path in place.glob("*.parquet"))
    counts = read_tables(Store(str(place)), paths)
    print(f"{counts.num_rows:,} counts")
    found = PhraseCounts(counts, n_clusters)
    found.of_level(np.arange(n_clusters, dtype=np.int32), 8)


def write_ids(folder: Path, n_ids: int) -> None:
    """Write ids as the workers that read the input do; one of them occurs twice."""
    store = Store(str(folder))
    for piece, start in enumerate(range(0, n_ids, IDS_OF_PIECE)):
        rows = range(start, min(start + IDS_OF_PIECE, n_ids))
        names = [f"{max(row, 1):012d}-{row * 2654435761 % 2**32:023d}" for row in rows]
        if start == 0:
            names[0] = names[1]
        write_table(store, layout.work_part("ids", piece), pa.table({"item_id": names}))


def find_repeated(folder: Path, n_ids: int) -> None:
    """Do what one worker after another does."""
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=write_ids, args=(folder, n_ids))
    child.start()
    child.join()
    store, started = Store(str(folder)), time.perf_counter()
    n_pieces, n_buckets = -(-n_ids // IDS_OF_PIECE), -(-n_ids // duplicate_ids.IDS_PER_BUCKET)
    few = n_ids <= duplicate_ids.IDS_COMPARED
    for piece in () if few else range(n_pieces):
        duplicate_ids._SortWorker(store, "ids", n_buckets)(piece)
    check = duplicate_ids._CheckWorker(store, "ids", n_pieces, n_buckets, few)
    found = [check(bucket).info["twice"] for bucket in range(n_buckets)]
    print(f"{sum(found):,} twice, {time.perf_counter() - started:.1f} s")


def largest_mib() -> int:
    """Return the largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    """Do one part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["parquet", "word", "phrases", "ids"])
    parser.add_argument("--clusters", type=int, default=5_000)
    parser.add_argument("--ids", type=int, default=16_000_000)
    parser.add_argument("--all", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        before = largest_mib()
        if options.part == "parquet":
            read_parquet(Path(folder))
        elif options.part == "word":
            count_long_word()
        elif options.part == "ids":
            find_repeated(Path(folder), options.ids)
        else:
            hold_phrases(Path(folder), options.clusters, options.all)
    print(f"{options.part}: {largest_mib()} MiB, {before} MiB before")


if __name__ == "__main__":
    main()
