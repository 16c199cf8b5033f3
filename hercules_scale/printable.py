"""Text of strangers made safe to look at, and secrets kept out of it."""

from __future__ import annotations

import os
import re

# A user and password in a URL; a parameter with its value. No part is looked at twice, because of
# the ``+`` after each repetition, so that a text of any kind takes a time in proportion to it.
_IN_URLS = re.compile(r"(?<=://)[^/@\s]++(?=@)|(?<=[?&])([\w%.-]++)=[^&\s'\"]*+")
_WEB = re.compile(r"https?://$", re.I)
# Of names of parameters such as X-Amz-Signature.
_SECRET_PARAMETERS = re.compile(r"sig|token|key|secret|passw|credential|auth", re.I)
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
    return _IN_URLS.sub(lambda found: "***" if _is_secret(found) else found[0], text)


def holds_secret(url: str) -> bool:
    """Whether a URL or path has a user and password, or a parameter such as a signature."""
    return any(_is_secret(found) for found in _IN_URLS.finditer(url))


def _is_secret(found: re.Match[str]) -> bool:
    """Whether it is a parameter of a secret's name, or a user with a password, or of the web."""
    if found[1] is not None:
        return _SECRET_PARAMETERS.search(found[1]) is not None
    before = found.string[max(found.start() - len("https://"), 0) : found.start()]
    return ":" in found[0] or _WEB.search(before) is not None
