"""Trees by several criteria over one embedding."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from hercules_scale import Hierarchy
from hercules_scale.commands.cli import main
from hercules_scale.config.file import parse_config
from hercules_scale.errors import ConfigError
from hercules_scale.jobs.cluster import run
from hercules_scale.jobs.preflight import check
from tests.conftest import small_config
from tests.embedding.test_image import make_clip
from tests.integration.conftest import Endpoint
from tests.integration.processes import open_forks

pytestmark = [pytest.mark.ray, pytest.mark.slow]

N_ITEMS = 1_500
ORGANS = ["lung", "skin", "eye", "ear", "kidney", "bone", "brain", "heart", "stomach", "liver"]
KINDS = ["cancer", "benign tumour", "injury", "infection", "inflammation", "birth defect", "stone"]
CRITERIA = {
    "organ": {"criterion": "which organ the disease affects", "words": ORGANS},
    "kind": {"criterion": "which kind of disease it is", "words": KINDS},
}
TABLES = ("embeddings", "memberships", "clusters", "reductions")


@pytest.fixture(scope="module")
def codes(icd: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("codes") / "icd.parquet"
    pq.write_table(icd.slice(0, N_ITEMS), path)
    return path


def write_config(path: Path, codes: Path, output: Path, **sections: Any) -> str:
    values = small_config(codes, output, **sections)
    values.setdefault("criteria", CRITERIA)
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return str(path)


def test_a_killed_job_resumes_in_its_tree_with_the_same_bits_and_embeds_once(
    codes: Path, tmp_path: Path
) -> None:
    whole, killed, cache = tmp_path / "whole", tmp_path / "killed", tmp_path / "cache"
    config = write_config(tmp_path / "killed.yaml", codes, killed, resources={"workers": 2})
    single = write_config(
        tmp_path / "whole.yaml",
        codes,
        whole,
        resources={"workers": 1},
        embedding={"cache": str(cache)},
    )
    with open_forks(tmp_path / "log") as forks:
        assert forks.run("run", single, lasting=True) == 0, forks.log.read_text()
        for tree in CRITERIA:
            point = ["driver", "file", f"{killed}/{tree}/embeddings/*.parquet", 1]
            assert forks.run("run", config, points=[point], lasting=True) == -signal.SIGKILL
        assert (killed / "organ/_SUCCESS").exists()
        assert not (killed / "kind/_SUCCESS").exists()
        assert forks.run("run", config, lasting=True) == 0, forks.log.read_text()
    # Both trees read the vectors of the same two shards.
    assert len(list(cache.iterdir())) == 2
    assert not (killed / "vectors").exists()
    for tree in CRITERIA:
        found, expected = (Hierarchy.open(str(folder / tree)) for folder in (killed, whole))
        for table in TABLES:
            assert found.table(table).equals(expected.table(table)), (tree, table)
    organ, kind = (Hierarchy.open(str(whole / tree)).table("memberships") for tree in CRITERIA)
    assert not organ["level_1"].equals(kind["level_1"])


def test_new_items_go_into_a_tree_by_its_criterion(
    codes: Path, local_ray: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path / "run.yaml", codes, tmp_path / "run")
    assert main(["plan", config]) == 0
    planned = capsys.readouterr().out
    assert "2 trees over one embedding (organ, kind); all words are given" in planned
    assert main(["run", config]) == 0
    assert main(["run", config]) == 0
    assert capsys.readouterr().err.count("finished before, nothing to do") == 2
    tree = tmp_path / "run/kind"
    assert main(["show", str(tree)]) == 0
    # The items themselves come into their own clusters again.
    assert main(["assign", str(tree), str(codes), "--output", str(tmp_path / "new")]) == 0
    found, expected = (Hierarchy.open(str(each)) for each in (tmp_path / "new", tree))
    assert found.table("memberships")["level_1"].equals(expected.table("memberships")["level_1"])


def test_a_model_proposes_words_once(
    codes: Path, local_ray: None, endpoint: Endpoint, tmp_path: Path
) -> None:
    summaries = {
        "engine": "openai", "model": "tester", "endpoint": endpoint.url, "record_prompts": True,
    }  # fmt: skip
    values = small_config(codes, tmp_path / "run", summaries=summaries)
    values["criteria"] = {"kind": "which kind of disease it is"}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    # A refused answer, the words, and others.
    endpoint.failures = [json.dumps({"words": words}) for words in (["one"], KINDS, ORGANS)]
    assert main(["run", str(tmp_path / "run.yaml")]) == 0
    tree = Hierarchy.open(str(tmp_path / "run/kind"))
    assert tree.run["config"]["hierarchy"]["criterion_words"] == KINDS + ORGANS
    calls = pa.concat_tables(map(pq.read_table, (tmp_path / "run/llm_calls").iterdir()))
    assert calls["outcome"].to_pylist() == ["invalid", "ok", "ok"]
    asked = [json.loads(prompt)[-1]["content"] for prompt in calls["prompt"].to_pylist()]
    assert asked[0] == "Question: which kind of disease it is"
    assert asked[2].endswith(f"Other answers than: {', '.join(KINDS)}")
    # Titles are asked for by the criterion.
    prompts = tree.table("llm_calls")["prompt"].tolist()
    assert all("made by this criterion: which kind of disease" in prompt for prompt in prompts)
    n_requests = len(endpoint.requests)
    assert main(["run", str(tmp_path / "run.yaml")]) == 0
    assert len(endpoint.requests) == n_requests


def test_images_are_grouped_by_words_in_the_space_of_a_clip(
    local_ray: None, tmp_path: Path
) -> None:
    from PIL import Image

    (tmp_path / "pictures").mkdir()
    for row in range(24):
        colour = [(250, row, 0), (0, 250, row), (row, 0, 250)][row % 3]
        Image.new("RGB", (32, 32), colour).save(tmp_path / f"pictures/{row:03d}.png")
    values: dict[str, Any] = {
        "input": {"path": str(tmp_path / "pictures")},
        "embedding": {"model": str(make_clip(tmp_path / "clip")), "precision": "float32"},
        "hierarchy": {
            "levels": [3],
            "criterion": "which animal it shows",
            "criterion_words": ["cat", "dog", "boat", "house"],
        },
        "summaries": {"engine": "keyphrases"},
        "output": {"path": str(tmp_path / "run")},
    }
    run(parse_config(values))
    table = Hierarchy.open(str(tmp_path / "run")).table("embeddings")
    matrix = np.array(table["embedding"].tolist())
    # Four words differ in three directions.
    assert np.linalg.matrix_rank(matrix, tol=1e-4) <= 3
    np.testing.assert_allclose(np.linalg.norm(matrix, axis=1), 1, atol=1e-5)
    del values["embedding"]
    with pytest.raises(ConfigError, match=r"criterion_words and criteria need .* image and effic"):
        check(parse_config(values))


def test_numbers_and_unexpanded_criteria_are_refused(tmp_path: Path) -> None:
    (tmp_path / "wine.csv").write_text("acid,ash\n1,2\n3,4\n5,6\n")
    values: dict[str, Any] = {
        "input": {"path": str(tmp_path / "wine.csv")},
        "hierarchy": {"levels": [2], "criterion": "taste", "criterion_words": ["a", "b", "c"]},
        "summaries": {"engine": "keyphrases"},
        "output": {"path": str(tmp_path / "run")},
    }
    with pytest.raises(ConfigError, match=r"got modality numeric .* choose numbers by input\.col"):
        check(parse_config(values))
    del values["hierarchy"]
    values["criteria"] = {"taste": {"criterion": "taste", "words": ["a", "b", "c"]}}
    with pytest.raises(ConfigError, match=r"criteria \(taste\) make a run each"):
        run(parse_config(values))
