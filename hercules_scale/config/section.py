"""A section of the configuration, and the rules that several share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from hercules_scale.sanitize import holds_secret

# The engine of the user's own functions, and the beginning of their names as models.
CALLABLE = "callable"


def names_function(model: str | None) -> bool:
    """Return whether a model is a function of Python, as ``Hercules(embed=...)`` takes it."""
    return model is not None and model.partition(":")[0] == CALLABLE


class Section(BaseModel):
    """A section of the configuration: frozen, strict, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def key(*, tables: bool = True, browser: bool = False, **rule: Any) -> Any:
    """Return a key of a section: pydantic's ``Field``, and who may set it, and when.

    Args:
        tables: Whether the tables depend on it. Other keys may change when a run resumes.
        browser: Whether a browser may set it: it names no place, no code, and no server that would
            get the keys of the person who started the explorer.
        rule: Arguments of ``Field``.
    """
    return Field(json_schema_extra={"tables": tables, "browser": browser}, **rule)


def without_secret(url: str | None, remedy: str) -> str | None:
    """Return URL of an endpoint, without a password or key in it.

    Raises:
        ValueError: It holds one, or is no HTTP URL.
    """
    if url is not None:
        if not url.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://")
        if "@" in url.split("/")[2] or holds_secret(url):
            raise ValueError(f"must hold no password or key; {remedy}")
    return url


def _is_endpoint(url: str) -> str:
    return without_secret(url, "give the key in OPENAI_API_KEY") or url


EndpointUrl = Annotated[str, AfterValidator(_is_endpoint)]
"""Base URL of an endpoint, which holds no key."""


def without_password(paths: str | list[str]) -> str | list[str]:
    """Return paths, none of which brings the key to itself, since they are written to the
    output."""
    if any(holds_secret(path) for path in ([paths] if isinstance(paths, str) else paths)):
        raise ValueError(
            "must hold no password, key or signature; give those in the environment, such as "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    return paths
