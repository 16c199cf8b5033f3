"""Text of strangers made safe to look at, and secrets kept out of it."""

from __future__ import annotations

import os
import re
import unicodedata
from typing import TextIO

# A user and password in a URL; a parameter with its value. No part is looked at twice, because of
# the ``+`` after each repetition, so that a text of any kind takes a time in proportion to it.
_IN_URLS = re.compile(r"(?<=://)[^/@\s]++(?=@)|(?<=[?&])([\w%.-]++)=[^&\s'\"]*+")
_WEB = re.compile(r"https?://$", re.I)
# Of names of parameters such as X-Amz-Signature.
_SECRET_PARAMETERS = re.compile(r"sig|token|key|secret|passw|credential|auth", re.I)
# Names of environment variables that hold secrets; shorter values are words like any other.
_SECRET_NAMES = re.compile(r"KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL|SAS|CONNECTION_STRING", re.I)
_SECRET_CHARACTERS = 8


_JOINER = re.compile("(?<=(.))[\u200c\u200d](?=(.))")


def joiners(text: str) -> set[int]:
    """Return the places of joiners that are letters of a word, as in Persian and in the scripts of
    India.

    Elsewhere they are control characters like others.
    """
    if "\u200c" not in text and "\u200d" not in text:
        return set()
    return {
        found.start()
        for found in _JOINER.finditer(text)
        if found[2].isalpha()
        and (
            unicodedata.category(found[1])[0] == "M" or unicodedata.bidirectional(found[1]) == "AL"
        )
    }


def printable(text: str) -> str:
    """Return text with control characters, such as a terminal's escapes, shown and not obeyed."""
    if text.isprintable():
        return text
    kept = joiners(text)
    return "".join(
        char if char.isprintable() or place in kept else repr(char)[1:-1]
        for place, char in enumerate(text)
    )


def for_stream(text: str, stream: TextIO) -> str:
    """Return the text that a stream can write: what its encoding does not have is shown by its
    number."""
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def printable_lines(text: str) -> str:
    """Return lines with control characters shown and not obeyed."""
    return "\n".join(printable(line) for line in text.splitlines())


def without_secrets(text: str) -> str:
    """Return text without passwords and signatures of URLs, and without what the environment keeps
    secret.

    Endpoints quote the keys that they refuse, and file systems the URLs that they cannot read.
    """
    for name, value in os.environ.items():
        if len(value) >= _SECRET_CHARACTERS and _SECRET_NAMES.search(name):
            text = text.replace(value, "***")
    return _IN_URLS.sub(lambda found: "***" if _is_secret(found) else found[0], text)


def holds_secret(url: str) -> bool:
    """Return whether a URL or path has a user and password, or a parameter such as a signature."""
    return any(_is_secret(found) for found in _IN_URLS.finditer(url))


def _is_secret(found: re.Match[str]) -> bool:
    """Return whether it is a parameter of a secret's name, or a user with a password, or of the
    web."""
    if found[1] is not None:
        return _SECRET_PARAMETERS.search(found[1]) is not None
    before = found.string[max(found.start() - len("https://"), 0) : found.start()]
    return ":" in found[0] or _WEB.search(before) is not None
