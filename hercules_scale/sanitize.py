"""Untrusted text made safe to display, and secrets removed from text."""

from __future__ import annotations

import os
import re
import unicodedata
from typing import TextIO

# User and password in a URL; a parameter with its value. The possessive quantifiers prevent
# backtracking, so that the time is linear in the length of any text.
_IN_URLS = re.compile(r"(?<=://)[^/@\s]++(?=@)|(?<=[?&])([\w%.-]++)=[^&\s'\"]*+")
_WEB = re.compile(r"https?://$", re.I)
# Parts of names of secret parameters, such as X-Amz-Signature.
_SECRET_PARAMETERS = re.compile(r"sig|token|key|secret|passw|credential|auth", re.I)
# Parts of names of environment variables that hold secrets. Shorter values are too likely to be
# ordinary words.
_SECRET_NAMES = re.compile(r"KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL|SAS|CONNECTION_STRING", re.I)
_SECRET_CHARACTERS = 8


_JOINER = re.compile("(?<=(.))[\u200c\u200d](?=(.))")


def joiners(text: str) -> set[int]:
    """Return the places of joiners that are part of a word, as in Persian and scripts of India.

    Elsewhere joiners count as control characters.
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
    """Return text with control characters, such as terminal escapes, made visible and harmless."""
    if text.isprintable():
        return text
    kept = joiners(text)
    return "".join(
        char if char.isprintable() or place in kept else repr(char)[1:-1]
        for place, char in enumerate(text)
    )


def for_stream(text: str, stream: TextIO) -> str:
    """Return text with backslash escapes for characters that a stream cannot encode."""
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def printable_lines(text: str) -> str:
    """Return lines of text, each made ``printable``."""
    return "\n".join(printable(line) for line in text.splitlines())


def without_secrets(text: str) -> str:
    """Return text without passwords and signatures in URLs, and without secrets of the environment.

    Endpoints quote keys that they refuse, and file systems quote URLs that they cannot read.
    """
    for name, value in os.environ.items():
        if len(value) >= _SECRET_CHARACTERS and _SECRET_NAMES.search(name):
            text = text.replace(value, "***")
    return _IN_URLS.sub(lambda found: "***" if _is_secret(found) else found[0], text)


def holds_secret(url: str) -> bool:
    """Return whether a URL or path has a user and password, or a parameter such as a signature."""
    return any(_is_secret(found) for found in _IN_URLS.finditer(url))


def _is_secret(found: re.Match[str]) -> bool:
    """Return whether a match of ``_IN_URLS`` is a secret: a parameter with a secret's name, a user
    with a password, or any user of an HTTP URL."""
    if found[1] is not None:
        return _SECRET_PARAMETERS.search(found[1]) is not None
    before = found.string[max(found.start() - len("https://"), 0) : found.start()]
    return ":" in found[0] or _WEB.search(before) is not None
