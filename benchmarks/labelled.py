"""Labelled data sets as vectors, for the benchmarks of clustering.

Vectors are made once and kept in a cache folder: texts by all-MiniLM-L6-v2, images as their pixels,
numeric columns standardised.
"""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hercules_scale.clustering.smoothing import is_unit


@dataclass(frozen=True)
class Labelled:
    """One data set.

    Attributes:
        name: Its file's name.
        vectors: Shape (n, d), less their mean.
        labels: True classes by column, each of shape (n,).
        levels: Clusters a level that are asked for, finest first.
        unit: Whether the vectors had unit length before their mean was taken off.
    """

    name: str
    vectors: NDArray[np.float32]
    labels: dict[str, NDArray[np.int64]]
    levels: list[int]
    unit: bool


# Counts near those of the labels, where the labels are a tree; else around the labels' count.
LEVELS = {
    "20newsgroups": [100, 20, 5],
    "dbpedia": [200, 70, 9],
    "banking77": [200, 77, 12],
    "stackoverflow": [100, 20, 5],
    "fashion-mnist-10k": [50, 10, 5],
    "pendigits": [50, 10, 4],
    "anuran_calls": [40, 10, 4],
}


def load_labelled(name: str, folder: str, cache: str) -> Labelled:
    """One data set, embedded at the first call."""
    path = Path(folder) / f"{name}.parquet"
    if not path.exists():
        sys.exit(f"{path}: no such file; give the folder of the labelled sets with --data")
    table = pq.read_table(path)
    names = table.column_names
    kept = np.ones(table.num_rows, bool)
    if "text" in names:
        kept = np.array([bool(text and text.strip()) for text in table["text"].to_pylist()])
    table = table.filter(kept)
    stored = Path(cache) / f"{name}.npy"
    if not stored.exists():
        stored.parent.mkdir(parents=True, exist_ok=True)
        np.save(stored, _vectors(table, names))
    vectors = np.load(stored)
    labels: dict[str, NDArray[np.int64]] = {}
    for column in names:
        if column == "label" or (column.startswith("level") and column[5:].isdigit()):
            values = np.asarray(table[column].to_pylist(), str)
            classes = np.unique(values, return_inverse=True)[1].astype(np.int64)
            # The finest level often repeats the label.
            if not any((classes == other).all() for other in labels.values()):
                labels[column] = classes
    centred = (vectors - vectors.mean(axis=0, dtype=np.float64)).astype(np.float32)
    return Labelled(name, centred, labels, LEVELS[name], is_unit(vectors))


def _vectors(table: pa.Table, names: list[str]) -> NDArray[np.float32]:
    if "text" in names:
        from hercules_scale.embedding.sentence_transformer import SentenceTransformerEncoder

        return SentenceTransformerEncoder("minilm").encode(table["text"].to_pylist())
    images = [name for name in names if name in ("image", "png", "image_bytes")]
    if images:
        from PIL import Image

        column = table[images[0]].to_pylist()
        data = [each["bytes"] if isinstance(each, dict) else each for each in column]
        pixels = [np.asarray(Image.open(io.BytesIO(png)).convert("L")) for png in data]
        return (np.stack(pixels).reshape(len(pixels), -1) / 255.0).astype(np.float32)
    # Whole numbers are ids, such as that of the recording, which would give the labels away.
    columns = [
        table[name].to_numpy()
        for name, kind in zip(names, table.schema.types, strict=True)
        if pa.types.is_floating(kind)
    ]
    values = np.stack(columns, axis=1)
    standard: NDArray[np.float64] = (values - values.mean(axis=0)) / values.std(axis=0)
    return standard.astype(np.float32)
