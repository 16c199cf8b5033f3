"""File systems of fsspec and pyarrow, by the scheme of a URI and the options of ``storage``.

Credentials come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL
and so on) or from the machine's role.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.fs as pafs

from hercules_scale.config.resources import StorageConfig
from hercules_scale.errors import InputError

SCHEMES = {"file": "local", "s3": "s3fs", "gs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
# The time for an answer is enough for a busy server. Delays between attempts grow to 20 seconds, so
# that ten attempts bridge more than half a minute.
CONNECT_SECONDS, ANSWER_SECONDS = 10, 60
ATTEMPTS = 10
# s3fs repeats each of these five times.
S3FS_ATTEMPTS = 3


def split_uri(uri: str) -> tuple[str, str]:
    """Return the scheme of a URI (``file`` for a local path) and its path as fsspec wants it.

    Raises:
        InputError: The scheme is unknown.
    """
    scheme, separator, path = uri.partition("://")
    if not separator:
        return "file", str(Path(uri).expanduser().absolute())
    if scheme not in SCHEMES:
        raise InputError(
            f"{uri}: scheme {scheme!r} is not known; use a local path, s3://, gs:// or az://"
        )
    return scheme, (path if scheme != "file" else str(Path(path).absolute()))


def open_fsspec(uri: str, scheme: str, options: StorageConfig) -> Any:
    """Return the fsspec file system of a URI with a scheme.

    Raises:
        InputError: The scheme's package is not installed.
    """
    # The caller reports the retries and failures of these packages.
    for name in ("gcsfs", "adlfs", "azure"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    other = options.endpoint or os.environ.get("STORAGE_EMULATOR_HOST")
    if scheme == "gs" and other:
        # Otherwise gcsfs asks by gRPC for the kind of the bucket, and waits for minutes.
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    try:
        return fsspec.filesystem(scheme, **_fsspec_options(scheme, options))
    except ImportError:
        raise InputError(
            f"{uri}: reading {scheme}:// needs the package {SCHEMES[scheme]}; install it"
        ) from None


def _fsspec_options(scheme: str, asked: StorageConfig) -> dict[str, Any]:
    if scheme == "file":
        return {}
    options: dict[str, Any] = {"use_listings_cache": False}
    given: dict[str, Any]
    if scheme == "s3":
        config: dict[str, Any] = {
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": ANSWER_SECONDS,
            "retries": {"mode": "standard", "max_attempts": S3FS_ATTEMPTS},
        }
        if asked.virtual_hosts:
            config["s3"] = {"addressing_style": "virtual"}
        # The endpoint is explicit, so that fsspec's cache does not give another one's file system.
        given = {"endpoint_url": _s3_endpoint(asked), "anon": asked.anonymous or None}
        options["config_kwargs"] = config
        options["client_kwargs"] = {"region_name": asked.region} if asked.region else {}
    elif scheme == "gs":
        token = "anon" if asked.anonymous else None
        given = {"project": asked.project, "endpoint_url": asked.endpoint, "token": token}
    else:
        host = asked.endpoint and asked.endpoint.partition("://")[2]
        anonymous = asked.anonymous or None
        given = {"account_name": asked.account, "account_host": host, "anon": anonymous}
    return options | {name: value for name, value in given.items() if value is not None}


def is_reached_by_endpoint(options: StorageConfig) -> bool:
    """Return whether options or environment name another host than the cloud's own."""
    return bool(_s3_endpoint(options) or os.environ.get("STORAGE_EMULATOR_HOST"))


def _s3_endpoint(options: StorageConfig) -> str | None:
    ambient = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return options.endpoint or ambient


def open_arrow_s3(options: StorageConfig) -> pafs.FileSystem:
    """Return the pyarrow file system of S3, or of the endpoint that speaks its protocol."""
    return pafs.S3FileSystem(
        endpoint_override=_s3_endpoint(options),
        region=options.region,
        anonymous=options.anonymous,
        force_virtual_addressing=options.virtual_hosts,
        connect_timeout=CONNECT_SECONDS,
        request_timeout=ANSWER_SECONDS,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        # A file below 5 MB takes one request instead of three; larger ones go in parts of 10 MB.
        allow_delayed_open=True,
    )
