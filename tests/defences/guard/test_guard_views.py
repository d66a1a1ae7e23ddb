"""Votes of random views: the same picture, the same verdict; the mean counts; off is as if there were none."""

import sys
from dataclasses import replace

import pytest
import torch
from guard_cases import NEW, ROWS, answers
from pydantic import ValidationError

from safety_modules.attach import attach_safety
from safety_modules.audit.tower_guard import TowerGuard
from safety_modules.config import SafetyConfig, ViewsSettings
from safety_modules.defences.guard.judge import look
from safety_modules.defences.guard.modules import SafetyModules
from safety_modules.defences.guard.views import KEY, Views
from safety_modules.errors import ConfigError
from safety_modules.records.record import Record
from safety_modules.training.features import cache_features

STILL = {"turn": 0, "scale": 0, "shift": 0, "light": 0, "noise": 0}
LOW, HIGH = torch.tensor([-1.8, -1.7, -1.5]), torch.tensor([1.9, 2.0, 2.1])


def scores(verdicts):
    return [verdict.scores for verdict in verdicts]


@pytest.fixture
def images(make_image):
    return [make_image(seed) for seed in range(5)]


@pytest.fixture
def voting(safety):
    safety.modules.judge_by(ViewsSettings(count=3))
    return safety


@pytest.fixture
def views(safety):
    return Views(ViewsSettings(count=3), safety.backbone.sizes)


def squares(count=2, size=48):
    """White squares on black, in pixel values."""
    pixels = torch.zeros(count, 3, size, size)
    pixels[..., size // 3 : 2 * size // 3, size // 3 : 2 * size // 3] = 1
    return pixels * (HIGH - LOW).view(3, 1, 1) + LOW.view(3, 1, 1)


def test_views_are_near_the_picture_and_differ(views):
    pixels = squares()
    found = views.of(pixels, LOW, HIGH)
    assert found.shape == (6, 3, 48, 48) and torch.equal(found, views.of(pixels, LOW, HIGH))
    for place, view in enumerate(found):
        assert torch.corrcoef(torch.stack([view.flatten(), pixels[place // 3].flatten()]))[0, 1] > 0.6
    assert len({round(float(view.mean()), 4) for view in found[:3]}) == 3
    assert torch.equal(found[:3], found[3:])  # of the same picture, wherever it stands


@pytest.mark.parametrize(
    ("limits", "most"), [({"light": 0.2}, 0.2), ({"noise": 0.1}, 0.6), ({"shift": 0.125}, 1), ({"turn": 45}, 1)]
)
def test_each_limit_is_kept_in_units_of_the_picture(safety, limits, most):
    views = Views(ViewsSettings(count=16, **{**STILL, **limits}), safety.backbone.sizes)
    extent = (HIGH - LOW).view(3, 1, 1)
    change = (views.of(squares(1), LOW, HIGH) - squares(1)) / extent
    assert 0.05 < change.abs().max() <= most + 1e-5
    if "light" in limits:
        assert torch.allclose(change.amax((1, 2, 3)), change.amin((1, 2, 3)), atol=1e-5)  # all of it alike
    if "noise" in limits:
        assert change.std().item() == pytest.approx(0.1, rel=0.05)
    if "shift" in limits:  # 6 of 48 pixels
        moved = (change.abs() > 0.5).any(0).any(0).nonzero()
        assert moved.min() >= 16 - 6 - 1 and moved.max() <= 31 + 6 + 1


def test_views_that_change_nothing_judge_as_one_look(safety, images):
    expected = scores(safety.classify(images, "what?"))
    safety.modules.judge_by(ViewsSettings(**STILL))
    for found, one in zip(scores(safety.classify(images, "what?")), expected, strict=True):
        assert found == pytest.approx(one, abs=1e-4)


def test_the_verdict_is_that_of_the_mean_of_the_views_logits(voting, images):
    backbone, modules = voting.backbone, voting.modules
    found = voting.classify(images)
    pixels = modules.views.of(backbone.pixel_values(images), *backbone.pixel_range())
    with torch.no_grad(), modules.one_look():
        said = modules(backbone.encode_images(pixels).vision)
        own = modules(backbone.encode_images(backbone.pixel_values(images)).vision)
    types = said.type_logits.unflatten(0, (5, 3)).mean(1).softmax(-1)
    levels = said.level_logits.unflatten(0, (5, 3)).mean(1).softmax(-1)
    for verdict, type_row, level_row, where in zip(found, types, levels, own.attention, strict=True):
        assert list(verdict.probabilities.values()) == pytest.approx(type_row.tolist(), abs=1e-5)
        assert list(verdict.level_probabilities.values()) == pytest.approx(level_row.tolist(), abs=1e-5)
        assert torch.allclose(verdict.attention.flatten(1), where, atol=1e-5)  # of the picture as it is
    assert not any(torch.allclose(row, types[0]) for row in types[1:])


def test_a_picture_gets_one_verdict_in_any_batch_and_another_under_another_key(voting, images, monkeypatch):
    found = scores(voting.classify(images))
    for image, expected in zip(images, found, strict=True):
        assert scores(voting.classify([images[3], image]))[1] == pytest.approx(expected, abs=1e-4)
    with voting.modules.views.under(b"secret"):
        other = scores(voting.classify(images))
    assert all(one != pytest.approx(two, abs=1e-3) for one, two in zip(found, other, strict=True))
    assert scores(voting.classify(images)) == found
    monkeypatch.setenv(KEY, "secret")
    voting.modules.judge_by(ViewsSettings(count=3))
    assert scores(voting.classify(images)) == other


def test_off_is_bit_for_bit_as_without(safety, images):
    before = scores(safety.classify(images))
    safety.modules.judge_by(ViewsSettings())
    assert scores(safety.classify(images)) != before
    with safety.modules.one_look():
        assert scores(safety.classify(images)) == before
    safety.modules.votes = False
    assert scores(safety.classify(images)) == before
    safety.modules.votes = True
    safety.modules.judge_by(None)
    assert scores(safety.classify(images)) == before and safety.config.views is None


def test_the_language_model_sees_the_picture_as_it_is_and_all_runs_are_counted(voting, tiny_base, ask, tower_runs):
    inputs = ask(*ROWS)
    voting.thresholds = dict.fromkeys(voting.config.taxonomy.types, 30.0)
    found = voting.generate(**inputs, **NEW)
    assert torch.equal(answers(found.sequences, inputs), answers(tiny_base.generate(**inputs, **NEW), inputs))
    assert [usage.tower_runs for usage in found.usage] == [4 * len(seeds) for _, seeds in ROWS]
    assert sum(tower_runs) == 4 * sum(len(seeds) for _, seeds in ROWS)


def test_a_call_and_a_classification_say_the_same(voting, ask, make_image):
    rows = [("what?", [0]), ("why?", [3])]
    called = voting.generate(**ask(*rows), **NEW).verdicts
    shown = voting.classify([make_image(0), make_image(3)], [words for words, _ in rows])
    for found, one in zip(scores(called), scores(shown), strict=True):
        assert found == pytest.approx(one, abs=1e-4)


def test_a_tower_alone_judges_as_the_whole_model_does(voting, images, saved_base, tmp_path):
    expected = voting.classify(images)
    folder = voting.save_pretrained(tmp_path / "adapter", dtype="float32")
    guard = TowerGuard(saved_base, str(folder), None, "cpu", torch.float32)
    with torch.no_grad():
        seen = look(guard.backbone, guard.modules, voting.backbone.pixel_values(images)).vision
        types = guard.modules(seen).type_logits.softmax(-1)
    for row, verdict in zip(types, expected, strict=True):
        assert row.tolist() == pytest.approx(list(verdict.probabilities.values()), abs=1e-4)


def test_they_are_saved_with_the_adapter_without_a_tensor_or_a_key(voting, model, processor, images, tmp_path):
    voting.modules.views.key = b"never on disk"
    expected = scores(voting.classify(images))
    folder = voting.save_pretrained(tmp_path / "adapter", dtype="float32")
    assert not any(b"never on disk" in path.read_bytes() for path in folder.rglob("*") if path.is_file())
    voting.detach()
    again = attach_safety(model, processor, adapter=folder)
    assert again.config.views == ViewsSettings(count=3) and again.modules.views.key == b""
    again.modules.views.key = b"never on disk"
    for found, one in zip(scores(again.classify(images)), expected, strict=True):
        assert found == pytest.approx(one, abs=1e-4)
    assert "views" not in SafetyConfig().model_dump()


def test_what_is_cached_lies_apart_for_each_key_and_design(voting, make_image, tmp_path):
    records = [Record(image=make_image(1), question="", answer=None, type="clean", level="safe")]
    patches, digest = voting.backbone.sizes.num_patches, records[0].image_digest()

    def kept():
        store = cache_features(voting.backbone, records, tmp_path, modules=voting.modules, progress=False)
        return store.batch([digest])

    first = kept()
    assert first.shape[1] == 4 * patches and torch.equal(first, kept())
    with voting.modules.views.under(b"secret"):
        assert not torch.equal(first, kept())
    with voting.modules.one_look():
        assert torch.equal(kept(), first[:, 3 * patches :])


def test_features_without_views_are_refused(voting, images):
    vision = voting.backbone.encode_images(voting.backbone.pixel_values(images)).vision
    patches, width = voting.backbone.sizes.num_patches, voting.backbone.sizes.vision_width
    with pytest.raises(ConfigError, match=rf"expected \(B, {4 * patches}, {width}\), of 3 views and the picture"):
        voting.judge_features(vision)


@pytest.mark.parametrize("wrong", [{"count": 1}, {"count": 65}, {"turn": 181}, {"noise": -1}, {"blur": 1}])
def test_settings_that_make_no_views_are_refused(wrong):
    with pytest.raises(ValidationError):
        ViewsSettings(**wrong)


def test_a_base_with_tiles_and_a_key_too_long_are_refused_and_change_nothing(safety, monkeypatch):
    sizes = replace(safety.backbone.sizes, tile=(2, 2))
    with pytest.raises(ConfigError, match="no votes: expected a base that sees whole pictures"):
        SafetyModules(SafetyConfig(views=ViewsSettings()), sizes)
    monkeypatch.setenv(KEY, "x" * 65)
    with pytest.raises(ConfigError, match="expected at most 64 bytes, got 65"):
        safety.modules.judge_by(ViewsSettings())
    assert safety.modules.views is None and safety.config.views is None


def test_gradients_go_through_the_views(voting, images):
    pixels = voting.backbone.pixel_values(images).requires_grad_()
    voting.modules(look(voting.backbone, voting.modules, pixels).vision).type_logits.sum().backward()
    assert pixels.grad.abs().sum() > 0


def test_a_copy_with_other_branches_keeps_them_as_they_are(voting):
    voting.modules.views.key, voting.modules.votes = b"secret", False
    other = voting.modules.with_branches({})
    assert other.views is voting.modules.views and not other.votes


def test_as_many_looks_go_through_the_head_at_once_as_without_views(voting, images, monkeypatch):
    """Four looks a picture: of 8 looks at once two pictures, and what is said stays the same."""
    expected, seen = scores(voting.classify(images)), []
    monkeypatch.setattr(sys.modules["safety_modules.defences.guard.judge"], "MAX_READINGS", 8)
    voting.modules.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    for found, one in zip(scores(voting.classify(images)), expected, strict=True):
        assert found == pytest.approx(one, abs=1e-4)
    assert seen == [2, 2, 1]
