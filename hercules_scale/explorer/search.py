"""Search over clusters and items, by words and by meaning.

Items are searched in the order of the tree for as long as a request may take; the answer says how
far it came, and the next request goes on from there. So the first hits come at once however large
the run is.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hercules_scale.errors import InputError
from hercules_scale.explorer.opened import OpenRun

MAX_WORDS, MAX_CHARACTERS = 20, 500
MAX_HITS = 50
SECONDS = 0.6
ITEM_COLUMNS = ["row", "item_id", "description", "level_1"]


def words_of(query: str) -> list[str]:
    """Words that must all be there.

    Raises:
        InputError: There are none or too many.
    """
    words = query.lower().split()
    if not words or len(words) > MAX_WORDS or len(query) > MAX_CHARACTERS:
        raise InputError(
            f"a search must have 1 to {MAX_WORDS} words and at most {MAX_CHARACTERS} characters"
        )
    return words


def find_clusters(run: OpenRun, query: str) -> dict[str, Any]:
    """Clusters with all words in title, description, note or key phrases, larger ones first."""
    words = words_of(query)
    table = run.clusters
    phrases = pc.binary_join(table["keyphrases"].combine_chunks(), " ")
    titles = [title for level in range(1, run.n_levels + 1) for title in run.titles(level)]
    notes = [
        (edit.note or "") if (edit := run.edits.get(key)) else ""
        for key in zip(table["level"].to_pylist(), table["cluster_id"].to_pylist(), strict=True)
    ]
    parts = [pa.array(titles), table["description"], phrases, pa.array(notes)]
    joined = pc.binary_join_element_wise(*(pc.fill_null(part, "") for part in parts), " ")
    found = _all_words([joined], words)
    sizes = table["n_items"].to_numpy()
    hits = np.flatnonzero(found.to_numpy(zero_copy_only=False))
    hits = hits[np.argsort(-sizes[hits], kind="stable")]
    rows = table.select(["level", "cluster_id", "n_items", "description"]).take(hits[:MAX_HITS])
    shown = [
        row | {"title": titles[place]}
        for row, place in zip(rows.to_pylist(), hits.tolist(), strict=False)
    ]
    return {"n_hits": len(hits), "hits": shown}


def find_items(run: OpenRun, query: str, start: int = 0) -> dict[str, Any]:
    """Items with all words in their id or the beginning of their text.

    Args:
        run: Where.
        query: Words.
        start: How far an earlier request came.

    Returns:
        Hits, how far the search came, and of how many.
    """
    words = words_of(query)
    if start < 0:
        raise InputError("a search begins at 0 or later")
    until = time.monotonic() + SECONDS
    hits: list[dict[str, Any]] = []
    reached = n_items = run.n_items
    for first, group in run.items.groups(start, n_items, ITEM_COLUMNS):
        # The row group that an earlier request ended in begins before it.
        rows = group.slice(max(start - first, 0))
        texts = [pc.fill_null(rows["item_id"], ""), pc.fill_null(rows["description"], "")]
        places = np.flatnonzero(_all_words(texts, words).to_numpy(zero_copy_only=False))
        room = MAX_HITS - len(hits)
        hits += rows.take(places[:room]).to_pylist()
        if len(places) > room:
            reached = max(start, first) + int(places[room])
            break
        if time.monotonic() > until:
            reached = first + group.num_rows
            break
    return {"hits": hits, "searched": min(reached, n_items), "n_items": n_items}


def _all_words(texts: list[Any], words: list[str]) -> Any:
    found = None
    for word in words:
        here = None
        for text in texts:
            part = pc.match_substring(text, word, ignore_case=True)
            here = part if here is None else pc.or_(here, part)
        found = here if found is None else pc.and_(found, here)
    assert found is not None
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found


class Meaning:
    """The embedding model of a run, loaded when somebody first searches by meaning."""

    def __init__(self, run: OpenRun) -> None:
        self._run = run
        self._encoder: Any = None
        self._lock = threading.Lock()

    def find(self, query: str) -> dict[str, Any]:
        """Clusters whose titles and descriptions mean what is asked, nearest first.

        Raises:
            InputError: The run's descriptions were not embedded, or its model is not here.
        """
        words_of(query)
        run = self._run
        vector = self._encode(query)
        hits: list[dict[str, Any]] = []
        for level in range(1, run.n_levels + 1):
            vectors = run.vectors(level, "description_embedding")
            if vectors is None or vectors.shape[1] != len(vector) or not vectors.any():
                raise InputError("the descriptions of this run were not embedded by such a model")
            lengths = np.linalg.norm(vectors, axis=1)
            cosines = vectors @ vector / np.maximum(lengths, 1e-12)
            titles = run.titles(level)
            table = run.level(level)
            hits += [
                {
                    "level": level,
                    "cluster_id": cluster_id,
                    "title": titles[cluster_id],
                    "description": table["description"][cluster_id].as_py(),
                    "n_items": table["n_items"][cluster_id].as_py(),
                    "cosine": round(float(cosines[cluster_id]), 3),
                }
                for cluster_id in np.argsort(-cosines, kind="stable")[:MAX_HITS].tolist()
            ]
        hits.sort(key=lambda hit: -hit["cosine"])
        return {"n_hits": len(hits), "hits": hits[:MAX_HITS]}

    def _encode(self, query: str) -> NDArray[np.float32]:
        from hercules_scale.config import EmbeddingConfig
        from hercules_scale.embedding.sentence_transformer import SentenceTransformerEncoder
        from hercules_scale.models import DEFAULT_TEXT_MODEL

        with self._lock:
            if self._encoder is None:
                config = self._run.finished.config("embedding")
                modality = self._run.finished.config("input").get("modality")
                key = "model" if modality in (None, "text") else "text_model"
                model = config.get(key) or DEFAULT_TEXT_MODEL
                if "imported" in self._run.finished.record:
                    raise InputError("a model of another package embedded this run")
                precision = EmbeddingConfig(precision=config.get("precision", "auto")).precision
                self._encoder = SentenceTransformerEncoder(model, precision)
            found: NDArray[np.float32] = self._encoder.encode([query])[0]
            return found
