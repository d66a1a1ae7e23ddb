"""davsp: the border and what lies under it, what the guard judges, what it costs, sizes, files, other bases."""

import copy

import pytest
import torch
from guard_cases import NEW, ROWS, answers, rows_of
from pydantic import ValidationError

from adapters import edit_config, problems_of, rewrite
from safety_modules.adapter.parameters import count_parameters
from safety_modules.attach import attach_safety
from safety_modules.attach.attachment import SafetyAttachment
from safety_modules.backbones import find_backbone
from safety_modules.config import BaseSizes, LoraSettings, SafetyConfig
from safety_modules.defences.call import Call
from safety_modules.defences.davsp import Davsp, DavspSettings, bordered, ring
from safety_modules.defences.guard import Guard, GuardSettings
from safety_modules.defences.tga import Tga, TgaSettings
from safety_modules.errors import AttachError, ConfigError
from safety_modules.policy import Policy

SIZE = 28
LIMITS = torch.full((3,), -2.0), torch.full((3,), 2.0)
LLAVA_7B = BaseSizes(1024, 4096, 576, (24, 24), 32064, 32)


def made(model, processor, settings=None, *others, std=1.0):
    """On the model as if trained; `others` stand outside of it."""
    backbone = find_backbone(model, processor)
    davsp = Davsp(backbone, settings)
    with torch.no_grad():
        davsp.border.copy_(std * torch.randn(davsp.border.shape, generator=torch.Generator().manual_seed(3)))
    davsp.trained = True
    attachment = SafetyAttachment(backbone, [*others, davsp], Policy.default())
    attachment.install()
    return attachment


# ---- maths ----


def test_a_border_without_anything_learnt_carries_the_edges_on_or_is_the_mean_colour():
    inner = torch.rand(1, 3, 6, 6)
    border = torch.zeros(3, int(ring((10, 10), 2).sum()))
    # A picture that is one colour stays it, and a smaller one is what its edges go on from.
    flat = torch.full((1, 3, 10, 10), 0.7)
    assert torch.allclose(bordered(flat, border, 2, LIMITS), flat)
    large = inner.repeat_interleave(2, -1).repeat_interleave(2, -2)[..., 1:-1, 1:-1]
    found = bordered(large, border, 2, LIMITS)
    middle = found[..., 2:-2, 2:-2]
    assert torch.equal(found[..., :2, 2:-2], middle[..., :1, :].expand(-1, -1, 2, -1))
    assert torch.equal(found[..., 2:-2, -2:], middle[..., -1:].expand(-1, -1, -1, 2))
    nothing = bordered(large, border, 2, LIMITS, under="nothing")
    assert torch.equal(nothing[..., 2:-2, 2:-2], middle) and (nothing[..., ring((10, 10), 2)] == 0).all()


def test_the_border_lies_around_the_picture_and_what_is_shown_stays_a_pictures_pixels():
    pixels = torch.rand(2, 3, 10, 10)
    border = torch.arange(3 * 64.0).view(3, 64) / 1000
    zero = bordered(pixels, 0 * border, 2, LIMITS)
    found = bordered(pixels, border, 2, LIMITS)
    assert torch.equal(found[..., 2:-2, 2:-2], zero[..., 2:-2, 2:-2])
    added = (found - zero)[..., ring((10, 10), 2)]  # (2, 3, 64)
    assert torch.allclose(added, border.expand(2, 3, 64), atol=1e-5)
    for sign, limit in ((1, 2.0), (-1, -2.0)):
        far = bordered(pixels, sign * (border + 50), 2, LIMITS)
        assert (far[..., ring((10, 10), 2)] == limit).all() and torch.equal(far[..., 2:-2, 2:-2], zero[..., 2:-2, 2:-2])


def test_gradients_reach_every_pixel_of_the_border_through_the_base(model, processor):
    safety = made(model, processor, std=0.01)
    davsp, pixels = safety.defences[0], torch.rand(1, 3, SIZE, SIZE)
    with torch.enable_grad():
        total = torch.stack(davsp.look(pixels).projected).pow(2).sum()
        (gradient,) = torch.autograd.grad(total, davsp.border)
    assert (gradient != 0).all()


# ---- in a call ----


def test_the_language_model_sees_the_bordered_picture_in_one_run_of_the_tower(model, processor, tiny_base, ask):
    rows = [row for row in ROWS if row[1]]
    safety, inputs = made(model, processor), ask(*rows)
    framed = dict(inputs) | {"pixel_values": safety.defences[0].framed(inputs["pixel_values"]).detach()}
    found = safety.generate(**inputs, **NEW)
    assert torch.equal(found.sequences, tiny_base.generate(**framed, **NEW))
    assert not torch.equal(found.sequences, tiny_base.generate(**inputs, **NEW))
    assert [usage.tower_runs for usage in found.usage] == [len(seeds) for _, seeds in rows]
    assert [usage.lm_passes for usage in found.usage] == [1] * len(rows)


def test_rows_without_a_picture_are_the_bases_own(model, processor, tiny_base, ask):
    safety, inputs = made(model, processor), ask(*ROWS[:3])
    found = safety.generate(**inputs, **NEW)
    own = rows_of(inputs, [2], [])
    expected = answers(tiny_base.generate(**own, **NEW), own)
    assert torch.equal(answers(found.sequences, inputs)[2, : expected.shape[1]], expected[0])
    assert [usage.tower_runs for usage in found.usage] == [1, 1, 0]


def guard(model, processor):
    design = SafetyConfig(width=16, num_head_tokens=2, num_lm_tokens=3, attention_heads=2, lora=LoraSettings(r=2))
    found = Guard(find_backbone(model, processor), GuardSettings(design=design))
    found.trained = True
    return found


def test_the_guard_judges_the_untouched_picture_for_one_run_of_the_tower_more(model, processor, ask):
    inputs, judge = ask(*ROWS[:3]), guard(model, processor)
    alone = attach_safety(model, processor, defence=judge)
    expected = [verdict and verdict.scores for verdict in alone.generate(**inputs, **NEW).verdicts]
    alone.detach()
    both = made(model, processor, None, judge)
    found = both.generate(**inputs, **NEW)
    assert [verdict and verdict.scores for verdict in found.verdicts] == expected
    assert [usage.tower_runs for usage in found.usage] == [2, 2, 0]
    off = both.generate(**inputs, **NEW, safety={"davsp": False})
    assert [usage.tower_runs for usage in off.usage] == [1, 1, 0]


def test_outside_of_the_guard_it_is_refused(model, processor):
    with pytest.raises(ConfigError, match="order refused: expected guard outside of davsp"):
        attach_safety(model, processor, defence=["davsp", guard(model, processor)])


def test_what_the_guard_put_beside_the_picture_stays_there(model, processor, ask):
    inputs, judge = ask(ROWS[0]), guard(model, processor)
    judge.mode = "always"
    both = made(model, processor, None, judge)
    prepared, davsp = both.prepare(**inputs), both.defences[-1]
    with prepared.running():
        seen = model.model.get_image_features(pixel_values=torch.zeros(1, 1))
    (feature,) = getattr(seen, "pooler_output", seen)
    tokens = judge.modules.lm_tokens().detach()
    own = davsp.look(inputs["pixel_values"]).projected[0].detach()
    assert torch.allclose(feature, torch.cat([tokens, own]), atol=1e-5)


def test_where_words_stand_in_the_pictures_place_there_is_nothing_to_paint(model, processor, ask):
    backbone = find_backbone(model, processor)
    tga = Tga(backbone, TgaSettings(tokens=2, width=4, rank=2, place="instead"))
    tga.trained = True
    both, inputs = made(model, processor, None, tga), ask(ROWS[0])
    found = both.generate(**inputs, **NEW)
    assert torch.equal(found.sequences, both.generate(**inputs, **NEW, safety={"davsp": False}).sequences)
    assert found.usage[0].tower_runs == 2, "which is paid nevertheless"


def test_another_run_of_the_tower_replaces_only_the_rows_that_are_meant(model, processor, ask):
    backbone, inputs = find_backbone(model, processor), ask(*ROWS[:4])
    call = Call.read(backbone, dict(inputs), {}, {})
    with torch.no_grad():
        plain = call.encoded()
        found = call.shown([1], lambda pixels: backbone.encode_images(-pixels))
        after = plain.shown([1], lambda pixels: backbone.encode_images(-pixels))
    for image in range(4):
        for other in (found, after):
            same = torch.equal(other.features[image], plain.features[image])
            assert same is (image != 1) and torch.equal(other.features[image], other.projected[image])
            assert torch.equal(other.vision[image], plain.vision[image]) is same
    assert call.shown([2], lambda pixels: pytest.fail("a row without a picture")) is call


def test_pictures_of_another_size_are_refused_by_name(model, processor, ask):
    safety = made(model, processor)
    with pytest.raises(ConfigError, match=r"expected pictures of 28 pixels a side, got \(14, 14\)"):
        safety.defences[0].look(torch.zeros(1, 3, 14, 14))


# ---- sizes, files ----


def test_the_size_is_the_processors_and_the_width_a_share_of_it(model, processor):
    settings = attach_safety(model, processor, defence="davsp").defences[0].settings
    assert (settings.size, settings.width) == (SIZE, 2)  # as published: 30 of 336
    published = count_parameters("davsp", DavspSettings(size=336, width=30), LLAVA_7B)
    assert published.total == 110_160 and published.megabytes() < 0.23
    with pytest.raises(ConfigError, match="expected size and width of davsp"):
        count_parameters("davsp", DavspSettings(), LLAVA_7B)


def test_a_border_that_leaves_no_picture_is_refused(model, processor):
    with pytest.raises(ValidationError, match="leaves no picture"):
        DavspSettings(size=28, width=14)
    with pytest.raises(ConfigError, match="expected a border that leaves some of 28 pixels, got width 14"):
        Davsp(find_backbone(model, processor), DavspSettings(width=14))


def test_a_processor_of_another_size_is_refused(model, processor):
    with pytest.raises(AttachError, match="expected pictures of 336 pixels a side, got 28"):
        Davsp(find_backbone(model, processor), DavspSettings(size=336))
    backbone = find_backbone(model, processor)
    backbone.pixel_values = lambda images: torch.zeros(1, 3, 28, 14)
    with pytest.raises(AttachError, match="expected a base whose processor gives one whole square picture"):
        Davsp(backbone)


@pytest.fixture
def folder(model, processor, tmp_path):
    safety = made(model, processor, DavspSettings(width=3))
    path = safety.save_pretrained(tmp_path / "adapter")
    safety.detach()
    return path


def test_an_adapter_of_it_brings_its_border_and_belongs_to_its_base(folder, tiny_base, processor):
    assert {path.name for path in folder.iterdir()} == {"adapter_config.json", "davsp.safetensors"}
    davsp = attach_safety(copy.deepcopy(tiny_base), processor, folder).defences[0]
    assert davsp.trained and davsp.settings == DavspSettings(width=3, size=SIZE, under="edges")
    assert davsp.border.abs().sum() > 0


def spoil(record, **settings):
    record["parts"][0]["settings"].update(settings)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: spoil(r, size=None), "expected size and width of davsp as numbers"),
        (lambda r: spoil(r, width=None), "expected size and width of davsp as numbers"),
        (lambda r: spoil(r, width=2), "has another shape: expected (3, 208), got (3, 300)"),
        (lambda r: spoil(r, width=14), "leaves no picture"),
        (lambda r: spoil(r, width=0), "davsp.width"),
        (lambda r: spoil(r, width=3.0), "davsp.width"),
        (lambda r: spoil(r, size=10**9), "davsp.size"),
        (lambda r: spoil(r, under="everything"), "davsp.under"),
        (lambda r: spoil(r, code="os.system"), "unknown key 'davsp.code'"),
        (lambda r: r["parts"][0]["settings"].pop("under"), "missing key 'davsp.under'"),
        (lambda r: r["parts"][0].update(depends_on=["vision"]), "depends_on of davsp does not match its settings"),
        (lambda r: r["files"].pop("davsp.safetensors"), "files do not match the designs of the parts"),
    ],
)
def test_a_strangers_settings_are_refused(folder, change, words):
    edit_config(folder, change)
    assert any(words in problem for problem in problems_of(folder)), problems_of(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.update(border=t["border"] * torch.nan), "border holds NaN or infinity"),
        (lambda t: t.update(border=t["border"][:1]), "border has another shape"),
        (lambda t: t.update(border=t["border"].float()), "border has another dtype"),
        (lambda t: t.update({"lm_head.weight": t["border"].clone()}), "such as a base weight"),
        (lambda t: t.pop("border"), "missing tensor 'border'"),
    ],
)
def test_a_strangers_tensors_are_refused(folder, change, words):
    rewrite(folder, change, "davsp.safetensors")
    assert any(words in problem for problem in problems_of(folder)), problems_of(folder)


# ---- other bases ----


def test_on_a_base_in_bfloat16_it_acts_and_off_is_the_base(tiny_base, processor, ask):
    base, inputs = copy.deepcopy(tiny_base).bfloat16(), ask(*ROWS[:2])
    details = NEW | {"output_scores": True, "return_dict_in_generate": True}
    expected = copy.deepcopy(base).generate(**inputs, **details).scores
    made(base, processor)
    assert not torch.equal(base.generate(**inputs, **details).scores[0], expected[0])
    off = base.generate(**inputs, **details, safety=False).scores
    assert all(torch.equal(a, b) for a, b in zip(off, expected, strict=True))
