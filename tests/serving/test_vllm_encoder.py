"""vLLM as the encoder of items; each engine in a process of its own, as on workers."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from hercules_scale.config.reading import EmbeddingConfig
from hercules_scale.embedding.sentence_transformer import SentenceTransformerEncoder
from hercules_scale.errors import ConfigError
from hercules_scale.models.packages import check_vllm

TEXTS = [
    "A ferry leaves the harbour.",
    "x",
    "",
    "Größe, 東京 and 🙂",
    "Interest rates rise. " * 300,
]
PROGRAM = """
import json, sys
import numpy as np
from hercules_scale.errors import ConfigError
from hercules_scale.serving.vllm_encoder import VllmEncoder
path, model, options, texts = json.load(sys.stdin)
try:
    encoder = VllmEncoder(model, "float32", **options)
except ConfigError as error:
    sys.exit(f"refused: {error}")
first, again, counts = encoder.encode(texts), encoder.encode(texts), encoder.count_tokens(texts)
np.savez(path, first=first, again=again, counts=counts)
"""


def encode(path: Path, model: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps([str(path), model, options, TEXTS]),
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.llm
@pytest.mark.slow
def test_vectors_are_those_of_sentence_transformers(tmp_path: Path) -> None:
    options: dict[str, Any] = {"long_text": "window", "prompt": "cluster: ", "dimensions": 64}
    done = encode(tmp_path / "found.npz", "minilm", **options)
    assert done.returncode == 0, done.stderr[-2000:]
    found = np.load(tmp_path / "found.npz")
    assert found["first"].tobytes() == found["again"].tobytes()
    other = SentenceTransformerEncoder("minilm", "float32", device="cpu", **options)
    assert (found["first"] * other.encode(TEXTS)).sum(axis=1).min() > 0.9999
    assert found["counts"].tolist() == other.count_tokens(TEXTS).tolist()


@pytest.mark.llm
@pytest.mark.slow
def test_dimensions_that_the_model_lacks_are_refused(tmp_path: Path) -> None:
    done = encode(tmp_path / "found.npz", "minilm", dimensions=500)
    assert "refused: embedding.dimensions must be at most the 384" in done.stderr


def test_a_machine_without_vllm_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"embedding\.engine vllm needs the package vllm"):
        check_vllm()


def test_keys_of_endpoints_are_refused() -> None:
    with pytest.raises(ValidationError, match="price needs engine openai"):
        EmbeddingConfig(engine="vllm", price=1.0)
