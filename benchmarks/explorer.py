"""How fast the explorer answers about a run of many items, and what memory it takes.

Makes the output of a run of planted clusters (nothing is embedded or clustered), serves it as
``hercules-scale explore`` does and asks over HTTP. Each request is of another cluster, so that
nothing was read before but by the operating system.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import psutil
from made_run import Made, make_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 500, 20])
    parser.add_argument("--requests", type=int, default=20)
    parser.add_argument("--folder", help="where the run is made and kept; default: deleted")
    parser.add_argument("--json", help="file for the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hercules_scale_") as scratch:
        folder = Path(options.folder or scratch) / "run"
        started = time.monotonic()
        if not folder.exists():
            make_run(str(folder), Made(options.rows, tuple(options.sizes)))
        made = time.monotonic() - started
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"{options.rows:,} items, {size / 1e9:.2f} GB, made in {made:.0f} s")
        figures = measure(str(folder), options.sizes, options.rows, options.requests)
    for name, values in figures.items():
        print(f"{name:<36}{statistics.median(values):>10.3f}{max(values):>10.3f}")
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=1), encoding="utf-8")


def measure(folder: str, sizes: list[int], n_rows: int, n_requests: int) -> dict[str, list[float]]:
    """Seconds of each request by kind, and memory in GiB."""
    command = [sys.executable, "-m", "hercules_scale", "explore", folder, "--port", "0"]
    started = time.monotonic()
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().split()[1]
        figures = {"opening: server listens": [time.monotonic() - started]}
        draw = random.Random(0)
        with httpx.Client(base_url=f"{address}api/runs/0/", timeout=60) as client:

            def ask(path: str) -> float:
                begun = time.monotonic()
                client.get(path).raise_for_status()
                return time.monotonic() - begun

            figures["opening: page has all clusters"] = [
                time.monotonic() - started + ask("state") + ask("tree")
            ]
            figures["map of all items"] = [ask("points") for _ in range(3)]
            for level, k in enumerate(sizes, start=1):
                ids = [draw.randrange(k) for _ in range(n_requests)]
                name = f"level {level}"
                figures[f"click on a cluster, {name}"] = [
                    ask(f"cluster?level={level}&id={each}") for each in ids
                ]
                figures[f"page of its items, {name}"] = [
                    ask(f"items?level={level}&id={each}&offset={draw.randrange(300)}")
                    for each in ids
                ]
                figures[f"its items on the map, {name}"] = [
                    ask(f"points?level={level}&id={each}") for each in ids
                ]
            rows = [draw.randrange(n_rows) for _ in range(n_requests)]
            figures["one item"] = [ask(f"item?row={row}") for row in rows]
            words = ["boats", "red birds", "quiet", "number 77", "houses seen", "bridges"]
            figures["search of clusters"] = [ask(f"search/clusters?q={each}") for each in words]
            figures["search of items, first hits"] = [
                ask(f"search/items?q={each}") for each in words
            ]
            rare = [f"number {row}" for row in rows[:3]]
            figures["search of items, one rare hit"] = [_to_the_end(client, each) for each in rare]
        memory = psutil.Process(server.pid).memory_info()
        figures["memory of the server, GiB"] = [memory.rss / 2**30]
    finally:
        server.kill()
        server.wait()
    return figures


def _to_the_end(client: httpx.Client, query: str) -> float:
    begun, start = time.monotonic(), 0
    while True:
        found = client.get(f"search/items?q={query}&start={start}").json()
        start = found["searched"]
        if start == found["n_items"]:
            return time.monotonic() - begun


if __name__ == "__main__":
    main()
