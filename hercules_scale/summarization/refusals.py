"""Recognition of a model's refusal instead of an answer."""

from __future__ import annotations

import re

# Verbs of refusals. Without one, text such as "I can't log in" may come from an item.
_TASK = (
    r"(?:help|assist|provide|generat|creat|produce|fulfil|compl|continue|answer|summari|describ"
    r"|write|give|offer|discuss|engage|support|process|title|label|do (?:that|this|it|so)\b)\w*"
)
_CANNOT = (
    r"i(?:['’]m| am)? ?(?:can ?not|can['’]t|could not|couldn['’]t|won['’]t|will not"
    r"|(?:won['’]t|will not) be able to|unable to"
    r"|not able to|must decline|have to decline|(?:do not|don['’]t) feel comfortable"
    r"|not comfortable|(?:do not|don['’]t) have enough information)"
)
_APOLOGY = (
    r"(?:i(?:['’]m| am) |my |our )?(?:(?:so|very|truly|really|deeply|terribly|sincere) )*"
    r"(?:sorry|apologies|afraid)\b[\s,.;:—-]*(?:but\b[\s,]*)?"
)
_MODEL = (
    r"(?:(?:i(?:['’]m| am) (?:just )?|as )an? )(?:\w+ )?"
    r"(?:ai|artificial intelligence|(?:large )?language model)"
    r"(?: (?:language )?(?:model|assistant))?"
)
_REFUSALS = (
    rf"(?:{_APOLOGY}|unfortunately\W+)?{_CANNOT}\W+(?:\w+\W+){{0,2}}{_TASK}",
    # Refusals that end there, or that only name the content.
    rf"(?:{_APOLOGY}|unfortunately\W+)?i (?:must|have to) decline\b",
    rf"{_APOLOGY}(?:i (?:can ?not|can['’]t)\W*$|(?:this|the|your|that) (?:content|request|text)\b)",
    # An apology in the first person.
    r"i(?:['’]m| am) (?:(?:so|very|truly|really|deeply) )*sorry\W+but\b",
    rf"{_MODEL}(?:,|\W+i\b|\W*$|\W+(?:and|so) i\b)",
    r"(?:unable to|cannot|can['’]t) (?:provide|generate|create|comply|assist|fulfil)\w*"
    r" (?:a|an|any|the|this|with)\b",
    r"(?:this|the|your) (?:request|content|text|prompt|material)s? (?:\w+ )?violates?\b",
    r"no (?:title|description|summary) (?:can|could) be\b",
    # The first words of refusals in other languages.
    r"(?:es )?tut mir leid|lo siento|lo lamento|je suis désolée?|désolée?\b|mi dispiace|desculpe",
    r"抱歉|对不起|對不起|申し訳",
)
BEGINNING = 300
_REFUSAL = re.compile(rf"\W*(?:{'|'.join(_REFUSALS)})", re.IGNORECASE)


def refuses(text: str) -> bool:
    """Return whether a text begins like a model's refusal."""
    return _REFUSAL.match(text[:BEGINNING]) is not None
