"""tga: where its tokens stand, what an order changes, the folder plain peft loads, other bases."""

import copy

import peft
import pytest
import torch
from guard_cases import NEW, ROWS, answers, rows_of
from pydantic import ValidationError
from torch import nn

from safety_modules.attach import attach_safety
from safety_modules.attach.attachment import SafetyAttachment
from safety_modules.backbones import find_backbone
from safety_modules.config import LoraSettings, SafetyConfig
from safety_modules.defences.call import Call, in_place
from safety_modules.defences.guard import Guard, GuardSettings
from safety_modules.defences.tga import CaptionQueries, Tga, TgaSettings, retold
from safety_modules.errors import AdapterError, AttachError
from safety_modules.policy import Policy

LORA = LoraSettings(r=2, target_modules=("linear_1", "linear_2"))
SMALL = {"tokens": 2, "width": 4, "rank": 2}


def made(model, processor, settings, *others):
    """On the model as if trained: `others` are defences outside of it."""
    backbone = find_backbone(model, processor)
    tga = Tga(backbone, settings)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(3)
        for name, one in tga.named_parameters():
            if "lora_B" in name:
                one.normal_(std=0.3)
    tga.trained = True
    attachment = SafetyAttachment(backbone, [*(one(backbone) for one in others), tga], Policy.default())
    attachment.install()
    return attachment


def test_what_is_not_refused_when_told_is_the_bases_own_answer_bit_for_bit(model, processor, tiny_base, ask):
    rows = [row for row in ROWS if row[1]]
    safety, inputs = made(model, processor, TgaSettings(**SMALL, threshold=1)), ask(*rows)
    details = NEW | {"output_scores": True, "return_dict_in_generate": True}
    found, expected = safety.generate(**inputs, **details), tiny_base.generate(**inputs, **details)
    assert torch.equal(found.sequences, expected.sequences)
    assert all(torch.equal(a, b) for a, b in zip(found.scores, expected.scores, strict=True))
    assert [usage.lm_passes for usage in found.usage] == [2] * len(rows)
    assert [usage.tower_runs for usage in found.usage] == [len(seeds) for _, seeds in rows]


def test_what_is_refused_when_told_is_answered_in_the_pictures_place(model, processor, ask):
    inputs, told = ask(ROWS[0]), {}
    for place, threshold in (("first", 0), ("instead", 1), ("beside", 1)):
        safety = made(model, processor, TgaSettings(**SMALL, place=place, threshold=threshold))
        told[place] = safety.prepare(**inputs)
        image = safety.backbone.image_token_id
        patches = safety.backbone.sizes.num_patches
        expected = patches + 2 if place == "beside" else 2
        assert (told[place].input_ids == image).sum() == expected, place
        safety.detach()
    assert torch.equal(told["first"].input_ids, told["instead"].input_ids)


def test_each_row_of_a_batch_is_refused_or_not_by_itself(model, processor, tiny_base, ask):
    inputs = ask(*ROWS[:2])
    safety = made(model, processor, TgaSettings(**SMALL))
    chances = []
    for row in range(2):
        low, high = 0.0, 1.0
        part = rows_of(inputs, [row], [row])
        for _ in range(30):
            middle = (low + high) / 2
            safety.defences[0].settings = TgaSettings(**SMALL, threshold=middle)
            refused = safety.prepare(**part).input_ids.shape != part["input_ids"].shape
            low, high = (middle, high) if refused else (low, middle)
        chances.append(low)
    assert chances[0] != chances[1]
    safety.defences[0].settings = TgaSettings(**SMALL, threshold=sum(chances) / 2)
    found = answers(model.generate(**inputs, **NEW), inputs)
    spared = chances.index(min(chances))
    own = rows_of(inputs, [spared], [spared])
    expected = answers(tiny_base.generate(**own, **NEW), own)
    assert torch.equal(found[spared][: expected.shape[1]], expected[0])
    assert len(found) == 2


@pytest.mark.parametrize("settings", [TgaSettings(form="last", lora=LORA), TgaSettings(**SMALL, place="instead")])
def test_the_guard_judges_the_untouched_picture_in_either_order(model, processor, ask, settings):
    design = GuardSettings(design=SafetyConfig(width=16, num_head_tokens=2, num_lm_tokens=3, attention_heads=2))
    inputs = ask(*ROWS[:3])
    guard = Guard(find_backbone(model, processor), design)
    guard.trained = True
    alone = attach_safety(model, processor, defence=guard)
    expected = [verdict and verdict.scores for verdict in alone.generate(**inputs, **NEW).verdicts]
    alone.detach()
    for outer in (True, False):
        safety = made(model, processor, settings)
        tga = safety.defences[0]
        safety.detach()
        both = attach_safety(model, processor, defence=[guard, tga] if outer else [tga, guard])
        found = both.generate(**inputs, **NEW)
        assert [verdict and verdict.scores for verdict in found.verdicts] == expected
        assert [usage.tower_runs for usage in found.usage] == [1, 1, 0]
        both.detach()


def test_lora_replaces_the_pictures_rows_and_leaves_what_others_put_beside_them(model, processor, ask):
    old, new, others = torch.randn(4, 8), torch.randn(4, 8), torch.randn(3, 8)
    found = in_place(torch.cat([others, old, others]), old, new)
    assert torch.equal(found, torch.cat([others, new, others]))


def test_lora_takes_the_patches_where_a_guard_outside_left_a_class_token_before_them(model, processor, ask):
    safety = made(model, processor, TgaSettings(form="last", lora=LORA))
    call = Call.read(safety.backbone, dict(ask(ROWS[0])), {"tga": True}, {})
    looks = (safety.backbone.encode_images, safety.backbone.encode_with_class)
    (expected,), (found,) = (safety.defences[0].prepared(call.encoded(look)).features for look in looks)
    assert torch.equal(found, expected)


def test_the_projectors_lora_loads_into_plain_peft_and_gives_the_same(model, processor, tiny_base, ask, tmp_path):
    safety, inputs = made(model, processor, TgaSettings(form="pooled", lora=LORA)), ask(ROWS[0])
    folder = safety.save_pretrained(tmp_path / "adapter", dtype="float32")
    expected = safety.generate(**inputs, **NEW).sequences
    plain = peft.PeftModel.from_pretrained(copy.deepcopy(tiny_base), folder / "tga-lora").eval()
    assert torch.equal(plain.generate(**inputs, **NEW), expected)
    names = [name for name, _ in plain.named_parameters() if "lora_" in name]
    assert names and all("multi_modal_projector" in name for name in names)


def test_queries_name_what_the_patches_are_near_to():
    torch.manual_seed(0)
    queries, words = CaptionQueries(6, 16, TgaSettings(**SMALL)), torch.randn(9, 16)
    with torch.no_grad():
        queries.sharpness.fill_(6.0)
        found = queries(20 * words[4].expand(1, 6, 16), words)  # a projector's are longer than words
    assert torch.allclose(found, words[4].expand(1, 2, 16), atol=1e-3)


def test_a_prompt_is_retold_picture_by_picture(model, processor):
    backbone = find_backbone(model, processor)
    image = backbone.image_token_id
    prompt = [7, image, image, 8, image, image, image, 9]
    features = [torch.zeros(1, 4), torch.zeros(4, 4)]
    assert retold(backbone, prompt, [2, 3], features) == [7, image, 8, *[image] * 4, 9]
    assert retold(backbone, [7, *[image] * 5, 9], [2, 3], features) == [7, *[image] * 5, 9]


def test_a_projector_of_another_make_is_refused_by_name_and_queries_do_without(model, processor):
    model.model.multi_modal_projector = nn.Sequential(nn.Linear(24, 32), nn.GELU(), nn.Linear(32, 32))
    with pytest.raises(AttachError, match="expected a projector of the linears linear_1, linear_2"):
        Tga(find_backbone(model, processor), TgaSettings(form="pooled", lora=LORA))
    Tga(find_backbone(model, processor), TgaSettings(**SMALL))


def test_settings_name_the_projectors_linears_only():
    with pytest.raises(ValidationError, match="some of linear_1, linear_2"):
        TgaSettings(lora=LoraSettings(target_modules=("q_proj",)))
    assert TgaSettings().lora_settings is None and TgaSettings(form="last").lora_settings is not None


def test_a_lora_of_the_language_model_is_refused_in_its_place(model, processor, tmp_path):
    safety = made(model, processor, TgaSettings(form="pooled", lora=LORA))
    folder = safety.save_pretrained(tmp_path / "adapter")
    config = folder / "tga-lora" / "adapter_config.json"
    config.write_text(config.read_text().replace("multi_modal_projector", "language_model"))
    safety.detach()
    with pytest.raises(AdapterError, match="target_modules does not match"):
        attach_safety(model, processor, folder)


@pytest.mark.parametrize("settings", [TgaSettings(form="pooled", lora=LORA), TgaSettings(**SMALL, threshold=0)])
def test_on_a_base_in_bfloat16_it_acts_and_off_is_the_base(tiny_base, processor, ask, settings):
    base, inputs = copy.deepcopy(tiny_base).bfloat16(), ask(*ROWS[:2])
    details = NEW | {"output_scores": True, "return_dict_in_generate": True}
    expected = copy.deepcopy(base).generate(**inputs, **details).scores
    made(base, processor, settings)
    assert not torch.equal(base.generate(**inputs, **details).scores[0], expected[0])
    off = base.generate(**inputs, **details, safety=False).scores
    assert all(torch.equal(a, b) for a, b in zip(off, expected, strict=True))
