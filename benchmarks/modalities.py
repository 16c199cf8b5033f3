"""Images and numbers end to end from the command line, beside flat k-means on the same vectors.

    python benchmarks/modalities.py --data ../shared/data [--sets pendigits] [--json OUT]

Every set is run by ``hercules-scale run`` as a user would, with key phrases for titles. Flat
k-means is scikit-learn's, of as many clusters as each level has, over the run's own table
``embeddings``. Figures are against the set's true labels at the level of most like size.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from hercules_scale import Hierarchy
from hercules_scale.storage.tables import column_vectors

# Levels as the labels have them, and the label that each level is compared with.
SETS: dict[str, dict[str, Any]] = {
    "fashion-mnist-10k": {"levels": [50, 10, 5], "labels": ["label", "level2", "level1"]},
    "pendigits": {"levels": [50, 10], "labels": ["label", "label"]},
    "anuran_calls": {"levels": [10, 8, 4], "labels": ["level3", "level2", "level1"]},
}
SEEDS = range(5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder of the labelled sets")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--json", help="where to write the figures")
    options = parser.parse_args()
    found = []
    for name in options.sets:
        path = Path(options.data) / f"{name}.parquet"
        if not path.exists():
            sys.exit(f"--data: {path} is missing; give the folder that holds the labelled sets")
        found.append(measure(name, path))
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1))


def measure(name: str, path: Path) -> dict[str, Any]:
    """Run one set, and print its figures a level a line."""
    levels, labels = SETS[name]["levels"], SETS[name]["labels"]
    schema = pq.read_schema(path)
    columns = [] if "image" in schema.names else _numeric(schema, labels)
    section = {
        "path": str(path),
        "id_column": "id",
        "label_columns": sorted(set(labels)),
        **({"columns": columns} if columns else {"image_column": "image"}),
    }
    values = {
        "input": section,
        "hierarchy": {"levels": levels},
        "summaries": {"engine": "keyphrases"},
    }
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(json.dumps(values))
        command = [sys.executable, "-m", "hercules_scale", "run", str(config)]
        started = time.perf_counter()
        subprocess.run([*command, "--output", f"{folder}/run"], check=True, capture_output=True)
        seconds = time.perf_counter() - started
        hierarchy = Hierarchy.open(f"{folder}/run")
        files = sorted(Path(folder, "run", "embeddings").glob("*.parquet"))
        vectors = column_vectors(pq.ParquetDataset(files).read(["embedding"])["embedding"])
        metrics = hierarchy.evaluations()
        truth = hierarchy.table("labels")
    print(
        f"\n{name}: {len(vectors):,} items, {vectors.shape[1]} dimensions, {seconds:.0f} s in all"
    )
    heads = ("level", "k", "label", "ARI", "NMI", "flat ARI", "flat NMI", "silhouette")
    print(("{:>7}{:>6}{:>9}" + "{:>12}" * 5).format(*heads))
    rows = []
    for level, (k, label) in enumerate(zip(levels, labels, strict=True), start=1):
        ours = metrics[metrics["level"] == level].set_index(["basis", "metric"])["value"]
        flat = [_flat(vectors, k, truth[label].to_numpy(), seed) for seed in SEEDS]
        row = {
            "level": level,
            "k": k,
            "label": label,
            "ari": float(ours[f"labels:{label}", "ari"]),
            "nmi": float(ours[f"labels:{label}", "nmi"]),
            "flat_ari": float(np.mean([ari for ari, _ in flat])),
            "flat_nmi": float(np.mean([nmi for _, nmi in flat])),
            "silhouette": float(ours["items", "silhouette"]),
        }
        rows.append(row)
        print(("{:>7}{:>6}{:>9}" + "{:>12.3f}" * 5).format(*row.values()))
    return {"set": name, "seconds": seconds, "levels": rows}


def _numeric(schema: Any, labels: list[str]) -> list[str]:
    kinds = {name: str(schema.field(name).type) for name in schema.names}
    return [name for name, kind in kinds.items() if kind == "double" and name not in labels]


def _flat(vectors: Any, k: int, truth: Any, seed: int) -> tuple[float, float]:
    labels = KMeans(k, n_init=1, random_state=seed).fit_predict(vectors)
    return (
        float(adjusted_rand_score(truth, labels)),
        float(normalized_mutual_info_score(truth, labels)),
    )


if __name__ == "__main__":
    main()
