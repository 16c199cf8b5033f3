"""Checks and sizes of models on a model hub."""

from __future__ import annotations

import logging
import os

from hercules_scale.errors import ConfigError
from hercules_scale.models.aliases import IMAGE_ALIASES, chat_aliases, embedding_aliases, is_alias
from hercules_scale.models.names import is_stored
from hercules_scale.models.sizes import sizes_in_folder

HUB_SECONDS = 10.0


def check_local(key: str, name: str) -> None:
    """Refuse a model that would be looked for on a model hub.

    Raises:
        ConfigError: The name is neither an alias, a folder nor the URI of a folder.
    """
    if _comes_from_hub(name):
        aliases = [*embedding_aliases(), *IMAGE_ALIASES, *chat_aliases()]
        raise ConfigError(
            f"{key} {name!r} is looked for on a model hub, which privacy.local_only refuses; give "
            f"an alias ({', '.join(aliases)}) or a local folder"
        )


def check_on_hub(key: str, name: str) -> None:
    """Refuse a model that a model hub does not give, by a request for one small file.

    Raises:
        ConfigError: The hub does not have it, wants another token, or cannot be reached.
    """
    if not _comes_from_hub(name):
        return
    # huggingface_hub takes half a second to load.
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        hf_hub_download(name, "config.json")
    except RemoteEntryNotFoundError:
        # Models of several parts have such a file in each part instead.
        return
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"{key} {name!r}: the model hub does not give it ({type(error).__name__}: {reason}); "
            "check the name, the network and HF_TOKEN, or give a local folder or an alias"
        ) from None


def sizes_on_hub(name: str) -> dict[str, int]:
    """Return the files of a model on a hub and their bytes, by the local cache or else by the hub.

    Raises:
        OSError: The hub cannot be reached, or does not have the model.
    """
    from huggingface_hub import HfApi, snapshot_download

    try:
        return sizes_in_folder(snapshot_download(name, local_files_only=True))
    except (OSError, ValueError):
        pass
    try:
        found = HfApi().model_info(name, files_metadata=True, timeout=HUB_SECONDS).siblings or []
    except Exception as error:
        # The errors of its HTTP client have no common class.
        raise OSError(f"the model hub says: {error}") from error
    return {file.rfilename: file.size or 0 for file in found}


def _comes_from_hub(name: str) -> bool:
    return not (is_alias(name) or is_stored(name) or os.path.isdir(os.path.expanduser(name)))
