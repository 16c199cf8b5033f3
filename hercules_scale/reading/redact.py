"""The user's own function that redacts texts before they are shown."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence

from hercules_scale.errors import ConfigError


def load_redaction(name: str) -> Callable[[str], str]:
    """Return the function that ``privacy.redact`` names as ``package.module:function``.

    Raises:
        ConfigError: It cannot be imported or is no function.
    """
    module, _, function = name.partition(":")
    try:
        found: Callable[[str], str] = getattr(importlib.import_module(module), function)
    except Exception as error:
        # A module may raise anything as it is imported.
        raise ConfigError(
            f"privacy.redact {name!r}: cannot be imported ({type(error).__name__}: {error}); give "
            "package.module:function of a package that is installed, or in a folder of "
            "PYTHONPATH, on every node"
        ) from None
    if not callable(found):
        raise ConfigError(
            f"privacy.redact {name!r}: must be a function from text to text, got "
            f"{type(found).__name__}"
        )
    return found


def redacted(texts: Sequence[str], name: str | None) -> list[str]:
    """Return texts as they may be shown: redacted by the named function, or unchanged without one.

    Raises:
        ConfigError: The function fails or gives no text. The message and its cause quote no text,
            since that was to be hidden.
    """
    if name is None:
        return list(texts)
    function = load_redaction(name)
    found = []
    for text in texts:
        try:
            kept = function(text)
        except Exception as error:
            raise ConfigError(
                f"privacy.redact {name!r}: raised {type(error).__name__} for a text of "
                f"{len(text):,} characters; it must give text for any text"
            ) from None
        if not isinstance(kept, str):
            raise ConfigError(
                f"privacy.redact {name!r}: must give text, got {type(kept).__name__} for a text "
                f"of {len(text):,} characters"
            )
        found.append(kept)
    return found
