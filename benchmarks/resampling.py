"""The paper's resampling: its seconds, and what it and tree refinement make of one another.

python benchmarks/resampling.py [--rounds 5] [--data ../shared/data] [--json OUT]

Seconds are of 20,000 x 32, [1000, 100, 10], 10 rounds of 10 points. With --data, labelled sets are
clustered four ways: level on level (none), the same with resampling, tree refinement after that,
and tree refinement alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from hercules_scale.clustering.levels import build_levels
from hercules_scale.clustering.local_vectors import LocalVectors
from hercules_scale.clustering.nearest_centroids import Float32, Int32, to_unit
from hercules_scale.clustering.refinement import Parents, refine_tree
from hercules_scale.clustering.tiles import labels_of
from hercules_scale.config.hierarchy import HierarchyConfig, ResamplingConfig

RESAMPLING = ResamplingConfig(rounds=10, points_per_cluster=10)
SEEDS = 3
# Of each labelled set: its columns of labels, finest first, and the clusters of each level.
SETS = {
    "pendigits": (["label"], [100, 10]),
    "anuran_calls": (["label", "level2", "level1"], [60, 10, 4]),
    "dbpedia": (["level3", "level2", "level1"], [219, 70, 9]),
    "banking77": (["label"], [300, 77]),
    "stackoverflow": (["label"], [200, 20]),
}

Built = tuple[Int32, Parents]
"""Finest clusters of all rows, and the parents of the clusters of each level but the top."""


def planted() -> Float32:
    """20,000 vectors around 1,500 centres."""
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(1500, 32))
    noise = 0.5 * draw.normal(size=(20_000, 32))
    return (centres[draw.integers(0, 1500, 20_000)] + noise).astype(np.float32)


def measure_seconds(rounds: int) -> list[float]:
    """Seconds of each of some rounds."""
    vectors, taken = planted(), []
    config = HierarchyConfig(levels=[1000, 100, 10], refinement="none", resampling=RESAMPLING)
    for _ in range(rounds):
        started = time.perf_counter()
        build_levels(LocalVectors(vectors), config)
        taken.append(time.perf_counter() - started)
    return taken


def none(vectors: Float32, levels: list[int], seed: int) -> Built:
    """Level on level."""
    return _build(vectors, HierarchyConfig(levels=levels, seed=seed, refinement="none"))


def resampled(vectors: Float32, levels: list[int], seed: int) -> Built:
    """Level on level, with resampling."""
    config = HierarchyConfig(levels=levels, seed=seed, refinement="none", resampling=RESAMPLING)
    return _build(vectors, config)


def resampled_tree(vectors: Float32, levels: list[int], seed: int) -> Built:
    """Do the same, then refine the tree."""
    config = HierarchyConfig(levels=levels, seed=seed, refinement="none", resampling=RESAMPLING)
    local = LocalVectors(vectors)
    found = build_levels(local, config)
    parents = [level.parents for level in found.levels if level.parents is not None]
    tree = refine_tree(local, found.levels[0].centroids, parents)
    return labels_of(local), tree.parents


def tree(vectors: Float32, levels: list[int], seed: int) -> Built:
    """Tree refinement alone."""
    return _build(vectors, HierarchyConfig(levels=levels, seed=seed))


WAYS: list[Callable[[Float32, list[int], int], Built]] = [none, resampled, resampled_tree, tree]


def _build(vectors: Float32, config: HierarchyConfig) -> Built:
    local = LocalVectors(vectors)
    found = build_levels(local, config)
    parents = [level.parents for level in found.levels if level.parents is not None]
    return found.leaves[labels_of(local)], parents


def labels_by_level(built: Built) -> list[Int32]:
    """Clusters of all rows at each level, finest first."""
    labels = [built[0]]
    for parents in built[1]:
        labels.append(parents[labels[-1]])
    return labels


def inertia(vectors: Float32, labels: Int32) -> float:
    """Sum of squared distances to the mean of the own cluster."""
    counts = np.bincount(labels)
    sums = np.zeros((len(counts), vectors.shape[1]))
    np.add.at(sums, labels, vectors)
    means = sums / np.maximum(counts, 1)[:, None]
    return float(((vectors - means[labels]) ** 2).sum())


def read_vectors(table: pd.DataFrame) -> Float32:
    """Standardised numbers, or 100 dimensions of the texts' TF-IDF, less their mean."""
    if "text" in table:
        terms = TfidfVectorizer(sublinear_tf=True, min_df=2, stop_words="english")
        of_texts = TruncatedSVD(100, random_state=0).fit_transform(
            terms.fit_transform(table["text"])
        )
        values = to_unit(of_texts.astype(np.float32))
    else:
        numbers = table.select_dtypes("number")
        numbers = numbers[
            [name for name in numbers if not str(name).startswith(("label", "level"))]
        ]
        numbers = numbers.drop(columns=["id", "record_id"], errors="ignore")
        values = ((numbers - numbers.mean()) / numbers.std(ddof=0)).to_numpy(np.float32)
    return np.asarray(values - values.mean(axis=0), np.float32)


def compare(folder: Path) -> Iterator[dict[str, object]]:
    """Yield a row a set, way and level: inertia, ARI and NMI, means of the seeds."""
    tables = {name: pd.read_parquet(folder / f"{name}.parquet") for name in SETS}
    sets = {
        name: (read_vectors(table), [table[each].to_numpy() for each in SETS[name][0]])
        for name, table in tables.items()
    }
    asked = {name: levels for name, (_, levels) in SETS.items()}
    sets["planted"], asked["planted"] = (planted(), []), [1000, 100, 10]
    for name, (vectors, truths) in sets.items():
        for way in WAYS:
            found = [labels_by_level(way(vectors, asked[name], seed)) for seed in range(SEEDS)]
            for level, labels in enumerate(zip(*found, strict=True)):
                # The labels that have about as many values as the level has clusters.
                k = asked[name][level]
                truth = min(truths, key=lambda own: abs(len(set(own)) - k), default=None)
                scores = (
                    []
                    if truth is None
                    else [
                        (adjusted_rand_score(truth, own), normalized_mutual_info_score(truth, own))
                        for own in labels
                    ]
                )
                ari, nmi = np.mean(scores, axis=0).tolist() if scores else (None, None)
                yield {
                    "set": name,
                    "level": level + 1,
                    "k": k,
                    "way": way.__name__,
                    "inertia": float(np.mean([inertia(vectors, own) for own in labels])),
                    "ari": ari,
                    "nmi": nmi,
                }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="times that all is measured")
    parser.add_argument("--data", help="folder of the labelled sets")
    parser.add_argument("--json", help="where to write the figures")
    options = parser.parse_args()
    seconds = measure_seconds(options.rounds)
    listed = ", ".join(f"{value:.2f}" for value in seconds)
    print(f"resampling: {statistics.median(seconds):.2f} s ({listed})")
    rows = []
    for row in compare(Path(options.data)) if options.data else ():
        rows.append(row)
        print(row, flush=True)
    if options.json:
        Path(options.json).write_text(json.dumps({"seconds": seconds, "sets": rows}, indent=1))


if __name__ == "__main__":
    main()
