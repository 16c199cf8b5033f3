"""The stages of a run and of an assignment: their order, and their table in the architecture."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import pytest

from hercules_scale.jobs.assign import ASSIGNMENT
from hercules_scale.jobs.cluster import PIPELINE
from hercules_scale.runtime.context import RunContext
from hercules_scale.runtime.pipeline import Pipeline, check_order, type_written, types_read
from hercules_scale.stages.assign import TargetRun
from hercules_scale.stages.language_model import LabelEncoder, LanguageModel
from hercules_scale.stages.read import Sources
from hercules_scale.storage import layout

ARCHITECTURE = Path(__file__).parents[2] / "docs" / "architecture.md"
GIVEN: dict[Pipeline, list[type]] = {
    PIPELINE: [RunContext, Sources, LanguageModel, LabelEncoder],
    ASSIGNMENT: [RunContext, Sources, LanguageModel, TargetRun],
}


@pytest.mark.parametrize("pipeline", GIVEN, ids=["run", "assign"])
def test_stages_read_what_is_written_before(pipeline: Pipeline) -> None:
    check_order(pipeline, GIVEN[pipeline])


@pytest.mark.parametrize("pipeline", GIVEN, ids=["run", "assign"])
def test_two_stages_change_places_only_if_neither_reads_what_the_other_writes(
    pipeline: Pipeline,
) -> None:
    refused = 0
    for first, second in combinations(range(len(pipeline)), 2):
        changed = list(pipeline)
        changed[first], changed[second] = pipeline[second], pipeline[first]
        written = [type_written(stage) for stage in pipeline[first:second]]
        # The later stage reads what stages between write, or they read what the earlier one writes.
        reads = set(types_read(pipeline[second])).intersection(written) or any(
            written[0] in types_read(stage) for stage in pipeline[first + 1 : second + 1]
        )
        if reads:
            refused += 1
            with pytest.raises(TypeError, match="which no stage before it writes"):
                check_order(tuple(changed), GIVEN[pipeline])
        else:
            check_order(tuple(changed), GIVEN[pipeline])
    assert refused >= len(pipeline) - 1


def rows_of_architecture() -> list[list[str]]:
    """The cells of each row about a stage."""
    lines = ARCHITECTURE.read_text(encoding="utf-8").splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if re.match(r"\| `\w+_\w+` \|", line)]
    assert rows
    return rows


def names(cell: str) -> list[str]:
    return re.findall(r"`(\w+)`", cell)


def test_the_architecture_lists_each_stage_with_what_it_reads_and_writes() -> None:
    listed = [
        (names(stage), names(read), names(written))
        for stage, read, written, *_ in rows_of_architecture()
    ]
    own = [stage for stage in ASSIGNMENT if stage not in PIPELINE]
    assert listed == [
        (
            [stage.__name__],
            [read.__name__ for read in types_read(stage) if read is not RunContext],
            [type_written(stage).__name__],
        )
        for stage in (*PIPELINE, *own)
    ]
    tables = [name for row in rows_of_architecture() for name in names(row[3])]
    # A finished run gets the table flags later.
    assert set(tables) == set(layout.TABLES) - {"flags", "crosswalk", "topics"}
