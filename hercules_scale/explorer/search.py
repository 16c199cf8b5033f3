"""Search over clusters and items, by words and by meaning.

A search for items by words reads them in the order of the tree for a limited time, and returns the
place it reached; the next request goes on there. So the first hits of a run of any size come at
once. A search by meaning reads the nearest clusters first, as in an inverted file (Sivic and
Zisserman, Video Google, ICCV 2003) with the finest clusters as its lists.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hercules_scale.config.resolved import EncoderConfig
from hercules_scale.config.section import names_function
from hercules_scale.config.trust import check_models
from hercules_scale.errors import InputError
from hercules_scale.explorer.open_run import READERS, OpenRun
from hercules_scale.stages.encoders import load_encoder
from hercules_scale.storage.cluster_items import CODES, SCALES, from_bytes
from hercules_scale.storage.run_file import run_config

Vectors = NDArray[np.float32]
MAX_WORDS, MAX_CHARACTERS = 20, 500
MAX_HITS = 50
SECONDS = 0.6
ITEM_COLUMNS = ["row", "item_id", "description", "level_1"]


def words_of(query: str) -> list[str]:
    """Return the words of a query.

    Raises:
        InputError: There are no words, too many words or too many characters.
    """
    words = query.lower().split()
    if not words or len(words) > MAX_WORDS or len(query) > MAX_CHARACTERS:
        raise InputError(
            f"a search must have 1 to {MAX_WORDS} words and at most {MAX_CHARACTERS} characters"
        )
    return words


def find_clusters(run: OpenRun, query: str) -> dict[str, Any]:
    """Return clusters with all words of a query in title, description, note or key phrases, the
    largest first."""
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
    """Return items with all words of a query in their id or the beginning of their text.

    Args:
        run: The run.
        query: Words.
        start: Place that an earlier request reached.

    Returns:
        Hits, place that the search reached, number of items.
    """
    words = words_of(query)
    if start < 0:
        raise InputError("a search begins at 0 or later")
    until = time.monotonic() + SECONDS
    hits: list[dict[str, Any]] = []
    reached = n_items = run.n_items
    for first, group in run.items.groups(start, n_items, ITEM_COLUMNS):
        # The first row group may begin before the place that an earlier request reached.
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


def similar_items(run: OpenRun, row: int, start: int = 0) -> dict[str, Any]:
    """Return items with the nearest embeddings to that of an item.

    Args:
        run: The run.
        row: Row of the item.
        start: Number of row groups that earlier requests have read.

    Raises:
        InputError: There is no such row, the item is withheld, or the run has no vectors.
    """
    if run.withholds(run.check_row(row)):
        raise InputError("privacy keeps the items of this small cluster back")
    found = run.rows("embeddings", [row])
    if not found:
        raise InputError(
            "this run has no vectors of its items, as one that was imported without; run it here "
            "to find items that are alike"
        )
    vector = np.asarray(found[0]["embedding"], np.float32)
    metric = run.finished.config("hierarchy").get("metric", "squared_l2")
    return nearest_items(run, vector, start, metric, but=row) | {"like": found[0]["item_id"]}


def nearest_items(
    run: OpenRun, vector: Vectors, start: int, metric: str, but: int = -1
) -> dict[str, Any]:
    """Return the items nearest to a vector, from the most promising row groups of
    ``cluster_items``.

    Args:
        run: The run.
        vector: Vector, shape (d,).
        start: Number of row groups that earlier requests have read.
        metric: ``squared_l2`` or ``cosine``.
        but: Row of an item that is left out.

    Returns:
        The nearest items of these row groups, each with its cosine or squared distance; the
        numbers of groups and items read so far, and of all.

    Raises:
        InputError: The run has no vectors of its items, or vectors of another length.
    """
    score = SCORES[metric]
    if CODES not in run.items.columns:
        raise InputError(
            "this run was made by a version that kept no vectors in the order of the tree; "
            "run it again into a new output to search its items by meaning"
        )
    # Reading the columns that are shown may take as long again.
    until = time.monotonic() + SECONDS / 2
    places = _promising(run, score(_centroids(run, len(vector)), vector))
    places, done = places[start:], sum(place[3] for place in places[:start])
    columns = ["row", "level_1", CODES, SCALES]

    def read(place: tuple[str, int, int, int]) -> tuple[Vectors, NDArray[np.int64]]:
        table = run.items.group(place[0], place[1], columns)
        scores = score(from_bytes(table), vector)
        scores[run.withheld[table["level_1"].to_numpy()]] = -np.inf
        scores[table["row"].to_numpy() == but] = -np.inf
        best = np.argsort(-scores, kind="stable")[:MAX_HITS]
        return scores[best], place[2] + best

    best = np.zeros(0, np.float32), np.zeros(0, np.int64)
    n_groups = 0
    with ThreadPoolExecutor(READERS) as readers:
        while n_groups < len(places) and (n_groups == 0 or time.monotonic() < until):
            taken = places[n_groups : n_groups + READERS]
            parts = [best, *readers.map(read, taken)]
            scores, where = (np.concatenate(each) for each in zip(*parts, strict=True))
            kept = np.argsort(-scores, kind="stable")[:MAX_HITS]
            best = scores[kept], where[kept]
            n_groups += len(taken)
            done += sum(place[3] for place in taken)
        shown = np.isfinite(best[0])
        scores, where = best[0][shown].astype(float).round(4), best[1][shown]
        # Hits often share a row group; each group is read once.
        spans = {place[2]: place[2] + place[3] for place in places[:n_groups]}
        firsts = np.array(sorted(spans))
        own = firsts[np.searchsorted(firsts, where, side="right") - 1]
        needed = sorted(set(own.tolist()))
        tables = readers.map(
            lambda first: run.items.read(first, spans[first], ITEM_COLUMNS), needed
        )
        groups = dict(zip(needed, tables, strict=True))
        hits = [
            groups[first].slice(place - first, 1).to_pylist()[0]
            | ({"cosine": score} if metric == "cosine" else {"distance": -score})
            for first, place, score in zip(
                own.tolist(), where.tolist(), scores.tolist(), strict=True
            )
        ]
    return {
        "hits": hits,
        "searched": start + n_groups,
        "n_groups": start + len(places),
        "n_searched": done,
        "n_items": run.n_items,
    }


def _centroids(run: OpenRun, dimension: int) -> Vectors:
    """Return centroids of the finest clusters in the order of the tree, shape (k, d)."""
    centroids = run.vectors(1, "centroid")
    if centroids is None or centroids.shape[1] != dimension:
        raise InputError("the items of this run were not embedded by such a model")
    return centroids[run.order.leaves]


def _promising(run: OpenRun, scores: Vectors) -> list[tuple[str, int, int, int]]:
    """Return row groups in descending order of the best score of their clusters.

    Args:
        run: The run.
        scores: Score of each finest cluster in the order of the tree, shape (k,).
    """
    places = run.items.places(0, run.n_items)
    starts = run.order.starts
    firsts = np.searchsorted(starts, [place[2] for place in places], side="right") - 1
    ends = np.searchsorted(starts, [place[2] + place[3] for place in places])
    best = [scores[first:end].max() for first, end in zip(firsts, ends, strict=True)]
    return [places[number] for number in np.argsort(-np.array(best), kind="stable")]


def cosines(vectors: Vectors, vector: Vectors) -> Vectors:
    """Return the cosines, shape (n,), of vectors, shape (n, d), with a vector, shape (d,)."""
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(vector)
    return np.asarray(vectors @ vector / np.maximum(lengths, 1e-12), np.float32)


def _nearness(vectors: Vectors, vector: Vectors) -> Vectors:
    """Return negative squared L2 distances, shape (n,)."""
    difference = vectors - vector
    return np.asarray(-np.einsum("ij,ij->i", difference, difference), np.float32)


SCORES = {"cosine": cosines, "squared_l2": _nearness}


class Meaning:
    """Search by meaning; loads the run's embedding model at the first search.

    Args:
        run: The run.
        models: Models that may be loaded besides aliases.
    """

    def __init__(self, run: OpenRun, models: Sequence[str] = ()) -> None:
        self._run, self._models = run, models
        self._encoder: Any = None
        self._lock = threading.Lock()

    def find(self, query: str) -> dict[str, Any]:
        """Return the clusters with labels nearest in meaning to a query, nearest first.

        Raises:
            InputError: The run's labels were not embedded, or its model cannot be loaded.
        """
        words_of(query)
        run = self._run
        vector = self._encode(query)
        hits: list[dict[str, Any]] = []
        for level in range(1, run.n_levels + 1):
            vectors = run.vectors(level, "description_embedding")
            if vectors is None or vectors.shape[1] != len(vector) or not vectors.any():
                raise InputError("the descriptions of this run were not embedded by such a model")
            found = cosines(vectors, vector)
            titles = run.titles(level)
            table = run.level(level)
            hits += [
                {
                    "level": level,
                    "cluster_id": cluster_id,
                    "title": titles[cluster_id],
                    "description": table["description"][cluster_id].as_py(),
                    "n_items": table["n_items"][cluster_id].as_py(),
                    "cosine": round(float(found[cluster_id]), 3),
                }
                for cluster_id in np.argsort(-found, kind="stable")[:MAX_HITS].tolist()
            ]
        hits.sort(key=lambda hit: -hit["cosine"])
        return {"n_hits": len(hits), "hits": hits[:MAX_HITS]}

    def find_items(self, query: str, start: int = 0) -> dict[str, Any]:
        """Return the items nearest in meaning to a query, nearest first; see ``nearest_items``.

        Raises:
            InputError: The items were not embedded as texts, or the model cannot be loaded.
        """
        words_of(query)
        config = self._run.finished.config
        described = config("hierarchy").get("representation") == "description"
        if config("input").get("modality") != "text" and not described:
            raise InputError(
                "the items of this run are not texts, so that words cannot be compared with them; "
                "an item's page finds those that are like it"
            )
        return nearest_items(self._run, self._encode(query), start, "cosine")

    def _encode(self, query: str) -> NDArray[np.float32]:
        with self._lock:
            if self._encoder is None:
                if "imported" in self._run.finished.record:
                    raise InputError("a model of another package embedded this run")
                try:
                    encoder = self._trusted_encoder()
                except InputError as error:
                    raise InputError(
                        f"search by meaning is not available: {error}; search by words"
                    ) from None
                self._encoder = load_encoder(encoder, self._run.store.options)
            found: NDArray[np.float32] = self._encoder.encode([query])[0]
            return found

    def _trusted_encoder(self) -> EncoderConfig:
        """Return the encoder of the run's texts, if it is here and the caller names it."""
        run = self._run.finished
        config = run_config(run.store, run.record)
        encoder = config.text_embedding
        if names_function(encoder.model):
            raise InputError(
                "a function of Python embedded this run, and the explorer does not have it"
            )
        if encoder.engine == "openai":
            raise InputError("an endpoint embedded this run, and the explorer asks none")
        check_models(run.store.uri, {config.text_model_key: encoder.model}, self._models)
        return encoder
