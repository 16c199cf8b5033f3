"""Nested trees beside flat k-means run at each k on its own, on labelled data.

    python benchmarks/hierarchy.py --data ../shared/data [--sets dbpedia] [--seeds 8] [--json OUT]

Of each set and seed: flat k-means at each level's k (which does not nest), the paper's way
(unweighted centroids of centroids), and the tree; on the vectors as they are, smoothed (10
neighbours, 3 rounds), and as ``smoothing: auto`` has them. ARI and NMI are averaged over all levels
and all label columns; inertia is of the vectors that were clustered, at level 1, as a share of flat
k-means'. Intervals are 95% of the mean over seeds, and of the paired difference to flat k-means.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from labelled import LEVELS, Labelled, load_labelled
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from hercules_scale.clustering.kmeans import kmeans
from hercules_scale.clustering.levels import build_levels, compute_memberships
from hercules_scale.clustering.local_vectors import LocalVectors
from hercules_scale.clustering.smoothing import AUTO_SAMPLE_ROWS, choose_smoothing, smooth
from hercules_scale.clustering.tiles import labels_of, sample_rows
from hercules_scale.config.hierarchy import HierarchyConfig

Float32 = NDArray[np.float32]
NEIGHBOURS, ROUNDS = 10, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="../shared/data", help="folder of the labelled sets")
    parser.add_argument("--cache", default="/tmp/hercules_scale_vectors", help="where vectors go")
    parser.add_argument("--sets", nargs="*", default=list(LEVELS))
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--vectors", nargs="*", default=["raw", "smoothed", "auto"])
    parser.add_argument("--json", help="where to write the figures")
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    for name in options.sets:
        found = load_labelled(name, options.data, options.cache)
        figures[name] = measure(found, options.seeds, options.vectors)
        show(name, found, figures[name])
        if options.json:
            Path(options.json).write_text(json.dumps(figures, indent=1))


def measure(found: Labelled, n_seeds: int, wanted: list[str]) -> dict[str, Any]:
    """Every score of every way and seed."""
    results: dict[str, Any] = {}
    for kind, vectors, note in prepared(found, wanted):
        # What auto leaves alone, or smooths as asked above, is not measured again.
        if note.get("same_as") in results:
            results[kind] = {**results[note["same_as"]], "note": note}
            continue
        ways: dict[str, Callable[[int], list[NDArray[np.int32]]]] = {
            "flat": lambda seed, v=vectors: flat(v, found.levels, seed),  # type: ignore[misc]
            "paper": lambda seed, v=vectors: nested(v, found.levels, seed, "none"),  # type: ignore[misc]
            "tree": lambda seed, v=vectors: nested(v, found.levels, seed, "tree"),  # type: ignore[misc]
        }
        results[kind] = {"note": note}
        for way, cluster in ways.items():
            scores = [score(found, vectors, cluster(seed)) for seed in range(n_seeds)]
            results[kind][way] = {key: [each[key] for each in scores] for key in scores[0]}
    return results


def prepared(found: Labelled, wanted: list[str]) -> Iterator[tuple[str, Float32, dict[str, Any]]]:
    if "raw" in wanted:
        yield "raw", found.vectors, {}
    if "smoothed" in wanted:
        smoothed = smooth(found.vectors, NEIGHBOURS, ROUNDS, found.unit)
        yield "smoothed", centred(smoothed), {"neighbours": NEIGHBOURS}
    if "auto" in wanted:
        rows = np.sort(sample_rows(LocalVectors(found.vectors), AUTO_SAMPLE_ROWS, 0, 0))
        choice = choose_smoothing(
            found.vectors[rows], len(found.vectors), found.levels[0], ROUNDS, found.unit, 0
        )
        note = dict(vars(choice))
        if choice.neighbours in (0, NEIGHBOURS):
            note["same_as"] = "smoothed" if choice.neighbours else "raw"
        smoothed = found.vectors
        if choice.neighbours:
            smoothed = smooth(found.vectors, choice.neighbours, ROUNDS, found.unit)
        yield "auto", centred(smoothed), note


def centred(vectors: Float32) -> Float32:
    moved: NDArray[np.float64] = vectors - vectors.mean(axis=0, dtype=np.float64)
    return moved.astype(np.float32)


def flat(vectors: Float32, levels: list[int], seed: int) -> list[NDArray[np.int32]]:
    labels = []
    for k in levels:
        local = LocalVectors(vectors)
        kmeans(local, k, HierarchyConfig(levels=[k], seed=seed))
        labels.append(labels_of(local))
    return labels


def nested(
    vectors: Float32, levels: list[int], seed: int, refinement: str
) -> list[NDArray[np.int32]]:
    local = LocalVectors(vectors)
    config = HierarchyConfig.model_validate(
        {"levels": levels, "seed": seed, "refinement": refinement}
    )
    found = build_levels(local, config)
    members = compute_memberships(vectors, found.leaves[labels_of(local)], found.levels)
    return list(members.labels.T)


def score(found: Labelled, vectors: Float32, labels: list[NDArray[np.int32]]) -> dict[str, float]:
    scores: dict[str, float] = {}
    for number, own in enumerate(labels, start=1):
        scores[f"inertia {number}"] = inertia(vectors, own)
        for column, classes in found.labels.items():
            scores[f"ARI {number} {column}"] = adjusted_rand_score(classes, own)
            scores[f"NMI {number} {column}"] = normalized_mutual_info_score(classes, own)
    for metric in ("ARI", "NMI"):
        values = [value for key, value in scores.items() if key.startswith(metric)]
        scores[f"mean {metric}"] = statistics.mean(values)
    return scores


def inertia(vectors: Float32, labels: NDArray[np.int32]) -> float:
    k = int(labels.max()) + 1
    sums = np.zeros((k, vectors.shape[1]))
    np.add.at(sums, labels, vectors)
    counts = np.maximum(np.bincount(labels, minlength=k), 1)
    total = float(np.einsum("ij,ij->", vectors, vectors, dtype=np.float64))
    return total - float((np.einsum("ij,ij->i", sums, sums) / counts).sum())


def show(name: str, found: Labelled, results: dict[str, Any]) -> None:
    shape = f"{found.vectors.shape[0]:,} x {found.vectors.shape[1]}"
    print(f"\n{name}, {shape}, levels {found.levels}, labels {', '.join(found.labels)}")
    head = f"{'mean ARI':>16}{'less flat':>18}{'mean NMI':>16}{'less flat':>18}"
    print(f"{'':<16}{head}{'inertia 1':>10}")
    for kind, ways in results.items():
        for way, scores in ways.items():
            if way == "note":
                continue
            cells = ""
            for metric in ("mean ARI", "mean NMI"):
                difference = np.subtract(scores[metric], ways["flat"][metric])
                cells += f"{interval(scores[metric]):>16}{interval(difference, '+'):>18}"
            share = np.divide(scores["inertia 1"], ways["flat"]["inertia 1"]).mean()
            print(f"{kind + ' ' + way:<16}{cells}{share:>10.4f}")
        if ways["note"]:
            print(f"  {ways['note']}")
    middle = f"ARI 2 {next(iter(found.labels))}"
    for kind, ways in results.items():
        values = ", ".join(
            f"{way} {statistics.mean(ways[way][middle]):.3f}" for way in ("flat", "paper", "tree")
        )
        print(f"  {kind}: {middle} at {found.levels[1]}: {values}")


def interval(values: Any, sign: str = "") -> str:
    """Mean and half the width of its 95% interval."""
    n = len(values)
    half = stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5 if n > 1 else float("nan")
    return f"{np.mean(values):{sign}.3f} ± {half:.3f}"


if __name__ == "__main__":
    main()
