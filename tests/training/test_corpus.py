"""Batches: what the head and the language model get of each kind of record."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image

from safety_modules import attach_safety
from safety_modules.attach import SafetyAttachment
from safety_modules.defences.guard import Sample, Steer, build_inputs
from safety_modules.records.record import Record
from safety_modules.training.corpus import Collator, Corpus
from safety_modules.training.objective import SafetyObjective
from safety_modules.training.recipe import Recipe
from safety_modules.training.sampling import TrainingItem
from safety_modules.training.target_answers import target_ids

CLEAN, RISKY, TEXT = 0, 1, 2


@pytest.fixture
def safety(model: Any, processor: Any) -> SafetyAttachment:
    return attach_safety(model, processor)


@pytest.fixture
def corpus(safety: SafetyAttachment, make_image: Callable[[int], Image.Image]) -> Corpus:
    values = {"question": "what is this?", "answer": "a cup", "type": "clean", "level": "safe"}
    risky = {**values, "answer": None, "type": "privacy", "level": "high"}
    records = [
        Record(image=make_image(0), **values),
        Record(image=make_image(1), **risky),
        Record(image=None, **values),
    ]
    return Corpus.make(safety.backbone, records, progress=False)


@pytest.fixture
def collate(safety: SafetyAttachment, corpus: Corpus) -> Callable[..., dict[str, Any]]:
    def build(*draws: TrainingItem, stage: int = 2) -> dict[str, Any]:
        recipe = Recipe(stage=stage, steps=1, batch_size=1, learning_rate=1.0)
        answers = target_ids(safety, corpus, range(3), recipe, progress=False)
        return Collator(safety, corpus, recipe, answers)(draws)

    return build


def test_head_gets_every_picture_with_its_labels(collate: Callable[..., dict[str, Any]], corpus: Corpus) -> None:
    batch = collate(TrainingItem(RISKY, True, True), TrainingItem(TEXT, True, True), TrainingItem(CLEAN, True, True))
    assert batch["type_labels"].tolist() == [4, 6]
    assert batch["level_labels"].tolist() == [3, 0]
    assert torch.equal(batch["vision"], corpus.vision([RISKY, CLEAN]))


def test_question_is_hidden_from_the_head_only(collate: Callable[..., dict[str, Any]]) -> None:
    batch = collate(TrainingItem(RISKY, False, False), TrainingItem(CLEAN, True, False))
    assert batch["question_mask"].any(1).tolist() == [False, True]
    assert batch["lm"].rows[0].prompt == batch["lm"].rows[1].prompt


def test_only_risky_pictures_get_hints_and_every_picture_gets_tokens(
    safety: SafetyAttachment, collate: Callable[..., dict[str, Any]]
) -> None:
    hinted = collate(*(TrainingItem(index, True, True) for index in (CLEAN, RISKY, TEXT)))["lm"].rows
    plain = collate(TrainingItem(RISKY, True, False))["lm"].rows
    hint = safety.policy.hint("privacy", "high")
    assert [row.steer for row in hinted] == [Steer((True,), None), Steer((True,), hint), Steer()]
    assert plain[0].steer == Steer((True,), None)


def test_stage_1_makes_no_sequences(collate: Callable[..., dict[str, Any]]) -> None:
    assert "lm" not in collate(TrainingItem(CLEAN, True, True), stage=1)


def test_batch_without_pictures_has_only_sequences(
    safety: SafetyAttachment, collate: Callable[..., dict[str, Any]]
) -> None:
    batch = collate(TrainingItem(TEXT, True, True))
    assert batch["vision"] is None
    losses = SafetyObjective(safety, Recipe(stage=2, steps=1, batch_size=1, learning_rate=1.0))(**batch)
    assert set(losses) == {"loss", "lm"}


def test_language_model_loss_is_that_of_the_whole_steered_sequence(
    safety: SafetyAttachment, corpus: Corpus, collate: Callable[..., dict[str, Any]]
) -> None:
    """Training cuts the vocabulary's logits down to the answers; transformers computes them all."""
    draws = [TrainingItem(CLEAN, True, True), TrainingItem(RISKY, True, True), TrainingItem(TEXT, True, True)]
    batch = collate(*draws)
    recipe = Recipe(stage=2, steps=1, batch_size=1, learning_rate=1.0)
    found = SafetyObjective(safety, recipe).eval()(**batch)["lm"]

    projected = safety.backbone.project(corpus.vision([CLEAN, RISKY]))
    samples = [
        Sample(row.prompt, [projected[at]] if row.has_image else [], row.steer, row.answer)
        for at, row in enumerate(batch["lm"].rows)
    ]
    inputs = build_inputs(safety.backbone, safety.modules.lm_tokens(), samples)
    with safety.backbone.planned(inputs.features, inputs.images_per_row):
        wanted = safety.backbone.model(
            input_ids=inputs.input_ids,
            attention_mask=inputs.attention_mask,
            position_ids=inputs.position_ids,
            labels=inputs.labels,
            pixel_values=safety.backbone.pixel_stub(2),
        ).loss
    torch.testing.assert_close(found, wanted)
