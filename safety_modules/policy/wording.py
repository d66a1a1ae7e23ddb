"""Sentences with places, such as "a {level} risk of {type}": checked when a policy is read, filled when it is used."""

import re
from collections.abc import Mapping, Sequence

PLACES = ("type", "level", "reason", "probability")
"""What a hint or refusal may name: the rule's title, the level acted on, the rule's reason, the type's probability."""

_PLACE = re.compile(r"\{([^{}]*)\}")


def check_sentence(text: str, places: Sequence[str] = PLACES) -> str:
    """The text, if every place in it is known. Raises ValueError for others and for braces that make no place."""
    unknown = [name for name in _PLACE.findall(text) if name not in places]
    known = ", ".join(f"{{{name}}}" for name in places)
    if unknown:
        raise ValueError(f"unknown place {{{unknown[0]}}}; a sentence may use {known}")
    check_plain(_PLACE.sub("", text), f"a sentence may use {known}")
    return text


def check_plain(text: str, instead: str = "it stands in sentences, and is none with places itself") -> str:
    """The text, if there are no braces in it. Raises ValueError."""
    if "{" in text or "}" in text:
        raise ValueError(f"stray brace in {text!r}; {instead}")
    return text


def fill(text: str, values: Mapping[str, str]) -> str:
    """The sentence with its places filled."""
    # Own substitution, not str.format: a policy file must not reach into attributes.
    return _PLACE.sub(lambda match: values[match[1]], text).strip()
