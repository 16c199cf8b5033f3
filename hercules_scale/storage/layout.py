"""Names of the files under an output."""

from __future__ import annotations

RUN = "run.json"
MANIFEST = "_manifest.json"
SUCCESS = "_SUCCESS"
K_SELECTION_PLOT = "k_selection.png"
WORK = "_work"
# Progress of a run; ``run.json`` lists every input file and would cost too much to write often.
PROGRESS = f"{WORK}/progress.json"
# Locks of the present or last owner of the output; the highest number holds, and is never deleted.
LOCKS = f"{WORK}/locks"
# Items that were given in memory.
INPUT = f"{WORK}/input"
# Entries of the work folder that may exist before ``run.json``.
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
    "flags",
    "crosswalk",
    "topics",
)
"""Tables that a finished run publishes.

``labels`` exists if there is ground truth, ``k_selection`` if the data chose the numbers of
clusters, ``drift`` if items were assigned to the clusters of another run, ``flags`` once items
were flagged, and ``crosswalk`` and ``topics`` once the run was aligned with an earlier one;
``cluster_items`` holds the items in the order of the tree.
"""


def part(table: str, shard: int, owner: int | None = None) -> str:
    """Return the name of one shard of a table.

    Args:
        table: Name of the table.
        shard: Number of the shard.
        owner: Number of the lock under which it is written, if another owner's file may differ.
    """
    by = "" if owner is None else f"-{owner:06d}"
    return f"{table}/part-{shard:06d}{by}.parquet"


def commit(stage: str, shard: int, owner: int) -> str:
    """Return the name of an owner's record that a shard of a stage is done."""
    return f"{WORK}/commits/{stage}/{shard:06d}-{owner:06d}.json"


def work_part(table: str, shard: int, owner: int | None = None) -> str:
    """Return the name of one shard of a table that only a later stage reads."""
    return part(f"{WORK}/{table}", shard, owner)


def lock(number: int) -> str:
    """Return the name of the lock with this number."""
    return f"{LOCKS}/{number:06d}.json"


def stage_file(stage: str, name: str) -> str:
    """Return the name of a file that one stage keeps for itself or for a later one."""
    return f"{WORK}/{stage}/{name}"


def checkpoint(loop: str) -> str:
    """Return the name of the record of a clustering loop's last state."""
    return f"{WORK}/checkpoints/{loop}.json"


def checkpoint_arrays(loop: str, turn: int) -> str:
    """Return the name of the file with the arrays of a state; two files take turns."""
    return f"{WORK}/checkpoints/{loop}-{turn}.npz"
