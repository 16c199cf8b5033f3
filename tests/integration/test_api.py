"""The Python API, on a local Ray."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris, make_blobs
from sklearn.exceptions import NotFittedError
from sklearn.metrics import adjusted_rand_score
from sklearn.preprocessing import StandardScaler

from hercules_scale import Hercules, Hierarchy
from hercules_scale.errors import ConfigError, InputError

pytestmark = pytest.mark.ray

TEXTS = [
    f"{place} {number} {ending}"
    for place in ("the ferry to the island", "bread and cake of the bakery", "a repair of the roof")
    for number in range(12)
    for ending in ("on Monday", "in May")
]


def quick(levels: list[int], **options: Any) -> Hercules:
    return Hercules(levels, summaries="keyphrases", verbose=False, **options)


def test_texts_in_a_list_are_clustered_and_labels_are_in_their_order(local_ray: None) -> None:
    texts: list[str | None] = [*TEXTS[:5], None, *TEXTS[5:], ""]
    model = quick([3, 2])
    hierarchy = model.fit(texts)
    assert model.hierarchy_ is hierarchy
    assert model.labels_[5] == model.labels_[-1] == -1
    used = model.labels_ != -1
    truth = np.repeat([0, 1, 2], 24)
    assert adjusted_rand_score(truth, model.labels_[used]) == 1
    assert len(hierarchy.table("rejected")) == 2
    folder = Path(hierarchy.uri)
    assert folder.exists()
    del hierarchy, model
    assert not folder.exists()


def test_fit_predict_works_as_scikit_learn_has_it_and_matches_ground_truth(
    local_ray: None, tmp_path: Path
) -> None:
    data = load_iris(as_frame=True)
    model = quick([6, 3])
    labels = model.fit_predict(data.data, data.target, output=tmp_path / "run")
    assert labels.shape == (150,)
    metrics = model.hierarchy_.evaluations().set_index(["level", "basis", "metric"])["value"]
    of_three = model.hierarchy_.memberships()["level_2"]
    expected = adjusted_rand_score(data.target, of_three)
    assert metrics[2, "labels:label", "ari"] == pytest.approx(expected)
    assert "petal length (cm)" in model.hierarchy_.table("items").columns
    # Run again it resumes, which on a finished run is nothing.
    before = (tmp_path / "run" / "_SUCCESS").stat().st_mtime_ns
    again = quick([6, 3]).fit_predict(data.data, data.target, output=tmp_path / "run")
    np.testing.assert_array_equal(again, labels)
    assert (tmp_path / "run" / "_SUCCESS").stat().st_mtime_ns == before


def test_labels_follow_the_ids_where_items_were_rejected(local_ray: None) -> None:
    rows = {f"row {place}": row for place, row in enumerate(load_digits().data[:40] + 1.0)}
    rows["row 7"] = rows["row 7"] * np.nan
    model = quick([5], input={"columns": [f"column_{place}" for place in range(2, 7)]})
    labels = model.fit_predict(rows)
    assert labels[7] == -1
    members = model.hierarchy_.memberships().set_index("item_id")["level_1"]
    assert len(members) == 39
    for place, key in enumerate(rows):
        assert place == 7 or labels[place] == members[key]


def test_a_dataset_of_ray_and_a_table_of_arrow_are_the_same(
    local_ray: None, tmp_path: Path
) -> None:
    import ray.data

    table = pa.table({"name": [f"n{place}" for place in range(len(TEXTS))], "text": TEXTS})
    section = {"id_column": "name"}
    one = quick([3], input=section).fit(table)
    other = quick([3], input=section).fit(ray.data.from_arrow(table), output=tmp_path / "run")
    pd.testing.assert_frame_equal(one.memberships(), other.memberships())


def test_arrays_in_a_dataset_of_ray_are_vectors(local_ray: None) -> None:
    import ray.data

    vectors = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    hierarchy = quick([3]).fit(ray.data.from_numpy(vectors))
    assert hierarchy.run["input"]["modality"] == "embedding"
    found = np.stack(hierarchy.table("embeddings")["embedding"].to_list())
    assert found.tolist() == vectors.tolist()


def test_files_are_named_by_a_path(local_ray: None, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    labels = quick([3]).fit_predict(tmp_path / "texts.txt")
    assert adjusted_rand_score(np.repeat([0, 1, 2], 24), labels) == 1


def letters(texts: list[str]) -> np.ndarray[Any, Any]:
    """Vectors of titles, which else a model makes that takes seconds to load."""
    return np.array([[text.count(letter) + 0.1 for letter in "aeinrst"] for text in texts])


def test_a_fitted_estimator_predicts_and_has_centres_inertia_and_columns(
    local_ray: None,
) -> None:
    # Apart, so that the clustering ends where no item changes its cluster.
    values, _ = make_blobs(60, 4, centers=3, cluster_std=0.3, random_state=0)
    frame = pd.DataFrame(values, columns=list("abcd"))
    model = quick([3], embed=letters)
    assert not hasattr(model, "inertia_")
    hierarchy = model.fit(frame)
    assert model.n_features_in_ == 4
    assert model.feature_names_in_.tolist() == frame.columns.tolist()
    np.testing.assert_array_equal(model.predict(frame.iloc[::2]), model.labels_[::2])
    standard = StandardScaler().fit_transform(frame)
    means = [standard[model.labels_ == cluster].mean(axis=0) for cluster in range(3)]
    np.testing.assert_allclose(model.cluster_centers_, means, atol=1e-5)
    squares = ((standard - model.cluster_centers_[model.labels_]) ** 2).sum()
    assert model.inertia_ == pytest.approx(squares, rel=1e-5)
    assert hierarchy.memberships()["distance_1"].sum() == pytest.approx(squares, rel=1e-5)
    # A row that cannot be used has no cluster.
    again = model.predict(frame[:2].assign(a=[np.nan, frame["a"][1]]))
    assert again.tolist() == [-1, model.labels_[1]]


def test_an_array_of_other_columns_is_refused(local_ray: None) -> None:
    model = quick([3], embed=letters)
    with pytest.raises(NotFittedError, match="not fitted yet"):
        model.predict(load_iris().data)
    model.fit(load_iris().data)
    with pytest.raises(InputError, match="X has 5 features, but Hercules is expecting 4 features"):
        model.predict(np.zeros((2, 5)))
    with pytest.raises(ValueError, match=r"Reshape your data: X\.reshape\(1, -1\) is one item"):
        model.predict(np.zeros(4))
    model.fit(TEXTS)
    assert not hasattr(model, "n_features_in_")


def test_a_hierarchy_without_an_output_lives_in_its_copies_and_pickles(local_ray: None) -> None:
    model = quick([3], embed=letters)
    expected = model.fit(load_iris().data).memberships()
    data, folder = pickle.dumps(model), Path(model.hierarchy_.uri)
    copies = [copy.copy(model.hierarchy_), copy.deepcopy(model).hierarchy_]
    del model
    while copies:
        pd.testing.assert_frame_equal(copies.pop().memberships(), expected)
    assert not folder.exists()
    again = pickle.loads(data)
    pd.testing.assert_frame_equal(again.hierarchy_.memberships(), expected)
    assert again.predict(load_iris().data).shape == (150,)


def test_a_pickle_names_an_output_wherever_it_is_read(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = quick([3], embed=letters).fit(load_iris().data, output=tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    data = pickle.dumps(Hierarchy.open("run"))
    monkeypatch.chdir(tmp_path / "run")
    pd.testing.assert_frame_equal(pickle.loads(data).memberships(), found.memberships())


def test_two_threads_fit_at_once(local_ray: None) -> None:
    data = load_iris().data

    def fit(seconds: int) -> Hierarchy:
        return quick([3], embed=letters, storage={"retry_seconds": seconds}).fit(data)

    with ThreadPoolExecutor(2) as threads:
        one, other = threads.map(fit, (20, 30))
    pd.testing.assert_frame_equal(one.memberships(), other.memberships())
    assert [each.run["config"]["storage"]["retry_seconds"] for each in (one, other)] == [20, 30]


def test_parameters_are_got_set_and_cloned() -> None:
    model = Hercules([4, 2], embedding={"precision": "float32"}, hierarchy={"metric": "cosine"})
    assert model.get_params()["hierarchy"] == {"metric": "cosine"}
    model.set_params(seed=5, topic="boats")
    copy = clone(model)
    assert copy is not model
    assert copy.get_params() == model.get_params()
    assert "seed=5" in repr(copy)


@pytest.mark.parametrize(
    ("model", "data", "error", "message"),
    [
        (Hercules([2, 4]), ["a", "b"], ConfigError, "hierarchy.levels must fall strictly"),
        (Hercules(hierarchy={"speed": 9}), ["a"], ConfigError, "speed is not a known key"),
        (Hercules([2]), 7, InputError, "items must be a list, mapping"),
        (
            Hercules([2], embedding="ghost"),
            ["a", "b"],
            ConfigError,
            "embedding.model must be an",
        ),
        (Hercules([2]), "/nowhere/at/all.csv", InputError, "names no file"),
    ],
)
def test_mistakes_have_types_and_name_the_parameter(
    model: Hercules, data: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        model.fit(data)


def test_ground_truth_of_files_is_named_by_its_column(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("a\nb")
    with pytest.raises(ConfigError, match=r"y must be given in input\.label_columns"):
        Hercules([2]).fit(tmp_path / "t.txt", [1, 2])
