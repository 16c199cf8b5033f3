"""How fast the explorer answers about a run of many items, and what memory it takes.

    python benchmarks/explorer.py [--rows 10000000] [--run URI --words WORDS...] [--json OUT]

Makes the output of a run of planted clusters (nothing is embedded or clustered), or takes one that
is there, serves it as ``hercules-scale explore`` does and asks over HTTP. Each request is of
another cluster, so that nothing was read before but by the operating system. Items like one are
searched in one request, which reads for .3 s; of how many it has read is printed as a share.
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

from hercules_scale.storage.layout import SUCCESS
from hercules_scale.storage.store import Store

WORDS = ["boats", "red birds", "quiet", "number 77", "houses seen", "bridges"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 500, 20])
    parser.add_argument("--requests", type=int, default=20)
    parser.add_argument("--dimension", type=int, default=64, help="of the made run's vectors")
    parser.add_argument("--run", help="output of a run to measure; default: one is made")
    parser.add_argument("--words", nargs="+", default=WORDS, help="that are searched for")
    parser.add_argument("--meaning", action="store_true", help="search the run by meaning too")
    parser.add_argument("--folder", help="where the run is made and kept; default: deleted")
    parser.add_argument("--json", help="file for the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hercules_scale_") as scratch:
        run = options.run or f"{options.folder or scratch}/run"
        store, started = Store(run), time.monotonic()
        if not store.exists(SUCCESS):
            sizes = tuple(options.sizes)
            make_run(run, Made(options.rows, sizes, dimension=options.dimension))
            print(f"made in {time.monotonic() - started:.0f} s")
        size = sum(store.list_sizes("").values())
        print(f"{run}: {size / 1e9:.2f} GB")
        figures = measure(run, options.words, options.requests, options.meaning)
    for name, values in figures.items():
        print(f"{name:<36}{statistics.median(values):>10.3f}{max(values):>10.3f}")
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=1), encoding="utf-8")


def measure(
    folder: str, words: list[str], n_requests: int, by_meaning: bool
) -> dict[str, list[float]]:
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
            sizes = [len(level["title"]) for level in client.get("tree").json()["levels"]]
            n_rows = client.get("tree").json()["n_items"]
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
            figures["glimpse of one item"] = [ask(f"glimpses?places={row}") for row in rows]
            columns = [each["name"] for each in client.get("shade_columns").json()]
            figures["colours by a column, first time"] = [ask(f"shades?by={by}") for by in columns]
            figures["search of clusters"] = [ask(f"search/clusters?q={each}") for each in words]
            figures["search of items, first hits"] = [
                ask(f"search/items?q={each}") for each in words
            ]
            rare = [f"nowhere {row}" for row in rows[:3]]
            figures["search of items, to the end"] = [_to_the_end(client, each) for each in rare]
            figures["items like one"] = [ask(f"search/similar?row={each}") for each in rows]
            found = [client.get(f"search/similar?row={each}").json() for each in rows[:5]]
            figures["items like one, share read"] = [
                each["n_searched"] / each["n_items"] for each in found
            ]
            if by_meaning:
                figures["first search by meaning"] = [ask(f"search/meaning?q={words[0]}")]
                figures["clusters by meaning"] = [ask(f"search/meaning?q={each}") for each in words]
                figures["items by meaning"] = [
                    ask(f"search/items_by_meaning?q={each}") for each in words
                ]
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
