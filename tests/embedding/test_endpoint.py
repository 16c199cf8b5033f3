"""Texts embedded at an endpoint, which is a server with the real minilm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from hercules_scale.config.file import parse_config
from hercules_scale.config.run import RunConfig
from hercules_scale.embedding.endpoint import REQUEST_TEXTS, EndpointEncoder
from hercules_scale.errors import ConfigError, StageError
from tests.embedding_server import KEY, LONGEST, MODEL, EmbeddingServer, embedding_server

TEXTS = [f"The ferry of {row} leaves the harbour." for row in range(3 * REQUEST_TEXTS + 1)]


@pytest.fixture(scope="module")
def running() -> Iterator[EmbeddingServer]:
    with embedding_server() as server:
        yield server


@pytest.fixture
def server(running: EmbeddingServer, monkeypatch: pytest.MonkeyPatch) -> EmbeddingServer:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    running.requests.clear()
    running.failures.clear()
    running.counts = True
    return running


def test_vectors_are_the_servers_in_the_order_of_the_texts(server: EmbeddingServer) -> None:
    encoder = EndpointEncoder(MODEL, server.url)
    assert encoder.dimension == 384
    assert encoder.spent() > 0
    found = encoder.encode(TEXTS)
    np.testing.assert_allclose(found, server.encoder.encode(TEXTS), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert encoder.spent() == server.encoder.count_tokens(TEXTS).sum()
    assert encoder.spent() == 0
    server.counts = False
    encoder.encode(["A ferry."])
    assert encoder.spent() == 3


def test_a_prompt_and_dimensions_go_with_each_text(server: EmbeddingServer) -> None:
    encoder = EndpointEncoder(MODEL, server.url, prompt="clustering: ", dimensions=64)
    found = encoder.encode(TEXTS[:3])
    assert found.shape == (3, 64)
    assert encoder.dimension == 64
    assert server.texts[0] == f"clustering: {TEXTS[0]}"
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    with pytest.raises(ConfigError, match=r"does not embed a word .*embedding\.dimensions"):
        _ = EndpointEncoder(MODEL, server.url, dimensions=385).dimension


def test_what_is_refused_for_a_time_is_asked_again(server: EmbeddingServer) -> None:
    server.failures = [(429, {"retry-after-ms": "10"}), (503, {"retry-after-ms": "10"})]
    found = EndpointEncoder(MODEL, server.url).encode(TEXTS[:2])
    assert found.shape == (2, 384)
    assert len(server.requests) == 3


def test_a_text_that_is_too_long_is_cut_and_others_are_not(server: EmbeddingServer) -> None:
    long = "The ferry leaves. " * 500
    found = EndpointEncoder(MODEL, server.url).encode([*TEXTS[:5], long, ""])
    np.testing.assert_allclose(found[:5], server.encoder.encode(TEXTS[:5]), atol=1e-5)
    assert max(len(text) for text in server.texts if len(text) <= LONGEST) > LONGEST / 2
    assert found.shape == (7, 384)


@pytest.mark.parametrize(
    ("key", "model", "message"),
    [
        ("canary-of-a-wrong-key", MODEL, "refuses the key of OPENAI_API_KEY .*; set the right one"),
        (KEY, "ghost", "not found .*correct embedding.model or embedding.endpoint"),
        ("", MODEL, "embedding.engine openai needs the key .*OPENAI_API_KEY, which is not set"),
    ],
)
def test_a_wrong_key_or_model_is_one_clear_error(
    server: EmbeddingServer, key: str, model: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ConfigError, match=message) as caught:
        _ = EndpointEncoder(model, server.url).dimension
    assert "canary" not in str(caught.value)


def test_an_endpoint_that_is_not_there_is_one_clear_error(server: EmbeddingServer) -> None:
    with pytest.raises(ConfigError, match=r"does not embed a word .*does not answer"):
        _ = EndpointEncoder(MODEL, "http://127.0.0.1:9/v1").dimension


def test_a_short_text_that_is_refused_is_named(server: EmbeddingServer) -> None:
    encoder = EndpointEncoder(MODEL, server.url)
    server.failures = [(400, {})] * 3
    with pytest.raises(StageError, match=r"refuses the text 'The ferry of 0 .*run again"):
        encoder.encode(TEXTS[:2])


def configured(**sections: Any) -> RunConfig:
    values: dict[str, Any] = {"input": {"path": "-"}, "output": {"path": "-"}}
    return parse_config({**values, **sections})


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"embedding": {"engine": "openai"}}, "engine openai needs model"),
        ({"embedding": {"endpoint": "http://a/v1"}}, "endpoint needs engine openai"),
        ({"embedding": {"max_total_tokens": 5}}, "max_total_tokens needs engine openai"),
        (
            {"embedding": {"engine": "openai", "model": "m", "long_text": "window"}},
            "long_text window needs engine sentence-transformers",
        ),
        (
            {"embedding": {"engine": "openai", "model": "m"}, "privacy": {"min_items": 5}},
            "embedding.engine openai sends every item's text",
        ),
        (
            {"embedding": {"engine": "openai", "model": "m", "endpoint": "http://a:b@c/v1"}},
            "must hold no password or key",
        ),
    ],
)
def test_keys_that_do_not_go_together_are_refused(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        configured(**sections)
