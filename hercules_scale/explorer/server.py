"""The explorer's web server."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from hercules_scale.config.resources import StorageConfig
from hercules_scale.endpoint import is_loopback_host
from hercules_scale.errors import InputError
from hercules_scale.explorer.access_control import AccessControl
from hercules_scale.explorer.app import Explorer

TOKEN = "HERCULES_EXPLORER_TOKEN"  # noqa: S105
TOKEN_CHARACTERS = 16
WORK = "runs/explorer"


def serve(
    uris: list[str],
    host: str,
    port: int,
    work: str | None = None,
    inputs: list[str] | None = None,
    models: Sequence[str] = (),
    storage: StorageConfig | None = None,
) -> None:
    """Serve the explorer until it is interrupted.

    Args:
        uris: Outputs of the runs; the first one opens.
        host: Address to listen on. If other machines can reach it, browsers need a token:
            ``HERCULES_EXPLORER_TOKEN`` (blank counts as unset), or a new one, which is printed.
        port: Port; 0 takes any free one.
        work: Folder for runs that are started from the page; by default ``runs/explorer`` if only
            this machine can connect, else no runs can be started.
        inputs: Inputs that such runs may have besides uploads.
        models: Folders and hub ids of embedding models that may be loaded.
        storage: Access to the runs.

    Raises:
        InputError: There is no run, the token is too short, or the address is not available.
    """
    token = _token(host)
    if work is None and is_loopback_host(host):
        work = WORK
    folder = None if work is None else Path(work).absolute()
    explorer = Explorer(uris, folder, inputs, models, storage)
    for run in explorer.runs:
        # A wrong URI is reported at the start, not in the browser.
        run.state()
        if run.is_finished:
            run.opened()
    listener = _listen(host, port)
    port = listener.getsockname()[1]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
    print(f"explorer: {address}{f'?token={token}' if token else ''}", flush=True)
    guarded = AccessControl(explorer.application(), port, token)
    config = uvicorn.Config(
        guarded, log_level="warning", access_log=False, server_header=False, lifespan="off",
        timeout_graceful_shutdown=2,
    )  # fmt: skip
    # SIGTERM must stop the runs that were started from the page before the server ends.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    try:
        uvicorn.Server(config).run([listener])
    except KeyboardInterrupt:
        pass
    finally:
        explorer.stop()


def _token(host: str) -> str | None:
    """Return the token that a browser must send; None for a local host without a set token."""
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        return None if is_loopback_host(host) else secrets.token_urlsafe(24)
    if len(token) < TOKEN_CHARACTERS:
        raise InputError(
            f"{TOKEN} must have at least {TOKEN_CHARACTERS} characters, so that it is not guessed, "
            f"got {len(token)}; give a longer one, or unset it for a new one at each start"
        )
    return token


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"--host {host} --port {port}: cannot be listened on ({error}); give another port"
        ) from None
    return listener
