"""Steered sequences: what inference runs is what training trains on."""

import pytest
import torch
from guard_cases import NEW, ROWS

from safety_modules.defences.guard import IGNORED, Sample, Steer, build_inputs, lm_forward
from safety_modules.policy import Policy

pytestmark = pytest.mark.matrix


def test_built_inputs_are_what_inference_runs(guarded, model, ask):
    inputs = ask(ROWS[0])
    hint = Policy.default().hint("illegal", "high")
    projected = guarded.backbone.encode_images(inputs["pixel_values"]).projected
    prompt = guarded.backbone.prompt_ids(ROWS[0][0])
    built = build_inputs(
        guarded.backbone, guarded.modules.lm_tokens(), [Sample(prompt, projected, Steer((True,), hint))]
    )
    with torch.no_grad(), guarded.lora.mounted():
        logits = lm_forward(guarded.backbone, built).logits
    output = guarded.generate(**inputs, **NEW, output_logits=True)
    assert torch.allclose(logits[0, -1], output.logits[0][0], atol=1e-5)


def test_training_inputs_label_answers_only_and_reach_the_tokens_and_lora(guarded, model, processor):
    backbone = guarded.backbone
    pixels = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    projected = backbone.encode_images(pixels).projected
    samples = [
        Sample(backbone.prompt_ids("why?"), [projected[0]], Steer((True,), "Be careful."), "I'm sorry."),
        Sample(backbone.prompt_ids("what is in this image?"), [projected[1]], Steer(), "a cup"),
        Sample(backbone.prompt_ids("tell me", 0), [], Steer(), "no"),
    ]
    built = build_inputs(backbone, guarded.modules.lm_tokens(), samples)
    assert [len(f) for f in built.features] == [16 + 3, 16] and built.images_per_row == [1, 1, 0]
    for row, text in enumerate(("I'm sorry.", "a cup", "no")):
        labels = built.labels[row][built.labels[row] != IGNORED]
        assert processor.tokenizer.decode(labels).strip() == f"{text}</s>"
    assert torch.equal(built.position_ids[:, -1], built.attention_mask.sum(1) - 1)
    with guarded.base_frozen(), guarded.lora.mounted():
        lm_forward(backbone, built).loss.backward()
    assert guarded.modules.lm_tokens.weight.grad.abs().sum() > 0
    assert all(p.grad is not None for p in guarded.lora.parameters())
    assert all(p.grad is None for p in model.parameters())


def test_unsteered_training_inputs_are_the_bases_own(guarded, tiny_base, ask):
    inputs = ask(ROWS[1], ROWS[4])
    projected = guarded.backbone.encode_images(inputs["pixel_values"]).projected
    prompts = [guarded.backbone.prompt_ids(ROWS[row][0]) for row in (1, 4)]
    samples = [Sample(prompt, [feature]) for prompt, feature in zip(prompts, projected, strict=True)]
    built = build_inputs(guarded.backbone, guarded.modules.lm_tokens(), samples)
    assert torch.equal(built.input_ids, inputs["input_ids"])
    assert torch.equal(built.attention_mask, inputs["attention_mask"]) and built.labels is None
    with torch.no_grad():
        expected = tiny_base(**inputs, position_ids=built.position_ids).logits
        assert torch.equal(lm_forward(guarded.backbone, built).logits, expected)
