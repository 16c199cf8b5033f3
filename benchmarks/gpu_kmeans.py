"""k-means on a GPU against its roofline, with labels and sums checked to the bit against the CPU.

    python benchmarks/gpu_kmeans.py [--sizes 200000x1000 10000000x10000 ...] [--dimension 768]
        [--iterations 3] [--peak 989e12] [--limit 540] [--json OUT] [--profile]

One script for a machine that is lent for minutes: it needs numpy and torch alone, and the
repository on PYTHONPATH. By default it takes 200,000 and 10,000,000 rows with 1,000 and 10,000
clusters each, and leaves out the sizes that the limit in seconds has no time for.

Vectors of unit length around planted centres are made on the device, tile by tile, from a seed. An
iteration is the assignment, the fixed-point sums and the new centroids; the first, which moves
every row, is timed like the others, after one over a single tile that warms up. The work is counted
as 2·n·k·d operations, whatever is computed besides. The CPU repeats the last assignment of the
first tiles, with their sums, by the same kernel in float32. Where there is a FAISS for GPUs, its
search of the same tiles, which go to the GPU for it, is timed beside.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from hercules_scale.clustering.torch_nearest import DeviceTiles

TILE_ROWS = 65_536
# Of unit vectors: 62 - ceil(log2 n) - ceil(log2 max|x|).
PLACES = 38
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
SIZES = ("200000x1000", "200000x10000", "10000000x1000", "10000000x10000")
# Four tiles hold all of the 200,000 rows; of more rows they are a sample.
CHECKED_TILES = 4
HEADER = (
    *("rows", "clusters", "seconds", "TFLOP/s", "of peak", "FAISS, s"),
    *("rows checked", "labels", "sums"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="rows x clusters")
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--spread", type=float, default=1.0, help="noise over centres, by length")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--peak", type=float, default=989e12, help="operations a second at most")
    parser.add_argument("--limit", type=float, default=540, help="seconds in all")
    parser.add_argument("--profile", action="store_true", help="show kernels of a last iteration")
    parser.add_argument("--json", help="where to write the figures")
    options = parser.parse_args()

    started, longest = time.perf_counter(), 0.0
    rows: list[dict[str, object]] = []
    print(f"{device_name(options.device)}, torch {torch.__version__}, {options.dtype}")
    print("| " + " | ".join(HEADER) + " |\n|" + "---|" * len(HEADER))
    for size in options.sizes:
        n_rows, n_clusters = map(int, size.split("x"))
        began = time.perf_counter()
        # A size takes up to ten times as long as one of a tenth of its rows or clusters.
        if rows and began - started + 10 * longest > options.limit:
            print(f"{size}: left out, the time limit is near")
            continue
        rows.append(measure(n_rows, n_clusters, options))
        longest = max(longest, time.perf_counter() - began)
        print(as_row(rows[-1]), flush=True)
    if options.json:
        found = {**vars(options), "device_name": device_name(options.device), "sizes": rows}
        Path(options.json).write_text(json.dumps(found, indent=1))
    if not all(row["labels_equal"] and row["sums_equal"] for row in rows):
        raise SystemExit("labels or sums differ from the CPU's")


def measure(n_rows: int, n_clusters: int, options: argparse.Namespace) -> dict[str, object]:
    """Return the figures of one size."""
    dtype = DTYPES[options.dtype]
    warm_up = list(make_tiles(min(TILE_ROWS, n_rows), n_clusters, options))
    centroids = next(make_tiles(n_clusters, n_clusters, options)).clone()
    DeviceTiles(warm_up, PLACES, options.device, dtype).assign(centroids)
    del warm_up
    tiles = DeviceTiles(make_tiles(n_rows, n_clusters, options), PLACES, options.device, dtype)
    runs = []
    for _ in range(options.iterations):
        centroids, run = iterate(tiles, centroids, options.device)
        runs.append(run)
    labels, _ = tiles.assign(centroids)
    seconds = statistics.median(run["seconds"] for run in runs)
    work = 2 * n_rows * n_clusters * options.dimension
    figures = {
        "rows": n_rows,
        "clusters": n_clusters,
        "iterations": runs,
        "seconds": seconds,
        "tflops": work / seconds / 1e12,
        "share_of_peak": work / seconds / options.peak,
        "seconds_faiss": time_faiss(n_rows, n_clusters, centroids, options),
        **compare(n_rows, n_clusters, tiles, labels, centroids, options),
    }
    if options.profile:
        profile(tiles, centroids, options.device)
    return figures


def make_tiles(n_rows: int, n_clusters: int, options: argparse.Namespace) -> Iterator[Tensor]:
    """Yield unit vectors around as many planted centres as there are clusters, on the device."""
    draw = torch.Generator(options.device).manual_seed(0)
    shape = (n_clusters, options.dimension)
    centres = torch.randn(shape, generator=draw, device=options.device)
    for start in range(0, n_rows, TILE_ROWS):
        # Each tile from its own seed, so that it can be made again.
        draw.manual_seed(start + 1)
        rows = min(TILE_ROWS, n_rows - start)
        chosen = torch.randint(len(centres), (rows,), generator=draw, device=options.device)
        noise = torch.randn((rows, options.dimension), generator=draw, device=options.device)
        yield torch.nn.functional.normalize(centres[chosen] + options.spread * noise)


def iterate(tiles: DeviceTiles, centroids: Tensor, device: str) -> tuple[Tensor, dict[str, float]]:
    """Return the centroids of the next iteration, and what this one took."""
    before = tiles.labels()
    synchronize(device)
    started = time.perf_counter()
    labels, distances = tiles.assign(centroids)
    synchronize(device)
    assigned = time.perf_counter()
    totals = tiles.sums.double() / 2.0**PLACES
    means = (totals / tiles.counts.clamp(min=1)[:, None]).float()
    means = torch.where(tiles.counts[:, None] > 0, means, centroids)
    synchronize(device)
    return means, {
        "seconds": time.perf_counter() - started,
        "seconds_assign": assigned - started,
        "inertia": float(distances.double().sum()),
        "changed": float((labels != before).double().mean()),
    }


def time_faiss(
    n_rows: int, n_clusters: int, centroids: Tensor, options: argparse.Namespace
) -> float | None:
    """Return the time in which FAISS finds the nearest centroids on the GPU; None without it."""
    try:
        import faiss

        from hercules_scale.clustering.gpu_search import FaissGpuSearch
    except ImportError:
        return None
    if options.device == "cpu" or not faiss.get_num_gpus():
        return None
    search, points, seconds = FaissGpuSearch(), centroids.cpu().numpy(), 0.0
    for tile in make_tiles(n_rows, n_clusters, options):
        vectors = tile.cpu().numpy()
        started = time.perf_counter()
        search(vectors, points, 1, None)
        seconds += time.perf_counter() - started
    return seconds


def compare(
    n_rows: int,
    n_clusters: int,
    tiles: DeviceTiles,
    labels: Tensor,
    centroids: Tensor,
    options: argparse.Namespace,
) -> dict[str, object]:
    """Compare labels and sums of the first tiles with the CPU's, and the counts with the rows."""
    first = list(itertools.islice(make_tiles(n_rows, n_clusters, options), CHECKED_TILES))
    again = DeviceTiles(first, PLACES, options.device, DTYPES[options.dtype])
    again.assign(centroids)
    on_cpu = DeviceTiles([tile.cpu() for tile in first], PLACES, "cpu", torch.float32)
    expected, _ = on_cpu.assign(centroids.cpu())
    equal = labels[: len(expected)].cpu() == expected
    sums = torch.equal(again.sums.cpu(), on_cpu.sums) and torch.equal(
        again.counts.cpu(), on_cpu.counts
    )
    if len(expected) == n_rows:
        sums = sums and torch.equal(tiles.sums.cpu(), on_cpu.sums)
    return {
        "rows_checked": len(expected),
        "labels_equal": bool(equal.all()),
        "sums_equal": bool(sums) and int(tiles.counts.sum()) == n_rows,
    }


def profile(tiles: DeviceTiles, centroids: Tensor, device: str) -> None:
    """Show where the time of an iteration goes."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device != "cpu":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        tiles.assign(centroids)
        synchronize(device)
    order = "self_cpu_time_total" if device == "cpu" else "self_cuda_time_total"
    print(profiler.key_averages().table(sort_by=order, row_limit=20, max_name_column_width=60))


def as_row(figures: dict[str, object]) -> str:
    said = {True: "equal", False: "DIFFER"}
    seconds = figures["seconds_faiss"]
    by_faiss = "" if seconds is None else f"{seconds:.4f}"
    return (
        f"| {figures['rows']:,} | {figures['clusters']:,} | {figures['seconds']:.4f} "
        f"| {figures['tflops']:.4g} | {figures['share_of_peak']:.1%} | {by_faiss} "
        f"| {figures['rows_checked']:,} | {said[bool(figures['labels_equal'])]} "
        f"| {said[bool(figures['sums_equal'])]} |"
    )


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def device_name(device: str) -> str:
    return "CPU" if device == "cpu" else torch.cuda.get_device_name()


if __name__ == "__main__":
    main()
