"""The exceptions of hercules_scale, in one tree.

A message names the field or row, the rule, the value and the remedy. Errors about wrong arguments
are ``ValueError`` too, as users of scikit-learn expect.
"""

from __future__ import annotations


class HerculesScaleError(Exception):
    """Base of every error that hercules_scale raises on purpose."""

    exit_code = 1


class ConfigError(HerculesScaleError, ValueError):
    """A configuration key is unknown, or has a wrong type or an invalid value."""

    exit_code = 2


class InputError(HerculesScaleError, ValueError):
    """The input cannot be used: a path, a file, an id or the items themselves."""

    exit_code = 2


class SchemaError(InputError):
    """A column is missing, or has an unsupported type."""


class ManifestMismatchError(HerculesScaleError):
    """An output was made by another configuration or from another input."""

    exit_code = 2


class StorageError(HerculesScaleError):
    """Storage does not answer or is full, or another run holds the output."""


class StageError(HerculesScaleError):
    """A stage of a run failed.

    Args:
        message: The failure and its remedy.
        stage: Name of the stage, such as ``embed``.
        level: Level of the hierarchy, if the failure is at one.
        shard: Shard of the stage, if the failure is in one.
    """

    def __init__(
        self, message: str, *, stage: str, level: int | None = None, shard: int | None = None
    ) -> None:
        where = f"stage {stage}"
        if level is not None:
            where += f", level {level}"
        if shard is not None:
            where += f", shard {shard}"
        super().__init__(f"{where}: {message}")
        self.stage, self.level, self.shard = stage, level, shard


class SummaryError(HerculesScaleError):
    """A language model gave no usable title and description for a cluster."""


ERRORS_BY_NAME = {
    cls.__name__: cls
    for cls in (
        ConfigError,
        InputError,
        SchemaError,
        ManifestMismatchError,
        StorageError,
        SummaryError,
    )
}
"""Errors that a worker reports by name, for the driver to raise the same type."""
