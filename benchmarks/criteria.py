"""Agreement of clusters with two true labellings, by the words of two criteria.

    python benchmarks/criteria.py [--data FOLDER] [--cache FOLDER] [--model NAME] [--json OUT]

ICD-10-CM codes have an organ and a kind of disease, by words in their texts that name exactly one
of each; questions to a bank have a product and an intent, by the names of banking77's classes.
Both are clustered by k-means with as many clusters as classes: the vectors as they are, their main
components (as many as the words span), and their projections onto the words of either criterion.
The words below were written before any figure was known.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score

from hercules_scale.commands.demo import icd_table
from hercules_scale.embedding.criterion import CriterionSpace
from hercules_scale.embedding.sentence_transformer import SentenceTransformerEncoder

Patterns = dict[str, str]
SEEDS = 5
BANK_ITEMS = 5_000
ORGANS: Patterns = {
    "lung": r"lung|bronch|trachea|pleura|pulmonary|respirat",
    "skin": r"\bskin\b|dermat|cutaneous",
    "eye": r"\beyes?\b|eyelid|retina|cornea|conjunctiv|orbit",
    "ear": r"\bears?\b|otitis|tympan",
    "kidney": r"kidney|renal|urinary|bladder|ureter|urethr|nephr",
    "bone": r"\bbones?\b|joint|spine|vertebr|skeletal|arthr|oste",
    "brain": r"brain|cerebr|mening|nerve|spinal cord|encephal",
    "heart": r"heart|cardi|arter|aort|vein|vascular|valve",
    "bowel": r"stomach|intestin|colon|rectum|gastr|duoden|bowel|append|anal|anus",
    "liver": r"liver|hepat|biliary|gallbladder|bile",
    "uterus": r"uterus|uterine|ovar|vagin|cervix|vulva",
    "prostate": r"prostat|testis|penis|scrot",
    "mouth": r"mouth|tooth|teeth|tongue|\bgum\b|\blip\b|jaw",
    "breast": r"breast",
    "gland": r"thyroid|pituitary|adrenal|pancrea",
}
KINDS: Patterns = {
    "malignant": r"malignant|carcinoma|lymphoma|leukaemia|sarcoma",
    "benign": r"benign",
    "congenital": r"congenital|malformation|atresia|agenesis|\bcleft\b",
    "injury": r"injur|fracture|wound|dislocation|burn|foreign body",
    "infection": r"infect|tubercul|bacterial|viral|abscess|syphil|gonoc|herpes|parasit|candid",
    "inflammation": r"itis\b",
    "poisoning": r"poison|drug",
    "degeneration": r"degenerat|atroph|sclerosis|osis\b",
    "obstruction": r"obstruct|stenosis|stricture|calculus|occlusion",
}
# The first pattern that a class's name holds decides.
PRODUCTS: Patterns = {
    "top-up": r"top_up|topping",
    "virtual card": r"virtual|disposable",
    "cash": r"cash|atm|swallowed",
    "transfer": r"transfer|beneficiary|receiving",
    "exchange": r"exchange|currenc|fiat",
    "account": r"identity|funds|account|details|age_limit|country",
    "payment": r"payment|refund|debit|statement",
    "card": r"card|pin",
}
INTENTS: Patterns = {
    "failure": r"declined|failed|not_working|reverted|blocked|swallowed|unable|not_allowed|cancel",
    "fee": r"charge|fee",
    "delay": r"pending|not_received|not_updated|timing|arrival|estimate|not_showing",
    "loss": r"not_recognised|compromised|stolen",
    "wrong amount": r"wrong|rate",
    "rules": r"limit|support|acceptance|currencies",
    "set-up": r"get|order|activate|linking|spare|topping|by_cash|verify|edit|change_pin",
}
WORDS = {
    "organ": "lung, bronchus, skin, eye, ear, kidney, urinary bladder, bone, joint, spine, brain, "
    "nerve, heart, artery, blood vessel, stomach, intestine, rectum, liver, gallbladder, uterus, "
    "ovary, prostate, testis, mouth, tooth, breast, thyroid gland, pancreas, muscle, hand, foot, "
    "nose, throat",
    "kind": "cancer, malignant tumour, benign tumour, congenital malformation, birth defect, "
    "injury, fracture, wound, burn, infection, tuberculosis, abscess, inflammation, poisoning, "
    "adverse drug effect, degeneration, atrophy, obstruction, stone, stricture, bleeding, allergy, "
    "metabolic disorder, nutritional deficiency",
    "product": "top-up, bank transfer, cash withdrawal, ATM, virtual card, disposable card, debit "
    "card, credit card, PIN, currency exchange, account, card payment, direct debit, cheque, Apple "
    "Pay, mobile app, refund, identity check",
    "intent": "something failed, transaction declined, payment is pending, money has not arrived, "
    "how long does it take, unexpected fee, charged twice, wrong amount, fraud, unrecognised "
    "transaction, lost or stolen, how do I get one, how do I activate, is it supported, what is "
    "the limit, cancel, change details, verify",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="shared/data", help="folder of banking77.parquet")
    parser.add_argument("--cache", default=".cache/criteria", help="folder that keeps vectors")
    parser.add_argument("--model", default="minilm", help="encoder")
    parser.add_argument("--json", help="where to write the figures")
    options = parser.parse_args()
    encoder = SentenceTransformerEncoder(options.model, "float32", device="cpu")
    figures: dict[str, dict[str, float]] = {}
    for name, (texts, labels) in {"ICD": _icd(), "bank": _bank(options.data)}.items():
        vectors = _vectors(encoder, Path(options.cache) / f"{options.model}-{name}.npy", texts)
        words = {each: encoder.encode(WORDS[each].split(", ")) for each in labels}
        projected = {each: CriterionSpace(own).project(vectors) for each, own in words.items()}
        for criterion, classes in labels.items():
            (other,) = (each for each in labels if each != criterion)
            n_axes = len(words[criterion]) - 1
            of_criterion = {
                "vectors": _agreement(vectors, classes),
                "components": _agreement(
                    PCA(n_axes, random_state=0).fit_transform(vectors), classes
                ),
                "words": _agreement(projected[criterion], classes),
                "words of the other criterion": _agreement(projected[other], classes),
            }
            figures[f"{name} by {criterion}"] = of_criterion
            counts = f"{len(texts):,} items, {len(set(classes.tolist()))} classes"
            found = ", ".join(f"{key} {value:.3f}" for key, value in of_criterion.items())
            print(f"{name} by {criterion} ({counts}): {found}", flush=True)
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2))


def _vectors(
    encoder: SentenceTransformerEncoder, path: Path, texts: Sequence[str]
) -> NDArray[np.float32]:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, encoder.encode(texts))
    vectors: NDArray[np.float32] = np.load(path)
    return vectors


def _agreement(vectors: NDArray[np.float32], classes: NDArray[np.int64]) -> float:
    """Return the mean adjusted Rand index over seeds."""
    k = len(np.unique(classes))
    found = [KMeans(k, n_init=2, random_state=seed).fit_predict(vectors) for seed in range(SEEDS)]
    return float(np.mean([adjusted_rand_score(classes, each) for each in found]))


Labelled = tuple[list[str], dict[str, NDArray[np.int64]]]


def _icd() -> Labelled:
    texts = icd_table()["text"].to_pylist()

    def only(text: str, patterns: Patterns) -> str | None:
        named = [name for name, own in patterns.items() if re.search(own, text, re.IGNORECASE)]
        return named[0] if len(named) == 1 else None

    return _kept(texts, {"organ": [only(each, ORGANS) for each in texts],
                         "kind": [only(each, KINDS) for each in texts]})  # fmt: skip


def _bank(folder: str) -> Labelled:
    table = pq.read_table(Path(folder) / "banking77.parquet")
    names = [label.lower() for label in table["label"].to_pylist()]

    def first(name: str, patterns: Patterns) -> str | None:
        return next((each for each, own in patterns.items() if re.search(own, name)), None)

    texts, labels = _kept(
        table["text"].to_pylist(),
        {
            "product": [first(name, PRODUCTS) for name in names],
            "intent": [first(name, INTENTS) for name in names],
        },
    )
    drawn = np.random.default_rng(0).permutation(len(texts))[:BANK_ITEMS]
    return [texts[row] for row in drawn], {name: own[drawn] for name, own in labels.items()}


def _kept(texts: list[str], labels: dict[str, list[str | None]]) -> Labelled:
    """Return the items that have both labels, and their classes by number."""
    kept = [row for row in range(len(texts)) if all(own[row] for own in labels.values())]
    numbered = {
        name: np.unique([str(own[row]) for row in kept], return_inverse=True)[1].astype(np.int64)
        for name, own in labels.items()
    }
    return [texts[row] for row in kept], numbered


if __name__ == "__main__":
    main()
