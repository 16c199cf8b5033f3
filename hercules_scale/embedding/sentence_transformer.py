"""Text encoder that runs models of sentence-transformers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hercules_scale.config.resources import StorageConfig
from hercules_scale.embedding.encoder import check_dimensions, named_prompt
from hercules_scale.embedding.packed_linear import pack_linear_layers
from hercules_scale.embedding.windows import Windows, tokenize
from hercules_scale.errors import ConfigError
from hercules_scale.models.names import resolve_embedding_model
from hercules_scale.storage.stored_models import local_model

CPU_BATCH_TOKENS = 1024
# Largest number of tokens of a batch on a GPU, halved until they fit in its memory; bytes that a
# token takes for each number of its hidden state, in float32.
GPU_BATCH_TOKENS = 65_536
TOKEN_BYTES = 256
# Beyond this length the quadratic memory of plain attention costs more than it saves.
PLAIN_ATTENTION_TOKENS = 512


class SentenceTransformerEncoder:
    """A sentence-transformers model that batches texts of similar length.

    On a CPU with bfloat16 arithmetic, linear layers keep their weights in the matrix library's
    own layout and plain attention is used, which is faster there for short sequences;
    ``docs/benchmarks.md`` has the figures.

    Args:
        model: An alias, a local folder or a model-hub id.
        precision: ``auto`` takes bfloat16 where the device computes in it.
        long_text: Texts longer than the model reads are cut (``truncate``), or read in windows of
            that length with vectors averaged by their tokens (``window``).
        device: ``cpu`` or ``cuda``; by default CUDA where there is a GPU.
        prompt: Text that goes before every text, or the name of one of the model's own prompts; by
            default the model's default prompt, if it has one.
        dimensions: Number of leading dimensions to keep, for models trained to work with these
            alone (Kusupati et al., "Matryoshka Representation Learning", 2022); by default all.
        trust_remote_code: Whether code in the model's files may be executed.
        storage: Access to the model where it lies on an object store.
        criterion: Criterion of the run, for the instruction of models that read one.

    Threads may share an encoder: while one text is encoded, others are tokenised.

    Raises:
        ConfigError: The model cannot be loaded, or has fewer dimensions.
    """

    def __init__(
        self,
        model: str,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        long_text: Literal["truncate", "window"] = "truncate",
        device: str | None = None,
        prompt: str | None = None,
        dimensions: int | None = None,
        trust_remote_code: bool = False,
        storage: StorageConfig | None = None,
        criterion: str | None = None,
    ) -> None:
        import torch
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        logging.disable_progress_bar()
        source = local_model(resolve_embedding_model(model), storage)
        self._in_windows = long_text == "window"
        self.device, self.precision = choose_device(precision, device)
        options: dict[str, Any] = {"dtype": getattr(torch, self.precision)}
        try:
            self._model = SentenceTransformer(
                source,
                device=self.device,
                model_kwargs=options,
                trust_remote_code=trust_remote_code,
            )
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            needs_code = "trust_remote_code" in str(error) and not trust_remote_code
            remedy = (
                "read the code in its files, and set embedding.trust_remote_code if you trust it"
                if needs_code
                else "give an alias (minilm), a local folder or a model-hub id"
            )
            raise ConfigError(
                f"embedding.model {model!r} cannot be loaded as a sentence-transformers model "
                f"({reason}); {remedy}"
            ) from None
        self._model.eval()
        self._tokenizer = self._model.tokenizer
        # For no limit, some tokenizers give a number with thirty digits.
        self.max_tokens = int(min(self._model.max_seq_length or 512, 1_000_000))
        whole = int(self._model.get_embedding_dimension() or 0)
        check_dimensions(model, whole, dimensions)
        self.dimension = dimensions or whole
        own = self._model
        self._prompt = named_prompt(own.prompts, own.default_prompt_name, prompt, criterion)
        self._skipped = self._tokens_of_prompt()
        # One batch is on the device at a time.
        self._device_lock = threading.Lock()
        if self.device == "cpu" and self.precision == "bfloat16":
            if self.max_tokens <= PLAIN_ATTENTION_TOKENS:
                self._model[0].auto_model.set_attn_implementation("eager")
            pack_linear_layers(self._model[0].auto_model)
        self._batch_tokens = CPU_BATCH_TOKENS
        if self.device != "cpu":
            memory = torch.cuda.get_device_properties(self.device).total_memory
            weights = sum(each.nbytes for each in self._model.parameters())
            inner = getattr(getattr(own[0], "auto_model", None), "config", None)
            width = int(getattr(inner, "hidden_size", None) or whole)
            self._batch_tokens = gpu_batch_tokens(memory - weights, width)

    def count_tokens(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Return the number of tokens of each text, after truncation, shape (n,)."""
        return self._tokenize(texts).tokens()

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of unit length, shape (n, d), in the order of the texts."""
        import torch

        windows = self._tokenize(texts)
        vectors = np.empty((len(windows.ids), self.dimension), dtype=np.float32)
        with self._device_lock, torch.inference_mode():
            for rows in length_batches(windows.lengths, self._batch_tokens):
                in_halves(lambda part: self._encode_rows(windows.ids, part, vectors), rows)
        return windows.averaged(vectors)

    def _encode_rows(
        self, windows: list[list[int]], rows: NDArray[np.int64], vectors: NDArray[np.float32]
    ) -> None:
        """Write the vectors of some windows."""
        import torch

        batch = self._tokenizer.pad(
            {"input_ids": [windows[row] for row in rows]}, return_tensors="pt"
        ).to(self.device)
        output = self._model({**batch, **self._skipped})["sentence_embedding"]
        unit = torch.nn.functional.normalize(output[:, : self.dimension].float(), dim=1)
        vectors[rows] = unit.cpu().numpy()

    def _tokens_of_prompt(self) -> dict[str, int]:
        """Return an option for models that leave the prompt out of vectors: its number of
        tokens."""
        pooling = [each for each in self._model if hasattr(each, "include_prompt")]
        if not self._prompt or all(each.include_prompt for each in pooling):
            return {}
        ids = self._tokenizer(self._prompt)["input_ids"]
        ends = bool(ids) and ids[-1] in self._tokenizer.all_special_ids
        return {"prompt_length": len(ids) - ends}

    def _tokenize(self, texts: Sequence[str]) -> Windows:
        return tokenize(self._tokenizer, texts, self._prompt, self.max_tokens, self._in_windows)


def gpu_batch_tokens(free_bytes: int, width: int) -> int:
    """Return the number of padded tokens of a batch on a GPU, a power of two.

    It depends on the kind of GPU and on the model, not on what else the GPU holds now: batches,
    and so the last digits of vectors, stay the same from run to run.

    Args:
        free_bytes: Memory of the GPU beside the model's weights.
        width: Numbers of a token's hidden state.
    """
    most = max(free_bytes // (TOKEN_BYTES * width), 1)
    return min(1 << (int(most).bit_length() - 1), GPU_BATCH_TOKENS)


def in_halves(encode: Callable[[NDArray[np.int64]], None], rows: NDArray[np.int64]) -> None:
    """Encode some rows; if the GPU's memory is too small, encode their halves, and so on."""
    import torch

    try:
        encode(rows)
        return
    except torch.OutOfMemoryError:
        if len(rows) == 1:
            raise
    # This is outside the except block, since the traceback there keeps the tensors.
    torch.cuda.empty_cache()
    middle = len(rows) // 2
    in_halves(encode, rows[:middle])
    in_halves(encode, rows[middle:])


def choose_device(
    precision: Literal["auto", "float32", "bfloat16"], device: str | None = None
) -> tuple[str, Literal["float32", "bfloat16"]]:
    """Return the device of a model, by default a GPU where there is one, and its precision."""
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return device, choose_precision(device) if precision == "auto" else precision


def choose_precision(device: str) -> Literal["float32", "bfloat16"]:
    """Return bfloat16 if the device computes in it, else float32."""
    import torch

    if device == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if cpu_has_bfloat16() else "float32"


def cpu_has_bfloat16() -> bool:
    """Return whether this processor has bfloat16 matrix or vector instructions."""
    import torch

    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def length_batches(lengths: NDArray[np.int64], batch_tokens: int) -> Iterator[NDArray[np.int64]]:
    """Yield rows in batches of similar length, each of at most ``batch_tokens`` padded tokens.

    A text longer than that is its own batch. Equal lengths keep their order, so the batches depend
    on the lengths alone.
    """
    order = np.argsort(lengths, kind="stable")
    start = 0
    for stop in range(1, len(order) + 1):
        full = stop < len(order) and lengths[order[stop]] * (stop + 1 - start) > batch_tokens
        if full or stop == len(order):
            yield order[start:stop]
            start = stop
