"""The prompt for a cluster of a run, as text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hercules_scale.config.resolved import ResolvedConfig
from hercules_scale.config.run import RunConfig
from hercules_scale.config.trust import check_trusted
from hercules_scale.errors import InputError
from hercules_scale.runtime.context import RunContext
from hercules_scale.runtime.progress import Reporter
from hercules_scale.runtime.ray_session import local_or_cluster_ray
from hercules_scale.sanitize import printable_lines
from hercules_scale.stages.cluster import read_clusters
from hercules_scale.stages.summarize import prompt_of
from hercules_scale.storage import layout
from hercules_scale.storage.lock import hold_lock
from hercules_scale.storage.run_file import read_run, run_config
from hercules_scale.storage.store import Store


class _NotThereError(Exception):
    """The run does not hold all parts of a prompt yet."""


class _Looking(Store):
    """An output that is only read."""

    def check_owner(self) -> None:
        """Refuse to write and delete."""
        raise _NotThereError


def show_prompt(config: RunConfig, level: int, cluster_id: int) -> str:
    """Return the prompt for one cluster of a finished or partial run.

    The sections ``input``, ``hierarchy`` and ``privacy`` are the run's own. Parts of the prompt
    that the run does not hold yet are made under its lock, as the run itself would make them.

    Raises:
        InputError: The output holds no clusters yet, or not this one.
        StorageError: Parts are missing while the run is going on.
    """
    store = Store(config.output.path, config.storage)
    if not store.exists(layout.RUN):
        raise InputError(
            f"output.path {store.uri}: holds no run; prompts can be looked at once there are "
            "clusters, with summaries.engine keyphrases without a language model"
        )
    record = read_run(store)
    # The run may have detected modality and columns, and its seed decides the sample of items.
    known = run_config(store, record)
    own = {"privacy": known.privacy, "hierarchy": known.hierarchy}
    named, given = known.privacy.redact, config.privacy.redact
    check_trusted(store.uri, "privacy.redact", named, given, "--set privacy.redact=")
    resolved = ResolvedConfig.of(config.model_copy(update=own), known.input)
    context = RunContext(
        resolved, _Looking(store.uri, store.options), record["fingerprint"], Reporter()
    )
    found = read_clusters(context)
    if found is None:
        raise InputError(f"{store.uri}: the run has no clusters yet; run it on")
    clusters, shards = found
    if not 1 <= level <= clusters.n_levels:
        raise InputError(
            f"--show-prompt: level must be from 1 (finest) to {clusters.n_levels}, got {level}"
        )
    sizes = clusters.level(level)["n_items"].to_pylist()
    if cluster_id >= len(sizes):
        raise InputError(
            f"--show-prompt: level {level} has clusters 0 to {len(sizes) - 1}, got {cluster_id}"
        )
    with local_or_cluster_ray(resolved):
        try:
            messages, n_tokens = prompt_of(context, shards, clusters, level, cluster_id)
        except _NotThereError:
            with hold_lock(store, context.reporter.alarm) as lock:
                context = replace(context, store=lock.store)
                messages, n_tokens = prompt_of(context, shards, clusters, level, cluster_id)
    lines = [f"[{message['role']}]\n{_as_text(message['content'])}" for message in messages]
    lines.append(f"{n_tokens:,} tokens of at most {config.summaries.max_prompt_tokens:,}")
    return "\n\n".join(lines)


def _as_text(content: str | list[dict[str, Any]]) -> str:
    """Return the content of a message as text, with a mark for each image."""
    if isinstance(content, str):
        return printable_lines(content)
    return "\n".join(
        printable_lines(part["text"]) if part["type"] == "text" else "[image]" for part in content
    )
