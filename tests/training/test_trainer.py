"""Both stages on the tiny model: what changes, what does not, and that a run can be interrupted."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from guard_cases import judged
from PIL import Image
from safetensors.torch import load_file
from transformers import TrainerCallback

from safety_modules import SafetyConfig, attach_safety, train_safety
from safety_modules.attach import SafetyAttachment
from safety_modules.config import LoraSettings
from safety_modules.errors import AttachError, ConfigError, DataError, SafetyModulesError
from safety_modules.records.record import Record
from safety_modules.training import train as train_module
from safety_modules.training.objective import SafetyObjective
from safety_modules.training.predictions import verdict_metrics
from safety_modules.training.recipe import Recipe

pytestmark = pytest.mark.matrix

HEAD = ("modules.projector.", "modules.head_tokens.", "modules.head.", "modules.peers.")
STAGE_2 = ("modules.lm_tokens.", "lora.")
SMALL = SafetyConfig(width=16, num_head_tokens=2, num_lm_tokens=2, attention_heads=2, lora=LoraSettings(r=2))


def recipe(stage: int, **changes: Any) -> Recipe:
    values = {"stage": stage, "steps": 4, "batch_size": 6, "learning_rate": 3e-3, "log_every": 2}
    if stage == 2:
        values |= {"text_only_share": 0.2, "answer_tokens": 3}
    return Recipe(**{**values, **changes})


def picture(type: str, seed: int) -> Image.Image:
    """A noise picture; what is risky is bright in one colour."""
    pixels = np.random.default_rng(seed).integers(0, 90, (28, 28, 3), dtype=np.uint8)
    if type != "clean":
        pixels[:, :, ("illegal", "privacy").index(type)] += 150
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def records() -> list[Record]:
    levels = {"clean": ("safe", "safe"), "illegal": ("high", "low"), "privacy": ("medium", "low")}
    found = [
        Record(
            image=picture(type, seed),
            question=("what is this?", "how do I use what is shown here?")[seed % 2],
            answer="a cup of tea" if type == "clean" else None,
            type=type,
            level=levels[type][seed % 2],
        )
        for seed in range(8)
        for type in ("clean", "illegal", "privacy")
    ]
    return [*found, Record(image=None, question="a knife?", answer=None, type="clean", level="safe")]


@pytest.fixture
def attach(tiny_base: Any, processor: Any) -> Callable[[], SafetyAttachment]:
    return lambda: attach_safety(copy.deepcopy(tiny_base), processor, config=SMALL)


@pytest.fixture
def safety(attach: Callable[[], SafetyAttachment]) -> SafetyAttachment:
    return attach()


def state(safety: SafetyAttachment) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in safety.named_parameters()}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize(("stage", "parts"), [(1, HEAD), (2, HEAD + STAGE_2)])
def test_only_safety_parameters_and_lora_change_in_training(
    safety: SafetyAttachment, records: list[Record], stage: int, parts: tuple[str, ...]
) -> None:
    base = safety.backbone.model
    base_before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    flags = [(name, p.requires_grad) for name, p in base.named_parameters()]
    modes = [(name, module.training) for name, module in base.named_modules()]
    before = state(safety)

    train_safety(safety, records, recipe(stage), progress=False)

    wrong = [name for name, tensor in base.state_dict().items() if not torch.equal(tensor, base_before.pop(name))]
    assert not wrong, f"base tensors changed: {wrong}"
    assert not base_before
    assert all(p.grad is None for p in base.parameters())
    assert flags == [(name, p.requires_grad) for name, p in base.named_parameters()]
    assert modes == [(name, module.training) for name, module in base.named_modules()]
    moved = changed(before, state(safety))
    assert all(name.startswith(parts) for name in moved), f"changed in stage {stage}: {sorted(moved)}"
    # The bias of the keys shifts all attention logits alike: softmax gives it no gradient.
    # `nothing` is used only by samples that are not asked; further sets of an ensemble have an empty lm_tokens.
    idle = {name for name in before if name.endswith(("in_proj_bias", "reader.nothing")) or not before[name].numel()}
    should = {name for name in before if name.startswith(parts)} - idle
    assert should <= moved, f"not trained in stage {stage}: {sorted(should - moved)}"


def test_a_set_of_an_ensemble_learns_nothing_from_the_others(safety: SafetyAttachment) -> None:
    task = SafetyObjective(safety, recipe(1)).eval()
    sizes, (own, other) = safety.backbone.sizes, safety.modules.members
    batch = {
        "vision": torch.randn(2, sizes.num_patches, sizes.vision_width, generator=torch.Generator().manual_seed(0)),
        "type_labels": torch.tensor([0, 6]),
        "level_labels": torch.tensor([3, 0]),
    }

    def gradient() -> torch.Tensor:
        task.zero_grad()
        task(**batch)["loss"].backward()
        assert own.projector.out.weight.grad is not None
        return own.projector.out.weight.grad.clone()

    before = gradient()
    with torch.no_grad():
        other.head.type_bias.add_(torch.arange(6.0))
    assert torch.equal(gradient(), before) and before.any()


def test_stage_2_without_head_losses_leaves_the_head_as_it_is(safety: SafetyAttachment, records: list[Record]) -> None:
    before = state(safety)
    train_safety(safety, records, recipe(2, type_weight=0, level_weight=0), progress=False)
    moved = changed(before, state(safety))
    assert moved
    assert all(name.startswith(STAGE_2) for name in moved), sorted(moved)


def test_lora_is_mounted_in_steps_only_and_switched_back_afterwards(
    safety: SafetyAttachment, records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    project = safety.backbone.project

    def watch(vision: torch.Tensor) -> Any:
        seen.append(safety.lora._mounted)
        return project(vision)

    monkeypatch.setattr(safety.backbone, "project", watch)
    asked = recipe(2, steps=2, text_only_share=0)
    train_safety(safety, [r.model_copy(update={"answer": "a"}) for r in records], asked, progress=False)
    assert seen == [True, True]
    assert not safety.lora._mounted
    assert not safety.lora.training
    assert not safety.modules.training


def test_training_runs_no_tower_beyond_the_feature_cache(
    safety: SafetyAttachment, records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    tower = safety.backbone.model.model.vision_tower
    hook = tower.register_forward_pre_hook(
        lambda _module, args, kwargs: seen.append(len(args[0] if args else kwargs["pixel_values"])), with_kwargs=True
    )
    train_safety(safety, records, [recipe(1), recipe(2)], progress=False)
    hook.remove()
    assert sum(seen) == len(records) - 1  # every picture once, the text-only record never


def test_head_learns_what_is_risky(safety: SafetyAttachment, records: list[Record], tmp_path: Path) -> None:
    held_out = [r.model_copy(update={"image": picture(r.type, 100 + i)}) for i, r in enumerate(records) if r.image]
    train_safety(safety, records, recipe(1, steps=60, batch_size=16), held_out, tmp_path, progress=False)
    said = judged(safety, held_out)
    found = verdict_metrics(said.types, said.levels, held_out, safety.config.taxonomy)
    assert found["auroc"] > 0.99
    assert found["type_accuracy"] > 0.9
    log = json.loads((tmp_path / "stage1" / "log.json").read_text(encoding="utf-8"))
    assert log[-1] == {"step": 60, **{f"validation_{name}": value for name, value in found.items()}}
    assert log[0]["type_loss"] > log[-3]["type_loss"]


@pytest.mark.parametrize(("share", "seen"), [(0.0, 16), (0.5, 8), (0.99, 1)])
def test_patch_dropout_hides_its_share_of_every_picture(
    safety: SafetyAttachment, records: list[Record], monkeypatch: pytest.MonkeyPatch, share: float, seen: int
) -> None:
    shapes: list[int] = []
    safety.modules.projector.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape[1]))
    train_safety(safety, records, recipe(1, patch_dropout=share), progress=False)
    assert set(shapes) == {seen}
    shapes.clear()
    judged(safety, [r for r in records if r.image][:2])
    assert shapes == [16]  # never outside training


def test_patch_dropout_needs_a_projector_that_works_patch_by_patch(model, processor, records: list[Record]) -> None:
    safety = attach_safety(model, processor, config=SafetyConfig.preset("paper"))
    with pytest.raises(ConfigError, match=r"expected the mlp projector, got c_abstractor.*patch_dropout"):
        train_safety(safety, records, recipe(1, patch_dropout=0.5), progress=False)


def test_stage_2_teaches_the_steered_model_its_targets(
    safety: SafetyAttachment, records: list[Record], tmp_path: Path
) -> None:
    long = recipe(2, steps=40, batch_size=12, learning_rate=1e-2, text_only_share=0)
    train_safety(safety, records, long, output_dir=tmp_path, progress=False)
    log = json.loads((tmp_path / "stage2" / "log.json").read_text(encoding="utf-8"))
    losses = [entry["lm_loss"] for entry in log if "lm_loss" in entry]
    assert losses[-1] < 0.6 * losses[0]


def test_training_twice_gives_equal_weights(attach: Callable[[], SafetyAttachment], records: list[Record]) -> None:
    first, second = attach(), attach()
    for safety in (first, second):
        train_safety(safety, records, [recipe(1, feature_noise=0.1, patch_dropout=0.5), recipe(2)], progress=False)
    assert not changed(state(first), state(second))


def test_checkpoints_hold_nothing_of_the_base(safety: SafetyAttachment, records: list[Record], tmp_path: Path) -> None:
    train_safety(safety, records, recipe(2, save_every=4), output_dir=tmp_path, progress=False)
    saved = load_file(tmp_path / "stage2" / "checkpoint-4" / "model.safetensors")
    assert sum(t.numel() for t in saved.values()) == sum(p.numel() for p in safety.parameters())
    files = {path.name for path in (tmp_path / "stage2" / "checkpoint-4").iterdir()}
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} <= files


def test_same_call_takes_up_the_run_and_any_other_is_refused(
    attach: Callable[[], SafetyAttachment], records: list[Record], tmp_path: Path
) -> None:
    first, again, trained = attach(), attach(), attach()
    train_safety(first, records, recipe(1), output_dir=tmp_path, progress=False)
    train_safety(again, records, recipe(1), output_dir=tmp_path, progress=False)
    assert not changed(state(first), state(again))
    for what, data, other in (("recipe", records, recipe(1, seed=1)), ("data", records[3:], recipe(1))):
        with pytest.raises(ConfigError, match=f"not resumed: expected the {what} that"):
            train_safety(trained, data, other, output_dir=tmp_path, progress=False)
    pictures = trained.backbone.processor.image_processor
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ConfigError, match="not resumed: expected the pixels"):
        patch.setattr(pictures, "image_mean", [0.5, 0.5, 0.5])
        train_safety(trained, records, recipe(1), output_dir=tmp_path, progress=False)
    with torch.no_grad():
        trained.modules.head_tokens.weight.add_(1)
    with pytest.raises(ConfigError, match="expected the weights it starts from"):
        train_safety(trained, records, recipe(1), output_dir=tmp_path, progress=False)


def test_modules_have_their_own_learning_rate(safety: SafetyAttachment, records: list[Record]) -> None:
    before = state(safety)
    train_safety(safety, records, recipe(2, modules_learning_rate=0.0), progress=False)
    moved = changed(before, state(safety))
    assert moved
    assert all(name.startswith(STAGE_2) for name in moved), sorted(moved)


@pytest.mark.parametrize("query", ["pooled_question", "first_token"])
def test_published_heads_train_through_the_same_loop(
    tiny_base: Any, processor: Any, records: list[Record], query: str
) -> None:
    config = SMALL.model_copy(update={"query": query, "projector": "c_abstractor", "mode": "always"})
    safety = attach_safety(copy.deepcopy(tiny_base), processor, config=config)
    before = state(safety)
    train_safety(safety, records, [recipe(1, steps=1), recipe(2, steps=1)], progress=False)
    assert changed(before, state(safety))


def test_design_without_anything_to_train_is_refused(tiny_base: Any, processor: Any, records: list[Record]) -> None:
    config = SMALL.model_copy(update={"lora": None, "num_lm_tokens": 0})
    safety = attach_safety(copy.deepcopy(tiny_base), processor, config=config)
    with pytest.raises(ConfigError, match="nothing to train"):
        train_safety(safety, records, recipe(2, type_weight=0, level_weight=0), progress=False)


def test_divergence_stops_the_run_and_leaves_the_base_in_order(safety: SafetyAttachment, records: list[Record]) -> None:
    with torch.no_grad():
        safety.modules.head_tokens.weight.fill_(torch.nan)
    with pytest.raises(SafetyModulesError, match="diverged at step 2"):
        train_safety(safety, records, recipe(1), progress=False)
    assert all(p.requires_grad for p in safety.backbone.model.parameters())
    assert not safety.modules.training


def test_write_to_the_base_during_training_is_noticed(
    safety: SafetyAttachment, records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = safety.backbone.model.lm_head.weight

    class Meddler(TrainerCallback):
        def on_step_end(self, *_args: Any, **_kwargs: Any) -> None:
            with torch.no_grad():
                weight.add_(1)

    made = train_module.SafetyTrainer

    def meddled(*args: Any) -> Any:
        trainer = made(*args)
        trainer.add_callback(Meddler())
        return trainer

    monkeypatch.setattr(train_module, "SafetyTrainer", meddled)
    with pytest.raises(SafetyModulesError, match=r"base was changed in training.*lm_head\.weight"):
        train_safety(safety, records, recipe(1, steps=1), progress=False)


def test_thresholds_of_the_old_head_do_not_outlive_it(safety: SafetyAttachment, records: list[Record]) -> None:
    safety.thresholds = dict.fromkeys(safety.config.taxonomy.types, 0.9)
    train_safety(safety, records, recipe(2, type_weight=0, level_weight=0), progress=False)
    assert set(safety.thresholds.values()) == {0.9}
    train_safety(safety, records, recipe(1), progress=False)
    assert safety.thresholds == {}


def test_stages_out_of_order_and_unfit_data_are_refused(safety: SafetyAttachment, records: list[Record]) -> None:
    for wrong in ([], [recipe(2), recipe(1)], [recipe(1), recipe(1)]):
        with pytest.raises(ConfigError, match="recipes refused"):
            train_safety(safety, records, wrong, progress=False)
    with pytest.raises(DataError, match="record 0: unknown type"):
        train_safety(safety, [records[0].model_copy(update={"type": "weather"})], recipe(1), progress=False)
    with pytest.raises(ConfigError, match="without a processor"):
        train_safety("model", records, recipe(1), progress=False)


def test_training_makes_modules_fit_to_judge(
    attach: Callable[[], SafetyAttachment], records: list[Record], make_image: Any, tmp_path: Path
) -> None:
    safety = attach()
    train_safety(safety, records, recipe(2, type_weight=0.0, level_weight=0.0), progress=False)
    assert not safety.trained, "a LoRA alone judges nothing"
    train_safety(safety, records, recipe(1), output_dir=tmp_path, progress=False)
    taken_up = attach()
    train_safety(taken_up, records, recipe(1), output_dir=tmp_path / "none", progress=False)
    for trained in (safety, taken_up):
        assert trained.trained and trained.classify(make_image(1))


def test_a_base_that_changed_since_it_was_attached_to_is_not_trained_on(
    attach: Callable[[], SafetyAttachment], records: list[Record]
) -> None:
    safety = attach()
    with torch.no_grad():
        safety.backbone.model.get_input_embeddings().weight.mul_(2)
    with pytest.raises(AttachError, match="base changed"):
        train_safety(safety, records, recipe(1), progress=False)


def test_base_model_can_be_passed_with_its_processor(model: Any, processor: Any, records: list[Record]) -> None:
    safety = train_safety(model, records, recipe(1, steps=1), processor=processor, progress=False)
    assert train_safety(model, records, recipe(1, steps=1), progress=False) is safety
