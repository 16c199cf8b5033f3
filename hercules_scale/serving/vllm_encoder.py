"""An encoder that vLLM runs in the process of a worker."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hercules_scale.config.resources import StorageConfig
from hercules_scale.embedding.encoder import check_dimensions, named_prompt
from hercules_scale.embedding.sentence_transformer import choose_device
from hercules_scale.embedding.windows import Windows, tokenize
from hercules_scale.errors import ConfigError
from hercules_scale.models.names import resolve_embedding_model
from hercules_scale.models.packages import check_vllm
from hercules_scale.serving import vllm_plugin
from hercules_scale.storage.stored_models import local_model

# An engine within this process takes all texts of a call before it begins. So its batches, and the
# last bits of vectors, depend on the texts alone.
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
# The cache is small, since encoders keep no keys and values from one text to the next.
ENVIRONMENT_ON_CPU = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    vllm_plugin.VARIABLE: "1",
}


class VllmEncoder:
    """A sentence-transformers model in vLLM, which does the batching.

    Args:
        model: An alias, a local folder or a model-hub id.
        precision: ``auto`` takes bfloat16 where the device computes in it.
        long_text: See ``SentenceTransformerEncoder``.
        prompt: Text before every text, or the name of one of the model's own prompts; by default
            the model's default prompt, if it has one.
        dimensions: Numbers of a vector to keep; by default all.
        trust_remote_code: Whether code in the model's files may be executed.
        storage: Access to the model if it lies on an object store.
        criterion: Criterion of the run, for the instruction of models that read one.

    Threads may share an encoder: while one text is encoded, others are tokenised.

    Raises:
        ConfigError: vLLM is not installed or cannot load the model, the model leaves its prompt
            out of vectors, or it has fewer dimensions.
    """

    def __init__(
        self,
        model: str,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        long_text: Literal["truncate", "window"] = "truncate",
        prompt: str | None = None,
        dimensions: int | None = None,
        trust_remote_code: bool = False,
        storage: StorageConfig | None = None,
        criterion: str | None = None,
    ) -> None:
        check_vllm()
        source = local_model(resolve_embedding_model(model), storage)
        device, precision = choose_device(precision)
        os.environ.update(ENVIRONMENT | (ENVIRONMENT_ON_CPU if device == "cpu" else {}))
        from vllm import LLM

        try:
            self._llm = LLM(
                source,
                runner="pooling",
                dtype=precision,
                trust_remote_code=trust_remote_code,
                enforce_eager=device == "cpu",
                disable_log_stats=True,
            )
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ConfigError(
                f"embedding.model {model!r} cannot be loaded by vLLM ({reason}); take "
                "embedding.engine sentence-transformers, or another model"
            ) from None
        self._in_windows = long_text == "window"
        self._tokenizer = self._llm.get_tokenizer()
        self.max_tokens = int(self._llm.llm_engine.model_config.max_model_len)
        self._prompt = _prompt_named(model, source, prompt, criterion)
        self._dimensions = dimensions
        # The engine works on one call at a time.
        self._engine_lock = threading.Lock()
        self.dimension = self._encode([self._tokenizer("ready")["input_ids"]]).shape[1]
        check_dimensions(model, self.dimension, dimensions)

    def count_tokens(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Return the tokens that the model reads of each text, shape (n,), after truncation."""
        return self._tokenize(texts).tokens()

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of unit length, shape (n, d), in the order of the texts."""
        windows = self._tokenize(texts)
        return windows.averaged(self._encode(windows.ids))

    def _tokenize(self, texts: Sequence[str]) -> Windows:
        return tokenize(self._tokenizer, texts, self._prompt, self.max_tokens, self._in_windows)

    def _encode(self, windows: list[list[int]]) -> NDArray[np.float32]:
        asked: Any = [{"prompt_token_ids": ids} for ids in windows]
        with self._engine_lock:
            found = self._llm.embed(asked, use_tqdm=False)
        vectors = np.array([each.outputs.embedding for each in found], np.float32)
        vectors = vectors[:, : self._dimensions]
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def _prompt_named(model: str, source: str, prompt: str | None, criterion: str | None) -> str:
    """Return the prompt before every text, according to the model's own files.

    Raises:
        ConfigError: The model leaves its prompt out of vectors, which vLLM cannot do.
    """
    own = _read_json(source, "config_sentence_transformers.json")
    prompts, default = own.get("prompts") or {}, own.get("default_prompt_name")
    text = named_prompt(prompts, default, prompt, criterion)
    if text and not _read_json(source, "1_Pooling/config.json").get("include_prompt", True):
        raise ConfigError(
            f"embedding.model {model!r} leaves its prompt {text!r} out of vectors, which vLLM does "
            "not do; take embedding.engine sentence-transformers"
        )
    return text


def _read_json(source: str, name: str) -> dict[str, Any]:
    """Return the content of a JSON file of a model; empty if it has no such file."""
    from transformers.utils.hub import cached_file

    path = cached_file(source, name, _raise_exceptions_for_missing_entries=False)
    if path is None:
        return {}
    found: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    return found
