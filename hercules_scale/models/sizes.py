"""Sizes of models: parameters of language models, and files in a folder."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

# The size in a model's name, such as 135m or 1.5B.
_SIZE = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)([mb])(?![a-z0-9])", re.IGNORECASE)


def n_parameters(name: str) -> float | None:
    """Return the number of parameters of a chat model, by its configuration or the size in its
    name.

    Returns:
        The number, to within a fifth; None if neither gives it.
    """
    folder = os.path.expanduser(name)
    if os.path.isdir(folder):
        try:
            values = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
            return _n_weights(values.get("text_config", values))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass
    found = _SIZE.findall(os.path.basename(name))
    if not found:
        return None
    number, unit = found[-1]
    return float(number) * (1e6 if unit in "mM" else 1e9)


def _n_weights(config: dict[str, Any]) -> float:
    """Return the number of weights of a transformer decoder, by its configuration."""
    width, n_heads = config["hidden_size"], config["num_attention_heads"]
    of_keys = width * config.get("num_key_value_heads", n_heads) / n_heads
    n_experts = config.get("num_local_experts") or config.get("num_experts") or 1
    attention = 2 * width * (width + of_keys)
    perceptron = 3 * width * config["intermediate_size"] * n_experts
    embedding = config["vocab_size"] * width * (1 if config.get("tie_word_embeddings") else 2)
    return float(embedding + config["num_hidden_layers"] * (attention + perceptron))


def sizes_in_folder(folder: str) -> dict[str, int]:
    """Return the size in bytes of each file below a folder, by its path in the folder."""
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}
