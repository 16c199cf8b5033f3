"""Interface of embedding models."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hercules_scale.errors import ConfigError


class TextEncoder(Protocol):
    """Encoder that turns texts into vectors.

    Equal texts in the same call give equal vectors, and a call's result depends on its texts alone,
    so that a shard is the same on any worker.
    """

    @property
    def dimension(self) -> int:
        """Length d of a vector."""
        ...

    def count_tokens(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Return the number of tokens of each text, after truncation, shape (n,)."""
        ...

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of unit length, shape (n, d), in the order of the texts."""
        ...


class ImageEncoder(Protocol):
    """Encoder that turns images into vectors, which do not depend on other images of a call."""

    @property
    def dimension(self) -> int:
        """Length d of a vector."""
        ...

    def encode(self, images: Sequence[bytes]) -> NDArray[np.float32]:
        """Return the unit-length vectors of RGB images, given as PNG or JPEG, shape (n, d)."""
        ...


# Prompt of models that read an instruction before a text, such as E5-instruct and Qwen3-Embedding.
_INSTRUCTION = re.compile(r"Instruct: .+?(?P<end>\s*Query: ?)", re.DOTALL)


def named_prompt(
    prompts: Mapping[str, str], default: str | None, prompt: str | None, criterion: str | None
) -> str:
    """Return the text that goes before every text.

    Args:
        prompts: The model's own prompts, by name.
        default: Name of the model's default prompt, if it has one.
        prompt: A text or the name of a prompt, as the user gives it; None takes the instruction
            with the criterion, if there is one and the model reads instructions, else the default.
        criterion: The criterion of the run, if it has one.
    """
    if prompt is not None:
        return prompts.get(prompt, prompt)
    found = map(_INSTRUCTION.fullmatch, prompts.values())
    instruction = next((each for each in found if each is not None), None)
    if criterion is not None and instruction is not None:
        return f"Instruct: Identify {criterion}{instruction['end']}"
    return prompts.get(default or "", "")


def check_dimensions(model: str, dimension: int, wanted: int | None) -> None:
    """Refuse more dimensions than a model gives.

    Raises:
        ConfigError: More are wanted.
    """
    if wanted is not None and wanted > dimension:
        raise ConfigError(
            f"embedding.dimensions must be at most the {dimension:,} of embedding.model "
            f"{model!r}, got {wanted:,}"
        )
