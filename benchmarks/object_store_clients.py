"""Our store beside obstore, the client of Rust's object_store, on a local S3 server.

    pip install obstore && python benchmarks/object_store_clients.py [--rounds 3] [--json OUT]

Small files are written and read one after the other, as commits are. A Parquet file of 160 MB goes
through pyarrow's own S3 client in the one case and through a Python file in the other. Medians are
printed. The last line says how long each waits for a server that is away for ten seconds.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hercules_scale.storage.store import Store
from tests.s3_server import S3Server

ROWS, SMALL_FILES, OUTAGE_SECONDS = 20_000_000, 100, 10


class Writer(io.RawIOBase):
    """A file for pyarrow around obstore's writer, which lacks ``closed``."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def writable(self) -> bool:
        """Return true."""
        return True

    def write(self, data: Any) -> int:
        """Write some bytes."""
        self._stream.write(bytes(data))
        return len(data)

    def close(self) -> None:
        """Finish the object, once."""
        if not self.closed:
            self._stream.close()
        super().close()


class Reader(io.RawIOBase):
    """A file for pyarrow around obstore's reader, which lacks ``closed``."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        """Return true."""
        return True

    def seekable(self) -> bool:
        """Return true."""
        return True

    def read(self, n_bytes: int = -1) -> bytes:
        """Return some bytes; by default all that are left."""
        return bytes(self._stream.read() if n_bytes < 0 else self._stream.read(n_bytes))

    def seek(self, place: int, whence: int = 0) -> int:
        """Go to a place."""
        return int(self._stream.seek(place, whence))

    def tell(self) -> int:
        """Return the place."""
        return int(self._stream.tell())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="where to write the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = S3Server(Path(folder))
        os.environ.update(server.environment)
        server.start()
        try:
            figures = compare(server, options.rounds)
        finally:
            server.kill()
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=1))


def compare(server: S3Server, rounds: int) -> dict[str, Any]:
    import obstore  # type: ignore[import-not-found]
    from obstore.store import S3Store  # type: ignore[import-not-found]

    ours = Store("s3://bucket/clients")
    theirs = S3Store(
        "bucket",
        prefix="clients",
        endpoint=server.environment["AWS_ENDPOINT_URL"],
        client_options={"allow_http": True},
    )
    table = pa.table({"x": np.random.default_rng(0).normal(size=ROWS)})

    def write_ours() -> None:
        with ours.arrow.open_output_stream(ours.path("ours.parquet")) as stream:
            pq.write_table(table, stream)

    def write_theirs() -> None:
        with pa.PythonFile(Writer(obstore.open_writer(theirs, "theirs.parquet")), "w") as stream:
            pq.write_table(table, stream)

    def read_theirs() -> None:
        reader = Reader(obstore.open_reader(theirs, "theirs.parquet", buffer_size=8 << 20))
        pq.read_table(pa.PythonFile(reader, "r"))

    def each(call: Callable[[str], object]) -> Callable[[], object]:
        return lambda: [call(f"small-{number}") for number in range(SMALL_FILES)]

    parts: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "write 100 small files": (
            each(lambda name: ours.write_bytes(name, b"x" * 500)),
            each(lambda name: obstore.put(theirs, name, b"x" * 500)),
        ),
        "read 100 small files": (
            each(ours.read_bytes),
            each(lambda name: bytes(obstore.get(theirs, name).bytes())),
        ),
        "write Parquet": (write_ours, write_theirs),
        "read Parquet": (
            lambda: pq.read_table(ours.path("ours.parquet"), filesystem=ours.arrow),
            read_theirs,
        ),
    }
    figures: dict[str, Any] = {}
    for name, (own, other) in parts.items():
        seconds = [[timed(own), timed(other)] for _ in range(rounds)]
        figures[name] = seconds
        mine, its = (statistics.median(column) for column in zip(*seconds, strict=True))
        print(f"{name:<24}{mine:8.2f} s{its:8.2f} s  obstore takes {its / mine:.2f}", flush=True)
    for name, read in (
        ("ours", lambda: ours.read_bytes("small-0")),
        ("obstore", lambda: obstore.get(theirs, "small-0")),
    ):
        server.kill()
        again = threading.Timer(OUTAGE_SECONDS, server.start, kwargs={"wait": False})
        again.start()
        seconds_waited, said = outlast(read)
        again.join()
        figures[f"outage, {name}"] = [seconds_waited, said]
        print(f"outage of {OUTAGE_SECONDS} s, {name}: {said} after {seconds_waited:.1f} s")
    return figures


def timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def outlast(read: Callable[[], object]) -> tuple[float, str]:
    """Seconds of a read during an outage, and how it ended."""
    started = time.perf_counter()
    try:
        read()
    except Exception as error:
        return time.perf_counter() - started, f"failed ({type(error).__name__})"
    return time.perf_counter() - started, "read"


if __name__ == "__main__":
    main()
