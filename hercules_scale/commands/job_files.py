"""The working directory of a job: this package, and local files and modules that it needs."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sysconfig
import uuid
from pathlib import Path

import yaml

import hercules_scale
from hercules_scale.commands.job_spec import CONFIG_FILE, JobSpec
from hercules_scale.storage.file_systems import split_uri

VOCABULARY_FILE = "vocabulary.txt"


def pack(folder: Path, spec: JobSpec, environment: dict[str, str]) -> str:
    """Make the working directory of a job.

    Args:
        folder: Folder to fill.
        spec: Specification of the job.
        environment: Environment variables for the job.

    Returns:
        Name of the file with the variables.
    """
    own = Path(hercules_scale.__file__).parent
    shutil.copytree(own, folder / own.name, ignore=shutil.ignore_patterns("__pycache__"))
    if spec.redact is not None:
        _pack_module(folder, spec.redact.partition(":")[0].partition(".")[0])
    if spec.config is not None:
        values = spec.config.model_dump(exclude_unset=True)
        words = spec.config.summaries.vocabulary
        if words is not None and split_uri(words)[0] == "file":
            shutil.copy(split_uri(words)[1], folder / VOCABULARY_FILE)
            values["summaries"]["vocabulary"] = VOCABULARY_FILE
        (folder / CONFIG_FILE).write_text(yaml.safe_dump(values), encoding="utf-8")
    # The name is unique to the job: Ray shares equal directories, and another job may have deleted
    # the file in a shared one.
    secrets = folder / f"environment-{uuid.uuid4().hex}.json"
    secrets.touch(mode=0o600)
    secrets.write_text(json.dumps(environment), encoding="utf-8")
    return secrets.name


def _pack_module(folder: Path, name: str) -> None:
    """Copy a module of the user, unless it is installed: then the nodes must have it."""
    spec = importlib.util.find_spec(name) if name else None
    origin = Path(spec.origin) if spec is not None and spec.origin else None
    installed = {sysconfig.get_path(place) for place in ("stdlib", "platlib", "purelib")}
    if origin is None or not origin.exists() or installed & set(map(str, origin.parents)):
        return
    if origin.name == "__init__.py":
        shutil.copytree(origin.parent, folder / name, dirs_exist_ok=True)
    else:
        shutil.copy(origin, folder / origin.name)
