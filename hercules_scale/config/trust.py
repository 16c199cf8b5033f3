"""Checks of what a run would have us ask or execute; somebody else may have made it."""

from __future__ import annotations

from hercules_scale.errors import InputError


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
