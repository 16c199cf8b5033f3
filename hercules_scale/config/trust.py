"""Checks of what a run would have us ask or execute; somebody else may have made it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hercules_scale.config.section import names_function
from hercules_scale.errors import InputError
from hercules_scale.models.aliases import is_alias


def check_trusted(uri: str, key: str, named: str | None, given: str | None, option: str) -> None:
    """Make sure that the caller, too, names what a run would have us ask or execute.

    Args:
        uri: Output of the run.
        key: Key of the configuration, such as ``privacy.redact``.
        named: Its value in the run.
        given: The caller's value.
        option: Option by which the caller gives it.

    Raises:
        InputError: The run names something, and the caller nothing or something else.
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
    """Make sure that the caller names the models that a run would have us load.

    Files of a model can hold code, and a hub sends them over the network. Aliases name models in
    installed packages, and functions come from the caller.

    Args:
        uri: Output of the run.
        named: The models by the key of the configuration, such as ``embedding.model``.
        given: Models that the caller names.
        option: Option by which the caller names one.

    Raises:
        InputError: The run names a model that the caller does not.
    """
    for key, model in named.items():
        if model is not None and not is_alias(model) and not names_function(model):
            own = model if model in given else next(iter(given), None)
            check_trusted(uri, key, model, own, option)
