"""The second look: it brings perturbed features back, adds a verdict and touches nothing else."""

import pytest
import torch
from guard_cases import NEW, ROWS, answers
from pydantic import ValidationError

from safety_modules.attach import attach_safety
from safety_modules.config import RobustSettings, SafetyConfig
from safety_modules.defences.guard.judge import look
from safety_modules.defences.guard.robust import RobustTower, robust_settings
from safety_modules.errors import ConfigError, DataError
from safety_modules.records.record import Record
from safety_modules.training.perturbation import Ball, pgd
from safety_modules.training.robust import RobustRecipe, feature_distance, train_second_look
from safety_modules.training.steps import STATE

RECIPE = RobustRecipe(rank=4, steps=12, batch_size=4, attack_steps=2, eps=16, learning_rate=5e-3, keep_every=4)


@pytest.fixture(scope="module")
def records(make_image):
    return [Record(image=make_image(seed), question="", answer=None, type="clean", level="safe") for seed in range(8)]


def moved(safety, scale=1.0):
    """A second look that sees something else, as if trained."""
    tower = RobustTower(robust_settings(safety.backbone, 2))
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(4)
        for name, one in tower.named_parameters():
            if name.endswith("b"):
                one.normal_(std=scale)
    safety.modules.know(robust=tower)
    return tower


def test_untrained_it_sees_what_the_first_look_sees(safety, make_image):
    pixels = safety.backbone.pixel_values([make_image(seed) for seed in range(3)])
    first = safety.backbone.encode_images(pixels)
    safety.modules.know(robust=RobustTower(robust_settings(safety.backbone, 2)))
    seen = look(safety.backbone, safety.modules, pixels)
    patches = safety.backbone.sizes.num_patches
    assert torch.equal(seen.vision[:, :patches], first.vision) and torch.equal(seen.vision[:, patches:], first.vision)
    assert all(torch.equal(a, b) for a, b in zip(seen.projected, first.projected, strict=True))


def test_the_riskier_of_both_looks_is_the_verdict(safety, make_image):
    images = [make_image(seed) for seed in range(6)]
    first = [verdict.risk for verdict in safety.classify(images)]
    tower = moved(safety)
    both = [verdict.risk for verdict in safety.classify(images)]
    with safety.inference(), tower.mounted(safety.backbone):
        second = safety.backbone.encode_images(safety.backbone.pixel_values(images)).vision
        alone = [verdict.risk for verdict in safety.judge_features(second)]
    assert first != pytest.approx(alone, abs=1e-3)
    assert both == pytest.approx([max(pair) for pair in zip(first, alone, strict=True)], abs=1e-5)
    safety.modules.second_look = False
    assert [verdict.risk for verdict in safety.classify(images)] == first


def test_the_language_model_sees_the_first_look_and_both_runs_are_counted(safety, tiny_base, ask, tower_runs):
    inputs = ask(*ROWS)
    moved(safety, 0.0)
    safety.thresholds = dict.fromkeys(safety.config.taxonomy.types, 30.0)
    found = safety.generate(**inputs, **NEW)
    assert torch.equal(answers(found.sequences, inputs), answers(tiny_base.generate(**inputs, **NEW), inputs))
    assert [usage.tower_runs for usage in found.usage] == [2 * len(seeds) for _, seeds in ROWS]
    assert sum(tower_runs) == 2 * sum(len(seeds) for _, seeds in ROWS)


def test_it_is_saved_with_the_adapter_and_read_again(safety, model, processor, make_image, tmp_path):
    images = [make_image(seed) for seed in range(4)]
    moved(safety)
    expected = [verdict.scores for verdict in safety.classify(images)]
    folder = safety.save_pretrained(tmp_path / "adapter", dtype="float32")
    safety.detach()
    again = attach_safety(model, processor, adapter=folder)
    assert again.config.robust == safety.config.robust
    for found, scores in zip(again.classify(images), expected, strict=True):
        assert found.scores == pytest.approx(scores, abs=1e-4)


def test_training_brings_perturbed_features_back(safety, records):
    backbone = safety.backbone
    before = [one.clone() for one in safety.modules.parameters()]
    losses = train_second_look(
        safety, records, RECIPE.model_copy(update={"steps": 80, "rank": 12, "learning_rate": 1e-2}), progress=False
    )
    assert sum(losses[-10:]) < 0.95 * sum(losses[:10])
    assert all(torch.equal(a, b) for a, b in zip(before, safety.modules.parameters(), strict=False))
    pixels = backbone.pixel_values([one.image for one in records]).float()
    low, high = backbone.pixel_range()
    wanted = backbone.encode_images(pixels).vision.detach()
    far = {}
    for name, tower in (("first", None), ("second", safety.modules.robust)):

        def away(x, tower=tower):
            if tower is None:
                return feature_distance(backbone.encode_images(x).vision, wanted)
            with tower.mounted(backbone):
                return feature_distance(backbone.encode_images(x).vision, wanted)

        ball = Ball(pixels, 16 / 255 * (high - low), low, high)
        far[name] = pgd(away, ball, 10, torch.Generator().manual_seed(9))[1].mean().item()
    assert far["second"] < 0.95 * far["first"]
    assert not any(parameter.requires_grad for parameter in safety.modules.robust.parameters())


def test_a_training_that_goes_on_ends_with_the_very_same_weights(safety, records, tmp_path, monkeypatch):
    whole = train_second_look(safety, records, RECIPE, progress=False)
    expected = {name: one.clone() for name, one in safety.modules.robust.state_dict().items()}
    from safety_modules.training import robust

    step = robust._Training.step

    def killed(self, number):
        if number == 9:
            raise KeyboardInterrupt
        return step(self, number)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(robust._Training, "step", killed)
        train_second_look(safety, records, RECIPE, runs=tmp_path, progress=False)
    rest = train_second_look(safety, records, RECIPE, runs=tmp_path, progress=False)
    assert rest == whole[8:]
    assert all(torch.equal(one, expected[name]) for name, one in safety.modules.robust.state_dict().items())
    with pytest.raises(ConfigError, match="another recipe"):
        train_second_look(safety, records, RECIPE.model_copy(update={"eps": 2}), runs=tmp_path, progress=False)
    (tmp_path / STATE).write_bytes(b"torn")
    with pytest.raises(ConfigError, match="run damaged"):
        train_second_look(safety, records, RECIPE, runs=tmp_path, progress=False)


def test_what_cannot_have_one_is_refused(safety, records, model, processor):
    with pytest.raises(DataError, match="expected records with pictures"):
        train_second_look(safety, [records[0].model_copy(update={"image": None, "question": "a"})], RECIPE)
    other = RobustTower(RobustSettings(rank=2, layers=9, linears=(("self_attn.q_proj", 24, 24),)))
    with pytest.raises(ConfigError, match="expected a tower of 9 layers"), other.mounted(safety.backbone):
        pass
    with pytest.raises(ValidationError):
        RobustSettings(rank=0, layers=1, linears=(("fc1", 2, 2),))
    assert "robust" not in SafetyConfig().model_dump()
