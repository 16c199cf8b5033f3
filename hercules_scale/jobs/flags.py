"""Job that adds the table ``flags`` to a finished run."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from hercules_scale.config.file import parse_config
from hercules_scale.config.resolved import ResolvedConfig
from hercules_scale.errors import InputError
from hercules_scale.evaluation.flags import AMBIGUOUS, NEAR_DUPLICATE, OUTLIER
from hercules_scale.results.finished_run import Run
from hercules_scale.runtime.context import RunContext
from hercules_scale.runtime.progress import Reporter
from hercules_scale.stages.flags import TABLE, Counts, FlagSource, flag_items, forget
from hercules_scale.storage import layout
from hercules_scale.storage.json_records import fingerprint, to_json
from hercules_scale.storage.lock import hold_lock
from hercules_scale.storage.manifest import next_part, published_files, replace_table
from hercules_scale.storage.store import Store

# Least cosine of near-duplicates, and share of outliers and of ambiguous items, by default.
COSINE, SHARE = 0.95, 0.01
MOST = 0.5
# Bytes of vectors and other columns that are in memory at once, as a part or a block.
BLOCK_BYTES = 256 << 20


@dataclass(frozen=True)
class Flagged:
    """Result of the job.

    Attributes:
        counts: Numbers of flags by kind.
        notes: Reasons for kinds that are left out or small.
    """

    counts: dict[str, Counts]
    notes: list[str]


def flag_run(
    store: Store, cosine: float | None, share: float | None, reporter: Reporter
) -> Flagged:
    """Flag items of a finished run, and replace its table ``flags``.

    An interrupted call resumes.

    Args:
        store: Output of the run.
        cosine: Least cosine of near-duplicates, above 0 and at most 1; None for 0.95, where items
            have vectors that cosines compare.
        share: Share of a cluster's items that are outliers, and that are ambiguous; None for 0.01.
        reporter: Receives the progress.

    Raises:
        InputError: There is no finished run, it has no clusters, a number is out of bounds, or
            cosines cannot compare the items.
    """
    for name, value, most in (("cosine", cosine, 1.0), ("share", share, MOST)):
        if value is not None and not 0 < value <= most:
            raise InputError(f"{name} must be above 0 and at most {most:g}, got {value}")
    share = SHARE if share is None else share
    # A wrong run is reported before anything is written.
    _source(Run(store, published_files(store)), cosine, share)
    notes: list[str] = []
    with hold_lock(store, notes.append) as lock:
        # Another call may have finished in the meantime.
        run = Run(lock.store, published_files(lock.store))
        source, missing = _source(run, cosine, share)
        record = dict(run.record)
        how = [source.share, source.cosine, source.block_bytes]
        own = fingerprint([record["fingerprint"], *how])
        context = RunContext(_config(lock.store), lock.store, own, reporter)
        file, counts = flag_items(context, source, next_part(store, TABLE))
        replace_table(lock.store, TABLE, [file])
        record.setdefault("rows", {})[TABLE] = file.rows
        lock.store.write_bytes(layout.RUN, to_json(record))
        forget(lock.store)
    return Flagged(counts, notes + missing)


def _config(store: Store) -> ResolvedConfig:
    """Return a configuration for work in this process, which reads none of its keys.

    That of an imported run may be of another program.
    """
    given = {"input": {"path": "-", "modality": "embedding"}, "output": {"path": store.uri}}
    config = parse_config(given)
    return ResolvedConfig.of(config, config.input)


def _source(run: Run, cosine: float | None, share: float) -> tuple[FlagSource, list[str]]:
    """Return the source of flags, and notes about kinds that the run cannot have."""
    uri, finest = run.store.uri, run.level(1)
    if not run.files.get("memberships"):
        raise InputError(
            f"{uri}: holds no table 'memberships', which flags need; give a finished run"
        )
    why = None
    if run.config("input").get("modality") == "numeric":
        why = "items are rows of numbers, which cosines do not compare"
    elif not run.files.get("embeddings"):
        why = "the run has no table embeddings"
    if why and cosine is not None:
        raise InputError(f"{uri}: cosine finds near-duplicates, but {why}; leave cosine out")
    notes = [f"{NEAR_DUPLICATE} is left out, since {why}"] if why else []
    sizes = finest["n_items"].to_numpy().astype(np.int64)
    small = int((sizes * share + 1e-9 < 1).sum())
    if not pc.any(pc.greater(finest["inertia"], 0)).as_py():
        notes.append(f"{OUTLIER} and {AMBIGUOUS} are left out, since the run has no distances")
    elif len(sizes) == 1:
        notes.append(f"{AMBIGUOUS} is left out, since the finest level has one cluster")
    elif small:
        least = math.ceil(1 / share - 1e-6)
        notes.append(
            f"{small:,} of {len(sizes):,} clusters have fewer than {least:,} items, and so no "
            f"{OUTLIER} or {AMBIGUOUS} item; a larger share than {share:g} finds some"
        )
    compared = None if why else COSINE if cosine is None else cosine
    embeddings = [] if why else run.files["embeddings"]
    source = FlagSource(
        run.store,
        run.files["memberships"],
        embeddings,
        sizes,
        share,
        compared,
        BLOCK_BYTES,
    )
    return source, notes
