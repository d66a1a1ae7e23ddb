"""What is refused leaves nothing behind: no guard on a model that had none, no weights of unknown origin."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from safety_modules import SafetyConfig, attach_safety, train_safety
from safety_modules.attach.attachment import attached_to
from safety_modules.errors import ConfigError, DataError
from safety_modules.records import Record
from safety_modules.training import checkpoints
from safety_modules.training.recipe import Recipe

RECIPE = Recipe(stage=1, steps=1, batch_size=2, learning_rate=1e-3)
SMALL = SafetyConfig(width=16, num_head_tokens=2, num_lm_tokens=2, attention_heads=2, lora=None)


@pytest.fixture
def records(make_image: Callable[[int], Any]) -> list[Record]:
    labels = [("clean", "safe"), ("illegal", "high")]
    return [
        Record(image=make_image(seed), question="what?", answer=None, type=type, level=level)
        for seed, (type, level) in enumerate(labels)
    ]


def test_a_model_that_was_not_attached_to_is_not_after_a_refusal(
    model: Any, processor: Any, records: list[Record]
) -> None:
    with pytest.raises(DataError):
        train_safety(model, records[:1] * 0, RECIPE, processor=processor, progress=False)
    assert attached_to(model) is None
    safety = attach_safety(model, processor, config=SMALL)
    with pytest.raises(DataError):
        train_safety(model, [], RECIPE, progress=False)
    assert attached_to(model) is safety  # who attached it keeps it


def test_damaged_weights_of_a_finished_stage_are_refused_and_made_anew(
    model: Any, processor: Any, records: list[Record], tmp_path: Path
) -> None:
    def train() -> None:
        torch.manual_seed(0)  # of fresh weights
        safety = attach_safety(model, processor, config=SMALL)
        try:
            train_safety(safety, records, RECIPE, output_dir=tmp_path, progress=False)
        finally:
            safety.detach()

    train()
    final = tmp_path / "stage1" / checkpoints.FINAL
    whole = final.read_bytes()
    final.write_bytes(whole[:100])
    with pytest.raises(ConfigError, match="run damaged: expected the weights of a finished stage"):
        train()
    final.unlink()
    train()
    assert final.read_bytes() == whole
