import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hercules_scale.embedding.encoder import named_prompt
from hercules_scale.embedding.sentence_transformer import (
    SentenceTransformerEncoder,
    choose_precision,
    cpu_has_bfloat16,
    gpu_batch_tokens,
    length_batches,
)
from hercules_scale.errors import ConfigError
from hercules_scale.models.names import resolve_embedding_model

TEXTS = [
    "A ferry leaves the harbour.",
    "x",
    "The boat sails from the port.",
    "Interest rates rise for the third year, and house prices fall in most cities. " * 3,
    "Größe, 東京 and 🙂",
]


@pytest.fixture(scope="module")
def encoder() -> SentenceTransformerEncoder:
    return SentenceTransformerEncoder("minilm", "float32", device="cpu")


def test_vectors_have_unit_length(encoder: SentenceTransformerEncoder) -> None:
    vectors = encoder.encode(TEXTS)
    assert vectors.shape == (len(TEXTS), encoder.dimension) == (5, 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_vectors_are_those_of_sentence_transformers(encoder: SentenceTransformerEncoder) -> None:
    expected = encoder._model.encode(TEXTS, normalize_embeddings=True)
    assert (np.asarray(expected) * encoder.encode(TEXTS)).sum(axis=1).min() > 0.9999


def test_texts_of_like_meaning_are_near(encoder: SentenceTransformerEncoder) -> None:
    vectors = encoder.encode(TEXTS)
    assert vectors[0] @ vectors[2] > 0.5 > vectors[0] @ vectors[3]


def test_vectors_keep_the_order_of_their_texts(encoder: SentenceTransformerEncoder) -> None:
    shuffled = encoder.encode(TEXTS[::-1])[::-1]
    np.testing.assert_allclose(shuffled, encoder.encode(TEXTS), atol=1e-5)


def test_equal_texts_have_equal_vectors(encoder: SentenceTransformerEncoder) -> None:
    vectors = encoder.encode(TEXTS * 2)
    np.testing.assert_allclose(vectors[:5], vectors[5:], atol=1e-6)
    assert encoder.encode(TEXTS).tobytes() == encoder.encode(TEXTS).tobytes()


def test_no_texts_give_no_vectors(encoder: SentenceTransformerEncoder) -> None:
    assert encoder.encode([]).shape == (0, 384)
    assert encoder.count_tokens([]).tolist() == []


def test_tokens_are_counted_after_truncation(encoder: SentenceTransformerEncoder) -> None:
    counts = encoder.count_tokens(["boat", "boat " * 5000])
    # A word between the two marks that the model adds.
    assert counts.tolist() == [3, encoder.max_tokens]


@pytest.mark.skipif(not cpu_has_bfloat16(), reason="the processor has no bfloat16 arithmetic")
def test_bfloat16_vectors_are_close_to_float32(encoder: SentenceTransformerEncoder) -> None:
    fast = SentenceTransformerEncoder("minilm", device="cpu")
    assert fast.precision == "bfloat16"
    cosine = (fast.encode(TEXTS) * encoder.encode(TEXTS)).sum(axis=1)
    assert cosine.min() >= 0.99


def test_precision_follows_the_processor() -> None:
    assert choose_precision("cpu") == ("bfloat16" if cpu_has_bfloat16() else "float32")


def test_a_wrong_model_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"embedding\.model must be an alias .*got 'minilmm'"):
        SentenceTransformerEncoder("minilmm")


def test_a_folder_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be loaded as a sentence-transformers model \("):
        SentenceTransformerEncoder(str(tmp_path))


@given(lengths=st.lists(st.integers(1, 300), max_size=60), budget=st.integers(1, 600))
def test_batches_hold_every_row_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = [rows.tolist() for rows in length_batches(np.array(lengths, np.int64), budget)]
    order = [row for rows in batches for row in rows]
    # By length, and equal lengths in their own order.
    assert order == sorted(range(len(lengths)), key=lambda row: (lengths[row], row))
    for rows in batches:
        longest = max(lengths[row] for row in rows)
        assert len(rows) == 1 or longest * len(rows) <= budget
    for rows, following in itertools.pairwise(batches):
        # Another row would not have fitted.
        assert lengths[following[0]] * (len(rows) + 1) > budget


def test_windows_of_a_long_text_are_averaged_by_their_tokens() -> None:
    windows = SentenceTransformerEncoder("minilm", "float32", "window", device="cpu")
    cut = SentenceTransformerEncoder("minilm", "float32", device="cpu")
    boats, houses = "The boat sails from the port. " * 60, "House prices fall in cities. " * 60
    texts = [TEXTS[0], boats + houses, houses]
    found, beginning = windows.encode(texts), cut.encode(texts)
    # A text that fits is the same either way.
    np.testing.assert_allclose(found[0], beginning[0], atol=1e-6)
    of_houses = beginning[2]
    assert found[1] @ of_houses > beginning[1] @ of_houses + 0.1
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    lengths = windows.count_tokens(texts)
    assert lengths[1] > 2 * windows.max_tokens
    assert cut.count_tokens(texts)[1] == cut.max_tokens
    # Neighbours in the call change nothing.
    np.testing.assert_allclose(windows.encode([texts[1]])[0], found[1], atol=1e-5)


def test_a_prompt_is_read_before_each_text_or_named(encoder: SentenceTransformerEncoder) -> None:
    asked = SentenceTransformerEncoder("minilm", "float32", device="cpu", prompt="clustering: ")
    expected = encoder.encode([f"clustering: {text}" for text in TEXTS])
    assert asked.encode(TEXTS).tobytes() == expected.tobytes()
    assert asked.encode(TEXTS).tobytes() != encoder.encode(TEXTS).tobytes()


def test_prompts_of_a_model_have_names_and_may_be_left_out_of_vectors(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(resolve_embedding_model("minilm"), device="cpu")
    model.prompts = {"topic": "Find the topic: ", "wanted": "Cluster: "}
    model.default_prompt_name = "wanted"
    model.set_pooling_include_prompt(False)
    model.save(str(tmp_path))
    for prompt, name in ((None, "wanted"), ("topic", "topic")):
        found = SentenceTransformerEncoder(str(tmp_path), "float32", device="cpu", prompt=prompt)
        # With one text a batch there is no padding.
        expected = [model.encode(text, prompt_name=name) for text in TEXTS]
        np.testing.assert_allclose(found.encode(TEXTS), np.stack(expected), atol=1e-5)


def test_the_criterion_is_the_instruction_of_models_that_read_one() -> None:
    prompts = {"document": "", "query": "Instruct: Find passages\nQuery:", "topic": "Topic: "}
    asked = "Instruct: Identify which intent it has\nQuery:"
    assert named_prompt(prompts, "topic", None, "which intent it has") == asked
    # The user's own prompt and models without instructions go before.
    assert named_prompt(prompts, "topic", "query", "which intent it has") == prompts["query"]
    assert named_prompt(prompts, "topic", None, None) == "Topic: "
    assert named_prompt({"topic": "Topic: "}, "topic", None, "which intent it has") == "Topic: "


def test_a_model_with_instructions_reads_the_criterion(
    tmp_path: Path, encoder: SentenceTransformerEncoder
) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(resolve_embedding_model("minilm"), device="cpu")
    model.prompts = {"query": "Instruct: Find passages\nQuery:"}
    model.save(str(tmp_path))
    found = SentenceTransformerEncoder(
        str(tmp_path), "float32", device="cpu", criterion="which vessel it names"
    )
    expected = [f"Instruct: Identify which vessel it names\nQuery:{text}" for text in TEXTS]
    np.testing.assert_allclose(found.encode(TEXTS), encoder.encode(expected), atol=1e-5)


def test_the_first_dimensions_serve_alone(encoder: SentenceTransformerEncoder) -> None:
    short = SentenceTransformerEncoder("minilm", "float32", device="cpu", dimensions=64)
    found, whole = short.encode(TEXTS), encoder.encode(TEXTS)[:, :64]
    assert found.shape == (len(TEXTS), short.dimension)
    whole /= np.linalg.norm(whole, axis=1, keepdims=True)
    np.testing.assert_allclose(found, whole, atol=1e-5)
    with pytest.raises(
        ConfigError, match=r"embedding\.dimensions must be at most the 384 of .*, got 385"
    ):
        SentenceTransformerEncoder("minilm", dimensions=385)


def test_code_in_a_model_is_executed_only_where_that_is_said(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    SentenceTransformer(resolve_embedding_model("minilm"), device="cpu").save(str(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_type"] = "of_its_own"
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text(
        "from transformers import BertConfig, BertModel\n"
        "class OwnConfig(BertConfig):\n    model_type = 'of_its_own'\n"
        "class OwnModel(BertModel):\n    config_class = OwnConfig\n"
    )
    with pytest.raises(ConfigError, match=r"set embedding\.trust_remote_code if you trust it"):
        SentenceTransformerEncoder(str(tmp_path), "float32", device="cpu")
    trusted = SentenceTransformerEncoder(
        str(tmp_path), "float32", device="cpu", trust_remote_code=True
    )
    assert trusted.encode(TEXTS).shape == (len(TEXTS), 384)


def test_a_batch_too_large_for_the_device_goes_in_halves(
    encoder: SentenceTransformerEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    expected = encoder.encode(TEXTS)
    forward, sizes = encoder._model.forward, []

    def limited(batch: dict[str, Any], **more: Any) -> Any:
        n_texts = len(batch["input_ids"])
        if n_texts > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(n_texts)
        return forward(batch, **more)

    monkeypatch.setattr(encoder._model, "forward", limited)
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=1e-5)
    assert sum(sizes) == len(TEXTS)
    assert max(sizes) <= 2

    def full(batch: dict[str, Any], **more: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(encoder._model, "forward", full)
    with pytest.raises(torch.OutOfMemoryError):
        encoder.encode(TEXTS)


@pytest.mark.parametrize(
    ("free_gib", "width", "tokens"),
    # MiniLM on a large and on a small GPU; 7 billion parameters beside which 10 GiB are free.
    [(140, 384, 65_536), (4, 384, 32_768), (10, 4096, 8_192), (0, 4096, 1)],
)
def test_a_batch_on_a_gpu_is_sized_by_its_memory(free_gib: int, width: int, tokens: int) -> None:
    assert gpu_batch_tokens(free_gib << 30, width) == tokens


def test_threads_share_an_encoder(encoder: SentenceTransformerEncoder) -> None:
    expected = encoder.encode(TEXTS).tobytes()
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(encoder.encode, [TEXTS] * 8))
    assert {each.tobytes() for each in found} == {expected}
