"""Prompts of a run are looked at without changing the run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.made_run import Made, make_run
from hercules_scale.commands.show_prompt import show_prompt
from hercules_scale.config.file import parse_config
from hercules_scale.config.run import RunConfig
from hercules_scale.errors import StorageError
from hercules_scale.stages.cluster import CLUSTERS_FILE
from hercules_scale.storage import layout
from hercules_scale.storage.commits import Commit, write_commit
from hercules_scale.storage.json_records import timestamp
from hercules_scale.storage.manifest import published_files
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import read_table, write_table
from tests.conftest import small_config
from tests.storage.test_lock import write_lock

pytestmark = pytest.mark.ray


def clustered_run(folder: Path) -> tuple[Store, RunConfig]:
    """A run whose clusters are there and whose phrases are not, and a caller's configuration."""
    store = make_run(str(folder), Made(3_000, (4, 2)))
    record = json.loads(store.read_bytes(layout.RUN))
    clusters = read_table(store, layout.part("clusters", 0))
    clusters = clusters.append_column("random_rows", clusters["exemplar_rows"])
    write_table(store, CLUSTERS_FILE, clusters)
    # As runs of format 4 have it, without the PCA.
    info = {"n_levels": 2, "alarms": [], "report": {}, "curve": []}
    members = published_files(store)["memberships"]
    write_commit(store, "cluster", Commit(0, record["fingerprint"], members, info))
    values = small_config("elsewhere", folder, hierarchy={"seed": 7, "levels": [9]})
    return store, parse_config(values)


def test_what_a_prompt_needs_is_made_under_the_lock_and_by_the_runs_own_seed(
    tmp_path: Path, local_ray: None
) -> None:
    store, config = clustered_run(tmp_path / "run")
    before = store.list_sizes("")
    write_lock(store, 1, seen_at=timestamp())
    with pytest.raises(StorageError, match=r"another run is writing here, host elsewhere, pid 7"):
        show_prompt(config, 1, 0)
    store.delete_files(layout.LOCKS)
    assert store.list_sizes("") == before
    prompt = show_prompt(config, 1, 0)
    made = store.list_sizes("")
    added = {name.split("/")[1] for name in made.keys() - before.keys()}
    assert added == {"locks", "commits", "phrases"}
    # Nothing is left to make, so that even a run that goes on is looked at.
    write_lock(store, 3, seen_at=timestamp())
    assert show_prompt(config, 1, 0) == prompt
    store.delete_files(layout.lock(3))
    assert store.list_sizes("") == made
    other, _ = clustered_run(tmp_path / "other")
    own = parse_config(small_config("elsewhere", tmp_path / "other", hierarchy={"seed": 0}))
    assert show_prompt(own, 1, 0) == prompt
    for name in store.list_files(f"{layout.WORK}/phrases"):
        assert other.read_bytes(name) == store.read_bytes(name)
