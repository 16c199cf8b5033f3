"""Models in folders of an object store, copied to a machine once."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
from fnmatch import fnmatch
from pathlib import PurePosixPath

from hercules_scale.config.resources import StorageConfig
from hercules_scale.errors import ConfigError, InputError
from hercules_scale.models.hub import check_on_hub, sizes_on_hub
from hercules_scale.models.names import is_stored
from hercules_scale.models.packages import cache_folder, renamed_at_the_end
from hercules_scale.models.sizes import sizes_in_folder
from hercules_scale.storage.retries import reason_of
from hercules_scale.storage.store import Store

# Files of weights, which a tokenizer does not need.
WEIGHTS = ("*.safetensors", "*.bin", "*.gguf", "*.pt", "*.pth", "*.onnx", "*.msgpack", "*.h5")
COPY_BYTES = 16 << 20
# A loader takes the first of these groups that has files.
LOADED = (("*.safetensors",), ("pytorch_model*.bin", "*.pt", "*.pth"))
OTHER_FORMATS = ("onnx", "openvino", "original")
# Memory of the libraries in a process, and the total below which no memory is reserved.
LIBRARIES_GIB, SMALL_GIB = 1.0, 4.0
# One of these is in every model's folder.
DESCRIPTIONS = ("config.json", "modules.json")


def local_model(
    source: str, storage: StorageConfig | None = None, with_weights: bool = True
) -> str:
    """Return a model's local folder or model-hub id; copy a folder of an object store here.

    Args:
        source: A local folder, a model-hub id, or the URI of a folder.
        storage: Access to that folder.
        with_weights: Whether the copy needs the weights; a tokenizer does not.

    Raises:
        ConfigError: The folder cannot be read or holds no model.
    """
    if not is_stored(source):
        return source
    store = Store(source, storage)
    try:
        sizes = store.list_sizes("")
        _check_holds_model("the model", source, [*sizes])
        wanted = [
            name
            for name in sorted(sizes)
            if with_weights or not any(fnmatch(name, pattern) for pattern in WEIGHTS)
        ]
        digest = hashlib.sha256(f"{store.uri} {[(name, sizes[name]) for name in wanted]}".encode())
        target = cache_folder() / "models" / f"stored-{digest.hexdigest()[:32]}"
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            with renamed_at_the_end(target) as folder:
                for name in wanted:
                    copy = folder / name
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    with store.open_input(name) as stream, copy.open("wb") as file:
                        shutil.copyfileobj(stream, file, COPY_BYTES)
    except (OSError, InputError) as error:
        raise _unreadable("the model", source, error) from None
    return str(target)


def check_source(key: str, source: str, storage: StorageConfig | None = None) -> None:
    """Refuse a model that this machine cannot load from an object store or a model hub.

    Raises:
        ConfigError: The folder cannot be read or holds no model, or the hub does not give it.
    """
    if not is_stored(source):
        check_on_hub(key, source)
        return
    try:
        names = Store(source, storage).hasty.list_folder("")
    except (OSError, InputError) as error:
        raise _unreadable(key, source, error) from None
    _check_holds_model(key, source, names)


def model_gib(source: str, storage: StorageConfig | None = None) -> float:
    """Estimate the memory of a process with a model.

    It may hold the weights twice: 16-bit files are loaded as float32 where a processor does not
    compute in bfloat16.

    Args:
        source: A local folder, a model-hub id, or the URI of a folder.
        storage: Access to that folder.

    Returns:
        GiB; 0 for a small model and for one of unknown size.
    """
    try:
        gib = LIBRARIES_GIB + 2 * _weight_bytes(source, storage) / (1 << 30)
    except (OSError, InputError):
        return 0.0
    return gib if gib > SMALL_GIB else 0.0


# The result is cached, since a run asks several times, and each time is a request.
@functools.cache
def _weight_bytes(source: str, storage: StorageConfig | None) -> int:
    if is_stored(source):
        sizes = Store(source, storage).hasty.list_sizes("")
    elif os.path.isdir(source):
        sizes = sizes_in_folder(source)
    else:
        sizes = sizes_on_hub(source)
    totals = [
        sum(
            size
            for name, size in sizes.items()
            if any(fnmatch(PurePosixPath(name).name, each) for each in patterns)
            and PurePosixPath(name).parts[0] not in OTHER_FORMATS
        )
        for patterns in LOADED
    ]
    return next((total for total in totals if total), 0)


def _check_holds_model(key: str, source: str, names: list[str]) -> None:
    if not set(DESCRIPTIONS) & set(names):
        raise ConfigError(
            f"{key} {source}: there is neither {' nor '.join(DESCRIPTIONS)}; name the folder that "
            "holds the files of a model"
        )


def _unreadable(key: str, source: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"{key} {source}: cannot be read ({reason_of(error)}); check the path, the credentials "
        "and storage.endpoint"
    )
