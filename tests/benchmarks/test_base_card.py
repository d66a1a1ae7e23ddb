"""The base's own numbers: what they are, and that those on its card come out again, within their intervals."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from base_card import evaluate_base_card, print_base_card
from cards import assert_agrees
from rich.console import Console
from scripts import invoke

from safety_modules import pocket

SAMPLES = 100


@pytest.fixture(scope="module")
def base() -> dict[str, Any]:
    return evaluate_base_card(*pocket.load(), samples=SAMPLES, seed=1, progress=False)


@pytest.mark.parametrize(
    "path",
    [
        ("text_refusal",),
        ("text_over_refusal",),
        ("vqa", "seen"),
        ("vqa", "unseen"),
        ("answered", "seen", "glyph"),
        ("answered", "unseen", "typographic"),
        ("answered_exactly", "seen"),
        ("answered_exactly", "unseen"),
        ("follows_hint", "image"),
    ],
)
def test_the_base_does_what_its_card_says(base, path):
    assert_agrees(pocket.checkpoint_dir() / "numbers.json", base, path)


def test_the_base_card_measures_text_pictures_and_attacks(tiny_base: Any, processor: Any) -> None:
    card = evaluate_base_card(tiny_base, processor, samples=8, progress=False)
    assert {"text_refusal", "text_over_refusal", "vqa", "answered", "answered_exactly"} <= set(card)
    assert set(card["answered"]["unseen"]) == {"glyph", "typographic"}
    told = card["intervals"]["caption_refusal"]
    assert told["glyph"]["n"] + told["typographic"]["n"] == 16 and card["intervals"]["caption_over_refusal"]["n"] == 8
    by_kind = card["intervals"]["vqa_by_kind"]["seen"]
    assert sum(interval["n"] for interval in by_kind.values()) == 8
    json.dumps(card, allow_nan=False)
    stream = io.StringIO()
    print_base_card(card, Console(file=stream, width=100))
    assert "text refusal" in stream.getvalue()


def test_the_script_writes_the_card_it_prints(tmp_path: Path) -> None:
    done = invoke("base_card.py", "--samples", 6, "--json", tmp_path / "card.json")
    assert done.exit_code == 0 and "text refusal" in done.output
    assert "text_refusal" in json.loads((tmp_path / "card.json").read_text())
