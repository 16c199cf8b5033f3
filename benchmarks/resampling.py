"""Seconds of the paper's resampling: 20,000 x 32, [1000, 100, 10], 10 rounds of 10 points.

python benchmarks/resampling.py [--rounds 5] [--json OUT]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np

from hercules_scale.clustering.levels import build_levels
from hercules_scale.clustering.tiles import LocalVectors
from hercules_scale.config import HierarchyConfig, ResamplingConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="times that all is measured")
    parser.add_argument("--json", help="where to write the figures")
    options = parser.parse_args()
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(1500, 32))
    noise = 0.5 * draw.normal(size=(20_000, 32))
    vectors = (centres[draw.integers(0, 1500, 20_000)] + noise).astype(np.float32)
    seconds: dict[str, list[float]] = {"none": [], "tree": []}
    sizes: dict[str, list[int]] = {}
    for _ in range(options.rounds):
        for refinement, taken in seconds.items():
            config = HierarchyConfig.model_validate(
                {"levels": [1000, 100, 10], "refinement": refinement}
                | {"resampling": ResamplingConfig(rounds=10, points_per_cluster=10)}
            )
            started = time.perf_counter()
            found = build_levels(LocalVectors(vectors), config)
            taken.append(time.perf_counter() - started)
            sizes[refinement] = [len(level.centroids) for level in found.levels]
    for refinement, taken in seconds.items():
        listed = ", ".join(f"{value:.2f}" for value in taken)
        print(
            f"refinement {refinement}: {statistics.median(taken):.2f} s ({listed}), clusters "
            f"{sizes[refinement]}"
        )
    if options.json:
        Path(options.json).write_text(json.dumps(seconds, indent=1))


if __name__ == "__main__":
    main()
