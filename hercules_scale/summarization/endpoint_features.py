"""Features of OpenAI's chat completions API that an endpoint supports.

Compatible endpoints refuse or ignore parts of the API. A request may use all of its features at
first, fewer after each refusal.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Literal

from hercules_scale.summarization.chat import ChatRequest
from hercules_scale.summarization.prompts import Message

ResponseFormat = Literal["json_schema", "json_object", "none"]
_WEAKER: dict[str, ResponseFormat] = {"json_schema": "json_object", "json_object": "none"}
# Patterns of the parts that refusals name, in lower case.
_FORMAT_REFUSED = r"response_format|json_schema|json_object|json mode|structured|grammar"
_SEVERAL_REFUSED = (
    r"""['"`\[]n['"`\]]|\bn\s*(?:=|>|:|must|value|is)|(?:invalid|parameter|for|model:) n\b"""
    r"|completion choices?|one completion|candidates?\b"
)
_LIMIT_REFUSED = r"max_tokens|max_completion_tokens"
_SYSTEM_REFUSED = r"system (?:role|message|prompt)|role[^a-z]{1,4}system"


@dataclass(frozen=True)
class EndpointFeatures:
    """Features that an endpoint supports.

    Attributes:
        response_format: Strongest form of constrained decoding.
        several: Whether one request may ask for several answers.
        limit_key: Name of the limit on an answer's tokens.
        seed: Whether a request may name its seed.
        temperature: Whether a request may name its temperature.
        system: Whether a conversation may begin with a system message.
    """

    response_format: ResponseFormat = "json_schema"
    several: bool = True
    limit_key: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    seed: bool = True
    temperature: bool = True
    system: bool = True

    def payload(self, request: ChatRequest, model: str) -> dict[str, Any]:
        """Return the body of a request."""
        body = request.payload(model)
        if self.response_format == "json_object":
            body["response_format"] = {"type": "json_object"}
        elif self.response_format == "none":
            del body["response_format"]
        if request.n == 1 or not self.several:
            # Some endpoints refuse the parameter with any value.
            del body["n"]
        if not self.system:
            body["messages"] = _without_system(body["messages"])
        body[self.limit_key] = body.pop("max_tokens")
        for name in ("seed", "temperature"):
            if not getattr(self, name):
                del body[name]
        return body

    def names(self, refusal: str) -> bool:
        """Return whether a refusal names a feature that is still used."""
        words = refusal.lower()
        return any(re.search(pattern, words) for pattern, _ in self._changes())

    def simpler(self, refusal: str) -> EndpointFeatures | None:
        """Return the features without the one that a refusal names; if it names none, without the
        next one.

        Args:
            refusal: Text of the endpoint's error.

        Returns:
            Fewer features; None where none is left to drop.
        """
        words = refusal.lower()
        for pattern, change in self._changes():
            if re.search(pattern, words):
                return change
        return next((change for _, change in self._changes()), None)

    def _changes(self) -> list[tuple[str, EndpointFeatures]]:
        """Return sets of fewer features, each with the pattern of refusals that call for it."""
        changes: list[tuple[str, EndpointFeatures]] = []
        if self.several:
            changes.append((_SEVERAL_REFUSED, replace(self, several=False)))
        if self.seed:
            changes.append((r"\bseed\b", replace(self, seed=False)))
        if self.limit_key == "max_tokens":
            changes.append((_LIMIT_REFUSED, replace(self, limit_key="max_completion_tokens")))
        if self.temperature:
            changes.append((r"temperature", replace(self, temperature=False)))
        if self.system:
            changes.append((_SYSTEM_REFUSED, replace(self, system=False)))
        # Last, since a schema improves answers the most.
        if self.response_format != "none":
            weaker = _WEAKER[self.response_format]
            changes.append((_FORMAT_REFUSED, replace(self, response_format=weaker)))
        return changes

    def describe(self) -> str:
        """Return the missing parts of the API as one phrase; empty where none is missing."""
        missing = []
        if self.response_format == "json_object":
            missing.append("JSON schemas (JSON mode is used)")
        elif self.response_format == "none":
            missing.append("JSON schemas and JSON mode (the prompt alone asks for JSON)")
        if not self.several:
            missing.append("several answers a request (each is a request)")
        if self.limit_key != "max_tokens":
            missing.append("max_tokens (max_completion_tokens is used)")
        if not self.seed:
            missing.append("seeds")
        if not self.temperature:
            missing.append("temperatures")
        if not self.system:
            missing.append("system messages (the first question holds the instructions)")
        return ", ".join(missing)


def _without_system(messages: list[Message]) -> list[Message]:
    """Return a conversation with the system message merged into the first question."""
    system, first, *others = messages
    content = first["content"]
    if isinstance(content, str):
        content = f"{system['content']}\n\n{content}"
    else:
        content = [{"type": "text", "text": system["content"]}, *content]
    return [{**first, "content": content}, *others]
