"""Items put into the clusters of a run, on a local store and a real local Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from rich.console import Console

from hercules_scale.clustering.nearest_centroids import Float32
from hercules_scale.errors import InputError
from hercules_scale.runtime.context import RunContext, Shards
from hercules_scale.runtime.progress import Reporter
from hercules_scale.stages import assign as stage
from hercules_scale.stages.assign import Assigned, TargetRun, assign_items
from hercules_scale.stages.assigner_tables import keep_assigner
from hercules_scale.stages.cluster import cluster_items
from hercules_scale.stages.embed import Embeddings
from hercules_scale.stages.smooth import smooth_vectors
from hercules_scale.stages.vectors import ShardTiles
from hercules_scale.storage import layout, schemas
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import read_tables, write_table
from tests.conftest import resolved, write_embeddings

pytestmark = pytest.mark.ray
N_ITEMS, DIMENSION, SHARD_ROWS = 400, 6, 128
ROWS = np.arange(N_ITEMS)
TEXT_ITEMS = schemas.items("text", (), with_text=True)


def embeddings(seed: int = 0) -> Float32:
    """Overlapping groups."""
    draw = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(12, DIMENSION))
    found = centres[draw.integers(0, 12, N_ITEMS)] + 0.6 * draw.normal(size=(N_ITEMS, DIMENSION))
    return found.astype(np.float32)


def context(folder: Path, workers: int = 2, **hierarchy: Any) -> RunContext:
    config = resolved(
        {
            "input": {"path": "in.txt"},
            "output": {"path": str(folder)},
            "hierarchy": {"levels": [9, 4, 2], "smoothing": {"neighbours": 0}, **hierarchy},
            "resources": {"workers": workers},
        }
    )
    return RunContext(config, Store(str(folder)), "f", Reporter(Console(quiet=True)))


def write_inputs(store: Store, ids: list[str], texts: list[str], vectors: Float32) -> Shards:
    """The tables ``items`` and ``embeddings``."""
    shards = Shards(len(ids), SHARD_ROWS)
    write_embeddings(store, shards, vectors)
    for shard in range(len(shards)):
        part = slice(*shards.bounds(shard))
        columns = [ROWS[part], ids[part], texts[part], texts[part], texts[part]]
        table = pa.table([pa.array(column) for column in columns], TEXT_ITEMS.names)
        write_table(store, layout.part("items", shard), table.cast(TEXT_ITEMS))
    return shards


def embedded(run: RunContext, shards: Shards, dimension: int = DIMENSION) -> Embeddings:
    return Embeddings(ShardTiles(run.store, shards, dimension), [])


def texts(ids: list[str]) -> list[str]:
    return [f"text of {each}" for each in ids]


def finish(folder: Path, **hierarchy: Any) -> tuple[TargetRun, pd.DataFrame]:
    """A run as far as assigning needs it, and its memberships."""
    run = context(folder, **hierarchy)
    ids = [str(row) for row in ROWS]
    shards = write_inputs(run.store, ids, texts(ids), embeddings())
    smoothing = smooth_vectors(run, embedded(run, shards))
    clustering = cluster_items(run, smoothing)
    tables = keep_assigner(run, smoothing, clustering).tables | clustering.tables
    finished = TargetRun.of(run.store, tables, run.config.hierarchy.metric)
    return finished, table_of(run.store, "memberships")


def table_of(store: Store, name: str) -> pd.DataFrame:
    frame: pd.DataFrame = read_tables(store, store.list_files(name)).to_pandas()
    return frame


def assign(
    folder: Path, run: TargetRun, ids: list[str], contents: list[str], vectors: Float32
) -> tuple[Assigned, pd.DataFrame]:
    new = context(folder)
    shards = write_inputs(new.store, ids, contents, vectors)
    found = assign_items(new, embedded(new, shards), run)
    return found, table_of(new.store, "memberships")


MODES: list[dict[str, Any]] = [
    {},
    {"refinement": "none"},
    {"metric": "cosine"},
    {"method": "agglomerative"},
    {"smoothing": {"neighbours": 6}},
    {"smoothing": {"neighbours": 6}, "metric": "cosine", "refinement": "none"},
    {"smoothing": {"neighbours": 6}, "method": "agglomerative"},
]


@pytest.mark.parametrize("settings", MODES, ids=str)
def test_assigning_the_training_items_gives_their_memberships_to_the_bit(
    settings: dict[str, Any], tmp_path: Path, local_ray: None
) -> None:
    run, members = finish(tmp_path / "run", **settings)
    ids = [str(row) for row in ROWS]
    found, again = assign(tmp_path / "same", run, ids, texts(ids), embeddings())
    pd.testing.assert_frame_equal(again, members, check_exact=True)
    assert found.n_known == N_ITEMS
    drift = table_of(Store(str(tmp_path / "same")), "drift")
    np.testing.assert_allclose(drift["distance_ratio"], 1)
    np.testing.assert_array_equal(drift["share_new"], drift["share_old"])
    whole = drift[drift["cluster_id"].isna()]
    assert whole["jensen_shannon"].tolist() == [0, 0, 0]
    np.testing.assert_array_less(whole["share_beyond_p99"], 0.02)


@pytest.mark.parametrize("settings", MODES[:4], ids=str)
def test_items_without_known_keys_get_the_labels_of_their_equals(
    settings: dict[str, Any], tmp_path: Path, local_ray: None
) -> None:
    run, members = finish(tmp_path / "run", **settings)
    others = [f"other {row}" for row in ROWS]
    found, again = assign(tmp_path / "new", run, others, texts(others), embeddings())
    assert found.n_known == 0
    pd.testing.assert_frame_equal(again, members, check_exact=True)


def test_known_items_keep_their_rows_among_others_in_any_order(
    tmp_path: Path, local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, members = finish(tmp_path / "run", smoothing={"neighbours": 6})
    # Keys of 400 items in six buckets.
    monkeypatch.setattr(stage, "KEYS_PER_BUCKET", 70)
    order = np.random.default_rng(1).permutation(N_ITEMS)
    ids = [str(row) if row % 2 else f"other {row}" for row in order]
    contents = texts(ids)
    # The id of a training item alone makes no item known.
    contents[ids.index("7")] = "another text"
    # Encoders round by the batch, which must not make an item unknown.
    vectors = embeddings()[order] + np.float32(1e-6)
    found, again = assign(tmp_path / "new", run, ids, contents, vectors)
    known = order % 2 == 1
    known[ids.index("7")] = False
    assert found.n_known == known.sum() == 199
    columns = members.columns.drop(["row", "item_id"])
    pd.testing.assert_frame_equal(
        again.loc[known, columns].reset_index(drop=True),
        members.loc[order[known], columns].reset_index(drop=True),
        check_exact=True,
    )
    # The others lie nearest to the mean embedding of their cluster.
    own, rows = members["level_1"].to_numpy(), embeddings().astype(np.float64)
    centres = np.stack([rows[own == cluster].mean(axis=0) for cluster in range(own.max() + 1)])
    distances = ((rows[order][:, None] - centres) ** 2).sum(axis=2)
    near = distances.argmin(axis=1)[~known]
    np.testing.assert_array_equal(again.loc[~known, "level_1"], near)
    np.testing.assert_allclose(
        again.loc[~known, "distance_1"], distances.min(axis=1)[~known], rtol=1e-3, atol=1e-4
    )


def test_any_number_of_workers_and_a_resumed_stage_give_the_same_bits(
    tmp_path: Path, local_ray: None
) -> None:
    run, _ = finish(tmp_path / "run", smoothing={"neighbours": 6})
    ids = [f"other {row}" for row in ROWS]
    files = []
    for workers in (1, 3):
        new = context(tmp_path / str(workers), workers)
        shards = write_inputs(new.store, ids, texts(ids), embeddings(1))
        assigned = assign_items(new, embedded(new, shards), run)
        files.append([*assigned.memberships, assigned.drift])
    assert files[0] == files[1]
    for name in (layout.commit("assign", 2, 0), layout.commit("known", 0, 0)):
        new.store.fsspec.rm(new.store.path(name))
    assert assign_items(new, embedded(new, shards), run) == assigned


def test_vectors_of_another_model_are_refused(tmp_path: Path, local_ray: None) -> None:
    run, _ = finish(tmp_path / "run")
    new = context(tmp_path / "new")
    with pytest.raises(InputError, match=r"gives 7 numbers an item, and the run at .* has 6"):
        assign_items(new, embedded(new, Shards(N_ITEMS, SHARD_ROWS), 7), run)
