"""The stage on a local store, without Ray: few vectors are clustered in this process."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console
from sklearn.decomposition import PCA

from hercules_scale.clustering import agglomerative
from hercules_scale.clustering.levels import Levels
from hercules_scale.runtime.context import RunContext, Shards
from hercules_scale.runtime.progress import Reporter
from hercules_scale.stages import cluster_alarms
from hercules_scale.stages.cluster import Clustering, cluster_items
from hercules_scale.stages.memberships import MembersSummary
from hercules_scale.stages.smooth import Smoothing
from hercules_scale.stages.vectors import ShardTiles, read_vectors
from hercules_scale.storage import layout, schemas
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import read_table, vector_column, write_table
from tests.conftest import resolved

N_ITEMS, DIMENSION = 300, 6


@pytest.fixture
def context(tmp_path: Path) -> RunContext:
    """An output with the embeddings of six planted groups, of which the first two lie close."""
    store, shards = Store(str(tmp_path)), Shards(N_ITEMS, 128)
    draw = np.random.default_rng(0)
    centres = 5 * np.eye(6, DIMENSION)
    centres[1] = centres[0] + [0, 2, 0, 0, 0, 0]
    vectors = centres[np.arange(N_ITEMS) % 6] + 0.1 * draw.normal(size=(N_ITEMS, DIMENSION))
    for shard in range(len(shards)):
        start, stop = shards.bounds(shard)
        table = pa.table(
            {
                "item_id": pa.array([str(row) for row in range(start, stop)]),
                "embedding": vector_column(vectors[start:stop].astype(np.float32)),
            }
        )
        write_table(store, layout.part("embeddings", shard), table)
    return RunContext(configured(), store, "f", Reporter(Console(quiet=True)))


def configured(**hierarchy: Any) -> Any:
    return resolved(
        {
            "input": {"path": "in.txt"},
            "output": {"path": "out"},
            "hierarchy": {"levels": [12, 6, 5], **hierarchy},
        }
    )


def cluster(context: RunContext, **hierarchy: Any) -> Clustering:
    asked = RunContext(configured(**hierarchy), context.store, "f", context.reporter)
    source = ShardTiles(context.store, Shards(N_ITEMS, 128), DIMENSION)
    return cluster_items(asked, Smoothing(source, {}))


@pytest.mark.parametrize("exact_rows", [5000, 100])
def test_memberships_of_an_agglomerated_hierarchy_agree_with_its_clusters(
    exact_rows: int, context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agglomerative, "EXACT_ROWS", exact_rows)
    found = cluster(context, method="agglomerative")
    members = pa.concat_tables(
        read_table(context.store, layout.part("memberships", shard)) for shard in range(3)
    )
    for level, k in ((1, 12), (2, 6), (3, 5)):
        own = members[f"level_{level}"].to_numpy()
        counts = found.level(level)["n_items"].to_numpy()
        assert len(counts) == k
        assert (np.bincount(own) == counts).all()
        if level < 3:
            parents = found.level(level)["parent_cluster_id"].to_numpy()
            assert (parents[own] == members[f"level_{level + 1}"].to_numpy()).all()
    # Groups come in turn, so clusters numbered by lowest row do as well.
    group = np.arange(N_ITEMS) % 6
    table = np.zeros((6, 6))
    np.add.at(table, (group, members["level_2"].to_numpy()), 1)
    assert sorted(table.max(axis=0)) == [50] * 6
    top = members["level_3"].to_numpy()
    assert top[0] == top[1]
    assert len(set(top[1:6].tolist())) == 5


def test_the_report_of_an_agglomerated_hierarchy_gives_linkage_and_heights(
    context: RunContext,
) -> None:
    report = cluster(context, method="agglomerative", linkage="average").report
    # It goes into run.json.
    assert json.loads(json.dumps(report)) == report
    assert [level["level"] for level in report["levels"]] == [1, 2, 3]
    _, groups, top = report["levels"]
    assert (top["linkage"], top["n_points"]) == ("average", N_ITEMS)
    assert groups["height"] < 1 < groups["next_height"] == top["height"] < 2.5 < top["next_height"]
    assert report.keys() == {"levels"}
    assert context.reporter.alarms == []


def test_the_report_and_alarms_speak_of_micro_clusters(
    context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (agglomerative, cluster_alarms):
        monkeypatch.setattr(module, "EXACT_ROWS", 40)
    # Centroids that start at items are not at rest after one iteration.
    hierarchy = {"method": "agglomerative", "init": "sample", "max_iterations": 1, "tolerance": 0}
    report = cluster(context, **hierarchy).report
    assert json.loads(json.dumps(report)) == report
    assert report["micro_clusters"]["n_clusters"] == 40
    assert report["micro_clusters"]["stopped"] == "max_iterations"
    alarms = " | ".join(context.reporter.alarms)
    assert "micro-clusters: k-means had not converged after 1 iterations" in alarms
    assert "level 1: 12 clusters were made of 40 micro-clusters, the most there can be" in alarms
    assert "ask for at most 10 clusters, or for method kmeans" in alarms


def test_the_report_of_k_means_gives_each_levels_iterations(context: RunContext) -> None:
    report = cluster(context).report
    assert report.keys() == {"levels", "tree"}
    for level in report["levels"]:
        assert level["stopped"] in ("labels", "objective")
        assert level["n_iterations"] > 0


@pytest.mark.parametrize(("sizes", "n_alike"), [([249, 1], 249), ([1] * 9 + [241], 0)])
def test_an_item_that_is_a_cluster_by_itself_is_not_like_another(
    sizes: list[int], n_alike: int
) -> None:
    level = SimpleNamespace(centroids=np.zeros((len(sizes), 2)))
    found = SimpleNamespace(levels=[level], runs=[None], micro=None)
    # As the shards count them: all that lie at their centroids.
    at_centroids = n_alike + sizes.count(1)
    summary = MembersSummary([np.array(sizes)], [], [], [], at_centroids)
    alarms = cluster_alarms.cluster_alarms([len(sizes)], cast(Levels, found), summary, 250)
    said = [alarm for alarm in alarms if "nearly identical" in alarm]
    assert said == (
        [
            f"{n_alike} of 250 items are nearly identical to others; remove duplicates if their "
            "clusters hide the rest"
        ]
        if n_alike
        else []
    )


@pytest.mark.parametrize("metric", ["squared_l2", "cosine"])
def test_the_map_is_that_of_scikit_learn(metric: str, context: RunContext) -> None:
    clustering = cluster(context, metric=metric)
    pca, files = clustering.pca, clustering.reductions
    assert [file.path for file in files] == [layout.part("reductions", shard) for shard in range(3)]
    table = pa.concat_tables(read_table(context.store, file.path) for file in files)
    assert table.schema == schemas.reductions(2)
    assert table["row"].to_pylist() == list(range(N_ITEMS))
    assert table["item_id"].to_pylist() == list(map(str, range(N_ITEMS)))
    parts = (read_vectors(context.store, shard) for shard in range(3))
    vectors = np.concatenate(list(parts)).astype(np.float64)
    reference = PCA(2, svd_solver="full").fit(vectors)
    signs = np.sign((pca.components * reference.components_).sum(axis=1))
    expected = reference.transform(vectors) * signs
    places = np.stack([table["pca_1"].to_numpy(), table["pca_2"].to_numpy()], axis=1)
    np.testing.assert_allclose(places, expected, atol=1e-5)


def test_a_lost_file_of_the_map_is_written_again_and_no_other(context: RunContext) -> None:
    first = cluster(context)
    root = Path(context.store.root)
    written = {path: path.stat().st_mtime_ns for path in root.glob("*/part-*.parquet")}
    lost = root / layout.part("reductions", 1)
    data = lost.read_bytes()
    lost.unlink()
    assert cluster(context).files == first.files
    assert lost.read_bytes() == data
    again = [path for path, when in written.items() if path.stat().st_mtime_ns != when]
    assert sorted(again) == [root / layout.part("memberships", 1), lost]
