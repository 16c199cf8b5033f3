"""Ray Serve on a cluster listens for an endpoint, or says for whom it listens elsewhere."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from ray import serve

from hercules_scale.errors import ConfigError
from hercules_scale.serving import vllm
from tests.s3_server import free_port

pytestmark = [pytest.mark.ray, pytest.mark.slow]


class Other:
    """An application of another user."""


@pytest.fixture
def serve_without_http(local_ray: None) -> Iterator[None]:
    serve.start(proxy_location="Disabled")
    yield
    serve.shutdown()


def test_serve_listens_where_it_is_asked_to_unless_it_works_for_others(
    serve_without_http: None,
) -> None:
    assert vllm._address_of_serve() is None
    port, another = free_port(), free_port()
    vllm._start_http(port)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10)
    serve.run(
        serve.deployment(Other).options(ray_actor_options={"num_cpus": 0}).bind(),
        name="other",
        route_prefix=None,
    )
    vllm._start_http(port)
    with pytest.raises(ConfigError, match=rf":{port}, for other; got {another}; stop these"):
        vllm._start_http(another)
    serve.delete("other")
    vllm._start_http(another)
    assert vllm._address_of_serve() == {"host": "127.0.0.1", "port": another}
