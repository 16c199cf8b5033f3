"""What each part of summarising adds to titles and descriptions.

    python benchmarks/labels.py --data ../shared/data [--sets 20newsgroups] [--json OUT]

Each set is read, embedded and clustered once (kept in the cache folder), as a run does. Then its
clusters are labelled in several ways, each with the parts of the one before. Figures are of items
that no prompt showed and no label was chosen by: the share that lies nearest to its own cluster's
label among the siblings', by the encoder that also chose (accuracy), and by TF-IDF, which had no
part in choosing (lexical). Ends with the throughput through Ray Serve beside vLLM's offline
``LLM.chat`` on the same prompts.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer

from hercules_scale.clustering.assign import to_unit
from hercules_scale.config import RunConfig, parse_config
from hercules_scale.embedding.encoder import TextEncoder
from hercules_scale.evaluation.summaries import held_out_accuracy
from hercules_scale.pipeline import local_or_cluster_ray
from hercules_scale.progress import Reporter
from hercules_scale.reading.sources import list_sources
from hercules_scale.stages.cluster import Clustering, cluster_items
from hercules_scale.stages.context import RunContext, Shards
from hercules_scale.stages.embed import embed_items, load_encoder
from hercules_scale.stages.facts import ancestors, siblings
from hercules_scale.stages.read import read_items
from hercules_scale.stages.smooth import smooth_vectors
from hercules_scale.stages.summarize import open_encoder, open_model, summarize_clusters
from hercules_scale.stages.vectors import ShardTiles
from hercules_scale.storage import layout
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import read_tables
from hercules_scale.summarization.chat import Model
from hercules_scale.summarization.choosing import Items
from hercules_scale.summarization.ledger import FOLDER

LEVELS = {"20newsgroups": [100, 20, 5], "dbpedia": [70, 9], "banking77": [77, 12]}
# Each way has the parts of those before it.
FIRST = {"engine": "vllm", "contrast": 0, "candidates": 1, "exemplar_strategy": "nearest"}
WAYS: dict[str, dict[str, Any]] = {
    "key phrases alone": {"engine": "keyphrases"},
    "first answer": FIRST,
    "+ key phrases after it": FIRST,
    "+ contrast": {**FIRST, "contrast": 2},
    "+ diverse examples": {**FIRST, "contrast": 2, "exemplar_strategy": "diverse"},
    "+ best of four": {
        **FIRST,
        "contrast": 2,
        "exemplar_strategy": "diverse",
        "candidates": 4,
    },
}
FINGERPRINT = "labels-benchmark"


@dataclass(frozen=True)
class Base:
    """A data set, clustered.

    Attributes:
        name: Of the set.
        folder: Output that holds its items, vectors and clusters.
        shards: Its items.
        clustering: Its clusters.
    """

    name: str
    folder: Path
    shards: Shards
    clustering: Clustering


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="../shared/data", help="folder of the labelled sets")
    parser.add_argument("--cache", default="/tmp/hercules_scale_labels", help="what can be reused")
    parser.add_argument("--sets", nargs="*", default=list(LEVELS))
    parser.add_argument("--ways", nargs="*", default=list(WAYS))
    parser.add_argument("--json", help="where to write the figures")
    options = parser.parse_args()
    for name in options.sets:
        if not Path(options.data, f"{name}.parquet").exists():
            sys.exit(
                f"{options.data}/{name}.parquet: no such file; give the folder of the labelled "
                "sets with --data"
            )
    first = configure(options.sets[0], options, "key phrases alone", Path(options.cache))
    encoder = load_encoder(first.embedding)
    figures: dict[str, Any] = {}
    with local_or_cluster_ray(first):
        bases = [prepare(name, options) for name in options.sets]
        with open_model(context_of(bases[0], options, "first answer"), 0) as model:
            for base in bases:
                figures[base.name] = {}
                for way in options.ways:
                    figures[base.name][way] = measure(base, options, way, model, encoder)
                show(base, figures[base.name])
                if options.json:
                    Path(options.json).write_text(json.dumps(figures, indent=1))


def configure(name: str, options: argparse.Namespace, way: str, folder: Path) -> RunConfig:
    path = Path(options.data) / f"{name}.parquet"
    return parse_config(
        {
            "input": {"path": str(path), "id_column": "id", "text_column": "text"},
            "hierarchy": {"levels": LEVELS[name]},
            "summaries": {"record_prompts": True, **WAYS[way]},
            "output": {"path": str(folder)},
        }
    )


def context_of(base: Base, options: argparse.Namespace, way: str) -> RunContext:
    folder = Path(options.cache) / base.name / way
    config = configure(base.name, options, way, folder)
    return RunContext(config, Store(str(folder)), FINGERPRINT, Reporter())


def prepare(name: str, options: argparse.Namespace) -> Base:
    """Read, embed and cluster a set, or take up what was kept."""
    folder = Path(options.cache) / name / "base"
    # Diverse examples are taken from a larger pool, which is made with the clusters.
    config = configure(name, options, "+ diverse examples", folder)
    context = RunContext(config, Store(str(folder)), FINGERPRINT, Reporter())
    items = read_items(context, list_sources(config.input.paths))
    shards = items.shards
    _, dimension = embed_items(context, items, 0)
    smoothing = smooth_vectors(context, shards, dimension)
    source = ShardTiles(context.store, shards, dimension, smoothing.table)
    return Base(name, folder, shards, cluster_items(context, source))


def measure(
    base: Base, options: argparse.Namespace, way: str, model: Model | None, encoder: TextEncoder
) -> dict[str, Any]:
    """Label the clusters one way, and measure the labels."""
    context = context_of(base, options, way)
    folder = Path(context.store.root)
    # What was asked before in the same words, by another way or an earlier run, is not asked again.
    for earlier in folder.parent.iterdir():
        if earlier != base.folder and (earlier / FOLDER).exists():
            shutil.copytree(earlier / FOLDER, base.folder / FOLDER, dirs_exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base.folder, folder)
    of_way = model if context.config.summaries.engine == "vllm" else None
    with open_encoder(context.config.text_embedding) as encode:
        opened = nullcontext(of_way)
        summaries = summarize_clusters(context, base.shards, base.clustering, opened, encode)
    table = summaries.table
    titles, descriptions = table["title"].to_pylist(), table["description"].to_pylist()
    texts = [f"{title}. {text}" for title, text in zip(titles, descriptions, strict=True)]
    vectors = to_unit(encoder.encode(texts))
    status = table["summary_status"].to_pylist()
    figures: dict[str, Any] = {
        "share_ok": status.count("ok") / len(status),
        "share_from_model": table["summary_source"].to_pylist().count("model") / len(status),
        "titles": titles,
        "descriptions": descriptions,
    }
    of_level = table["level"].to_numpy()
    for level in range(1, base.clustering.n_levels + 1):
        own = np.flatnonzero(of_level == level)
        groups = siblings(base.clustering, level)
        items = summaries.items.of_level(ancestors(base.clustering, level))
        centroids = np.stack(
            [
                items.to_choose.vectors[rows].mean(axis=0)
                for rows in items.to_choose.rows_of(len(own))
            ]
        )
        sizes = base.clustering.level(level)["n_items"].to_numpy()
        measured = held_out_accuracy(vectors[own], centroids, items.to_measure, sizes, groups)
        figures[str(level)] = {name: value for name, (value, _) in measured.items()}
        figures[str(level)]["lexical"] = lexical_accuracy(
            context, base, [texts[each] for each in own], items.to_measure, groups
        )
    return figures


def lexical_accuracy(
    context: RunContext,
    base: Base,
    labels: list[str],
    items: Items,
    groups: list[NDArray[np.int64]],
) -> float:
    """Mean share of a cluster's items whose words are most like those of its own label."""
    paths = [layout.part("items", shard) for shard in range(len(base.shards))]
    texts = read_tables(context.store, paths, ["text"])["text"].take(pa.array(items.rows))
    vectorizer = TfidfVectorizer(stop_words="english", sublinear_tf=True).fit(texts.to_pylist())
    of_items = vectorizer.transform(texts.to_pylist())
    of_labels = vectorizer.transform(labels)
    rows = items.rows_of(len(labels))
    shares = []
    for group in groups:
        if len(group) < 2:
            continue
        for place, cluster in enumerate(group.tolist()):
            if len(rows[cluster]):
                scores = (of_items[rows[cluster]] @ of_labels[group].T).toarray()
                best = scores == scores.max(axis=1, keepdims=True)
                # Items that share no word with any label, or as much with several, count in part.
                shares.append(float((best[:, place] / best.sum(axis=1)).mean()))
    return float(np.mean(shares))


def show(base: Base, ways: dict[str, Any]) -> None:
    print(f"\n{base.name}, {base.shards.n_items:,} items, levels {LEVELS[base.name]}")
    first = next(iter(ways.values()))
    for level in range(1, base.clustering.n_levels + 1):
        known = first[str(level)]
        print(
            f"  level {level}: ceiling {known['label_accuracy_centroids']:.3f}, "
            f"chance {known['label_accuracy_chance']:.3f}"
        )
    levels = range(1, base.clustering.n_levels + 1)
    print(
        f"{'':<26}"
        + "".join(f"{f'accuracy {n}':>12}{f'lexical {n}':>12}" for n in levels)
        + f"{'ok':>8}{'model':>8}"
    )
    for way, figures in ways.items():
        columns = "".join(
            f"{figures[str(n)]['label_accuracy']:>12.3f}{figures[str(n)]['lexical']:>12.3f}"
            for n in levels
        )
        print(f"{way:<26}{columns}{figures['share_ok']:>8.3f}{figures['share_from_model']:>8.3f}")


if __name__ == "__main__":
    main()
