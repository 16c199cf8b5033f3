"""Whole runs over numbers, vectors and images, on a local Ray with the real models."""

from __future__ import annotations

import io
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_digits, load_wine

from hercules_scale import Hierarchy
from hercules_scale.commands.plan import make_plan
from hercules_scale.commands.show_prompt import show_prompt
from hercules_scale.config.file import parse_config
from hercules_scale.errors import ConfigError, InputError
from hercules_scale.jobs.cluster import run
from hercules_scale.jobs.preflight import check
from hercules_scale.storage.tables import column_vectors
from tests.embedding.test_image import make_clip

pytestmark = pytest.mark.ray


def configure(path: Path, output: Path, levels: list[int], /, **sections: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "input": {"path": str(path)},
        "hierarchy": {"levels": levels},
        "summaries": {"engine": "keyphrases"},
        "output": {"path": str(output)},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    return values


@pytest.fixture(scope="module")
def wine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = load_wine(as_frame=True)
    path = tmp_path_factory.mktemp("wine") / "wine.csv"
    names = ["class 0", "class 1", "class 2"]
    frame = data.data.assign(kind=[names[each] for each in data.target])
    frame.to_csv(path, index=False)
    return path


def wine_config(wine: Path, output: Path, **sections: Any) -> dict[str, Any]:
    metadata = {"alcohol": {"unit": "%", "description": "by volume"}, "hue": {"name": "hue of red"}}
    section = {"path": str(wine), "label_columns": ["kind"], "metadata": metadata}
    return configure(wine, output, [9, 3], input=section, **sections)


def test_numbers_are_standardised_and_clusters_have_statistics_in_original_units(
    wine: Path, local_ray: None, tmp_path: Path
) -> None:
    config = parse_config(wine_config(wine, tmp_path / "run"))
    run(config)
    hierarchy = Hierarchy.open(str(tmp_path / "run"))
    frame = pd.read_csv(wine)
    numbers = frame.drop(columns="kind")
    items = hierarchy.table("items")
    pd.testing.assert_frame_equal(items[numbers.columns], numbers.astype(float))
    assert items["description"][0].startswith("alcohol 14.23 %, malic acid 1.71, ash 2.43")
    vectors = np.stack(hierarchy.table("embeddings")["embedding"].to_list())
    expected = (numbers - numbers.mean()) / numbers.std(ddof=0)
    np.testing.assert_allclose(vectors, expected, atol=1e-6)

    members = hierarchy.memberships()
    for level in (1, 2):
        groups = numbers.groupby(members[f"level_{level}"])
        for cluster in hierarchy.clusters(level).to_dict("records"):
            stats = pd.DataFrame(list(cluster["numeric_stats"])).set_index("variable")
            own = groups.get_group(cluster["cluster_id"])
            np.testing.assert_allclose(stats["mean"], own.mean())
            np.testing.assert_allclose(stats["std"], own.std(ddof=0), atol=1e-9)
            np.testing.assert_allclose(stats["min"], own.min())
            np.testing.assert_allclose(stats["max"], own.max())
            # The first phrase is of the variable that lies farthest from the mean of all.
            apart = ((own.mean() - numbers.mean()) / numbers.std(ddof=0)).sort_values(key=np.abs)
            side = "high" if apart.iloc[-1] > 0 else "low"
            name = str(apart.index[-1]).replace("_", " ")
            first = cluster["keyphrases"][0]
            assert first == f"{side} {'hue of red' if name == 'hue' else name}"
    metrics = hierarchy.evaluations().set_index(["level", "basis", "metric"])["value"]
    assert metrics[2, "labels:kind", "ari"] > 0.75
    known = hierarchy.run["variables"]
    assert known["alcohol"]["mean"] == pytest.approx(numbers["alcohol"].mean())

    again = hierarchy.assign(str(wine))
    pd.testing.assert_frame_equal(again[members.columns], members)
    near = hierarchy.assign(numbers.iloc[[5]] * 1.0001)
    assert near["item_id"].tolist() == ["5"]
    assert near["level_1"][0] == members["level_1"][5]
    # By the run's own means and deviations, column by column, not those of one item; the clusters
    # are of smoothed vectors, so that its distance is to the mean of the plain ones.
    assert near["distance_1"][0] < len(numbers.columns)

    prompt = show_prompt(config, 2, 0)
    assert "Values: " in prompt
    assert "alcohol (by volume) 1" in prompt
    assert " % on average" in prompt
    assert "class 0" not in prompt


def test_numbers_give_the_same_tables_from_any_number_of_workers(
    wine: Path, local_ray: None, tmp_path: Path
) -> None:
    tables = []
    for workers in (1, 3):
        output = tmp_path / str(workers)
        run(parse_config(wine_config(wine, output, resources={"workers": workers})))
        hierarchy = Hierarchy.open(str(output))
        tables.append([hierarchy.table(name) for name in ("embeddings", "clusters", "memberships")])
    for one, other in zip(*tables, strict=True):
        pd.testing.assert_frame_equal(one, other)


@pytest.mark.slow
def test_two_runs_at_once_equal_two_in_turn(wine: Path, local_ray: None, tmp_path: Path) -> None:
    def go(name: str, seed: int) -> None:
        hierarchy = {"levels": [9, 3], "seed": seed}
        run(parse_config(wine_config(wine, tmp_path / name, hierarchy=hierarchy)))

    for seed in (1, 2):
        go(f"turn {seed}", seed)
    threads = [Thread(target=go, args=(f"once {seed}", seed)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in (1, 2):
        one, other = (Hierarchy.open(str(tmp_path / f"{way} {seed}")) for way in ("turn", "once"))
        pd.testing.assert_frame_equal(one.memberships(), other.memberships())
        pd.testing.assert_frame_equal(one.clusters(), other.clusters())


def test_a_column_that_never_varies_is_refused_by_name(
    wine: Path, local_ray: None, tmp_path: Path
) -> None:
    pd.read_csv(wine).assign(site=3, year=2020.0).to_csv(tmp_path / "t.csv", index=False)
    config = parse_config(wine_config(tmp_path / "t.csv", tmp_path / "run"))
    with pytest.raises(InputError, match=r"'site' \(always 3\), 'year' \(always 2020\) is "):
        run(config)


@pytest.mark.parametrize("form", ["npy", "parquet"])
def test_vectors_of_the_user_are_clustered_as_they_are(
    form: str, local_ray: None, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(4), 30)
    vectors = (rng.normal(size=(4, 8))[truth] * 9 + rng.normal(size=(120, 8))).astype(np.float32)
    path = tmp_path / f"vectors.{form}"
    if form == "npy":
        np.save(path, vectors)
    else:
        words = [f"boat number {each}" if each < 2 else "" for each in truth]
        pq.write_table(pa.table({"embedding": list(vectors), "words": words}), path)
    words_column = {} if form == "npy" else {"text_column": "words", "modality": "embedding"}
    run(
        parse_config(
            configure(path, tmp_path / "run", [4, 2], input={"path": str(path)} | words_column)
        )
    )
    hierarchy = Hierarchy.open(str(tmp_path / "run"))
    table = pq.read_table(tmp_path / "run" / "embeddings")
    np.testing.assert_array_equal(column_vectors(table["embedding"]), vectors)
    members = hierarchy.memberships()
    for each in range(4):
        assert members["level_1"][truth == each].nunique() == 1
    again = hierarchy.assign(vectors[:7])
    pd.testing.assert_frame_equal(again[members.columns], members[:7])
    other = hierarchy.assign([vectors[0] + 0.01])
    assert other["level_1"][0] == members["level_1"][0]
    clusters = hierarchy.clusters()
    assert clusters["title"].str.len().min() > 0
    assert clusters["numeric_stats"].isna().all()
    if form == "parquet":
        assert "boat" in clusters["title"].str.lower().str.cat()
        assert hierarchy.table("items")["text"][0] == "boat number 0"


@pytest.mark.slow
def test_images_are_embedded_and_bad_ones_set_aside(local_ray: None, tmp_path: Path) -> None:
    digits = load_digits()
    folder = tmp_path / "digits"
    folder.mkdir()
    keep = np.flatnonzero(digits.target < 3)[:150]
    for row in keep:
        pixels = (digits.images[row] * 15.9).astype(np.uint8)
        image = Image.fromarray(pixels).resize((32, 32))
        image.save(folder / f"{['zero', 'one', 'two'][digits.target[row]]}_{row}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n")
    cache = {"cache": str(tmp_path / "cache")}
    values = configure(folder, tmp_path / "run", [12, 3], embedding=cache)
    assert "about 151 images" in make_plan(parse_config(values))
    run(parse_config(values))
    hierarchy = Hierarchy.open(str(tmp_path / "run"))
    items = hierarchy.table("items")
    assert len(items) == len(keep)
    assert hierarchy.table("rejected")["reason"].tolist() == [
        "the file is not an image that can be read"
    ]
    assert items["title"].str.match("(zero|one|two) [0-9]+").all()
    assert Image.open(io.BytesIO(items["thumbnail"][0])).size == (32, 32)
    assert np.stack(hierarchy.table("embeddings")["embedding"].to_list()).shape == (150, 1280)
    # Titles come from file names.
    finest = hierarchy.clusters(1)
    words = finest["title"].str.lower().str.extract("(zero|one|two)")[0]
    assert words.notna().all()

    one = next(folder.glob("two_*.png"))
    assert hierarchy.assign([one])["title_2"][0] in set(hierarchy.clusters(2)["title"])
    again = {**values, "hierarchy": {"levels": [6, 2]}, "output": {"path": str(tmp_path / "again")}}
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    assert kept
    run(parse_config(again))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()} == kept
    pd.testing.assert_frame_equal(
        Hierarchy.open(str(tmp_path / "again")).table("embeddings"), hierarchy.table("embeddings")
    )


def test_clusters_of_images_are_named_from_a_vocabulary(local_ray: None, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for row in range(30):
        colour = [(250, row, 0), (0, 250, row), (row, 0, 250)][row % 3]
        Image.new("RGB", (32, 32), colour).save(folder / f"{row:03d}.png")
    (tmp_path / "words.txt").write_text("cat\ndog\n\nboat\nhouse\ncat\n")
    values = configure(folder, tmp_path / "run", [3])
    values["embedding"] = {"model": str(make_clip(tmp_path / "clip")), "precision": "float32"}
    values["summaries"]["vocabulary"] = str(tmp_path / "words.txt")
    run(parse_config(values))
    clusters = Hierarchy.open(str(tmp_path / "run")).clusters()
    for words in clusters["keyphrases"]:
        assert sorted(words) == ["boat", "cat", "dog", "house"]
    # Three colours lie in three directions, so their nearest words are not all the same.
    assert len({tuple(words) for words in clusters["keyphrases"]}) > 1
    del values["embedding"]
    with pytest.raises(ConfigError, match=r"vocabulary needs images .* got modality image and eff"):
        check(parse_config(values))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"embedding": {"model": "minilm"}},
            "embedding.model 'minilm' has no meaning for inp",
        ),
        ({"embedding": {"text_model": "ghost"}}, "embedding.text_model must be an alias"),
    ],
)
def test_models_that_do_not_fit_the_modality_are_refused(
    wine: Path, tmp_path: Path, sections: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check(parse_config(wine_config(wine, tmp_path / "run", **sections)))


def test_images_without_captions_are_not_clustered_by_their_file_names(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for row in range(3):
        Image.new("RGB", (8, 8), (80 * row, 0, 0)).save(tmp_path / "a" / f"{row}.png")
    hierarchy = {"levels": [2], "representation": "description"}
    values = configure(tmp_path / "a", tmp_path / "run", [2], hierarchy=hierarchy)
    with pytest.raises(ConfigError, match=r"needs captions of the images; name a column"):
        check(parse_config(values))


def test_vectors_without_words_cannot_be_described(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.eye(3, dtype=np.float32))
    values = configure(
        tmp_path / "a.npy",
        tmp_path / "run",
        [2],
        hierarchy={"levels": [2], "representation": "description"},
        summaries={"engine": "vllm"},
    )
    with pytest.raises(ConfigError, match=r"need words to describe items by.*input\.text_column"):
        check(parse_config(values))
