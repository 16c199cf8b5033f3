"""One run of pyhercules over given vectors; ``peer.py`` starts it in an environment of its own.

    python benchmarks/peer_pyhercules.py VECTORS.npy OUT.json --levels 100 20 5 --seeds 0 1
        [--save MODEL.json]

Direct mode with all its defaults. Its client for embeddings looks vectors up, and descriptions of
clusters are one constant, so that no prompt is built and no language model is called. OUT gets for
each seed the labels of every level and the seconds of clustering with reduction, and of saving.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyhercules import Hercules  # type: ignore[import-not-found]


class WithoutPrompts(Hercules):  # type: ignore[misc]
    """The clustering alone: every cluster has the same description."""

    def _get_llm_descriptions_batched(self, clusters_to_describe: list[Any]) -> Any:
        return {each.id: ("A cluster", "Items.") for each in clusters_to_describe}, []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("vectors")
    parser.add_argument("out")
    parser.add_argument("--levels", type=int, nargs="+", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--save", help="where its model goes; left out, it is not saved")
    options = parser.parse_args()
    vectors = np.load(options.vectors)
    found = [run(vectors, options.levels, seed, options.save) for seed in options.seeds]
    Path(options.out).write_text(json.dumps(found))


def run(
    vectors: NDArray[np.float32], levels: list[int], seed: int, save: str | None
) -> dict[str, Any]:
    def embed(texts: list[str]) -> NDArray[np.float32]:
        """Return the vector of an item by the number in its text; of clusters' descriptions,
        any."""
        numbers = [re.search(r"\d+", text) for text in texts]
        return vectors[[int(number.group()) if number else 0 for number in numbers]]

    model = WithoutPrompts(
        levels,
        text_embedding_client=embed,
        llm_client=str,
        random_state=seed,
        save_run_details=False,
    )
    started = time.perf_counter()
    top = model.cluster([str(row) for row in range(len(vectors))])
    clustered = time.perf_counter()
    if save:
        model.save_model(save, top)
    saved = time.perf_counter()
    labels = [model.get_level_assignments(level)[0] for level in range(1, len(levels) + 1)]
    return {
        "seed": seed,
        "cluster_seconds": clustered - started,
        "save_seconds": saved - clustered,
        "labels": [each.tolist() for each in labels],
    }


if __name__ == "__main__":
    main()
