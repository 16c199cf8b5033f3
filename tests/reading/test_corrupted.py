"""Ten thousand damaged inputs: each gives items, rejected rows with reasons, or one typed error."""

from __future__ import annotations

import gzip
import io
import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from hercules_scale.config.reading import InputConfig
from hercules_scale.errors import HerculesScaleError
from hercules_scale.reading.input_pieces import split_into_pieces
from hercules_scale.reading.items import Layout, examine, read_piece
from hercules_scale.reading.listing import list_sources

EXAMPLES_EACH = 850
N_ROWS = 12
WORDS = [f"the {place} of {row}" for row, place in enumerate(["ferry", "Größe", "東京"] * 4)]


def parquet(table: pa.Table) -> bytes:
    data = io.BytesIO()
    # Plain pages in several row groups, so that damage reaches values and headers alike.
    pq.write_table(table, data, compression="none", use_dictionary=False, row_group_size=5)
    return data.getvalue()


def picture(form: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (12, 10, 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, form)
    return data.getvalue()


def vectors() -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.random.default_rng(1).normal(size=(N_ROWS, 3)).astype(np.float32)


def npy() -> bytes:
    data = io.BytesIO()
    np.save(data, vectors())
    return data.getvalue()


NUMBERS = {"a": list(range(N_ROWS)), "b": [row / 7 for row in range(N_ROWS)]}
LINES = [json.dumps({"text": text, "id": row}) for row, text in enumerate(WORDS)]
CSV = "id,text\n" + "".join(f'{row},"{text}, said ""it"""\n' for row, text in enumerate(WORDS))
WHOLE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "parquet of texts": ("t.parquet", lambda: parquet(pa.table({"text": WORDS}))),
    "parquet of numbers": ("t.parquet", lambda: parquet(pa.table(NUMBERS))),
    "parquet of vectors": ("t.parquet", lambda: parquet(pa.table({"embedding": list(vectors())}))),
    "parquet of images": ("t.parquet", lambda: parquet(pa.table({"image": [picture("PNG")] * 3}))),
    "csv": ("t.csv", CSV.encode),
    "csv.gz": ("t.csv.gz", lambda: gzip.compress(CSV.encode())),
    "jsonl": ("t.jsonl", "\n".join(LINES).encode),
    "jsonl.gz": ("t.jsonl.gz", lambda: gzip.compress("\n".join(LINES).encode())),
    "txt": ("t.txt", "\n".join(WORDS).encode),
    "npy": ("t.npy", npy),
    "png": ("t.png", lambda: picture("PNG")),
    "jpg": ("t.jpg", lambda: picture("JPEG")),
}


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A file cut off, with bytes changed, removed, repeated or put in."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        place = rng.randrange(len(data) + 1)
        length = rng.choice([1, 1, 2, 8, 64])
        match rng.randrange(6):
            case 0:
                del data[place:]
            case 1:
                del data[place : place + length]
            case 2:
                data[place:place] = rng.randbytes(length)
            case 3:
                data[place : place + length] = rng.randbytes(length)
            case 4:
                data[place : place + length] = bytes([rng.choice([0, 10, 34, 255])]) * length
            case 5:
                data[place:place] = data[place : place + length] * 3
        if not data:
            break
    return bytes(data)


def read_everything(path: Path) -> tuple[int, int, int]:
    """Items, rejected rows and rows of an input."""
    config = InputConfig(path=str(path))
    sources = list_sources(config.paths)
    of_items = Layout.of(examine(config, sources))
    n_items = n_rejected = n_rows = 0
    for piece in split_into_pieces(sources):
        for batch in read_piece(config, of_items, piece):
            assert batch.items.schema == of_items.schema
            assert all(row["reason"] for row in batch.rejected.to_pylist())
            n_items += batch.items.num_rows
            n_rejected += batch.rejected.num_rows
            n_rows += batch.n_rows
    return n_items, n_rejected, n_rows


@pytest.mark.slow
@pytest.mark.parametrize("form", WHOLE)
def test_a_damaged_input_gives_items_reasons_or_one_typed_error(form: str) -> None:
    name, make = WHOLE[form]
    whole = make()
    ends = {"read": 0, "rejected": 0, "refused": 0}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(whole)
        assert read_everything(path)[1] == 0

        @settings(
            max_examples=EXAMPLES_EACH,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(damaged(whole))
        def check(data: bytes) -> None:
            path.write_bytes(data)
            try:
                n_items, n_rejected, n_rows = read_everything(path)
            except HerculesScaleError as error:
                # Which names the file.
                ends["refused"] += name in str(error)
                return
            assert n_items + n_rejected == n_rows
            ends["rejected" if n_rejected else "read"] += 1

        check()
    # The damage is of all kinds, and not all of it is fatal.
    assert sum(ends.values()) >= EXAMPLES_EACH
    assert sum(count > 0 for count in ends.values()) >= 2, ends
