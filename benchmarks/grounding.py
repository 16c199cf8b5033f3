"""Whether the gate tells true descriptions from false ones.

    python benchmarks/labels.py --model qwen2.5-coder-1.5b --sets dbpedia 20newsgroups
    python benchmarks/grounding.py --model qwen2.5-coder-1.5b --sets dbpedia 20newsgroups

Takes the descriptions that ``labels.py`` left in its cache folder. A hundred are true: of their own
cluster, by the model. A hundred are false: half of a sibling's, half of any other cluster of the
level. Of each threshold: of the texts that the gate refuses, the share that is false (precision),
and of the false ones the share that it refuses (recall); last, the whole gate, which also refuses
names and numbers that the items do not have. A description that an answer of the model
invented but that was refused is no part of this.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from labels import LEVELS, PHRASES, configure, context_of, prepare

from hercules_scale.runtime.ray_session import local_or_cluster_ray
from hercules_scale.runtime.resources import label_encoder_pool
from hercules_scale.stages.language_model import open_encoder
from hercules_scale.stages.numeric_statistics import NO_STATISTICS
from hercules_scale.stages.prompt_facts import cluster_facts, facts_source, labelled_files, siblings
from hercules_scale.storage.tables import read_table
from hercules_scale.summarization.grounding import LEAST_OF_DESCRIPTION, Grounding

N_TRUE = 100
THRESHOLDS = np.arange(0.3, 0.95, 0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="../shared/data", help="folder of the labelled sets")
    parser.add_argument("--cache", default="/tmp/hercules_scale_labels", help="of labels.py")
    parser.add_argument("--sets", nargs="*", default=list(LEVELS))
    parser.add_argument("--model", default="qwen2.5-coder-1.5b")
    parser.add_argument("--json", help="where to write the figures and the texts")
    options = parser.parse_args()
    options.set = []
    found: list[dict[str, Any]] = []
    with local_or_cluster_ray(configure(options.sets[0], options, PHRASES, "/tmp")):
        for name in options.sets:
            found += of_set(name, options)
    rng = np.random.default_rng(0)
    kept = []
    for kind, n in (("true", N_TRUE), ("sibling", N_TRUE // 2), ("other", N_TRUE // 2)):
        of_kind = [each for each in found if each["kind"] == kind]
        kept += [of_kind[place] for place in rng.permutation(len(of_kind))[:n]]
    show(kept)
    if options.json:
        Path(options.json).write_text(json.dumps(kept, indent=1))


def of_set(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Descriptions of a set's clusters, their own and others', with their shares."""
    base = prepare(name, options)
    context = context_of(base, options, options.model)
    source = facts_source(context, base.shards, base.clustering, NO_STATISTICS)
    rng = np.random.default_rng(1)
    rows = []
    pool = label_encoder_pool(context.config, 0)
    with open_encoder(context.config.text_embedding, context.config.storage, pool) as encode:
        for level in range(1, base.clustering.n_levels + 1):
            facts = cluster_facts(context, base.shards, base.clustering, source, level)
            said = source.said_words(base.clustering, level)
            assert said is not None
            grounding = Grounding(said, facts, encode)
            table = read_table(context.store, labelled_files(context)[level])
            texts, ok = (
                table["description"].to_pylist(),
                [status == "ok" for status in table["summary_status"].to_pylist()],
            )
            for group in siblings(base.clustering, level):
                for own in group.tolist():
                    near = [each for each in group.tolist() if each != own and ok[each]]
                    far = [each for each in range(len(texts)) if each not in group and ok[each]]
                    chosen = {"true": [own] if ok[own] else [], "sibling": near, "other": far}
                    for kind, clusters in chosen.items():
                        if clusters:
                            text = texts[rng.choice(clusters)]
                            rows.append(
                                {
                                    "set": name,
                                    "level": level,
                                    "cluster": own,
                                    "kind": kind,
                                    "text": text,
                                    "share": grounding.share(own, text),
                                    "problem": grounding.problem(
                                        own, "description", text, LEAST_OF_DESCRIPTION
                                    ),
                                }
                            )
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    shares = np.array([row["share"] for row in rows])
    kinds = np.array([row["kind"] for row in rows])
    false = kinds != "true"
    print(
        f"{len(rows)} descriptions, {false.sum()} of them false; the gate is {LEAST_OF_DESCRIPTION}"
    )
    print(f"{'threshold':>9}{'precision':>11}{'recall':>8}{'of siblings':>13}{'true refused':>14}")
    gates = {f"{threshold:.2f}": shares < threshold - 1e-9 for threshold in THRESHOLDS}
    gates["gate"] = np.array([bool(row["problem"]) for row in rows])
    for name, refused in gates.items():
        precision = (refused & false).sum() / max(refused.sum(), 1)
        recall = (refused & false).sum() / false.sum()
        of_siblings = refused[kinds == "sibling"].mean()
        print(
            f"{name:>9}{precision:>11.2f}{recall:>8.2f}{of_siblings:>13.2f}"
            f"{refused[~false].mean():>14.2f}"
        )


if __name__ == "__main__":
    main()
