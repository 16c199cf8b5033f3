"""Ray Serve on a cluster listens for an endpoint, or says for whom it listens elsewhere."""

from __future__ import annotations

import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
import ray
from ray import serve

from hercules_scale.errors import ConfigError
from hercules_scale.runtime.waiting import job_has_ended
from hercules_scale.serving import vllm
from tests.integration.nodes import wait_for
from tests.s3_server import free_port

pytestmark = [pytest.mark.ray, pytest.mark.slow]


class Other:
    """An application of another user."""


@pytest.fixture
def serve_without_http(local_ray: None) -> Iterator[None]:
    serve.start(proxy_location="Disabled")
    yield
    serve.shutdown()


def run_other(name: str) -> None:
    other = serve.deployment(Other).options(ray_actor_options={"num_cpus": 0})
    serve.run(other.bind(), name=name, route_prefix=None)


def test_an_endpoint_of_a_job_that_has_ended_is_deleted_and_another_refused(
    serve_without_http: None,
) -> None:
    address = ray.get_runtime_context().gcs_address
    program = f"""
import ray
ray.init(address={address!r}, log_to_driver=False, logging_level="ERROR")
print(ray.get_runtime_context().get_job_id())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    ended = done.stdout.split()[-1]
    wait_for(lambda: job_has_ended(ended), "the job has not ended")
    run_other(f"{vllm.ENDPOINT}{ended}")
    vllm._delete_orphans()
    assert not serve.status().applications
    own = ray.get_runtime_context().get_job_id()
    run_other(f"{vllm.ENDPOINT}{own}")
    with pytest.raises(ConfigError, match=f"job {own} of this Ray cluster serves a model already"):
        vllm._delete_orphans()


def test_serve_listens_where_it_is_asked_to_unless_it_works_for_others(
    serve_without_http: None,
) -> None:
    assert vllm._address_of_serve() is None
    port, another = free_port(), free_port()
    vllm._start_http(port)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10)
    run_other("other")
    vllm._start_http(port)
    with pytest.raises(ConfigError, match=rf":{port}, for other; got {another}; stop these"):
        vllm._start_http(another)
    serve.delete("other")
    vllm._start_http(another)
    assert vllm._address_of_serve() == {"host": "127.0.0.1", "port": another}
