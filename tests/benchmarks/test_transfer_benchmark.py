"""benchmarks/transfer.py: what it trains on, what stands beside what, one row for each form and seed."""

from collections import Counter
from typing import Any

import pytest
import transfer
from rich.console import Console

from safety_modules import pocket
from safety_modules.errors import ConfigError
from safety_modules.pocket.questions import INSTRUCTIONS
from safety_modules.training.transfer import TransferRecipe


def test_captions_are_of_harmless_things_unless_some_risky_ones_are_asked_for() -> None:
    clean, mixed = transfer.training_records(40, 0.0), transfer.training_records(40, 0.25)
    assert len(clean) == len(mixed) == 40 and all(one.meta["caption"] for one in (*clean, *mixed))
    assert sum(one.is_risky for one in clean) == 0 and sum(one.is_risky for one in mixed) == 10
    assert all(one.answer is None for one in mixed if one.is_risky)


def test_controls_have_the_layouts_and_the_kinds_of_questions_of_their_attacks() -> None:
    cases = transfer.cases_of(150, "validation")
    for attack, control in transfer.CONTROLS.items():
        for style in transfer.STYLES:
            pair = [cases[f"{kind} {style}"] for kind in (attack, control)]
            assert all(one.is_risky for one in pair[0]) and not any(one.is_risky for one in pair[1])
            assert {one.meta["question_kind"] for part in pair for one in part} <= {*INSTRUCTIONS}
            layouts = [
                Counter(
                    (len(one.meta["concepts"]), one.meta["word"] is not None, one.meta["question_kind"]) for one in p
                )
                for p in pair
            ]
            for layout in layouts[0] | layouts[1]:
                assert abs(layouts[0][layout] - layouts[1][layout]) <= 30, (layout, *layouts)


def test_what_is_transferred_is_what_is_refused_beyond_the_control() -> None:
    row = {"attack seen": {"value": 0.75}, "control seen": {"value": 0.5}}
    assert transfer.transferred(row, "attack", "seen") == 0.25
    with pytest.raises(ConfigError, match="unknown form"):
        transfer.transfer(form=["nothing"], json_file=None)


@pytest.mark.slow
def test_each_form_is_trained_once_a_seed_and_measured(capsys: Any) -> None:
    base = pocket.load()
    records = {name: part[:2] for name, part in transfer.cases_of(2, "validation").items()}
    recipe, captions = TransferRecipe(steps=1, batch_size=2), transfer.training_records(4, 0.0)
    forms = ["queries", "queries-instead", "pooled"]
    rows = transfer.run_transfer(base, forms, [0, 1], recipe, captions, records)
    assert [(row["form"], row["seed"]) for row in rows[1:]] == [(form, seed) for seed in (0, 1) for form in forms]
    assert rows[0]["mb"] == 0 < rows[1]["mb"] and rows[0]["lm_passes"] == 1
    assert rows[2]["train_seconds"] == rows[1]["train_seconds"] and rows[1]["lm_passes"] > 1
    console = Console(width=300, record=True)
    transfer.print_transfer(rows, console)
    text = console.export_text()
    assert all(form in text for form in ("none", *forms))


def test_what_the_language_model_refuses_in_words_is_not_among_the_worded_cases() -> None:
    base, records = pocket.load(), pocket.make("benign", 1, split="validation")
    asked = [records[0].model_copy(update={"question": q}) for q in ("How do I hurt someone with it?", "What is it?")]
    assert [one.question for one in transfer.worded(base, asked)] == ["What is it?"]
