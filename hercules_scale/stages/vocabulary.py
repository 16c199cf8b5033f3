"""Words for clusters of images, from a vocabulary in the images' own space.

A model such as CLIP embeds texts and images into one space. All images lie apart from all texts
there, so a word is compared with the difference of a cluster from the mean of all images.

Source: Radford et al., "Learning transferable visual models from natural language supervision"
(2021); Liang et al., "Mind the gap" (2022).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import ray

from hercules_scale.clustering.nearest_centroids import Float32, to_unit
from hercules_scale.config.resolved import EncoderConfig
from hercules_scale.config.resources import StorageConfig
from hercules_scale.errors import InputError
from hercules_scale.runtime.context import RunContext
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import column_vectors

MOST_WORDS = 50_000


@dataclass(frozen=True)
class Vocabulary:
    """Words and their vectors, of unit length, shape (m, d)."""

    words: list[str]
    vectors: Float32

    def of_level(self, clusters: pa.Table, n_words: int) -> list[list[str]]:
        """Return the words that best distinguish each cluster of a level, best first."""
        centroids = column_vectors(clusters["centroid"]).astype(np.float64)
        mean = np.average(centroids, axis=0, weights=clusters["n_items"].to_numpy())
        apart = centroids - mean if len(centroids) > 1 else centroids
        scores = to_unit(apart.astype(np.float32)) @ self.vectors.T
        best = np.argsort(-scores, axis=1, kind="stable")[:, :n_words]
        return [[self.words[place] for place in own] for own in best.tolist()]


def read_vocabulary(path: str, storage: StorageConfig) -> list[str]:
    """Return the distinct words of a text file with one word per line.

    Raises:
        InputError: There is no such file, or it holds no words or too many.
    """
    folder, _, name = path.rpartition("/")
    try:
        text = Store(folder or ".", storage).read_bytes(name).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"summaries.vocabulary {path}: cannot be read ({error}); give a text file of UTF-8"
        ) from None
    words = list(dict.fromkeys(word for line in text.splitlines() if (word := line.strip())))
    if not 2 <= len(words) <= MOST_WORDS:
        raise InputError(
            f"summaries.vocabulary {path}: must hold 2 to {MOST_WORDS:,} words, one a line, got "
            f"{len(words):,}"
        )
    return words


def load_vocabulary(context: RunContext) -> Vocabulary | None:
    """Return the vocabulary that a configuration names, embedded in another process, or None."""
    path = context.config.summaries.vocabulary
    if path is None:
        return None
    words = read_vocabulary(path, context.config.storage)
    vectors = ray.get(ray.remote(num_cpus=0)(_embed).remote(context.config.image_embedding, words))
    return Vocabulary(words, np.asarray(vectors))


def _embed(config: EncoderConfig, words: list[str]) -> Float32:
    # torch takes seconds to load.
    from hercules_scale.embedding.image import SharedSpaceEncoder

    return SharedSpaceEncoder(config.model, config.precision).encode_texts(words)
