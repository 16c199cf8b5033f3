"""Checks of the servers, functions and models that a run names, since it may not be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hercules_scale.config.section import names_function
from hercules_scale.errors import InputError
from hercules_scale.models.aliases import is_alias


def check_trusted(uri: str, key: str, named: str | None, given: str | None, option: str) -> None:
    """Check that the caller names the same server, function or model as the run.

    Args:
        uri: Output of the run.
        key: Key of the configuration, such as ``privacy.redact``.
        named: Value in the run; None needs no check.
        given: Value of the caller.
        option: Option by which the caller gives the value.

    Raises:
        InputError: The caller gives no value, or another one.
    """
    if named is not None and given != named:
        raise InputError(
            f"{uri}: the run names {key} {named!r}, and this call "
            f"{'does not' if given is None else f'names {given!r}'}; a run may be somebody else's, "
            f"so add {option}{named} if you trust it"
        )


def check_models(
    uri: str, named: Mapping[str, str | None], given: Sequence[str], option: str = "--model "
) -> None:
    """Check that the caller names the models of a run that would be loaded.

    A model's files can hold code, and a hub sends them over the network. Aliases of installed
    packages and functions of the caller need no check.

    Args:
        uri: Output of the run.
        named: Models of the run by key of the configuration, such as ``embedding.model``.
        given: Models that the caller names.
        option: Option by which the caller names a model.

    Raises:
        InputError: The run names a model that the caller does not name.
    """
    for key, model in named.items():
        if model is not None and not is_alias(model) and not names_function(model):
            own = model if model in given else next(iter(given), None)
            check_trusted(uri, key, model, own, option)
