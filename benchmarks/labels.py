"""How good the titles and descriptions of language models are, beside key phrases.

    python benchmarks/labels.py --data ../shared/data --model smollm2-135m qwen2.5-coder-0.5b
        [--sets dbpedia icd10] [--set candidates=1] [--json OUT]

Each set is read, embedded and clustered once (kept in the cache folder), as a run does. Then its
clusters are labelled by key phrases alone and by each model, with the defaults of a run. Figures
are of items that no prompt showed and no label was chosen by: the share that lies nearest to its
own cluster's label among the siblings',

- by the encoder that also chose (accuracy),
- by a second encoder, all-mpnet-base-v2, that had no part in it (mpnet),
- by TF-IDF (lexical);

then the share of titles by the model, and of content words that the items say (grounded). The
labels themselves go to the JSON file: read them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer

from hercules_scale.clustering.nearest_centroids import Float32, to_unit
from hercules_scale.commands.demo import icd_table
from hercules_scale.config.file import parse_config
from hercules_scale.config.resolved import ResolvedConfig
from hercules_scale.embedding.sentence_transformer import SentenceTransformerEncoder
from hercules_scale.evaluation.label_quality import held_out_accuracy
from hercules_scale.reading.items import examine
from hercules_scale.reading.listing import list_sources
from hercules_scale.runtime.context import RunContext, Shards
from hercules_scale.runtime.progress import Reporter
from hercules_scale.runtime.ray_session import local_or_cluster_ray
from hercules_scale.runtime.resources import label_encoder_pool
from hercules_scale.stages.cluster import Clustering, cluster_items
from hercules_scale.stages.describe import Descriptions
from hercules_scale.stages.embed import embed_items
from hercules_scale.stages.label_items import draw_label_items
from hercules_scale.stages.language_model import (
    LabelEncoder,
    LanguageModel,
    open_encoder,
    open_model,
)
from hercules_scale.stages.numeric_statistics import NO_STATISTICS
from hercules_scale.stages.prompt_facts import ancestors, siblings
from hercules_scale.stages.read import Sources, read_items
from hercules_scale.stages.smooth import smooth_vectors
from hercules_scale.stages.summarize import summarize_clusters
from hercules_scale.storage import layout
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import read_tables
from hercules_scale.summarization.chat import Model
from hercules_scale.summarization.label_choice import Items, label_accuracy
from hercules_scale.summarization.ledger import FOLDER

LEVELS = {
    "20newsgroups": [100, 20, 5],
    "banking77": [77, 12],
    "dbpedia": [70, 9],
    "icd10": [100, 20, 5],
}
PHRASES = "key phrases"
SECOND_ENCODER, SECOND_ITEMS = "mpnet", 1_000
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
    parser.add_argument("--cache", default="/tmp/hercules_scale_labels", help="for what is reused")
    parser.add_argument("--sets", nargs="*", default=list(LEVELS))
    parser.add_argument("--model", nargs="*", default=["smollm2-135m"])
    parser.add_argument(
        "--set", nargs="*", default=[], help="keys of summaries, such as children=0"
    )
    parser.add_argument("--json", help="where to write the figures")
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    with local_or_cluster_ray(configure(options.sets[0], options, PHRASES, "/tmp")):
        bases = [prepare(name, options) for name in options.sets]
        for way in (PHRASES, *options.model):
            with model_of(bases[0], options, way) as model:
                for base in bases:
                    figures.setdefault(base.name, {})[way] = measure(base, options, way, model)
                    show(base, figures[base.name])
                    if options.json:
                        Path(options.json).write_text(json.dumps(figures, indent=1))


def configure(name: str, options: argparse.Namespace, way: str, folder: str) -> ResolvedConfig:
    summaries: dict[str, Any] = {"engine": "keyphrases"}
    if way != PHRASES:
        summaries = {"engine": "vllm", "model": way, "record_prompts": True}
        for each in options.set:
            key, _, value = each.partition("=")
            summaries[key] = yaml.safe_load(value)
    read = {"path": corpus(name, options), "modality": "text"}
    config = parse_config(
        {
            "input": {**read, "id_column": "id", "text_column": "text"},
            "hierarchy": {"levels": LEVELS[name]},
            "summaries": summaries,
            "output": {"path": folder},
        }
    )
    return ResolvedConfig.of(config, config.input)


def corpus(name: str, options: argparse.Namespace) -> str:
    path = Path(options.data) / f"{name}.parquet"
    if name == "icd10":
        path = Path(options.cache) / "icd10.parquet"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(icd_table().rename_columns({"code": "id"}), path)
    if not path.exists():
        sys.exit(f"{path}: no such file; give the folder of the labelled sets with --data")
    return str(path)


def context_of(base: Base, options: argparse.Namespace, way: str) -> RunContext:
    folder = Path(options.cache) / base.name / way
    config = configure(base.name, options, way, str(folder))
    return RunContext(config, Store(str(folder)), FINGERPRINT, Reporter())


@contextmanager
def model_of(base: Base, options: argparse.Namespace, way: str) -> Iterator[Model | None]:
    with open_model(context_of(base, options, way)) as model:
        yield model


def prepare(name: str, options: argparse.Namespace) -> Base:
    """Read, embed and cluster a set, or take up what was kept."""
    folder = Path(options.cache) / name / "base"
    config = configure(name, options, PHRASES, str(folder))
    # As many exemplars are kept as any prompt may show.
    summaries = config.summaries.model_copy(update={"exemplars": 16})
    config = config.model_copy(update={"summaries": summaries})
    context = RunContext(config, Store(str(folder)), FINGERPRINT, Reporter())
    sources = list_sources(config.input.paths)
    items = read_items(context, Sources(sources, examine(config.input, sources)))
    described = Descriptions(items.shards, items.files["items"])
    smoothing = smooth_vectors(context, embed_items(context, items, described))
    base = Base(name, folder, items.shards, cluster_items(context, smoothing))
    second_vectors(base, context)
    return base


def second_vectors(base: Base, context: RunContext) -> tuple[Items, Float32]:
    """Return some of the held-out items, and their vectors by the second encoder."""
    measured = draw_label_items(context, base.shards, base.clustering).to_measure
    rng = np.random.default_rng(0)
    drawn = np.sort(rng.permutation(len(measured.rows))[:SECOND_ITEMS])
    items = Items(
        measured.vectors[drawn],
        measured.labels[drawn],
        measured.weights[drawn],
        measured.rows[drawn],
    )
    path = base.folder.parent / f"{SECOND_ENCODER}.npy"
    if not path.exists():
        texts = texts_of(context, base, items)
        np.save(path, to_unit(SentenceTransformerEncoder(SECOND_ENCODER).encode(texts)))
    return items, np.load(path)


def texts_of(context: RunContext, base: Base, items: Items) -> list[str]:
    paths = [layout.part("items", shard) for shard in range(len(base.shards))]
    texts: list[str] = (
        read_tables(context.store, paths, ["text"])["text"].take(pa.array(items.rows)).to_pylist()
    )
    return texts


def measure(
    base: Base, options: argparse.Namespace, way: str, model: Model | None
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
    began = time.monotonic()
    pool = label_encoder_pool(context.config, 0)
    with open_encoder(context.config.text_embedding, context.config.storage, pool) as encode:
        summaries = summarize_clusters(
            context,
            Descriptions(base.shards, []),
            base.clustering,
            NO_STATISTICS,
            LanguageModel(lambda: nullcontext(model)),
            LabelEncoder(encode, lambda: None),
        )
    table = summaries.table
    titles, descriptions = table["title"].to_pylist(), table["description"].to_pylist()
    texts = [f"{title}. {text}" for title, text in zip(titles, descriptions, strict=True)]
    second = SentenceTransformerEncoder(SECOND_ENCODER)
    second_items, vectors = second_vectors(base, context)
    by_second = to_unit(second.encode(texts))
    titles_by_second = to_unit(second.encode(titles))
    sources, status = table["summary_source"].to_pylist(), table["summary_status"].to_pylist()
    figures: dict[str, Any] = {
        "seconds": time.monotonic() - began,
        "share_ok": status.count("ok") / len(status),
        "share_from_model": sources.count("model") / len(status),
        "labels": table.select(
            [
                "level",
                "cluster_id",
                "title",
                "description",
                "summary_source",
                "summary_error",
                "groundedness",
                "keyphrases",
            ]
        ).to_pylist(),
    }
    of_level = table["level"].to_numpy()
    for level in range(1, base.clustering.n_levels + 1):
        own = np.flatnonzero(of_level == level)
        groups = siblings(base.clustering, level)
        of_leaves = ancestors(base.clustering, level)
        items = summaries.items.of_level(of_leaves)
        centroids = np.stack(
            [
                items.to_choose.vectors[rows].mean(axis=0)
                for rows in items.to_choose.rows_of(len(own))
            ]
        )
        sizes = base.clustering.level(level)["n_items"].to_numpy()
        measured = held_out_accuracy(
            summaries.embeddings[own], centroids, items.to_measure, sizes, groups
        )
        found = {name: value for name, (value, _) in measured.items()}
        labels = of_leaves[second_items.labels].astype(np.int64)
        held = Items(vectors, labels, second_items.weights, second_items.rows)
        for name, of_labels in (("mpnet", by_second), ("mpnet_titles", titles_by_second)):
            shares = label_accuracy(of_labels[own], held, groups)
            alone = np.array([len(group) == 1 for group in groups for _ in group])
            order = np.concatenate(groups)
            shares[order[alone]] = np.nan
            found[name] = float(np.nanmean(shares))
        found["lexical"] = lexical_accuracy(
            context, base, [texts[each] for each in own], items.to_measure, groups
        )
        found |= {name: value for name, (value, _) in summaries.measured[level - 1].items()}
        figures[str(level)] = found
    return figures


def lexical_accuracy(
    context: RunContext,
    base: Base,
    labels: list[str],
    items: Items,
    groups: list[NDArray[np.int64]],
) -> float:
    """Mean share of a cluster's items with words most like its own label's."""
    texts = texts_of(context, base, items)
    vectorizer = TfidfVectorizer(stop_words="english", sublinear_tf=True).fit(texts)
    of_items = vectorizer.transform(texts)
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
    levels = [str(level) for level in range(1, base.clustering.n_levels + 1)]
    first = next(iter(ways.values()))
    for level in levels:
        known = first[level]
        print(
            f"  level {level}: centroids {known['label_accuracy_centroids']:.3f}, "
            f"chance {known['label_accuracy_chance']:.3f}"
        )
    columns = ("label_accuracy", "mpnet", "mpnet_titles", "lexical")
    names = ("accuracy", "mpnet", "titles", "lexical")
    heads = "".join(f"{name + ' ' + level:>11}" for name in names for level in levels)
    print(f"{'':<22}{heads}{'model':>8}{'grounded':>10}{'s':>7}")
    for way, figures in ways.items():
        values = "".join(
            f"{figures[level][column]:>11.3f}" for column in columns for level in levels
        )
        grounded = figures["1"].get("groundedness_descriptions", float("nan"))
        print(
            f"{way:<22}{values}{figures['share_from_model']:>8.2f}{grounded:>10.2f}"
            f"{figures['seconds']:>7.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
