"""Image encoders: the one from a pip package, and a CLIP of two small layers made here."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hercules_scale.embedding.image import EfficientNetLite, SharedSpaceEncoder, load_image_encoder
from hercules_scale.errors import ConfigError
from hercules_scale.models.names import resolve_embedding_model


def picture(colour: tuple[int, int, int], size: tuple[int, int] = (40, 40)) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, colour).save(data, "PNG")
    return data.getvalue()


def noise(seed: int, side: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side, 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


def make_clip(folder: Path) -> Path:
    """A CLIP of the real architecture with random weights, as a model hub would give it."""
    import torch
    from transformers import CLIPConfig, CLIPModel, CLIPProcessor, CLIPTokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: n for n, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    layers = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    n = len(tokens)
    special = {"bos_token_id": n - 2, "eos_token_id": n - 1, "pad_token_id": n - 1}
    text = {**layers, **special, "vocab_size": n, "max_position_embeddings": 32}
    vision = {**layers, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    CLIPModel(config).save_pretrained(folder)
    images = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    CLIPProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def test_vectors_have_unit_length_and_do_not_depend_on_neighbours() -> None:
    encoder = EfficientNetLite("float32")
    images = [noise(seed, side) for seed, side in ((0, 28), (1, 28), (2, 100), (3, 300))]
    vectors = encoder.encode(images)
    assert vectors.shape == (4, encoder.dimension) == (4, 1280)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    for image, vector in zip(images, vectors, strict=True):
        np.testing.assert_allclose(encoder.encode([image])[0], vector, atol=1e-5)


def test_bfloat16_is_near_float32() -> None:
    images = [noise(seed, 64) for seed in range(3)]
    exact = EfficientNetLite("float32").encode(images)
    half = EfficientNetLite("bfloat16").encode(images)
    assert (exact * half).sum(axis=1).min() > 0.98


def test_a_model_like_clip_embeds_images_and_texts_into_one_space(tmp_path: Path) -> None:
    encoder = load_image_encoder(str(make_clip(tmp_path / "clip")), "float32")
    assert isinstance(encoder, SharedSpaceEncoder)
    images = encoder.encode([picture((255, 0, 0)), picture((0, 0, 255), (30, 90))])
    texts = encoder.encode_texts(["cat", "dog", "boat"])
    assert images.shape == (2, encoder.dimension) == (2, 12)
    assert texts.shape == (3, 12)
    for vectors in (images, texts):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_a_model_that_reads_texts_alone_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be loaded as a model that reads images"):
        load_image_encoder(resolve_embedding_model("minilm"))
    with pytest.raises(ConfigError, match=r"embedding\.model must be an alias \(effici"):
        load_image_encoder("ghost")


def test_images_too_many_for_the_gpu_go_in_halves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    images = [noise(seed, 40) for seed in range(5)]
    lite, clip = EfficientNetLite("float32"), SharedSpaceEncoder(str(make_clip(tmp_path / "clip")))
    for encoder, method in ((lite, "extract_features"), (clip, "encode")):
        expected = encoder.encode(images)
        sizes: list[int] = []
        whole = getattr(encoder._model, method)

        def limited(batch: Any, whole: Any = whole, sizes: Any = sizes, **more: Any) -> Any:
            if len(batch) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            sizes.append(len(batch))
            return whole(batch, **more)

        monkeypatch.setattr(encoder._model, method, limited)
        np.testing.assert_allclose(encoder.encode(images), expected, atol=1e-4)
        assert (sum(sizes), max(sizes)) == (5, 2)
