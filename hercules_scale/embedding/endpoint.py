"""Encoder of texts at an endpoint with OpenAI's embeddings API."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hercules_scale.endpoint import (
    CONNECT_SECONDS,
    KEY,
    client_arguments,
    endpoint_url,
    import_openai,
)
from hercules_scale.errors import ConfigError, StageError
from hercules_scale.sanitize import without_secrets

REQUEST_TEXTS = 128
REQUESTS_IN_FLIGHT = 8
REQUEST_SECONDS = 300.0
# Between retries, the client waits as long as the endpoint asks, up to a minute, or else from half
# a second to eight seconds.
RETRIES = 12
# A text of up to this many characters is not cut, since its length is not why it is refused.
SHORTEST_CUT = 200
# Estimated characters per token, for endpoints that do not count tokens.
CHARACTERS_A_TOKEN = 3


class EndpointEncoder:
    """Model behind any endpoint with OpenAI's embeddings API.

    Requests that fail are repeated; a text that is too long for the model is cut until it fits.

    Args:
        model: The endpoint's name of the model.
        endpoint: Base URL; by default OPENAI_BASE_URL.
        prompt: Text that goes before every text.
        dimensions: Dimensions that the endpoint is asked for; by default all.
        key: Key of the endpoint; by default the key in the environment.

    Attributes:
        url: Base URL.

    Raises:
        ConfigError: There is no key.
    """

    def __init__(
        self,
        model: str,
        endpoint: str | None = None,
        prompt: str | None = None,
        dimensions: int | None = None,
        key: str | None = None,
    ) -> None:
        openai = import_openai("embedding.engine")
        self._openai, self._model = openai, model
        self._prompt, self._dimensions = prompt or "", dimensions
        self._client = openai.OpenAI(
            **client_arguments("embedding.engine", endpoint, openai.DefaultHttpxClient, key),
            max_retries=RETRIES,
            timeout=openai.Timeout(REQUEST_SECONDS, connect=CONNECT_SECONDS),
        )
        self.url = endpoint_url(endpoint)
        self._n_tokens = 0
        self._counting = Lock()

    @cached_property
    def dimension(self) -> int:
        """Length d of a vector, found by one small request.

        Raises:
            ConfigError: The endpoint does not answer, or refuses the key, the model or the
                dimensions.
        """
        # A person is waiting, so there are few retries.
        hasty = self._client.with_options(max_retries=2)
        try:
            return int(self._ask(["Ready"], hasty).shape[1])
        except (StageError, self._openai.BadRequestError) as error:
            raise ConfigError(
                f"{self._place}: the endpoint does not embed a word ({without_secrets(str(error))})"
                "; correct embedding.endpoint, embedding.model or embedding.dimensions"
            ) from None

    def count_tokens(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Return an estimate of the tokens of each text, shape (n,)."""
        lengths = [len(self._prompt) + len(text) for text in texts]
        return -(-np.array(lengths, np.int64) // CHARACTERS_A_TOKEN)

    def spent(self) -> int:
        """Return the number of tokens that the endpoint has read since the last call."""
        with self._counting:
            n_tokens, self._n_tokens = self._n_tokens, 0
        return n_tokens

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of unit length, shape (n, d), in the order of the texts.

        Raises:
            ConfigError: The endpoint refuses the key or the model.
            StageError: It refuses a text, or does not answer.
        """
        starts = range(0, len(texts), REQUEST_TEXTS)
        batches = [
            [self._prompt + text or " " for text in texts[start : start + REQUEST_TEXTS]]
            for start in starts
        ]
        with ThreadPoolExecutor(REQUESTS_IN_FLIGHT) as threads:
            parts = list(threads.map(self._embed, batches))
        if len({part.shape[1] for part in parts}) > 1:
            raise _failed(f"{self._place}: the endpoint gave vectors of several lengths")
        vectors = np.concatenate(parts)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.maximum(norms, np.finfo(np.float32).tiny), np.float32)

    def _embed(self, texts: list[str]) -> NDArray[np.float32]:
        """Return vectors of some texts; if a request is refused, split it in halves or cut its one
        text."""
        try:
            return self._ask(texts, self._client)
        except self._openai.BadRequestError as error:
            reason = without_secrets(" ".join(str(error).split()))[:300]
        if len(texts) > 1:
            middle = len(texts) // 2
            return np.concatenate([self._embed(texts[:middle]), self._embed(texts[middle:])])
        (text,) = texts
        if len(text) <= SHORTEST_CUT:
            raise _failed(
                f"{self._place}: the endpoint refuses the text {text[:80]!r} ({reason}); leave "
                "that row out, or correct embedding.model"
            )
        return self._embed([text[: len(text) * 3 // 4]])

    def _ask(self, texts: list[str], client: Any) -> NDArray[np.float32]:
        """Return vectors by one request.

        Raises:
            BadRequestError: The endpoint refuses these texts (an exception of the client).
        """
        openai = self._openai
        more = {} if self._dimensions is None else {"dimensions": self._dimensions}
        try:
            reply = client.embeddings.create(input=texts, model=self._model, **more)
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise ConfigError(
                f"{self._place}: the endpoint refuses the key of {KEY} "
                f"({without_secrets(str(error))[:200]}); set the right one"
            ) from None
        except openai.NotFoundError as error:
            raise ConfigError(
                f"{self._place}: not found ({without_secrets(str(error))[:200]}); correct "
                "embedding.model or embedding.endpoint"
            ) from None
        except openai.APIStatusError as error:
            # Some servers have another status for a request that is too long.
            if error.status_code in (400, 413, 422):
                raise openai.BadRequestError(
                    str(error), response=error.response, body=error.body
                ) from None
            raise self._unavailable(error) from None
        except openai.OpenAIError as error:
            raise self._unavailable(error) from None
        return self._vectors(texts, reply)

    def _vectors(self, texts: list[str], reply: Any) -> NDArray[np.float32]:
        ordered = sorted(reply.data or [], key=lambda each: each.index)
        lengths = {len(each.embedding) for each in ordered}
        if len(ordered) != len(texts) or len(lengths) != 1 or lengths == {0}:
            raise _failed(
                f"{self._place}: the endpoint gave {len(ordered):,} vectors of the lengths "
                f"{sorted(lengths)} for {len(texts):,} texts; name an endpoint of OpenAI's "
                "embeddings API"
            )
        (length,) = lengths
        if length < (self._dimensions or 0):
            raise ConfigError(
                f"embedding.dimensions must be at most the {length:,} of {self._place}, got "
                f"{self._dimensions:,}"
            )
        used = getattr(reply.usage, "prompt_tokens", None)
        with self._counting:
            self._n_tokens += used or int(self.count_tokens(texts).sum())
        vectors = np.array([each.embedding for each in ordered], np.float32)
        return vectors[:, : self._dimensions]

    def _unavailable(self, error: Exception) -> StageError:
        reason = without_secrets(f"{type(error).__name__}: {error}")[:300]
        return _failed(f"{self._place}: the endpoint does not answer ({reason})")

    @property
    def _place(self) -> str:
        return f"embedding.model {self._model!r} at {without_secrets(self.url)}"


def _failed(message: str) -> StageError:
    return StageError(f"{message}; run again, it resumes", stage="embed")
