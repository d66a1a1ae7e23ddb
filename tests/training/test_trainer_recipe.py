"""What a recipe's keys do to a training: precision, checkpointed activations, shared steps, early stopping, plots."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from distributed_run import pictures
from PIL import Image

from safety_modules import SafetyConfig, attach_safety, train_safety
from safety_modules.attach import SafetyAttachment
from safety_modules.config import LoraSettings
from safety_modules.errors import ConfigError, DataError
from safety_modules.metrics import reliability
from safety_modules.records import Record
from safety_modules.training import train as train_module
from safety_modules.training.checkpoints import whole
from safety_modules.training.recipe import Recipe
from safety_modules.training.result_plots import confusion
from safety_modules.training.trainer import activation_checkpointing

SMALL = SafetyConfig(
    width=16, num_head_tokens=2, num_lm_tokens=2, attention_heads=2, lora=LoraSettings(r=2, dropout=0.1)
)


def recipe(stage: int, **changes: Any) -> Recipe:
    return Recipe(**{"stage": stage, "steps": 3, "batch_size": 6, "learning_rate": 3e-3, "log_every": 1, **changes})


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return pictures()


@pytest.fixture
def attach(tiny_base: Any, processor: Any) -> Callable[[], SafetyAttachment]:
    return lambda: attach_safety(copy.deepcopy(tiny_base), processor, config=SMALL)


def trained(safety: SafetyAttachment, records: list[Record], *recipes: Recipe) -> dict[str, torch.Tensor]:
    train_safety(safety, records, list(recipes), progress=False)
    return {name: parameter.detach() for name, parameter in safety.named_parameters()}


def _add(total: torch.Tensor, gradient: torch.Tensor) -> None:
    total += gradient


def test_bfloat16_computes_coarsely_and_keeps_float32_weights(
    attach: Callable[[], SafetyAttachment], records: list[Record]
) -> None:
    exact = trained(attach(), records, recipe(1), recipe(2))
    coarse = trained(attach(), records, recipe(1, precision="bfloat16"), recipe(2, precision="bfloat16"))
    assert {tensor.dtype for tensor in coarse.values()} == {torch.float32}
    assert any(not torch.equal(coarse[name], exact[name]) for name in exact)
    moved = torch.cat([(coarse[name] - exact[name]).flatten() for name in exact])
    assert moved.abs().mean() < 2e-3  # of steps of up to 3e-3, three for each stage


def test_activation_checkpointing_changes_no_weight_and_leaves_no_trace(
    attach: Callable[[], SafetyAttachment], records: list[Record]
) -> None:
    plain = trained(attach(), records, recipe(2))
    safety, runs = attach(), []
    language_model = safety.backbone.language_model
    before = {name: dict(vars(part)) for name, part in language_model.named_modules()}
    hook = language_model.layers[0].mlp.register_forward_pre_hook(lambda *_: runs.append(1))
    again = trained(safety, records, recipe(2, activation_checkpointing=True))
    hook.remove()
    assert len(runs) == 2 * 3  # each step runs it once more in the backward pass
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    assert {name: dict(vars(part)).keys() for name, part in language_model.named_modules()} == {
        name: attributes.keys() for name, attributes in before.items()
    }


def test_activation_checkpointing_needs_a_model_that_can(attach: Callable[[], SafetyAttachment]) -> None:
    with (
        pytest.raises(ConfigError, match="no activation checkpointing"),
        activation_checkpointing(torch.nn.Linear(1, 1)),
    ):
        pass


def test_accumulated_passes_give_the_gradient_of_one_large_pass(
    attach: Callable[[], SafetyAttachment], records: list[Record]
) -> None:
    """Losses are means over the step, not of the passes' means: a long answer counts by its tokens."""
    sums: list[dict[str, torch.Tensor]] = []
    for split in ({"batch_size": 6}, {"batch_size": 2, "gradient_accumulation": 3}):
        safety, found = attach(), {}
        for slot in safety.lora._slots:
            slot.adapted.lora_dropout["safety"] = torch.nn.Identity()
        for name, parameter in safety.named_parameters():
            found[name] = torch.zeros_like(parameter)
            parameter.register_hook(lambda gradient, total=found[name]: _add(total, gradient))
        train_safety(safety, records, recipe(2, steps=1, length_window=1, **split), progress=False)
        sums.append(found)
    assert any(gradient.abs().max() > 1e-3 for gradient in sums[0].values())
    for name, gradient in sums[0].items():
        torch.testing.assert_close(sums[1][name], gradient, rtol=1e-3, atol=1e-5)


def test_without_lora_dropout_a_design_trains_as_one_that_has_none(
    tiny_base: Any, processor: Any, records: Any
) -> None:
    found = []
    for dropout in (0.5, 0.0):
        design = SMALL.model_copy(update={"lora": LoraSettings(r=2, dropout=dropout)})
        safety = attach_safety(copy.deepcopy(tiny_base), processor, config=design)
        found.append(trained(safety, records, recipe(2, lora_dropout=dropout == 0.0)))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize(
    ("batch_size", "accumulation", "processes", "expected"),
    [(16, 8, 1, (16, 8)), (16, 8, 8, (16, 1)), (16, 8, 4, (16, 2)), (64, 1, 2, (32, 1)), (16, 2, 8, (4, 1))],
)
def test_distributed_share_the_passes_of_a_step_and_then_their_samples(
    batch_size: int, accumulation: int, processes: int, expected: tuple[int, int]
) -> None:
    asked = recipe(1, batch_size=batch_size, gradient_accumulation=accumulation)
    assert asked.per_process(processes) == expected


def test_step_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ConfigError, match="step not shared"):
        recipe(1, batch_size=5).per_process(2)


def test_early_stopping_keeps_the_best_weights(
    attach: Callable[[], SafetyAttachment], records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, seen = iter([0.6, 0.8, 0.7, 0.8, 0.5]), []
    safety = attach()

    def scripted(_run: Any) -> tuple[dict[str, float], np.ndarray]:
        seen.append({name: parameter.detach().clone() for name, parameter in safety.named_parameters()})
        return {"auroc": next(scores)}, np.full((len(records), 7), 1 / 7)

    monkeypatch.setattr(train_module, "head_quality", scripted)
    stops = recipe(1, steps=40, evaluate_every=2, patience=2)
    train_safety(safety, records, stops, records, tmp_path, progress=False)
    log = json.loads((tmp_path / "stage1" / "log.json").read_text(encoding="utf-8"))
    assert [entry["eval_auroc"] for entry in log if "eval_auroc" in entry] == [0.6, 0.8, 0.7, 0.8]
    best = seen[1]
    assert all(torch.equal(parameter, best[name]) for name, parameter in safety.named_parameters())
    assert {path.name for path in whole(tmp_path / "stage1")} == {"checkpoint-4", "checkpoint-8"}

    (tmp_path / "stage1" / "final.safetensors").unlink()  # killed before it was written: not trained beyond its end
    again = attach()
    scores = iter([0.9, 0.9, 0.9])
    train_safety(again, records, stops, records, tmp_path, progress=False)
    assert all(torch.equal(parameter, best[name]) for name, parameter in again.named_parameters())


def test_early_stopping_without_an_auroc_is_refused(
    attach: Callable[[], SafetyAttachment], records: list[Record]
) -> None:
    safety, asked = attach(), recipe(1, evaluate_every=1)
    with pytest.raises(ConfigError, match="expected validation data for evaluate_every"):
        train_safety(safety, records, asked, progress=False)
    with pytest.raises(DataError, match="expected clean and risky records"):
        train_safety(safety, records, asked, [records[0]], progress=False)


def test_refusals_come_before_the_tower_runs(
    attach: Callable[[], SafetyAttachment], records: list[Record], tmp_path: Path, tower_free: Callable[..., None]
) -> None:
    safety = attach()
    tower_free(safety)
    (tmp_path / "file").write_text("", encoding="utf-8")
    for expected, changes in (
        ("no place to write to", {"output_dir": tmp_path / "file"}),
        ("no TensorBoard log: expected an output_dir", {"tensorboard": True}),
        ("no training order", {"data": [r for r in records if not r.is_risky], "recipe": recipe(1, clean_share=0.5)}),
    ):
        arguments = {"data": records, "recipe": recipe(1), **changes}
        with pytest.raises((ConfigError, DataError), match=expected):
            train_safety(safety, **arguments, progress=False)


@pytest.fixture
def tower_free(monkeypatch: pytest.MonkeyPatch) -> Callable[[SafetyAttachment], None]:
    """Makes every run of an attachment's vision tower a failure."""

    def refuse(*_args: Any) -> None:
        pytest.fail("the tower ran")

    return lambda safety: monkeypatch.setattr(safety.backbone, "encode_images", refuse)


def test_tensorboard_that_is_asked_for_and_missing_is_an_error(
    attach: Callable[[], SafetyAttachment], records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_module, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'expected the package tensorboard, got none\. Run pip install "tensorboard'):
        train_safety(attach(), records, recipe(1), output_dir=tmp_path, tensorboard=True, progress=False)


def test_tensorboard_log_lies_in_the_stages_folder(
    attach: Callable[[], SafetyAttachment], records: list[Record], tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train_safety(attach(), records, recipe(1), output_dir=tmp_path, tensorboard=True, progress=False)
    events = EventAccumulator(str(tmp_path / "stage1" / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/type_loss")] == [1, 2, 3]


def test_stage_leaves_a_picture_of_losses_confusion_and_reliability(
    attach: Callable[[], SafetyAttachment], records: list[Record], tmp_path: Path
) -> None:
    train_safety(attach(), records, recipe(1), records, tmp_path, progress=False)
    with Image.open(tmp_path / "stage1" / "training.png") as picture:
        assert picture.width > 2 * picture.height  # three panels


def test_confusion_and_reliability_count_what_was_labelled() -> None:
    counts = confusion(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0]), 3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]
    said, seen, count = reliability(np.array([0.05, 0.15, 0.17, 1.0]), np.array([False, True, False, True]))
    np.testing.assert_allclose(said, [0.05, 0.16, 1.0])
    assert seen.tolist() == [0.0, 0.5, 1.0]
    assert count.tolist() == [1, 2, 1]
