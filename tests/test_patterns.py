"""Texts of strangers cost a time in proportion to their length, whatever they hold."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from hercules_scale.config.file import load_config
from hercules_scale.config.reading import CsvConfig
from hercules_scale.errors import ConfigError, HerculesScaleError
from hercules_scale.models.sizes import n_parameters
from hercules_scale.reading.csv_quotes import QuotedRows
from hercules_scale.reading.decimals import as_number
from hercules_scale.reading.dialect import Dialect, detect, find_codes
from hercules_scale.reading.json_values import json_values
from hercules_scale.sanitize import holds_secret, printable_lines, without_secrets
from hercules_scale.stages.read_shards import _kind_of_reason
from hercules_scale.storage.retries import is_transient
from hercules_scale.summarization.answer_json import answer_values
from hercules_scale.summarization.clients import _NO_MODEL
from hercules_scale.summarization.cluster_facts import ClusterFacts, plain_text
from hercules_scale.summarization.endpoint_features import EndpointFeatures
from hercules_scale.summarization.grounding import stems_of
from hercules_scale.summarization.parsing import parse_answer
from hercules_scale.summarization.refusals import refuses
from hercules_scale.summarization.titles import clean_title
from hercules_scale.summarization.words import prose, tokens

LETTERS = 1_000_000
UNITS = [
    "://", ":", "@", "?sig", "sig", "&", "?a=&", "https://a@", "%.", "<", "<think>", "</think>",
    "{", "[", '{"', "**", "*a ", "__a ", "[a](", "`", "#", "<|", "</", "'", "a'", "\u3042", "1",
    " ", "\n", "-", "model", "null", "http", " holds ",
    "x" * 100 + " ",
]  # fmt: skip

# A beginning many times, and its end as often.
NESTED = [
    ("<", "s>"), ("[", "INST]"), ("<|", "|>"), ("<<", "SYS>>"), ("<think>", "</think>"),
    ("(", ")"), ("{", "}"), ("[", "]"), ('{"a":', "}"), ("**", "**"), ("\"", "\""), ("'", "'"),
    ("n ", "="), ("role", " system"), ("0", ",1"), (" holds ", ", not a number"),
]  # fmt: skip

FACTS = ClusterFacts(1, 0, 5, ["ferry"])
READERS: dict[str, Callable[[str], object]] = {
    "without_secrets": without_secrets,
    "holds_secret": holds_secret,
    "printable_lines": printable_lines,
    "is_transient": lambda text: is_transient(OSError(text)),
    "n_parameters": n_parameters,
    "answer_values": lambda text: list(answer_values(text)),
    "parse_answer": lambda text: parse_answer(text, FACTS),
    "parse_title": lambda text: parse_answer(json.dumps({"title": text}), FACTS),
    "clean_title": clean_title,
    "stems_of": stems_of,
    "plain_text": plain_text,
    "refuses": refuses,
    "kind_of_reason": _kind_of_reason,
    "kind_of_cell": lambda text: _kind_of_reason(f"column 'a' holds {text}, not a number"),
    "detect": lambda text: detect(text.encode(), True, CsvConfig(), True),
    "find_codes": lambda text: find_codes(text.encode(), Dialect()),
    "quoted_rows": lambda text: read_rows(text, Dialect()),
    "quoted_rows_escaped": lambda text: read_rows(text, Dialect(escape="\\")),
    "json_values": lambda text: list(json_values(io.BytesIO(text.encode()), "a", 2**24)),
    "tokens": lambda text: tokens(prose(text)),
    "as_number": lambda text: as_number(text.encode()),
    "as_number_comma": lambda text: as_number(text.encode(), ","),
    "refusal": EndpointFeatures().names,
    "no_model": _NO_MODEL.search,
}


def read_rows(text: str, dialect: Dialect) -> None:
    rows = QuotedRows(io.BytesIO(text.encode()), "a", dialect, 2**24)
    while rows.read(2**20):
        pass


def seconds(read: Callable[[str], object], text: str) -> float:
    started = time.process_time()
    with suppress(HerculesScaleError):
        read(text)
    return time.process_time() - started


@pytest.mark.parametrize("reader", READERS)
def test_a_text_costs_a_time_in_proportion_to_its_length(reader: str) -> None:
    slow = {}
    for begin, end in [*((unit, "") for unit in UNITS), *NESTED]:
        counts = (n // len(begin + end) for n in (LETTERS // 8, LETTERS))
        short, long = (begin * count + end * count for count in counts)
        # Eight times as long, twice that for noise, and what is below a second is no matter.
        limit = 16 * seconds(READERS[reader], short) + 1
        taken = seconds(READERS[reader], long)
        if taken > limit:
            slow[begin, end] = (taken, limit)
    assert slow == {}


@pytest.mark.parametrize(
    ("last", "override", "said"),
    [
        ("input: {path: *a11}\noutput: {path: x}", [], r"input\.path\.0 must be text, got \[\["),
        (
            "input: {path: x}\noutput: *a11",
            ['output.path="x"'],
            r"--set output\.path=\"x\": output holds \[\[.*, not a section",
        ),
        (
            "input: *a11\noutput: {path: x}",
            ["input.path=x"],
            r"--set input\.path=x: input holds \[\[.*, not a section",
        ),
    ],
)
def test_aliases_of_yaml_cost_no_time(
    last: str, override: list[str], said: str, tmp_path: Path
) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for number in range(1, 12):
        before = ", ".join([f"*a{number - 1}"] * 9)
        lines.append(f"a{number}: &a{number} [{before}]")
    lines.append(last)
    (tmp_path / "run.yaml").write_text("\n".join(lines))
    started = time.process_time()
    with pytest.raises(ConfigError, match=said) as raised:
        load_config(str(tmp_path / "run.yaml"), override)
    assert time.process_time() - started < 2
    assert len(str(raised.value)) < 2_000
