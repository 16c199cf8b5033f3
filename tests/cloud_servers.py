"""Google's and Azure's storage on this machine: their emulators, which speak the same protocols."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.nodes import wait_for
from tests.s3_server import free_port

CONTAINER = "bucket"
AZURITE = Path(__file__).parents[1] / ".venv/azurite/node_modules/.bin/azurite-blob"
# The account that every Azurite has; Microsoft publishes its key.
ACCOUNT, KEY = (
    "devstoreaccount1",
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
)


@contextmanager
def _running(command: list[str], ready: str, log: Path) -> Iterator[None]:
    """A server, from when it says that it is ready."""
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream)
    try:

        def said() -> str:
            return log.read_text(errors="replace")

        wait_for(lambda: ready in said() or process.poll() is not None, "no server")
        assert process.poll() is None, said()
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def google_storage(folder: Path) -> Iterator[dict[str, str]]:
    """An emulator of Google's; what ``storage`` has to say to reach it."""
    program = shutil.which("gcp-storage-emulator", path=str(Path(sys.executable).parent))
    assert program, "run make test, which installs gcp-storage-emulator"
    port = free_port()
    options = ["--host=127.0.0.1", f"--port={port}", "--in-memory", f"--default-bucket={CONTAINER}"]
    with _running([program, "start", *options], "started", folder / "google.log"):
        yield {"endpoint": f"http://127.0.0.1:{port}", "project": "test"}


def azure_environment(port: int) -> dict[str, str]:
    """How an emulator of Azure's at a port is reached."""
    url = f"http://127.0.0.1:{port}/{ACCOUNT}"
    parts = {"AccountName": ACCOUNT, "AccountKey": KEY, "BlobEndpoint": url}
    connection = ";".join(f"{name}={value}" for name, value in parts.items())
    return {"AZURE_STORAGE_CONNECTION_STRING": f"DefaultEndpointsProtocol=http;{connection};"}


@contextmanager
def azure_storage(folder: Path, port: int) -> Iterator[dict[str, str]]:
    """An emulator of Azure's; the environment holds how it is reached."""
    program = shutil.which("azurite-blob") or (str(AZURITE) if AZURITE.exists() else None)
    if program is None:
        pytest.skip("needs azurite-blob, which make test-slow installs where there is npm")
    options = ["--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry"]
    command = [program, *options, "--blobHost", "127.0.0.1", "--blobPort", str(port)]
    with (
        _running(command, "successfully listens", folder / "azure.log"),
        pytest.MonkeyPatch.context() as patch,
    ):
        ((name, connection),) = azure_environment(port).items()
        patch.setenv(name, connection)
        from azure.storage.blob import BlobServiceClient

        BlobServiceClient.from_connection_string(connection).create_container(CONTAINER)
        yield {}
