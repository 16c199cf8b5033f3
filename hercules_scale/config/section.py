"""Base class of the configuration's sections, and rules that several sections share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from hercules_scale.endpoint import names_host
from hercules_scale.sanitize import holds_secret

# Engine of the user's functions, and prefix of their names as models.
CALLABLE = "callable"


def names_function(model: str | None) -> bool:
    """Return whether a model is a Python function, as in ``Hercules(embed=...)``."""
    return model is not None and model.partition(":")[0] == CALLABLE


class Section(BaseModel):
    """A section of the configuration: frozen, with strict types and no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def key(*, tables: bool = True, browser: bool = False, **rule: Any) -> Any:
    """Return a key of a section: pydantic's ``Field`` with two properties of ours.

    Args:
        tables: Whether the tables depend on the key. Other keys may change when a run resumes.
        browser: Whether a browser may set the key in the explorer. Keys that name places, code, or
            servers to which the explorer would send credentials must not be set there.
        rule: Arguments of ``Field``.
    """
    return Field(json_schema_extra={"tables": tables, "browser": browser}, **rule)


def without_secret(url: str | None, remedy: str) -> str | None:
    """Return an endpoint's URL if it holds no password or key.

    Args:
        url: The URL.
        remedy: End of the message about a password or key.

    Raises:
        ValueError: The URL holds one, or is not an HTTP URL.
    """
    if url is not None:
        if not url.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://")
        if "@" in url.split("/")[2] or holds_secret(url):
            raise ValueError(f"must hold no password or key; {remedy}")
        if not names_host(url):
            raise ValueError("must name a host in ASCII, and its port, such as http://host:8000/v1")
    return url


def _is_endpoint(url: str) -> str:
    return without_secret(url, "give the key in OPENAI_API_KEY") or url


EndpointUrl = Annotated[str, AfterValidator(_is_endpoint)]
"""Base URL of an endpoint, without a key in it."""


def without_password(paths: str | list[str]) -> str | list[str]:
    """Return paths if none holds a password, key or signature, since they are written to the
    output.

    Raises:
        ValueError: A path holds one.
    """
    if any(holds_secret(path) for path in ([paths] if isinstance(paths, str) else paths)):
        raise ValueError(
            "must hold no password, key or signature; give those in the environment, such as "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    return paths
