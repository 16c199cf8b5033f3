"""Small models in the format of pyhercules, and runs made from them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hercules_scale import Hierarchy

HOSTILE = "</script><script>hacked=1</script>\"'><img src=x onerror=hacked=1>"
TITLES = ["Boats", f"Cars {HOSTILE}", "Birds", "Things \x1b[31m that move", "=HYPERLINK(1)"]
# Item id, text, finest cluster, vector.
ITEMS: list[tuple[str, str, int, list[float]]] = [
    ("a", "a red boat", 0, [1.0, 0.0]),
    ('b\nnewline, "quoted"', "a blue boat", 0, [0.8, 0.2]),
    ("=1+1", f"a car {HOSTILE}", 1, [0.0, 1.0]),
    (HOSTILE, "a fast car", 1, [0.25, 1.0]),
    ("-5", "an owl \x1b[2J", 2, [-1.0, 0.5]),
    ("@cell", "a crow", 2, [-1.0, 0.75]),
]


def node(level: int, number: int, parent: int | None, **values: Any) -> dict[str, Any]:
    return {
        "level": level,
        "id": number,
        "original_id": None,
        "original_data_type": "text",
        "children_ids": [],
        "parent_id": parent,
        "title": f"title {number}",
        "description": f"description {number}",
        "representation_vector": None,
        "description_embedding": None,
        "representation_vector_reductions": {},
        "original_numeric_data": None,
        "_raw_item_data": None,
        "_raw_item_data_type": "NoneType",
        **values,
    }


@pytest.fixture
def model() -> dict[str, Any]:
    """Six texts in three clusters, those in two."""
    items = [
        node(
            0,
            row,
            10 + leaf,
            original_id=item_id,
            title=text,
            description=text,
            representation_vector=vector,
            representation_vector_reductions={"pca": vector},
            _raw_item_data=text,
            _raw_item_data_type="str",
        )
        for row, (item_id, text, leaf, vector) in enumerate(ITEMS)
    ]
    centroids = [[0.9, 0.1], [0.125, 1.0], [-1.0, 0.625], [0.5, 0.5], [-1.0, 0.625]]
    clusters = [
        node(
            1 if place < 3 else 2,
            10 + place,
            [13, 13, 14, None, None][place],
            title=TITLES[place],
            representation_vector=centroids[place],
            representation_vector_reductions={"pca": centroids[place]},
            description_embedding=[1.0, float(place), 0.0],
        )
        for place in range(5)
    ]
    return {
        "__hercules_version__": "1.1.1",
        "config": {"representation_mode": "direct", "random_state": 7},
        "state": {
            "input_data_type": "text",
            "variable_names": None,
            "_l0_original_ids_ordered": [item[0] for item in ITEMS],
        },
        "function_metadata": {"text_embedding": {"name": "letters"}, "llm": {"name": "writer"}},
        "clusters": [*items, *clusters],
        "top_cluster_ids": [13, 14],
        "prompt_log": [],
    }


@pytest.fixture
def imported(tmp_path: Path) -> Callable[[Any], Hierarchy]:
    """Imports a model from its values."""

    def run(values: Any) -> Hierarchy:
        path = tmp_path / "model.json"
        path.write_text(json.dumps(values), encoding="utf-8")
        return Hierarchy.from_pyhercules(str(path), str(tmp_path / "run"))

    return run
