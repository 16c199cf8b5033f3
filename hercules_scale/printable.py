"""Text of strangers made safe to look at, and secrets kept out of it."""

from __future__ import annotations

import os
import re

# Users and passwords in URLs, and values of parameters such as X-Amz-Signature.
_IN_URLS = re.compile(
    r"(?<=://)[^/@\s]*:[^/@\s]*(?=@)|(?<=http://)[^/@\s]+(?=@)|(?<=https://)[^/@\s]+(?=@)"
    r"|(?<=[?&])[\w%.-]*(?:sig|token|key|secret|passw|credential|auth)[\w%.-]*=[^&\s\'\"]*",
    re.I,
)
# Names of environment variables that hold secrets; shorter values are words like any other.
_SECRET_NAMES = re.compile(r"KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL|SAS|CONNECTION_STRING", re.I)
_SECRET_CHARACTERS = 8


def printable(text: str) -> str:
    """Text whose control characters, such as a terminal's escapes, are shown and not obeyed."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def printable_lines(text: str) -> str:
    """Lines whose control characters are shown and not obeyed."""
    return "\n".join(printable(line) for line in text.splitlines())


def without_secrets(text: str) -> str:
    """Text without passwords and signatures of URLs, and without what the environment keeps secret.

    Endpoints quote the keys that they refuse, and file systems the URLs that they cannot read.
    """
    for name, value in os.environ.items():
        if len(value) >= _SECRET_CHARACTERS and _SECRET_NAMES.search(name):
            text = text.replace(value, "***")
    return _IN_URLS.sub("***", text)


def holds_secret(url: str) -> bool:
    """Whether a URL or path has a user and password, or a parameter such as a signature."""
    return _IN_URLS.search(url) is not None
