"""One iteration of k-means on a GPU: seconds, TFLOP/s, and labels checked in float64.

    python benchmarks/gpu_kmeans.py [--rows 10000000] [--dimension 768] [--clusters 10000]
        [--iterations 5] [--peak 989e12] [--json OUT] [--profile]

It needs numpy and torch alone, and the repository on PYTHONPATH. Vectors of unit length around
planted centres are made on the device, tile by tile, from a seed. An iteration is the assignment,
the fixed-point sums and the new centroids; the first, which moves every row, is timed like the
others, after one over a single tile that warms up. The work is counted as 2·n·k·d operations,
whatever is computed besides.
"""

from __future__ import annotations

import argparse
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--clusters", type=int, default=10_000)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--spread", type=float, default=1.0, help="noise over centres, by length")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--peak", type=float, default=989e12, help="operations a second at most")
    parser.add_argument("--checked", type=int, default=2000, help="rows checked in float64")
    parser.add_argument("--profile", action="store_true", help="show kernels of a last iteration")
    parser.add_argument("--json", help="where to write the figures")
    options = parser.parse_args()

    warm_up = list(make_tiles(options, TILE_ROWS))
    centroids = warm_up[0][: options.clusters].clone()
    DeviceTiles(warm_up, PLACES, options.device, DTYPES[options.dtype]).assign(centroids)
    del warm_up
    started = time.perf_counter()
    tiles = DeviceTiles(
        make_tiles(options, options.rows), PLACES, options.device, DTYPES[options.dtype]
    )
    synchronize(options.device)
    figures: dict[str, object] = {**vars(options), "torch": torch.__version__}
    figures["device_name"] = device_name(options.device)
    figures["seconds_to_load"] = time.perf_counter() - started
    runs = []
    for _ in range(options.iterations):
        before = tiles.labels()
        centroids, run = iterate(tiles, centroids, before, options)
        runs.append(run)
    assigned_to = centroids
    labels, _ = tiles.assign(assigned_to)
    figures["iterations_run"] = runs
    seconds = statistics.median(run["seconds"] for run in runs)
    work = 2 * options.rows * options.clusters * options.dimension
    figures["seconds"] = seconds
    figures["tflops"] = work / seconds / 1e12
    figures["share_of_peak"] = work / seconds / options.peak
    figures |= check(options, tiles, labels, assigned_to)
    show(figures, runs)
    if options.profile:
        profile(tiles, centroids, options)
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=1))


def make_tiles(options: argparse.Namespace, n_rows: int) -> Iterator[Tensor]:
    """Yield unit vectors around as many planted centres as there are clusters, on the device."""
    draw = torch.Generator(options.device).manual_seed(0)
    shape = (options.clusters, options.dimension)
    centres = torch.randn(shape, generator=draw, device=options.device)
    for start in range(0, n_rows, TILE_ROWS):
        # Each tile from its own seed, so that it can be made again.
        draw.manual_seed(start + 1)
        rows = min(TILE_ROWS, n_rows - start)
        chosen = torch.randint(len(centres), (rows,), generator=draw, device=options.device)
        noise = torch.randn((rows, options.dimension), generator=draw, device=options.device)
        yield torch.nn.functional.normalize(centres[chosen] + options.spread * noise)


def iterate(
    tiles: DeviceTiles, centroids: Tensor, before: Tensor, options: argparse.Namespace
) -> tuple[Tensor, dict[str, float]]:
    """Return the centroids of the next iteration, and what this one took."""
    synchronize(options.device)
    started = time.perf_counter()
    labels, distances = tiles.assign(centroids)
    synchronize(options.device)
    assigned = time.perf_counter()
    totals = tiles.sums.double() / 2.0**PLACES
    means = (totals / tiles.counts.clamp(min=1)[:, None]).float()
    means = torch.where(tiles.counts[:, None] > 0, means, centroids)
    synchronize(options.device)
    return means, {
        "seconds": time.perf_counter() - started,
        "seconds_assign": assigned - started,
        "inertia": float(distances.double().sum()),
        "changed": float((labels != before).double().mean()),
    }


def check(
    options: argparse.Namespace, tiles: DeviceTiles, labels: Tensor, centroids: Tensor
) -> dict[str, object]:
    """Compare labels with those of float64, and sums with those of all rows."""
    exact = centroids.double()
    step = max(1, options.rows // options.checked)
    n_checked = n_equal = 0
    total = torch.zeros(options.dimension, dtype=torch.int64, device=options.device)
    for index, tile in enumerate(make_tiles(options, options.rows)):
        first = index * TILE_ROWS
        total += (tile.double() * 2.0**PLACES).round().long().sum(dim=0)
        for row in range(-first % step, len(tile), step):
            distances = (exact - tile[row].double()).square().sum(dim=1)
            n_checked += 1
            n_equal += int(distances[labels[first + row]] == distances.min())
    return {
        "rows_checked": n_checked,
        "labels_equal": n_equal,
        "sums_equal": bool((tiles.sums.sum(dim=0) == total).all()),
        "counts_equal": int(tiles.counts.sum()) == options.rows,
    }


def profile(tiles: DeviceTiles, centroids: Tensor, options: argparse.Namespace) -> None:
    """Show where the time of an iteration goes."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if options.device != "cpu":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        tiles.assign(centroids)
        synchronize(options.device)
    order = "self_cpu_time_total" if options.device == "cpu" else "self_cuda_time_total"
    print(profiler.key_averages().table(sort_by=order, row_limit=20, max_name_column_width=60))


def show(figures: dict[str, object], runs: list[dict[str, float]]) -> None:
    print(f"{figures['device_name']}, torch {figures['torch']}, {figures['dtype']}")
    print(
        f"{figures['rows']:,} x {figures['dimension']}, {figures['clusters']:,} clusters, "
        f"loaded in {figures['seconds_to_load']:.1f} s"
    )
    print(f"{'iteration':>9}{'seconds':>10}{'assign':>10}{'changed':>10}{'inertia':>14}")
    for number, run in enumerate(runs, start=1):
        print(
            f"{number:>9}{run['seconds']:>10.4f}{run['seconds_assign']:>10.4f}"
            f"{run['changed']:>10.2%}{run['inertia']:>14.6g}"
        )
    print(
        f"median {figures['seconds']:.4f} s, {figures['tflops']:.4g} TFLOP/s, "
        f"{figures['share_of_peak']:.1%} of the peak"
    )
    print(
        f"labels equal to float64's: {figures['labels_equal']} of {figures['rows_checked']}; "
        f"sums equal: {figures['sums_equal']}; counts equal: {figures['counts_equal']}"
    )


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def device_name(device: str) -> str:
    return "CPU" if device == "cpu" else torch.cuda.get_device_name()


if __name__ == "__main__":
    main()
