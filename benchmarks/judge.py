"""Figures of a language model as a judge, on true titles and clusters and on spoilt ones.

    hercules-scale run dbpedia.yaml
    python benchmarks/judge.py runs/dbpedia --model qwen2.5-coder-1.5b
        [--n-fit 150] [--n-coded 400] [--json OUT]

Fit is asked twice about the same items: with the titles of the run, and with titles that were
exchanged among siblings. The items are coded once. The codebook's score is then taken of the run's
clusters, and of clusters in which a tenth, a third and all of the labels were shuffled. A judge is
of use if fit is far above chance for the true titles and at chance for the others, and if the score
falls with each shuffle. Calls are kept in the run's folder, so that a second start repeats none.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hercules_scale.clustering.nearest_centroids import Int64
from hercules_scale.evaluation import judge as asked
from hercules_scale.jobs.evaluate import EvaluatedRun
from hercules_scale.runtime.event_loop import run_coroutine
from hercules_scale.runtime.progress import Reporter
from hercules_scale.runtime.ray_session import local_or_cluster_ray
from hercules_scale.stages import judge
from hercules_scale.stages.language_model import open_model, prompt_style
from hercules_scale.stages.prompt_facts import ancestors, siblings
from hercules_scale.storage.store import Store
from hercules_scale.summarization.ledger import Ledger
from hercules_scale.summarization.model_calls import Asker

SHUFFLED = (0.0, 0.1, 1 / 3, 1.0)
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="output of a finished run of texts")
    parser.add_argument("--model", default="qwen2.5-coder-1.5b")
    parser.add_argument("--n-fit", type=int, default=150)
    parser.add_argument("--n-coded", type=int, default=400)
    parser.add_argument("--criterion", default=asked.CRITERION)
    parser.add_argument("--json", help="where to write the figures")
    options = parser.parse_args()
    run = EvaluatedRun.open(Store(options.run), Reporter())
    values = {"engine": "vllm", "model": options.model, "criterion": options.criterion}
    judgement = replace(run.judgement(values, None), n_fit=options.n_fit, n_coded=options.n_coded)
    with local_or_cluster_ray(run.context.config):
        figures = {"model": options.model, **run_coroutine(measure(run, judgement))}
    show(figures)
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=1))


async def measure(run: EvaluatedRun, judgement: judge.Judgement) -> dict[str, Any]:
    """Figures of each level, and the codebook."""
    clustering = run.clustering
    config = run.context.config.model_copy(update={"summaries": judgement.summaries})
    context = replace(run.context, config=config)
    work = judge.Work(context, run.shards, clustering, judgement, Ledger(context.store, "judge"))
    rows, leaves = judge.draw_items(work)
    fit = slice(0, judgement.n_fit)
    shown = slice(0, min(judgement.n_shown, len(rows) // 2))
    coded = slice(shown.stop, shown.stop + judgement.n_coded)
    texts = dict(zip(rows[fit].tolist(), work.texts(rows[fit]), strict=True))
    levels: dict[str, dict[str, float]] = {}
    with open_model(context) as model:
        assert model is not None
        style = prompt_style(context, model.tokens, clustering.n_levels)
        asker = Asker(model, work.ledger, judgement.summaries, style, stage="judge")
        questions = judge.Questions(asker, lambda n: None)
        for level in range(1, clustering.n_levels + 1):
            labels = ancestors(clustering, level)[leaves].astype(np.int64)
            groups = siblings(clustering, level)
            of_level = asked.fit_questions(rows[fit], labels[fit], groups, level, SEED)
            titles = clustering.level(level)["title"].to_pylist()
            found = levels.setdefault(str(level), {})
            for name, asked_about in (("true", titles), ("exchanged", exchanged(titles, groups))):
                answers = await judge.ask_fit(
                    questions, of_level, texts, asked_about, judgement.criterion, style
                )
                found |= {f"{key}, {name}": each.value for key, each in answers.items()}
        codebook = await judge.ask_codebook(
            questions, work.texts(rows[shown]), judgement.criterion, style
        )
        codes = np.zeros(0, np.int64)
        if codebook:
            codes = await judge.ask_codes(questions, work.texts(rows[coded]), codebook, style)
        await model.client.close()
    known = codes >= 0
    for level in range(1, clustering.n_levels + 1) if codebook else ():
        labels = ancestors(clustering, level)[leaves[coded]].astype(np.int64)[known]
        for share in SHUFFLED:
            spoilt = asked.codebook_figures(shuffled(labels, share), codes[known])
            value = spoilt["codebook_ami"].value if spoilt else float("nan")
            levels[str(level)][f"codebook_ami, {share:.0%} shuffled"] = value
    return {
        "levels": levels,
        "codebook": [each.name for each in codebook],
        "notes": asked.codebook_warnings(codes[known], codebook),
        "unfit": float((codes == 0).mean()) if len(codes) else None,
    }


def exchanged(titles: list[str], groups: list[Int64]) -> list[str]:
    """Titles of which each goes to another sibling."""
    found = list(titles)
    for group in groups:
        for cluster, other in zip(group.tolist(), np.roll(group, 1).tolist(), strict=True):
            found[cluster] = titles[other]
    return found


def shuffled(labels: Int64, share: float) -> Int64:
    """Labels of which a share changed places."""
    rng = np.random.default_rng(SEED)
    places = rng.permutation(len(labels))[: round(share * len(labels))]
    found = labels.copy()
    found[places] = labels[rng.permutation(places)]
    return found


def show(figures: dict[str, Any]) -> None:
    for level, found in figures["levels"].items():
        print(f"level {level}")
        for name, value in found.items():
            print(f"  {name:<32}{value:>8.3f}")
    print("codebook:", ", ".join(figures["codebook"]) or "none")
    for note in figures["notes"]:
        print(note)


if __name__ == "__main__":
    main()
