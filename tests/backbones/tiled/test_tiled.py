"""Bases that cut pictures into tiles: features, verdicts and maps of whole pictures, calls, what is refused."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import tiled_bases
import torch
from guard_cases import NEW, ROWS, answers, attach_as_trained
from PIL import Image

from safety_modules.attach import attach_safety
from safety_modules.backbones import find_backbone
from safety_modules.backbones.tiles import Tiles, lengths
from safety_modules.config import LoraSettings, SafetyConfig
from safety_modules.defences.guard.modules import SafetyModules
from safety_modules.defences.guard.tiled import on_picture
from safety_modules.errors import AdapterError, AttachError, ConfigError, GuardError, PromptError
from safety_modules.policy.scores import LIMIT

pytestmark = pytest.mark.matrix

DESIGN = SafetyConfig(width=16, num_head_tokens=2, num_lm_tokens=3, attention_heads=2, lora=LoraSettings(r=2))
SEEDS = range(len(tiled_bases.SIZES))


@pytest.fixture
def backbone(model, processor):
    return find_backbone(model, processor)


@pytest.fixture
def guarded(model, processor):
    """Every picture is flagged."""
    safety = attach_as_trained(model, processor, config=DESIGN)
    safety.thresholds = dict.fromkeys(safety.config.taxonomy.types, -LIMIT)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        safety.modules.lm_tokens.weight.normal_()
        for name, parameter in safety.lora.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return safety


def test_a_picture_takes_as_many_tokens_as_the_processor_gives_it(backbone, ask):
    for seed in SEEDS:
        inputs = ask(("what is this?", [seed]))
        images = backbone.images_given(inputs)
        tokens = int((inputs["input_ids"] == backbone.image_token_id).sum())
        assert backbone.patch_counts(images) == [tokens] and tokens <= backbone.sizes.num_patches


def test_features_are_those_that_become_the_image_tokens(backbone, ask, tiny_base):
    inputs = ask(*[("what?", [seed]) for seed in SEEDS])
    images = backbone.images_given(inputs)
    with torch.no_grad():
        found = backbone.encode_images(images)
        asked = {name: inputs[name] for name in backbone.image_arguments if name in inputs}
        output = tiny_base.model.get_image_features(**asked)
    expected = list(getattr(output, "pooler_output", output))
    assert all(torch.equal(one, other) for one, other in zip(found.projected, expected, strict=True))
    assert lengths(found.vision) == [len(one) for one in expected] == backbone.patch_counts(images)
    for one, other in zip(backbone.project(found.vision), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_pictures_are_cut_as_the_processor_cuts_them(backbone, ask):
    for seed in SEEDS:
        mine, theirs = backbone.pixel_values([tiled_bases.picture(seed)]), backbone.images_given(ask(("a?", [seed])))
        assert torch.equal(mine.pixels, theirs.pixels) and torch.equal(mine.sizes, theirs.sizes)


def test_the_tower_runs_once_for_verdict_and_answer(guarded, ask, tower_runs, model):
    inputs = ask(("what?", [1]), ("and this?", [0]))
    found = guarded.generate(**inputs, **NEW)
    assert len(tower_runs) == 1
    assert tower_runs == [sum(guarded.backbone._tiles_of(guarded.backbone.images_given(inputs)))]
    assert all(verdict.flagged for verdict in found.verdicts)


def test_a_picture_has_one_verdict_alone_and_among_others(guarded, ask):
    alone = [guarded.classify([tiled_bases.picture(seed)], "what?")[0] for seed in SEEDS]
    together = guarded.classify([tiled_bases.picture(seed) for seed in SEEDS], "what?")
    called = guarded.generate(**ask(*[("what?", [seed]) for seed in SEEDS]), **NEW).verdicts
    for one, other, third in zip(alone, together, called, strict=True):
        for verdict in (other, third):
            torch.testing.assert_close(verdict.attention, one.attention, atol=1e-4, rtol=1e-3)
            assert all(abs(verdict.scores[name] - score) < 1e-3 for name, score in one.scores.items())


def test_every_tile_counts(guarded):
    """What is changed in one corner of a large picture changes the verdict, though the first tile hardly shows it."""
    picture = Image.new("RGB", (560, 560), "grey")
    plain = guarded.classify([picture])[0]
    seen = []
    for corner in ((0, 0), (420, 0), (0, 420), (420, 420)):
        changed = picture.copy()
        changed.paste("red", (*corner, corner[0] + 140, corner[1] + 140))
        seen.append(guarded.classify([changed])[0])
        assert seen[-1].scores != plain.scores
    # The verdict comes from the tiles too: the same first tile with other tiles behind it.
    backbone = guarded.backbone
    pixels = backbone.pixel_values([picture])
    for tile in range(1, pixels.pixels.shape[1]):
        other = Tiles(pixels.pixels.clone(), pixels.sizes, pixels.cut)
        other.pixels[:, tile] += 1
        assert guarded.classify(pixel_values=other)[0].scores != plain.scores, tile


def test_maps_lie_on_the_picture(guarded):
    """A head that looks at one thing only: the map is warm where the picture has it, whatever the tiles are."""
    backbone, sizes = guarded.backbone, guarded.backbone.sizes
    for width, height in ((56, 56), (28, 56), (100, 40), (40, 90)):
        picture = Image.fromarray(np.zeros((height, width, 3), np.uint8))
        marked = picture.copy()
        box = (width // 2, 0, width, height // 2)  # the upper right quarter
        marked.paste("white", box)
        with torch.no_grad():
            shown = [backbone.encode_images(backbone.pixel_values([one])).vision for one in (picture, marked)]
        there = lengths(shown[0])[0]
        changed = (shown[1] - shown[0]).norm(dim=-1)[0, :there]
        warm = changed / changed.sum()
        absent = ~shown[0].any(-1)
        maps = on_picture(warm[None, None], absent, sizes.tile, sizes.grid).unflatten(-1, sizes.grid)[0, 0]
        rows, columns = sizes.grid
        assert abs(float(maps.sum()) - 1) < 1e-4
        quarter = maps[: rows // 2, columns // 2 :].sum()
        assert quarter > 1.15 * maps[rows // 2 :, : columns // 2].sum(), (width, height)


def test_heat_maps_and_overlays_have_the_shape_of_the_picture(guarded):
    picture = tiled_bases.picture(3)
    verdict = guarded.classify([picture])[0]
    assert verdict.attention.shape[1:] == guarded.backbone.sizes.grid
    assert float(verdict.heatmap().sum()) <= 1 + 1e-5
    assert verdict.fit == "stretch" and verdict.overlay(picture).size == picture.size


def test_several_pictures_in_one_prompt_and_none(guarded, ask, tiny_base):
    inputs = ask(*ROWS)
    found = guarded.generate(**inputs, **NEW)
    assert [len(one) for one in found.image_verdicts] == [len(seeds) for _, seeds in ROWS]
    off = guarded.generate(**inputs, **NEW, safety=False)
    assert torch.equal(off.sequences, tiny_base.generate(**inputs, **NEW))
    text = ask(ROWS[2])
    assert torch.equal(guarded.generate(**text, **NEW).sequences, tiny_base.generate(**text, **NEW))


def test_rows_judged_clean_are_the_bases_on_their_sub_batch(model, processor, ask, tiny_base):
    safety = attach_as_trained(model, processor, config=DESIGN)
    safety.thresholds = dict.fromkeys(safety.config.taxonomy.types, LIMIT)
    inputs = ask(*ROWS)
    found = safety.generate(**inputs, **NEW, output_scores=True)
    expected = tiny_base.generate(**inputs, **NEW, output_scores=True, return_dict_in_generate=True)
    assert torch.equal(found.sequences, expected.sequences)
    assert all(torch.equal(one, other) for one, other in zip(found.scores, expected.scores, strict=True))


@pytest.mark.parametrize("mode", ["split", "merged"])
def test_rows_that_are_steered_see_their_own_pictures(guarded, ask, mode):
    """A batch of pictures of all sizes, one row steered or many: each row's answer is its own alone."""
    inputs = ask(*ROWS)
    found = answers(guarded.generate(**inputs, **NEW, batch_mode=mode).sequences, inputs)
    for row, one in enumerate(ROWS):
        own = ask(one)
        alone = answers(guarded.generate(**own, **NEW).sequences, own)[0]
        assert torch.equal(found[row, : len(alone)], alone), row


def test_the_hint_stands_behind_the_question(backbone, ask):
    inputs = ask(("what is this?", [1]))
    ids = inputs["input_ids"][0].tolist()
    hinted = backbone.insert_hint(ids, "Be careful.")
    text = backbone.chat.tokenizer.decode([i for i in hinted if i != backbone.image_token_id])
    assert "what is this? Be careful." in text
    assert hinted.count(backbone.image_token_id) == ids.count(backbone.image_token_id)
    whole = backbone.chat.tokenizer.decode([i for i in ids if i != backbone.image_token_id])
    assert text == whole.replace("what is this?", "what is this? Be careful.")
    with pytest.raises(PromptError, match="no place for the safe hint"):
        backbone.insert_hint(backbone.chat.tokenizer("no turns at all")["input_ids"], "Be careful.")


def test_the_question_is_what_is_judged(backbone, ask):
    tokenizer = backbone.chat.tokenizer
    for ids in (ask(("what is this?", [1]))["input_ids"][0].tolist(), backbone.prompt_ids("what is this?")):
        readings = [tokenizer.decode(one.ids).strip() for one in backbone.turns(ids)]
        assert readings == ["what is this?"]


def test_prompts_are_the_processors(backbone, ask):
    inputs = ask(("what is this?", [1]))
    counts = backbone.patch_counts(backbone.images_given(inputs))
    assert backbone.prompt_ids("what is this?", 1, lengths=counts) == inputs["input_ids"][0].tolist()
    assert backbone.prompt_ids("what is this?").count(backbone.image_token_id) == 1


def test_what_does_not_say_its_tiles_is_refused(guarded, ask):
    inputs = ask(("what?", [1]))
    for wrong, told in (
        ({"image_sizes": None}, "no image_sizes"),
        ({"pixel_values": inputs["pixel_values"][0]}, r"pixel_values \(N, tiles, C, H, W\)"),
        ({"pixel_values": inputs["pixel_values"][:, :1]}, "of one processor call"),
    ):
        with pytest.raises(GuardError, match=told):
            guarded.generate(**{**inputs, **wrong}, **NEW)
    with pytest.raises(GuardError, match="Pass pictures as images="):
        guarded.classify(pixel_values=inputs["pixel_values"])
    with pytest.raises(PromptError, match="images and prompts do not match"):
        guarded.generate(**{**inputs, "image_sizes": torch.tensor([[28, 28]])}, **NEW)


def test_videos_are_refused_by_name(guarded, ask):
    with pytest.raises(GuardError, match="got pixel_values_videos, in which the guard cannot judge"):
        guarded.generate(**ask(("what?", [1])), pixel_values_videos=torch.zeros(1, 2, 3, 28, 28), **NEW)


def test_a_processor_of_other_tiles_is_refused(model, processor):
    other = copy.deepcopy(processor)
    other.image_processor.image_grid_pinpoints = [[28, 56]]
    with pytest.raises(AttachError, match="expected image_grid_pinpoints"):
        find_backbone(model, other)


def test_designs_that_want_one_grid_are_refused(model, processor):
    with pytest.raises(ConfigError, match="cut into tiles"):
        attach_safety(model, processor, config=SafetyConfig(projector="c_abstractor"))
    sizes = find_backbone(model, processor).sizes
    with pytest.raises(ConfigError, match="Use another preset"):
        SafetyModules(DESIGN.model_copy(update={"query": "pooled_question"}), sizes)


def test_an_adapter_is_saved_loaded_and_refused_on_another_family(guarded, processor, tiny_base, tmp_path, family):
    folder = guarded.save_pretrained(tmp_path / "adapter", dtype="float32")
    pictures = [tiled_bases.picture(seed) for seed in SEEDS]
    expected = guarded.classify(pictures, "what?")
    again = attach_safety(copy.deepcopy(tiny_base), processor, folder)
    assert again.classify(pictures, "what?") == expected
    if family == "next":
        other_processor = tiled_bases.onevision_processor()
        other = tiled_bases.onevision_model(other_processor.tokenizer)
    else:
        other_processor = tiled_bases.next_processor(processor.tokenizer, tiled_bases.QWEN_TEMPLATE)
        other = tiled_bases.next_model(processor.tokenizer)
    with pytest.raises(AdapterError, match="other base: architecture"):
        attach_safety(other, other_processor, folder)


def test_another_newline_is_another_base(guarded, ask):
    with torch.no_grad():
        guarded.backbone.model.model.image_newline.add_(1)
    with pytest.raises(AttachError, match="base changed"):
        guarded.generate(**ask(("what?", [1])), **NEW)


def test_detaching_leaves_the_models_own_classes(guarded, tiny_base):
    model = guarded.backbone.model
    with pytest.raises(AttachError, match="already attached"):
        attach_safety(model, guarded.backbone.processor)
    guarded.detach()
    assert type(model) is type(tiny_base) and type(model.model) is type(tiny_base.model)


def test_a_subclass_is_refused(tiny_base, processor):
    class Own(type(tiny_base)):
        pass

    model = copy.deepcopy(tiny_base)
    model.__class__ = Own
    with pytest.raises(AttachError, match="no subclass"):
        find_backbone(model, processor)


def test_beams_are_answered_with_their_own_pictures(guarded, ask):
    rows = [("what?", [1]), ("and this?", [3])]
    inputs = ask(*rows)
    found = guarded.generate(**inputs, **NEW, num_beams=2)
    for row, one in enumerate(rows):
        own = ask(one)
        alone = answers(guarded.generate(**own, **NEW, num_beams=2).sequences, own)[0]
        assert torch.equal(answers(found.sequences, inputs)[row, : len(alone)], alone)


def test_in_bfloat16_off_is_the_base_and_verdicts_are_near(guarded, model, tiny_base, ask):
    expected = guarded.classify([tiled_bases.picture(1)], "what?")[0]
    model.to(torch.bfloat16)
    base = copy.deepcopy(tiny_base).to(torch.bfloat16)
    guarded.detach()
    half = attach_as_trained(model, guarded.backbone.processor, config=DESIGN)
    half.modules.load_state_dict(guarded.modules.state_dict())
    inputs = ask(*ROWS)
    inputs["pixel_values"] = inputs["pixel_values"].to(torch.bfloat16)
    assert torch.equal(model.generate(**inputs, **NEW, safety=False), base.generate(**inputs, **NEW))
    found = half.generate(**ask(("what?", [1])) | {"pixel_values": inputs["pixel_values"][:1]}, **NEW).verdicts[0]
    assert all(abs(found.probabilities[name] - value) < 0.05 for name, value in expected.probabilities.items())


def test_images_of_rows_can_be_taken_apart(backbone, ask):
    images = backbone.images_given(ask(("one", [1]), ("two", [2, 3])))
    part = images[[2, 0]]
    assert len(part) == 2 and torch.equal(part.pixels[1], images.pixels[0])
    assert torch.equal(backbone.joined([images[:1], images[1:]]).pixels, images.pixels)
    assert replace(part).sizes is part.sizes
