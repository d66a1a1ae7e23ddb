"""JSON and YAML from strangers: no key twice, compared exactly, and quoted so that they can be printed."""

import json
import math
import reprlib
from collections.abc import Hashable
from typing import Any

import yaml

MOST_LEVELS = 32
MOST_CHARACTERS = 600  # of one problem

_QUOTE = reprlib.Repr()
_QUOTE.maxlevel, _QUOTE.maxstring, _QUOTE.maxother = 3, 160, 80


def parse_json(raw: bytes, name: str, problems: list[str]) -> dict[str, Any] | None:
    """A JSON object without repeated keys, NaN, infinity or bottomless nesting, or None and a problem."""
    try:
        value = json.loads(
            raw.decode("utf-8"), object_pairs_hook=unique_keys, parse_constant=_no_constant, parse_float=_finite
        )
        _check_levels(value)
    except (ValueError, RecursionError) as error:
        problems.append(f"{name} is not JSON: {error}.")
        return None
    if not isinstance(value, dict):
        problems.append(f"{name} is not a JSON object: got {quote(value)}.")
        return None
    return value


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For json.loads, as `object_pairs_hook`: a repeated key is an error too."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key appears twice")
    return value


def load_yaml(text: str) -> Any:
    """YAML in which no key is repeated. Raises yaml.YAMLError."""
    return yaml.load(text, _UniqueKeys)  # noqa: S506 (a SafeLoader)


class _UniqueKeys(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if isinstance(key, Hashable) and keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} appears twice", node.start_mark)
        return super().construct_mapping(node, deep)


def same(first: Any, second: Any) -> bool:
    """Equal as JSON: in Python 1 == True == 1.0, in a file they are three things."""
    if type(first) is not type(second):
        return False
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


def quote(value: object) -> str:
    """A stranger's value for an error message: short, however large or deep it is."""
    return _QUOTE.repr(value)


def without_controls(text: str) -> str:
    """The text without control characters, which could rewrite what a terminal shows, and not too long."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:MOST_CHARACTERS])
    return shown if len(text) <= MOST_CHARACTERS else shown + "..."


def _check_levels(value: Any) -> None:
    level = [value]
    for _ in range(MOST_LEVELS):
        level = [
            child
            for item in level
            for child in (item.values() if isinstance(item, dict) else item if isinstance(item, list) else ())
        ]
        if not level:
            return
    raise ValueError(f"nested deeper than {MOST_LEVELS} levels")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is not a finite number")
    return value
