"""Names of models: an alias, a local folder, a folder on an object store, or a model-hub id.

Names other than aliases are passed on; local folders become absolute paths.
"""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

from hercules_scale.errors import ConfigError
from hercules_scale.models.aliases import (
    CHAT_ALIASES,
    EMBEDDING_ALIASES,
    IMAGE_ALIASES,
    SPLIT_CHAT_MODELS,
    SPLIT_EMBEDDING_MODELS,
    chat_aliases,
    embedding_aliases,
)
from hercules_scale.models.packages import (
    cache_folder,
    package_folder,
    parts_of,
    split_folder,
    unpack_gguf,
    unpack_split_gguf,
    unpack_zip,
    unpacked,
)


def resolve_embedding_model(name: str, key: str = "embedding.model") -> str:
    """Return the folder, URI or model-hub id of a model that embeds texts.

    Raises:
        ConfigError: The alias's package is not installed, or the folder does not exist.
    """
    if name in EMBEDDING_ALIASES:
        return str(package_folder(key, name, EMBEDDING_ALIASES[name]) / "model")
    if name in SPLIT_EMBEDDING_MODELS:
        return unpacked(key, name, SPLIT_EMBEDDING_MODELS[name], unpack_zip)
    return _folder_or_hub_id(key, name, sorted(embedding_aliases()))


def resolve_image_model(name: str) -> str:
    """Return the file, folder, URI or model-hub id of an image encoder.

    Raises:
        ConfigError: The alias's package is not installed, or the folder does not exist.
    """
    if name in IMAGE_ALIASES:
        folder = package_folder("embedding.model", name, IMAGE_ALIASES[name]) / "models"
        return str(next(folder.glob("*.pth")))
    return _folder_or_hub_id("embedding.model", name, sorted(IMAGE_ALIASES))


def resolve_chat_model(name: str) -> str:
    """Return the folder, URI or model-hub id of a chat model; an alias is unpacked once.

    Raises:
        ConfigError: The alias's package is not installed, or the folder does not exist.
    """
    if name in SPLIT_CHAT_MODELS:
        return unpacked("summaries.model", name, SPLIT_CHAT_MODELS[name], unpack_split_gguf)
    if name not in CHAT_ALIASES:
        return _folder_or_hub_id("summaries.model", name, sorted(chat_aliases()))
    package, file = CHAT_ALIASES[name]
    folder = package_folder("summaries.model", name, package)
    target = cache_folder() / "models" / f"{name}-{importlib.metadata.version(package)}"
    if not target.exists():
        unpack_gguf(folder, file, target)
    return str(target)


def check_chat_model(name: str) -> None:
    """Refuse a chat model that cannot be resolved, without unpacking anything.

    Raises:
        ConfigError: The alias's package is not installed, or the folder does not exist.
    """
    if name in CHAT_ALIASES:
        package_folder("summaries.model", name, CHAT_ALIASES[name][0])
    elif name in SPLIT_CHAT_MODELS:
        if not split_folder(name, SPLIT_CHAT_MODELS[name]).exists():
            parts_of("summaries.model", name, SPLIT_CHAT_MODELS[name])
    else:
        _folder_or_hub_id("summaries.model", name, sorted(chat_aliases()))


def model_identity(name: str) -> str:
    """Return a model's name and what else identifies it, such as its package's version or its
    files."""
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


def is_stored(name: str) -> bool:
    """Return whether a name is the URI of a folder on an object store."""
    return "://" in name


def _folder_or_hub_id(key: str, name: str, aliases: list[str]) -> str:
    path = os.path.expanduser(name)
    # os.path.isdir gives False for a name that no file system takes; pathlib raises.
    if os.path.isdir(path):
        # A process in another folder may load it.
        return os.path.abspath(path)
    if is_stored(name):
        return name
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ConfigError(
            f"{key} must be an alias ({', '.join(aliases)}), an existing folder, the URI of one "
            f"on an object store, or a model-hub id (owner/name), got {name!r}"
        )
    return name
