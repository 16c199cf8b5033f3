"""Time and memory of ``flags`` and of a cut, for a run of made vectors with planted duplicates."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hercules_scale import Hierarchy
from hercules_scale.storage.tables import vector_column

DIMENSION, LEVELS = 64, (2_000, 100, 10)
PIECE_ROWS, SHARE = 125_000, 0.01
# Planted duplicates have a cosine of .9997 or more, all other items of .99 or less.
COSINE = "0.99"


def make_input(path: Path, n_items: int) -> NDArray[np.int64]:
    """Write texts and vectors in nested clusters; return the rows that copy the row before."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(LEVELS[-1], DIMENSION))
    for size, spread in zip(LEVELS[-2::-1], (0.6, 0.5), strict=True):
        steps = spread * random.normal(size=(size, DIMENSION))
        centres = np.repeat(centres, size // len(centres), 0) + steps
    starts = [a + b for a in ("ba", "be", "bi", "bo", "bu", "da", "de") for b in ("la", "mi", "no")]
    words = np.array([a + b for a in starts for b in ("r", "s", "x", "l")])
    schema = pa.schema([("text", pa.string()), ("embedding", pa.list_(pa.float32(), DIMENSION))])
    copies = []
    with pq.ParquetWriter(path, schema) as writer:
        for first in range(0, n_items, PIECE_ROWS):
            n = min(PIECE_ROWS, n_items - first)
            own = random.integers(0, LEVELS[0], n)
            vectors = centres[own] + 0.35 * random.normal(size=(n, DIMENSION))
            rows = np.flatnonzero(random.random(n) < SHARE)
            rows = rows[rows > 0]
            noise = 0.02 * random.normal(size=(len(rows), DIMENSION))
            vectors[rows] = vectors[rows - 1] + noise
            picked = [words[own * step % len(words)] for step in (1, 7, 11)]
            texts = [" ".join(each) for each in zip(*picked, strict=True)]
            columns = {"text": texts, "embedding": vector_column(vectors.astype(np.float32))}
            writer.write_table(pa.table(columns, schema=schema))
            copies.append(rows + first)
    return np.concatenate(copies)


def measure(*arguments: str) -> None:
    """Run a command and print its time and peak memory."""
    started = time.monotonic()
    command = [sys.executable, "-m", "hercules_scale", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, arguments
    seconds, peak = time.monotonic() - started, usage.ru_maxrss / 2**20
    print(f"{arguments[0]} {' '.join(arguments[2:])}: {seconds:.1f} s, {peak:.2f} GiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="for the input and the run")
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    data, run = options.folder / "in.parquet", str(options.folder / "run")
    copies = make_input(data, options.rows)
    config = options.folder / "run.yaml"
    config.write_text(
        f"input: {{path: {data}, modality: embedding, embedding_column: embedding, "
        f"text_column: text}}\nhierarchy: {{levels: {list(LEVELS)}}}\n"
        f"summaries: {{engine: keyphrases}}\noutput: {{path: {run}}}\n"
    )
    measure("run", str(config))
    measure("flags", run, "--cosine", COSINE)
    measure("show", run, "--about", "400")
    items = str(options.folder / "items.csv")
    measure("export", run, "--format", "csv", "--about", "400", "--force", "--output", items)
    hierarchy = Hierarchy.open(run)
    labels = hierarchy.memberships()["level_1"].to_numpy()
    together = copies[labels[copies] == labels[copies - 1]]
    flags = hierarchy.table("flags")
    found = set(flags[flags["kind"] == "near_duplicate"]["row"])
    n_found = sum(bool({row, row - 1} & found) for row in together.tolist())
    print(
        f"{len(copies):,} copies, {len(together):,} of them in the cluster of the original, "
        f"{n_found:,} found; {len(found):,} flags"
    )


if __name__ == "__main__":
    main()
