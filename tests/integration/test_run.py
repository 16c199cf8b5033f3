"""The whole job on a local Ray, with the real embedding model."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from hercules_scale import Hierarchy
from hercules_scale.commands.plan import make_plan
from hercules_scale.config.file import parse_config
from hercules_scale.errors import InputError, ManifestMismatchError
from hercules_scale.jobs.cluster import run
from hercules_scale.stages.label_options import NO_MODEL
from hercules_scale.storage import layout, schemas
from tests.conftest import small_config

pytestmark = pytest.mark.ray
N_ITEMS = 1500


@pytest.fixture(scope="module")
def corpus(icd: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "icd.parquet"
    rows = np.linspace(0, icd.num_rows - 1, N_ITEMS).astype(int)
    pq.write_table(icd.take(rows), path)
    return path


@pytest.fixture(scope="module")
def finished(corpus: Path, tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Hierarchy:
    output = tmp_path_factory.mktemp("runs") / "first"
    run(parse_config(small_config(corpus, output)))
    return Hierarchy.open(str(output))


def test_every_item_is_in_one_cluster_a_level_and_parents_nest(
    finished: Hierarchy, corpus: Path
) -> None:
    members, clusters = finished.memberships(), finished.clusters()
    assert members["item_id"].tolist() == pq.read_table(corpus)["code"].to_pylist()
    assert members["row"].tolist() == list(range(N_ITEMS))
    for level in (1, 2, 3):
        own = clusters[clusters["level"] == level]
        assert own["cluster_id"].tolist() == list(range(len(own)))
        counts = members[f"level_{level}"].value_counts().sort_index()
        assert counts.tolist() == own["n_items"].tolist()
        if level < 3:
            parents = own["parent_cluster_id"].astype(int).to_numpy()
            expected = parents[members[f"level_{level}"]]
            assert (expected == members[f"level_{level + 1}"]).all()
        else:
            assert own["parent_cluster_id"].isna().all()
    below = clusters[clusters["level"] == 1]["parent_cluster_id"].value_counts().sort_index()
    assert below.tolist() == clusters[clusters["level"] == 2]["n_children"].tolist()


def test_distances_and_margins_are_those_of_the_vectors_that_were_clustered(
    finished: Hierarchy,
) -> None:
    members = finished.memberships()
    embeddings = np.stack(finished.table("embeddings")["embedding"].to_list())
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    assert finished.run["smoothing"]["neighbours"] > 0
    smoothed = pq.read_table(f"{finished.uri}/_work/smoothed")["embedding"]
    vectors = np.stack(smoothed.to_pylist()).astype(np.float64)
    for level in (1, 2, 3):
        centroids = np.stack(finished.clusters(level)["centroid"].to_list()).astype(np.float64)
        distances = ((vectors[:, None] - centroids[None]) ** 2).sum(axis=2)
        rows, own = np.arange(N_ITEMS), members[f"level_{level}"].to_numpy()
        np.testing.assert_allclose(
            members[f"distance_{level}"], distances[rows, own], rtol=1e-3, atol=1e-5
        )
        mine = distances[rows, own].copy()
        distances[rows, own] = np.inf
        np.testing.assert_allclose(
            members[f"margin_{level}"], distances.min(axis=1) - mine, rtol=1e-2, atol=1e-4
        )


def test_the_tables_have_the_columns_of_the_contract(finished: Hierarchy) -> None:
    expected = {
        "items": schemas.items("text", (), with_text=True),
        "labels": schemas.labels(["chapter"]),
        "embeddings": schemas.embeddings(384),
        "clusters": schemas.clusters(384, 384, 2),
        "memberships": schemas.memberships(3),
        "reductions": schemas.reductions(2),
        "evaluations": schemas.EVALUATIONS,
        "llm_calls": schemas.LLM_CALLS,
        "rejected": schemas.REJECTED,
        "cluster_items": schemas.cluster_items(3, 2, 0, "text", 384),
    }
    for name, schema in expected.items():
        # As a user reads it: the folder, by a reader that knows nothing of us.
        table = pq.read_table(f"{finished.uri}/{name}")
        assert table.schema.equals(schema), name


def test_labels_are_in_no_table_that_makes_clusters(finished: Hierarchy) -> None:
    for name in ("items", "embeddings", "clusters", "memberships"):
        assert "chapter" not in finished.table(name).columns


def test_every_cluster_has_a_title_a_description_and_exemplars_of_its_own(
    finished: Hierarchy,
) -> None:
    clusters = finished.clusters()
    assert clusters["title"].str.len().min() > 0
    assert clusters["description"].str.len().min() > 0
    assert set(clusters["summary_status"]) == {"fallback"}
    assert set(clusters["summary_error"]) == {NO_MODEL}
    members = finished.memberships().set_index("item_id")
    for cluster in clusters.to_dict("records"):
        ids, level = list(cluster["exemplar_item_ids"]), cluster["level"]
        assert ids
        assert (members.loc[ids, f"level_{level}"] == cluster["cluster_id"]).all()
        assert members.loc[ids, f"distance_{level}"].is_monotonic_increasing


def test_the_manifest_vouches_for_every_file(finished: Hierarchy) -> None:
    root = Path(finished.uri)
    manifest = json.loads((root / layout.MANIFEST).read_text())
    for name, files in manifest["tables"].items():
        for file in files:
            data = (root / file["path"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == file["sha256"], file["path"]
            assert len(data) == file["size_bytes"]
        on_disk = {str(path.relative_to(root)) for path in (root / name).glob("*")}
        assert on_disk == {file["path"] for file in files}


def test_the_record_says_what_ran_and_what_it_took(finished: Hierarchy) -> None:
    record = finished.run
    assert record["status"] == "finished"
    assert record["rows"]["items"] == N_ITEMS
    assert record["versions"]["ray"] == "2.60.0"
    stages = {stage["name"]: stage for stage in record["stages"]}
    assert list(stages)[:2] == ["scan", "check_ids"]
    assert stages["embed"]["seconds"] > 0
    assert stages["embed"]["worker_peak_bytes"] > 100 * 2**20


def test_metrics_match_scikit_learn(finished: Hierarchy) -> None:
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    truth = finished.table("labels")["chapter"]
    members = finished.memberships()
    frame = finished.evaluations().set_index(["level", "metric"])["value"]
    for level in (1, 2, 3):
        own = members[f"level_{level}"]
        assert frame[level, "ari"] == pytest.approx(adjusted_rand_score(truth, own))
        assert frame[level, "nmi"] == pytest.approx(normalized_mutual_info_score(truth, own))
    # The hierarchy finds much of the classification's chapters without having seen them.
    assert frame[1, "nmi"] > 0.25


def test_the_same_configuration_and_seed_give_the_same_tables(
    finished: Hierarchy, corpus: Path, tmp_path: Path
) -> None:
    config = small_config(corpus, tmp_path / "again", resources={"workers": 1})
    run(parse_config(config))
    again = Hierarchy.open(str(tmp_path / "again"))
    pd.testing.assert_frame_equal(again.memberships(), finished.memberships())
    for name in ("clusters", "reductions", "evaluations"):
        ours, theirs = (pq.read_table(f"{h.uri}/{name}") for h in (again, finished))
        assert ours.equals(theirs), name


def test_a_finished_run_is_a_no_op(finished: Hierarchy, corpus: Path) -> None:
    root = Path(finished.uri)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    run(parse_config(small_config(corpus, finished.uri)))
    after = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    assert before == after


def test_a_changed_configuration_over_an_old_output_is_refused(
    finished: Hierarchy, corpus: Path
) -> None:
    config = small_config(corpus, finished.uri, hierarchy={"seed": 7})
    with pytest.raises(
        ManifestMismatchError, match=r"hierarchy\.seed was 0 and is 7.*give another"
    ):
        run(parse_config(config))


def test_a_changed_input_over_an_old_output_is_refused(
    corpus: Path, icd: pa.Table, tmp_path: Path
) -> None:
    path = tmp_path / "icd.parquet"
    pq.write_table(icd.slice(0, 100), path)
    config = parse_config(small_config(path, tmp_path / "run", hierarchy={"levels": [4, 2]}))
    run(config)
    pq.write_table(icd.slice(0, 101), path)
    with pytest.raises(ManifestMismatchError, match=r"the input file .*icd\.parquet has changed"):
        run(config)


@pytest.mark.slow
def test_an_interrupted_run_redoes_only_what_has_no_commit(
    finished: Hierarchy, corpus: Path, tmp_path: Path
) -> None:
    output = tmp_path / "resumed"
    config = parse_config(small_config(corpus, output))
    run(config)
    (output / layout.SUCCESS).unlink()
    (output / layout.MANIFEST).unlink()
    embedded = sorted((output / "_work/commits/embed").glob("*.json"))
    assert len(embedded) == 2
    embedded[1].unlink()
    for stage in ("cluster", "phrases", "summarize", "description_embeddings", "fit_pca"):
        for commit in (output / "_work/commits" / stage).glob("*.json"):
            commit.unlink()
    # What was half-written when the process died.
    (output / "embeddings/part-000001.parquet").write_bytes(b"PAR1 cut off")
    kept = (output / "embeddings/part-000000.parquet").stat().st_mtime_ns
    with pytest.raises(InputError, match="not finished; run it again"):
        Hierarchy.open(str(output))
    run(config)
    again = Hierarchy.open(str(output))
    assert (output / "embeddings/part-000000.parquet").stat().st_mtime_ns == kept
    pd.testing.assert_frame_equal(again.memberships(), finished.memberships())
    assert again.run["attempts"] == 2


def test_rejected_rows_are_kept_with_their_reason_and_place(
    tmp_path: Path, icd: pa.Table, local_ray: None
) -> None:
    texts = [*icd["text"].to_pylist()[:40], "", None, "   "]
    table = pa.table({"text": texts, "topic": ["a"] * 43})
    order = [42, *range(40), 40, 41]
    path = tmp_path / "items.parquet"
    pq.write_table(table.take(order), path)
    run(
        parse_config(
            {
                "input": {"path": str(path), "label_columns": ["topic"]},
                "hierarchy": {"levels": [4]},
                "summaries": {"engine": "keyphrases"},
                "output": {"path": str(tmp_path / "run")},
            }
        )
    )
    hierarchy = Hierarchy.open(str(tmp_path / "run"))
    rejected = hierarchy.table("rejected")
    assert rejected[["item_id", "source_row", "reason"]].values.tolist() == [
        ["0", 0, "the text is empty"],
        ["41", 41, "the text is empty"],
        ["42", 42, "the text is missing"],
    ]
    # Without ids the row of the input names an item, so that it can be found again.
    assert hierarchy.memberships()["item_id"].tolist() == [str(row) for row in range(1, 41)]


@pytest.mark.slow
def test_csv_jsonl_and_text_give_the_same_clusters_as_parquet(
    tmp_path: Path, icd: pa.Table, local_ray: None
) -> None:
    table = icd.select(["code", "text"]).slice(100, 120)
    pq.write_table(table, tmp_path / "items.parquet", row_group_size=50)
    pyarrow.csv.write_csv(table, tmp_path / "items.csv")
    table.to_pandas().to_json(tmp_path / "items.jsonl", orient="records", lines=True)
    (tmp_path / "items.txt").write_text("\n".join(table["text"].to_pylist()) + "\n")
    found = {}
    for end in ("parquet", "csv", "jsonl", "txt"):
        values = small_config(tmp_path / f"items.{end}", tmp_path / end)
        values["hierarchy"] = {"levels": [6, 2]}
        values["input"]["label_columns"] = []
        if end == "txt":
            del values["input"]["id_column"], values["input"]["text_column"]
        run(parse_config(values))
        found[end] = Hierarchy.open(str(tmp_path / end)).memberships()
    for end in ("csv", "jsonl"):
        pd.testing.assert_frame_equal(found[end], found["parquet"])
    labels = ["level_1", "level_2"]
    pd.testing.assert_frame_equal(found["txt"][labels], found["parquet"][labels])


def test_resampling_keeps_every_item_and_changes_the_centroids(
    finished: Hierarchy, corpus: Path, tmp_path: Path
) -> None:
    resampling = {"refinement": "none", "resampling": {"rounds": 2, "points_per_cluster": 5}}
    run(parse_config(small_config(corpus, tmp_path / "run", hierarchy=resampling)))
    resampled = Hierarchy.open(str(tmp_path / "run"))
    assert len(resampled.memberships()) == N_ITEMS
    assert resampled.clusters(1)["n_items"].sum() == N_ITEMS
    ours = np.stack(resampled.clusters(1)["centroid"].to_list())
    theirs = np.stack(finished.clusters(1)["centroid"].to_list())
    assert not np.allclose(ours, theirs)


def test_the_tree_shows_every_cluster_under_its_parent(finished: Hierarchy) -> None:
    lines = finished.tree_text().splitlines()
    assert len(lines) == len(finished.clusters())
    assert sum(not line.startswith(" ") for line in lines) == 2
    assert len(finished.tree_text(depth=1).splitlines()) == 2
    assert re.search(r"\([\d,]+ items, 3/[01]\)$", lines[0])
    with pytest.raises(InputError, match="level must be from 1"):
        finished.tree(level=9)


def test_counts_left_to_the_data_are_stored_with_their_curve(
    corpus: Path, tmp_path: Path, local_ray: None
) -> None:
    config = parse_config(small_config(corpus, tmp_path, hierarchy={"levels": "auto", "max_k": 40}))
    assert "chosen from the data by simplified_silhouette, from 9 to 40" in make_plan(config)
    run(config)
    hierarchy = Hierarchy.open(str(tmp_path))
    assert pq.read_table(tmp_path / "k_selection").schema.equals(schemas.K_SELECTION)
    curve = hierarchy.table("k_selection")
    assert curve.query("chosen")["level"].tolist() == list(range(1, hierarchy.n_levels + 1))
    sizes = hierarchy.clusters().groupby("level").size()
    assert curve.query("chosen")["k"].tolist() == sizes.tolist()
    assert curve["silhouette"].isna().all()
    assert np.isfinite(curve[["simplified_silhouette", "standard_error", "inertia"]]).all(axis=None)
    assert (tmp_path / layout.K_SELECTION_PLOT).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    # A resumed run reads the curve's files from the stage's record.
    (tmp_path / layout.SUCCESS).unlink()
    run(config)
    assert Hierarchy.open(str(tmp_path)).table("k_selection").equals(curve)
