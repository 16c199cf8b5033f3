"""Projection onto the words of a criterion."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from hercules_scale.embedding.criterion import CriterionEncoder, CriterionSpace
from hercules_scale.embedding.sentence_transformer import SentenceTransformerEncoder


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), n_words=st.integers(3, 20))
def test_vectors_are_projected_onto_the_span_of_the_words(seed: int, n_words: int) -> None:
    draw = np.random.default_rng(seed)
    words = draw.normal(size=(n_words, 32)).astype(np.float32)
    vectors = draw.normal(size=(50, 32)).astype(np.float32)
    apart = words - words.mean(axis=0)
    basis = np.linalg.svd(apart.astype(np.float64), full_matrices=False)[2][: n_words - 1]
    expected = vectors @ basis.T @ basis
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = CriterionSpace(words).project(vectors)
    assert found.dtype == np.float32
    # Directions in which the words hardly differ are damped.
    assert (np.sum(found * expected, axis=1) > 0.99).all()
    # The order of the words says nothing.
    again = CriterionSpace(words[::-1].copy()).project(vectors)
    np.testing.assert_allclose(again, found, atol=1e-5)


def test_vectors_apart_from_the_words_become_zero_and_equal_words_do_no_harm() -> None:
    words = np.eye(4, 6, dtype=np.float32)
    vectors = np.eye(6, dtype=np.float32)[[0, 5]]
    found = CriterionSpace(words[[0, 1, 2, 2]]).project(vectors)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), [1, 0], atol=1e-6)


def test_words_choose_by_what_real_texts_are_grouped() -> None:
    diseases = ["Cancer", "Injury", "Infection", "Congenital malformation"]
    organs = ["lung", "skin", "eye", "kidney", "liver", "heart"]
    texts = [f"{disease} of the {organ}" for disease in diseases for organ in organs]
    by_disease, by_organ = np.repeat(np.arange(4), 6), np.tile(np.arange(6), 4)
    encoder = SentenceTransformerEncoder("minilm", "float32", device="cpu")
    words = {
        "disease": ("tumour", "wound", "bacteria", "birth defect", "trauma", "virus"),
        "organ": ("lungs", "the skin", "eyes", "kidneys", "liver tissue", "hearts", "stomach"),
    }
    found = {
        name: KMeans(k, n_init=10, random_state=0).fit_predict(
            CriterionEncoder(encoder, words[name]).encode(texts)
        )
        for name, k in (("disease", 4), ("organ", 6))
    }
    assert adjusted_rand_score(by_disease, found["disease"]) > 0.9
    assert adjusted_rand_score(by_organ, found["organ"]) > 0.9
