"""Sources of titles, in words and as marks beside titles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hercules_scale.storage.schemas import PARTS, WITHHELD

_NAMES = {
    "keyphrases": "from key phrases",
    PARTS: "from the titles of parts",
    "person": "by people",
    WITHHELD: "withheld",
    None: "waiting",
}


def chat_model(summaries: Mapping[str, Any]) -> str | None:
    """Return the language model in a section ``summaries``; None with key phrases alone."""
    return None if summaries.get("engine") == "keyphrases" else summaries.get("model")


def describe_sources(
    sources: Iterable[str | None], statuses: Iterable[str | None], model: str | None
) -> str:
    """Return one phrase such as "27 of 125 by smollm2-135m (20 with their description), 98 from key
    phrases".

    Args:
        sources: ``summary_source`` of each cluster.
        statuses: ``summary_status`` of each cluster.
        model: Name of the language model; None if the run has none.
    """
    # pandas has NaN in place of None.
    counts = Counter(source if isinstance(source, str) else None for source in sources)
    n_clusters, by_model = counts.total(), counts.pop("model", 0)
    parts = []
    if model is not None or by_model:
        ok = sum(status == "ok" for status in statuses) - counts["person"]
        whole = "" if ok >= by_model else f" ({ok:,} with their description)"
        parts.append(f"{by_model:,} of {n_clusters:,} by {model or 'a language model'}{whole}")
    parts += [f"{n:,} {_NAMES.get(source, source)}" for source, n in counts.most_common() if n]
    return ", ".join(parts)


def title_marks(sources: Sequence[str | None], statuses: Sequence[str | None]) -> list[str]:
    """Return a mark for each title that is not the model's; an empty text for others.

    Titles from key phrases are marked only if some other title is the model's.
    """
    some_by_model = "model" in sources
    marks = []
    for source, status in zip(sources, statuses, strict=True):
        if source == WITHHELD:
            marks.append("withheld")
        elif source == "keyphrases" and some_by_model:
            marks.append("key phrases")
        elif source == PARTS:
            marks.append("titles of parts")
        else:
            marks.append(status if status in ("waiting", "failed") else "")
    return marks
