"""Names of the files under an output."""

from __future__ import annotations

RUN = "run.json"
MANIFEST = "_manifest.json"
SUCCESS = "_SUCCESS"
K_SELECTION_PLOT = "k_selection.png"
WORK = "_work"
# Progress of a run; ``run.json`` lists every input file and would cost too much to write often.
PROGRESS = f"{WORK}/progress.json"
# Who is writing, or was the last to; the highest number holds, and is never deleted.
LOCKS = f"{WORK}/locks"
# Items that were given in memory.
INPUT = f"{WORK}/input"
# Of the folder of work, what is there before ``run.json`` is.
BEGUN = ("locks", "input", "input_written", "probe")

TABLES = (
    "items",
    "labels",
    "embeddings",
    "clusters",
    "memberships",
    "reductions",
    "evaluations",
    "llm_calls",
    "rejected",
    "k_selection",
    "assigner",
    "reference",
    "item_keys",
    "cluster_items",
    "drift",
)
"""Tables that a finished run publishes; ``labels`` holds ground truth, where there is any,
``k_selection`` is there where counts of clusters were left to the data, ``cluster_items`` holds the
items in the order of the tree, and ``drift`` is there where items were assigned to the clusters of
another run."""


def part(table: str, shard: int, owner: int | None = None) -> str:
    """Return the name of one shard of a table.

    Args:
        table: Name of the table.
        shard: Number of the shard.
        owner: Number of the lock that it is written under, where another owner's may differ.
    """
    by = "" if owner is None else f"-{owner:06d}"
    return f"{table}/part-{shard:06d}{by}.parquet"


def commit(stage: str, shard: int, owner: int) -> str:
    """Return the name of the record by an owner of the output that says that a shard of a stage is
    done."""
    return f"{WORK}/commits/{stage}/{shard:06d}-{owner:06d}.json"


def work_part(table: str, shard: int, owner: int | None = None) -> str:
    """Return the name of one shard of a table that only a later stage reads."""
    return part(f"{WORK}/{table}", shard, owner)


def lock(number: int) -> str:
    """Return the record of one owner of the output."""
    return f"{LOCKS}/{number:06d}.json"


def stage_file(stage: str, name: str) -> str:
    """Return a file that one stage keeps for itself or for a later one."""
    return f"{WORK}/{stage}/{name}"


def checkpoint(loop: str) -> str:
    """Return the record of the last state of a clustering loop."""
    return f"{WORK}/checkpoints/{loop}.json"


def checkpoint_arrays(loop: str, turn: int) -> str:
    """Return arrays of that state; two files take turns."""
    return f"{WORK}/checkpoints/{loop}-{turn}.npz"
