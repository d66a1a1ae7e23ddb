"""benchmarks/layers.py: a probe that changes only what the language model sees, one row for each system and layer."""

from typing import Any

import layers
import pytest
import torch
from guard_cases import NEW, ROWS, answers
from rich.console import Console

from safety_modules import pocket
from safety_modules.attach.attachment import SafetyAttachment
from safety_modules.backbones import find_backbone
from safety_modules.config import SafetyConfig
from safety_modules.defences.guard import Guard, GuardSettings
from safety_modules.evaluation.systems import make_system
from safety_modules.policy import Policy


def asked(model: Any, processor: Any, *defences: Any, inputs: Any) -> Any:
    attachment = SafetyAttachment(defences[0].backbone, defences, Policy.default())
    attachment.install()
    try:
        return attachment.generate(**inputs, **NEW)
    finally:
        attachment.detach()


def test_at_the_bases_own_layer_it_changes_nothing_and_at_another_it_is_what_transformers_gives(
    model: Any, processor: Any, tiny_base: Any, ask: Any
) -> None:
    inputs, backbone = ask(*[row for row in ROWS if row[1]]), find_backbone(model, processor)
    found = {layer: asked(model, processor, layers.EarlyExit(backbone, layer), inputs=inputs) for layer in (-1, -2)}
    for layer, one in found.items():
        expected = tiny_base.generate(**inputs, **NEW, vision_feature_layer=layer)
        assert torch.equal(one.sequences, expected), layer
        assert [usage.tower_runs for usage in one.usage] == [len(seeds) for _, seeds in ROWS if seeds]
    assert not torch.equal(answers(found[-1].sequences, inputs), answers(found[-2].sequences, inputs))


def test_what_defends_outside_of_it_judges_what_it_always_does(model: Any, processor: Any, ask: Any) -> None:
    inputs, backbone = ask(ROWS[0]), find_backbone(model, processor)
    design = SafetyConfig(width=16, num_head_tokens=2, num_lm_tokens=3, attention_heads=2)
    guard = Guard(backbone, GuardSettings(design=design))
    guard.trained = True
    alone = asked(model, processor, guard, inputs=inputs).verdicts[0].scores
    assert asked(model, processor, guard, layers.EarlyExit(backbone, -1), inputs=inputs).verdicts[0].scores == alone


@pytest.mark.slow
def test_there_is_a_row_for_each_system_and_layer() -> None:
    base = pocket.load()
    assert layers.layers_of(base[0]) == [-1, -2, -3, -4, -5]
    systems = [make_system(name, *base) for name in ("none", "adashield-s")]
    rows = layers.run_layers(systems, [-2, -5], layers.cases_of(3, "validation"))
    assert [(row["system"], row["layer"]) for row in rows] == [
        (name, layer) for name in ("none", "adashield-s") for layer in (-2, -5)
    ]
    console = Console(width=200, record=True)
    layers.print_layers(rows, console)
    assert "adashield-s" in console.export_text()
