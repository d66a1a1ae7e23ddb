"""Numbers that cards print, against those measured again."""

import json
from pathlib import Path
from typing import Any


def at(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def assert_agrees(card: Path, measured: dict[str, Any], path: tuple[str, ...]) -> None:
    """The card's interval and the small sample's overlap."""
    printed = at(json.loads(card.read_text(encoding="utf-8"))["intervals"], path)
    again = at(measured["intervals"], path)
    assert again["low"] <= printed["high"] and printed["low"] <= again["high"], (path, printed, again)
