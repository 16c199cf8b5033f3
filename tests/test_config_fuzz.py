"""Ten thousand damaged configurations: each is one valid run, or one error of one line."""

from __future__ import annotations

import copy
import math
import random
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from hercules_scale.cli import main
from hercules_scale.config import RunConfig, load_config
from hercules_scale.errors import ConfigError

N_EACH = 1250
# One of every kind of value: sections, lists, numbers, words, switches, nothing.
WHOLE: dict[str, Any] = {
    "input": {
        "path": ["a.parquet", "b.parquet"],
        "modality": "text",
        "text_column": "body",
        "id_column": "id",
        "label_columns": ["topic"],
        "columns": [],
        "metadata": {"width": {"unit": "cm", "description": "of a leaf"}},
    },
    "embedding": {"model": "minilm", "precision": "auto", "long_text": "truncate"},
    "hierarchy": {
        "levels": [100, 20, 5],
        "seed": 0,
        "metric": "cosine",
        "tolerance": 1e-5,
        "max_iterations": 100,
        "smoothing": {"neighbours": 10, "rounds": 3},
        "resampling": {"rounds": 2, "points_per_cluster": 10},
    },
    "summaries": {
        "engine": "openai",
        "model": "tester",
        "endpoint": "http://localhost:1/v1",
        "candidates": 4,
        "max_total_tokens": 1000,
        "topic": "diseases",
    },
    "reduction": {"components": 2},
    "evaluation": {"metrics": "all"},
    "resources": {"profile": "cpu", "workers": 2},
    "output": {"path": "runs/x"},
}
VALUES: list[Any] = [
    None,
    True,
    "",
    " ",
    "auto",
    "none",
    "-1",
    "é\n\x85\u2028\u202e",
    "x" * 5000,
    0,
    -1,
    1,
    10**400,
    -(2**63),
    1.5,
    1e308,
    math.nan,
    math.inf,
    -math.inf,
    date(2026, 1, 1),
    b"\x00\xff",
    [],
    [[]],
    [5, 20],
    [5, 5],
    ["a", 1],
    {},
    {"a": {"b": 1}},
    {1: 2},
    {None: None},
    [[1, 2], {"k": "v"}],
    {"path": "x"},
]


def places(values: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where keys and list entries are."""
    children = values.items() if isinstance(values, dict) else enumerate(values)
    found = []
    for key, child in children:
        found.append((*path, key))
        if isinstance(child, dict | list):
            found += places(child, (*path, key))
    return found


def damaged(random_: random.Random) -> dict[Any, Any]:
    """The whole configuration after one to four changes."""
    values = copy.deepcopy(WHOLE)
    for _ in range(random_.randint(1, 4)):
        path = random_.choice(places(values) or [("input",)])
        section: Any = values
        for key in path[:-1]:
            section = section[key]
        key = path[-1]
        way = random_.randrange(5)
        if way == 0:
            del section[key]
        elif way == 1 and isinstance(section, dict):
            name = str(key)
            at = random_.randrange(len(name) + 1)
            other: list[Any] = [name[:at] + name[at + 1 :], name.upper(), 3, None, True, "", "\x1b"]
            section[random_.choice(other)] = section.pop(key)
        elif way == 2:
            other_path = random_.choice(places(values))
            other_value: Any = values
            for part in other_path:
                other_value = other_value[part]
            section[key] = copy.deepcopy(other_value)
        else:
            section[key] = copy.deepcopy(random_.choice(VALUES))
    return values


def check(path: Path) -> bool:
    """Whether a file is a valid configuration; else that its error is one printable line."""
    try:
        config = load_config(str(path))
    except ConfigError as error:
        message = str(error)
        assert message.startswith("configuration"), message
        assert message.isprintable(), repr(message)
        assert len(message) < 3000, len(message)
        return False
    # What is valid is written to run.json and read again.
    assert RunConfig.model_validate(config.model_dump()) == config
    return True


@pytest.mark.parametrize("seed", range(4))
def test_a_configuration_with_other_keys_and_values_is_valid_or_one_line(
    seed: int, tmp_path: Path
) -> None:
    random_ = random.Random(seed)
    path = tmp_path / "run.yaml"
    n_valid = 0
    for _ in range(N_EACH):
        path.write_text(yaml.safe_dump(damaged(random_), allow_unicode=True), encoding="utf-8")
        n_valid += check(path)
    assert 0 < n_valid < N_EACH / 2


@pytest.mark.parametrize("seed", range(4))
def test_a_file_with_other_bytes_is_valid_or_one_line(seed: int, tmp_path: Path) -> None:
    random_ = random.Random(seed)
    whole = yaml.safe_dump(WHOLE).encode()
    marks = [
        b"\x00",
        b"\xff",
        b"\t",
        b"\n",
        b": ",
        b"- ",
        b"&a ",
        b"*a",
        b"!!set ",
        b"{",
        b"'",
        b"1",
    ]
    path = tmp_path / "run.yaml"
    n_valid = 0
    for _ in range(N_EACH):
        data = bytearray(whole)
        for _ in range(random_.randint(1, 6)):
            at = random_.randrange(len(data))
            data[at : at + random_.choice([0, 0, 1, 8])] = random_.choice([b"", *marks])
        path.write_bytes(data)
        n_valid += check(path)
    assert 0 < n_valid < N_EACH / 2


def test_the_command_ends_with_2_and_the_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("input: {path: 'a\\nb', \"c\\x1b[31m\": 1}\n")
    assert main(["run", str(path)]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert "\x1b" not in printed
