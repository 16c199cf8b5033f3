"""Data that are given in Python: paths of files, numbers of columns, and Ray Datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hercules_scale.config.resources import StorageConfig
from hercules_scale.reading.in_memory_items import IMAGE_ENDINGS
from hercules_scale.storage.store import Store

WRITTEN = "input_written"


def names_files(data: Any, modality: str | None) -> bool:
    """Return whether data are a path, a URI or a list of paths of files; a list of strings holds
    texts."""
    if isinstance(data, str | Path):
        return True
    if not isinstance(data, list | tuple) or modality == "image" or not data:
        return False
    return all(isinstance(each, Path) for each in data) and not all(
        each.suffix.lower() in IMAGE_ENDINGS for each in data
    )


def n_columns(data: Any) -> int | None:
    """Return the number of columns of an array, a table or a list of rows; None for other items."""
    if isinstance(data, list | tuple):
        first = data[0] if data else None
        return len(first) if isinstance(first, list | tuple | np.ndarray) else None
    shape: tuple[int, ...] = getattr(data, "shape", ())
    return int(shape[1]) if len(shape) == 2 else None


def write_dataset(dataset: Any, folder: str, storage: StorageConfig) -> None:
    """Write a Ray Dataset as Parquet once; a resumed run uses the files that were written."""
    store, beside = (Store(each, storage) for each in (folder, folder.rpartition("/")[0]))
    if not beside.exists(WRITTEN):
        store.delete_files("")
        dataset.write_parquet(store.root, filesystem=store.arrow)
        beside.write_bytes(WRITTEN, b"")
