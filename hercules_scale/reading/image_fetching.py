"""Places that cells of an image column may name, and the fetching of files from there.

A table may be somebody else's, so its cells are not trusted: unless the configuration allows more,
they may name only files in the folder of the table and on object stores, and nothing on other
hosts.
"""

from __future__ import annotations

import functools
import ipaddress
import socket
import ssl
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

import httpcore

from hercules_scale.config.resources import StorageConfig
from hercules_scale.storage.store import Store

# Largest image file; a hundred million pixels take less in any compressed format.
MOST_BYTES = 128 << 20
FETCH_SECONDS = 60.0
MOST_REDIRECTS = 5
REDIRECTS = (301, 302, 303, 307, 308)
GONE = (404, 410)
WEB = ("http", "https")


class RefusedFileError(Exception):
    """A file that may not or cannot be read; the message says why."""


def fetch_image(
    location: str, folder: str, allowed: tuple[str, ...], storage: StorageConfig | None = None
) -> bytes:
    """Return the bytes of a file that a cell names.

    Args:
        location: Path or URI.
        folder: URI of the folder of the table that holds the cell.
        allowed: ``input.image_sources``: folders and beginnings of URLs that may be read too.
        storage: Access to object stores.

    Raises:
        FileNotFoundError: There is no such file.
        RefusedFileError: The file may not be read, is too large, or takes too long.
    """
    if urlsplit(location).scheme in WEB:
        return _fetch(location, allowed)
    parent, _, name = location.rpartition("/")
    store = Store(parent or "/", storage)
    path = store.path(name)
    if store.is_local:
        _check_local(path, folder, allowed)
    about = store.fsspec.info(path)
    if about["type"] != "file":
        raise RefusedFileError(f"{location} is no file")
    if about["size"] > MOST_BYTES:
        raise _too_large(location)
    return bytes(store.fsspec.cat_file(path))


def _check_local(path: str, folder: str, allowed: tuple[str, ...]) -> None:
    found = Path(path).resolve()
    places = [place for place in (folder, *allowed) if urlsplit(place).scheme in ("", "file")]
    for place in places:
        if found.is_relative_to(Path(place.removeprefix("file://")).expanduser().resolve()):
            return
    raise RefusedFileError(
        f"{path} is not in the folder of the table; name its folder in input.image_sources"
    )


def _fetch(url: str, allowed: tuple[str, ...]) -> bytes:
    deadline = time.monotonic() + FETCH_SECONDS
    data, place = _request(url, allowed, deadline)
    for _ in range(MOST_REDIRECTS):
        if place is None:
            return data
        data, place = _request(place, allowed, deadline)
    if place is not None:
        raise RefusedFileError(f"{url} leads from one address to another, {MOST_REDIRECTS} times")
    return data


def _request(url: str, allowed: tuple[str, ...], deadline: float) -> tuple[bytes, str | None]:
    """Return the body of the answer, or the address that it redirects to."""
    asked = urlsplit(url)
    rule = next((rule for rule in map(urlsplit, allowed) if _allows(rule, asked)), None)
    if asked.scheme not in WEB or rule is None:
        raise RefusedFileError(
            f"{asked.scheme}://{asked.netloc} is not fetched from, since input.image_sources "
            "does not name it"
        )
    # A fragment is not sent to the server.
    plain = asked._replace(fragment="").geturl()
    seconds = max(deadline - time.monotonic(), 0.001)
    timeout = dict.fromkeys(("connect", "read", "write", "pool"), seconds)
    headers = [("host", asked.netloc.rpartition("@")[2]), ("user-agent", "hercules-scale")]
    pool = _pool(bool(rule.netloc))
    try:
        with pool.stream("GET", plain, headers=headers, extensions={"timeout": timeout}) as answer:
            if answer.status in REDIRECTS:
                for name, value in answer.headers:
                    if name.lower() == b"location":
                        return b"", urljoin(url, value.decode("latin-1"))
            if answer.status in GONE:
                raise FileNotFoundError(url)
            if answer.status != 200:
                raise RefusedFileError(f"status {answer.status}")
            return _body(url, answer.iter_stream(), deadline), None
    except (TimeoutError, httpcore.TimeoutException):
        raise RefusedFileError(f"no answer within {FETCH_SECONDS:.0f} s") from None


def _body(url: str, parts: Iterable[bytes], deadline: float) -> bytes:
    data = bytearray()
    for part in parts:
        data += part
        if len(data) > MOST_BYTES:
            raise _too_large(url)
        if time.monotonic() > deadline:
            raise TimeoutError
    return bytes(data)


def _too_large(place: str) -> RefusedFileError:
    return RefusedFileError(f"{place} has more than {MOST_BYTES >> 20} MiB")


def _allows(rule: SplitResult, asked: SplitResult) -> bool:
    """Return whether a URL begins as a rule does; ``https://`` alone is a rule for every public
    host."""
    if rule.scheme != asked.scheme or ".." in asked.path.split("/"):
        return False
    if not rule.netloc:
        return True
    same_host = (rule.hostname, _port(rule)) == (asked.hostname, _port(asked))
    return same_host and f"{asked.path}/".startswith(f"{rule.path.rstrip('/')}/")


def _port(url: SplitResult) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


@functools.cache
def _pool(named: bool) -> httpcore.ConnectionPool:
    return httpcore.ConnectionPool(
        ssl_context=ssl.create_default_context(),
        max_keepalive_connections=16,
        keepalive_expiry=30.0,
        network_backend=_Backend(named),
    )


class _Backend(httpcore.SyncBackend):
    """Backend that connects to the same address that it checked, so that a name is resolved only
    once.

    Args:
        named: Whether the configuration names the host, which may then be a private one.
    """

    def __init__(self, named: bool) -> None:
        self._named = named

    def connect_tcp(
        self, host: str, port: int, *arguments: Any, **options: Any
    ) -> httpcore.NetworkStream:
        """Return a connection, unless the host is in a private network and is not named."""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from None
        address = str(found[0][4][0])
        if not (self._named or ipaddress.ip_address(address.partition("%")[0]).is_global):
            raise RefusedFileError(
                f"{host} is in a private network; name it in input.image_sources if it is meant"
            )
        return super().connect_tcp(address, port, *arguments, **options)
