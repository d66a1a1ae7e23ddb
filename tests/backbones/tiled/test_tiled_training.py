"""Bases that cut pictures into tiles: both stages, the feature cache, saving and resuming, the plan of a training."""

import copy

import numpy as np
import pytest
import tiled_bases
import torch
from PIL import Image

from safety_modules import SafetyConfig, attach_safety, train_safety
from safety_modules.backbones import find_backbone
from safety_modules.backbones.bases import config_sizes
from safety_modules.config import LoraSettings
from safety_modules.policy.scores import LIMIT
from safety_modules.records.record import Record
from safety_modules.training.features import cache_features
from safety_modules.training.plan import Setting, stage_resources
from safety_modules.training.recipe import Recipe

pytestmark = pytest.mark.matrix

SMALL = SafetyConfig(width=16, num_head_tokens=2, num_lm_tokens=2, attention_heads=2, lora=LoraSettings(r=2))


def picture(type, seed):
    """A noise picture of one of many sizes; what is risky is bright in one colour."""
    width, height = tiled_bases.SIZES[seed % len(tiled_bases.SIZES)]
    pixels = np.random.default_rng(seed).integers(0, 90, (height, width, 3), dtype=np.uint8)
    if type != "clean":
        pixels[:, :, ("illegal", "privacy").index(type)] += 150
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def records():
    found = [
        Record(
            image=picture(type, seed),
            question=("what is this?", "how do I use what is shown here?")[seed % 2],
            answer="a cup of tea" if type == "clean" else None,
            type=type,
            level={"clean": "safe", "illegal": "high", "privacy": "low"}[type],
        )
        for seed in range(6)
        for type in ("clean", "illegal", "privacy")
    ]
    return [*found, Record(image=None, question="tell me", answer="tea", type="clean", level="safe")]


def recipe(stage, **changes):
    values = {"stage": stage, "steps": 4, "batch_size": 6, "learning_rate": 3e-3, "log_every": 2}
    if stage == 2:
        values |= {"text_only_share": 0.2, "answer_tokens": 3}
    return Recipe(**{**values, **changes})


def test_both_stages_train_and_the_base_stays(model, processor, records, tiny_base, tmp_path):
    safety = attach_safety(model, processor, config=SMALL)
    before = {name: parameter.detach().clone() for name, parameter in safety.named_parameters()}
    train_safety(safety, records, recipe(1, steps=30, batch_size=9), output_dir=tmp_path / "one", progress=False)
    middle = {name: parameter.detach().clone() for name, parameter in safety.named_parameters()}
    assert not torch.equal(middle["modules.projector.down.weight"], before["modules.projector.down.weight"])
    train_safety(safety, records, recipe(2), output_dir=tmp_path / "two", progress=False)
    after = dict(safety.named_parameters())
    assert not torch.equal(after["modules.lm_tokens.weight"], middle["modules.lm_tokens.weight"])
    for name, tensor in tiny_base.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    # It has learned what the colours mean, on pictures of every size.
    safety.thresholds = dict.fromkeys(safety.config.taxonomy.types, -LIMIT)
    red = np.mean([v.risk for v in safety.classify([picture("illegal", seed) for seed in range(20, 29)])])
    grey = np.mean([v.risk for v in safety.classify([picture("clean", seed) for seed in range(20, 29)])])
    assert red > grey


def test_patch_dropout_and_noise_leave_places_without_a_patch_alone(model, processor, records, tmp_path):
    safety = attach_safety(model, processor, config=SMALL)
    changes = {"patch_dropout": 0.5, "feature_noise": 0.1}
    found = train_safety(safety, records, recipe(1, **changes), output_dir=tmp_path / "one", progress=False)
    assert found is not None and safety.trained


def test_features_are_kept_on_disk_and_are_those_of_the_call(model, processor, records, tmp_path):
    backbone = find_backbone(model, processor)
    made = cache_features(backbone, records, tmp_path / "cache", progress=False)
    again = cache_features(backbone, records, tmp_path / "cache", progress=False)
    for record in records[:9]:
        digest = record.image_digest()
        kept = torch.from_numpy(np.asarray(again[digest]))
        assert torch.equal(kept, torch.from_numpy(np.asarray(made[digest])))
        assert kept.shape == (backbone.sizes.num_patches, backbone.sizes.vision_width)
        with torch.no_grad():
            images = backbone.encode_images(backbone.pixel_values([record.load_image()]))
        length = images.vision.shape[1]
        torch.testing.assert_close(kept[:length].float(), images.vision[0], atol=2e-2, rtol=2e-2)
        assert not kept[length:].any()
        projected = backbone.project(kept[None].float())[0]
        assert len(projected) == len(images.projected[0])
        torch.testing.assert_close(projected, images.projected[0], atol=0.5, rtol=0.1)


def test_what_is_trained_is_what_a_guarded_call_sees(model, processor, records, tmp_path, ask):
    """The verdict from kept features is the one from the picture."""
    safety = attach_safety(model, processor, config=SMALL)
    train_safety(safety, records, recipe(1), output_dir=tmp_path / "one", progress=False)
    store = cache_features(safety.backbone, records, progress=False)
    for record in records[:6]:
        vision = torch.from_numpy(np.asarray(store[record.image_digest()]))[None].float()
        kept = safety.judge_features(vision, [record.question])[0]
        seen = safety.classify([record.load_image()], record.question)[0]
        assert all(abs(kept.scores[name] - score) < 0.05 for name, score in seen.scores.items())
        torch.testing.assert_close(kept.attention, seen.attention, atol=1e-2, rtol=0.1)


def test_the_plan_reads_its_sizes_from_the_config(tiny_base, processor):
    sizes = find_backbone(copy.deepcopy(tiny_base), processor).sizes
    assert config_sizes(tiny_base.config) == sizes
    setting = Setting(pictures=10, text_tokens=16, answer_tokens=4, dtype="float32")
    for stage in (1, 2):
        found = stage_resources(tiny_base.config, SMALL, recipe(stage), setting)
        assert found.features == 10 * 2 * sizes.num_patches * sizes.vision_width
        assert found.total > 0 and found.tower_flops > 0
