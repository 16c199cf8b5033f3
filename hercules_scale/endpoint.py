"""Connections to endpoints that are compatible with OpenAI's API."""

from __future__ import annotations

import ipaddress
import os
import re
import urllib.parse
from collections.abc import Callable
from typing import Any

from hercules_scale.errors import ConfigError
from hercules_scale.sanitize import printable, without_secrets

KEY = "OPENAI_API_KEY"
CONNECT_SECONDS = 30.0
# Host, or address in brackets, and port of a URL.
AUTHORITY = re.compile(r"(\[[\da-f:.%]+\]|[^][:]+)(:\d+)?", re.ASCII | re.IGNORECASE)
_ALL_URLS = ("all://", "http://", "https://")


def names_host(url: str) -> bool:
    """Return whether a URL has a host in ASCII and a valid port, if any, and no blanks."""
    try:
        parts = urllib.parse.urlsplit(url)
        # A port that is out of range is found when it is asked for.
        valid = parts.port != 0 and AUTHORITY.fullmatch(parts.netloc) is not None
    except ValueError:
        return False
    return valid and parts.netloc.isascii() and url.isprintable() and " " not in url


def is_loopback(url: str) -> bool:
    """Return whether an endpoint is on this machine."""
    return is_loopback_host(urllib.parse.urlsplit(url).hostname or "")


def is_loopback_host(host: str) -> bool:
    """Return whether a host name or address is that of this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def endpoint_url(endpoint: str | None) -> str:
    """Return the base URL of an endpoint, without query and fragment.

    Args:
        endpoint: URL; by default that in OPENAI_BASE_URL, or else OpenAI's own.
    """
    parts = urllib.parse.urlsplit(_given(endpoint))
    return urllib.parse.urlunsplit(parts._replace(query="", fragment=""))


def endpoint_key() -> str | None:
    """Return the endpoint key from the environment; None if it is not set."""
    return os.environ.get(KEY)


def import_openai(engine: str) -> Any:
    """Return the package ``openai``.

    Args:
        engine: Key of the configuration that asks for an endpoint, for messages.

    Raises:
        ConfigError: The package is not installed.
    """
    try:
        import openai
    except ImportError:
        raise ConfigError(
            f"{engine} openai needs the package openai, which is not installed; install "
            "hercules-scale[openai], or take another engine"
        ) from None
    return openai


def client_arguments(
    engine: str, endpoint: str | None, http_client: Callable[..., Any], key: str | None = None
) -> dict[str, Any]:
    """Return the arguments of OpenAI's clients for an endpoint.

    A query in the URL, such as Azure's ``api-version``, goes with every request. Endpoints on this
    machine are never reached through a proxy of the environment.

    Args:
        engine: Key of the configuration that asks for the endpoint, for messages.
        endpoint: Base URL; see ``endpoint_url``.
        http_client: Class of OpenAI's HTTP clients.
        key: Key of the endpoint; by default ``endpoint_key``.

    Raises:
        ConfigError: There is no key.
    """
    value = key or endpoint_key()
    if not value:
        raise ConfigError(
            f"{engine} openai needs the key of the endpoint in the environment variable {KEY}, "
            "which is not set; any text does for a local server without keys"
        )
    if not names_host(_given(endpoint)):
        raise ConfigError(
            f"OPENAI_BASE_URL must be the URL of an endpoint, such as http://host:8000/v1, got "
            f"{printable(without_secrets(_given(endpoint)))[:80]!r}"
        )
    parts, url = urllib.parse.urlsplit(_given(endpoint)), endpoint_url(endpoint)
    azure = "/openai/deployments/" in parts.path or (parts.hostname or "").endswith(".azure.com")
    return {
        "api_key": value,
        "base_url": url,
        "default_query": dict(urllib.parse.parse_qsl(parts.query)),
        "default_headers": {"api-key": value} if azure else None,
        "http_client": http_client(mounts=dict.fromkeys(_ALL_URLS) if is_loopback(url) else None),
    }


def _given(endpoint: str | None) -> str:
    return endpoint or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
