"""Ten thousand damaged configurations: each starts a run, or ends with 2 and one line."""

from __future__ import annotations

import copy
import math
import random
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from hercules_scale.commands.cli import main
from hercules_scale.config.resolved import ResolvedConfig
from hercules_scale.jobs import cluster

N_EACH = 1250
# One of every kind of value: sections, lists, numbers, words, switches, nothing.
WHOLE: dict[str, Any] = {
    "input": {
        "path": ["a.parquet", "b.parquet"],
        "modality": "text",
        "text_column": "body",
        "id_column": "id",
        "label_columns": ["topic"],
        "owner_column": "owner",
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
        "refinement": "none",
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
    "privacy": {"min_items": 5, "min_owners": 3, "local_only": True},
    "resources": {"profile": "cpu", "workers": 2},
    "storage": {"endpoint": "http://localhost:9000", "region": "here", "retry_seconds": 30},
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


def as_yaml(values: dict[Any, Any]) -> bytes:
    # libyaml writes ten thousand files in seconds.
    text = yaml.dump(values, Dumper=yaml.CSafeDumper, allow_unicode=True)
    return str(text).encode()


class StartedError(Exception):
    """The point at which a run would write its record and start Ray."""


class Command:
    """``run`` in this process, up to the point at which the run would start."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path, self._capsys = folder / "run.yaml", capsys
        self.n_started = 0

    def run(self, data: bytes) -> None:
        """Assert that a file starts a run, or ends with 2 and one printable line."""
        self.path.write_bytes(data)
        try:
            code = main(["run", str(self.path)])
        except StartedError:
            self.n_started += 1
            assert self._capsys.readouterr().err == ""
            return
        printed = self._capsys.readouterr().err
        assert code == 2, data
        assert printed.startswith("hercules-scale: "), data
        assert printed.endswith("\n"), data
        assert printed[:-1].isprintable(), data
        # A path may be as long as it likes; whole file contents are not repeated.
        assert len(printed) < 20_000, data


# The same files every day, others each day, and more where somebody asks for all.
SEEDS = [
    0,
    pytest.param(date.today().toordinal(), marks=pytest.mark.slow, id="today"),
    *(pytest.param(n, marks=[pytest.mark.slow, pytest.mark.full]) for n in range(1, 5)),
]


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    table = {"id": ["1"], "body": ["a"], "topic": ["x"], "owner": ["o"], "width": [1.0]}
    for name in ("a", "b"):
        pq.write_table(pa.table(table), tmp_path / f"{name}.parquet")

    def start(config: ResolvedConfig, *_: object) -> None:
        # What is valid is written to run.json and read again.
        assert ResolvedConfig.model_validate(config.model_dump()) == config
        raise StartedError

    monkeypatch.setattr(cluster, "carry_out", start)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.chdir(tmp_path)
    return Command(tmp_path, capsys)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_configuration_with_other_keys_and_values_starts_or_ends_with_one_line(
    seed: int, command: Command
) -> None:
    random_ = random.Random(seed)
    for _ in range(N_EACH):
        command.run(as_yaml(damaged(random_)))
    assert 0 < command.n_started < N_EACH / 2


@pytest.mark.parametrize("seed", SEEDS)
def test_a_file_with_other_bytes_starts_a_run_or_ends_with_one_line(
    seed: int, command: Command
) -> None:
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
    for _ in range(N_EACH):
        data = bytearray(whole)
        for _ in range(random_.randint(1, 6)):
            at = random_.randrange(len(data))
            data[at : at + random_.choice([0, 0, 1, 8])] = random_.choice([b"", *marks])
        command.run(bytes(data))
    assert 0 < command.n_started < N_EACH / 2
