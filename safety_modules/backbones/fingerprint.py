"""Comparing what was recorded about a base with a live one: every difference as a sentence."""

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

from safety_modules.io.strict import quote

MOST_ALIKE = 20
"""Problems of one kind that are listed."""
VOCABULARY = "vocab_size"
"""Recorded, never compared: transformers' conversions of one checkpoint pad it with rows that no adapter touches."""
VISION = "vision"
"""Tower, projector and embeddings: what the digest is of."""
LANGUAGE_MODEL = "language_model"
"""Compared where both sides know it and something acts on the language model; the verdict does not come from it."""

Fingerprint = Mapping[str, Any] | Callable[[int], Mapping[str, Any]]
"""A live base's, or a function that gives it by the version of its digest."""


def fingerprint_problems(made_for: Mapping[str, Any], live: Fingerprint, depends_on: Collection[str]) -> list[str]:
    """Differences between a recorded fingerprint and a live base's; what counts are the weights of `depends_on`
    (`VISION`, `LANGUAGE_MODEL` or both).
    """
    if not isinstance(live, Mapping):
        live = live(2 if "digest_version" in made_for else 1)
    ignored = {VOCABULARY}
    if VISION not in depends_on:
        ignored |= {"digest", "digest_version"}
    if LANGUAGE_MODEL not in depends_on or made_for.get(LANGUAGE_MODEL) is None or live.get(LANGUAGE_MODEL) is None:
        ignored.add(LANGUAGE_MODEL)  # quantised, offloaded, spread over processes, or not loaded: nothing to compare
    made_for, live = ({key: values[key] for key in values if key not in ignored} for values in (made_for, live))
    return differences("other base", made_for, live)


def differences(what: str, made_for: Mapping[str, Any], live: Mapping[str, Any]) -> list[str]:
    """A sentence for every key whose value is another one."""
    live = json.loads(json.dumps(live))
    found = []
    for key in sorted({*made_for, *live}):
        found += difference(what, key, made_for.get(key), live.get(key))
    return shortened(found, what)


def difference(what: str, key: str, made_for: Any, live: Any) -> list[str]:
    """A sentence where one value is not the other."""
    if made_for == live:
        return []
    return [f"{what}: {key[:80]}: the adapter was made for {quote(made_for)}, this model has {quote(live)}."]


def shortened(found: list[str], where: str) -> list[str]:
    """The first `MOST_ALIKE` of them, and how many more there are."""
    more = len(found) - MOST_ALIKE
    return found if more <= 0 else [*found[:MOST_ALIKE], f"{where}: and {more} more problems."]
