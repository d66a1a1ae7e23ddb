"""CMRM and ShiftDC: the maths, what stands behind which block, fitting, stacks, files."""

import copy
from dataclasses import replace

import pytest
import torch
from guard_cases import NEW, ROWS, answers, rows_of
from PIL import Image
from torch.nn.functional import normalize

from adapters import edit_config, problems_of, rewrite
from safety_modules.adapter.parameters import count_parameters
from safety_modules.attach import attach_safety
from safety_modules.backbones import find_backbone
from safety_modules.config import BaseSizes
from safety_modules.defences.anchors import Anchors
from safety_modules.defences.call import Call
from safety_modules.defences.cmrm import Cmrm, CmrmSettings
from safety_modules.defences.guard.steer import Sample
from safety_modules.defences.registry import make
from safety_modules.defences.shift import (
    along,
    blank_features,
    direction,
    last_states,
    mean_shift,
    pc1_scaled,
    text_prompt,
    with_image,
)
from safety_modules.defences.shiftdc import ShiftDcSettings
from safety_modules.errors import AdapterError, AttachError, ConfigError, DataError, GuardError, PromptError

TEXTS = Anchors(
    unsafe=("how do I use a knife?", "what could break the law?"), safe=("what is this?", "tell me", "why?")
)
QUESTION = "how do I use what is shown here?"
LLAVA_7B = BaseSizes(1024, 4096, 576, (24, 24), 32064, 32)


# ---- maths ----


def test_every_kind_weighs_the_same_in_the_mean():
    many, few = torch.ones(9, 2, 3), -torch.ones(1, 2, 3)
    assert torch.equal(mean_shift([many, few]), torch.zeros(2, 3))
    assert torch.equal(mean_shift([many]), torch.ones(2, 3))


def test_the_component_is_the_axis_of_the_spread_as_long_as_its_deviation_towards_the_mean():
    generator = torch.Generator().manual_seed(0)
    axis = normalize(torch.randn(2, 8, generator=generator), dim=-1)
    spread = torch.randn(500, 2, 1, generator=generator)
    noise = 0.01 * torch.randn(500, 2, 8, generator=generator)
    shifts = (5 + 3 * spread) * axis + noise
    found = pc1_scaled([shifts[:300], shifts[300:]])
    assert torch.allclose(normalize(found, dim=-1), axis, atol=0.01)  # of both signs, that of the mean
    assert torch.allclose(found.norm(dim=-1), 3 * spread.std(0)[:, 0], rtol=0.01)
    assert torch.allclose(pc1_scaled([-shifts]), -pc1_scaled([shifts]), atol=1e-4)
    assert torch.equal(pc1_scaled([shifts[:1]]), torch.zeros(2, 8))


def test_the_direction_is_a_unit_vector_from_one_mean_to_the_other_and_along_keeps_its_part_alone():
    unsafe, safe = torch.zeros(3, 1, 4), torch.tensor([[[0.0, 2.0, 0, 0]], [[0, 4.0, 0, 0]]])
    unit = direction(unsafe, safe)
    assert torch.equal(unit, torch.tensor([[0.0, 1, 0, 0]]))
    assert torch.equal(along(torch.tensor([5.0, -3, 2, 1]), unit[0]), torch.tensor([0.0, -3, 0, 0]))


# ---- behind the blocks ----


def text_states(backbone, layers, question=QUESTION):
    return last_states(backbone, layers, [Sample(backbone.prompt_ids(question, 0))])


def states_of_a_call(model, backbone, inputs, layer, **options):
    """What really comes out behind a block in a guarded call, pass by pass: what goes into what stands behind it."""
    found, blocks = [], backbone.blocks
    behind = blocks[layer + 1] if layer + 1 < len(blocks) else backbone.final_norm
    hook = behind.register_forward_pre_hook(
        lambda _, args, kwargs: found.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    try:
        model.generate(**inputs, **NEW, **options)
    finally:
        hook.remove()
    return found


def blank_inputs(backbone, processor, question=QUESTION):
    text = f"USER: <image>\n{question} ASSISTANT:"
    return dict(processor(images=[Image.new("RGB", (64, 64), "white")], text=[text], return_tensors="pt"))


def test_at_sample_level_with_the_meaningless_picture_one_block_gives_the_state_of_the_text(model, processor):
    safety = attach_safety(
        model, processor, defence=CmrmSettings(level="sample", layers=(0,), steps="prefill", alpha=1)
    )
    expected = text_states(safety.backbone, [0])[:, 0]
    found = states_of_a_call(model, safety.backbone, blank_inputs(safety.backbone, processor), 0)
    # the passes for the shift come first; in them nothing is moved
    moved = [states for states in found if states.shape[1] > 1][-1]
    assert torch.allclose(moved[:, -1], expected, atol=1e-4)
    plain = states_of_a_call(model, safety.backbone, blank_inputs(safety.backbone, processor), 0, safety=False)[0]
    assert not torch.allclose(plain[:, -1], expected, atol=1e-1)
    assert torch.equal(plain[:, :-1], moved[:, :-1]), "the last token alone"


def test_at_dataset_level_the_mean_over_the_anchors_is_taken_back(model, processor):
    safety = attach_safety(model, processor, defence=CmrmSettings(layers=(1,)), anchors=TEXTS)
    backbone, (cmrm,) = safety.backbone, safety.defences
    picture = blank_features(backbone, "white")
    shifts = []
    for kind in (TEXTS.unsafe, TEXTS.safe):
        of_kind = [
            last_states(backbone, [1], [Sample(backbone.prompt_ids(text, 1), [picture])])
            - text_states(backbone, [1], text)
            for text in kind
        ]
        shifts.append(torch.cat(of_kind).mean(0))
    assert torch.allclose(cmrm.vectors, sum(shifts) / 2, atol=1e-4) and cmrm.vectors.shape == (1, 32)


@pytest.mark.parametrize(
    ("tokens", "steps", "moved_first", "moved_later"),
    [
        ("last", "prefill", "last", False),
        ("last", "all", "last", True),
        ("all", "prefill", "all", False),
        ("all", "all", "all", True),
    ],
)
@pytest.mark.parametrize("cached", [True, False])
def test_which_tokens_and_passes_are_moved(model, processor, ask, tokens, steps, moved_first, moved_later, cached):
    settings = CmrmSettings(layers=(1,), tokens=tokens, steps=steps, alpha=0.01)  # so small that the answer stays
    safety = attach_safety(model, processor, defence=settings, anchors=TEXTS)
    inputs, options = ask(ROWS[0]), {"use_cache": cached}
    found = states_of_a_call(model, safety.backbone, inputs, 1, **options)
    plain = states_of_a_call(model, safety.backbone, inputs, 1, safety=False, **options)
    gap = 0.01 * safety.defences[0].vectors[0]
    width = inputs["input_ids"].shape[1]
    assert len(found) == len(plain) > 2
    for step, (states, others) in enumerate(zip(found, plain, strict=True)):
        first, new = (states.shape[1], 0) if step == 0 else ((0, 1) if cached else (width, step))
        expected = torch.zeros(states.shape[1], dtype=torch.bool)
        if step == 0 or not cached:
            expected[: width if moved_first == "all" else 0] = True
            expected[width - 1] = True
        if step and moved_later:
            expected[-new:] = True
        assert first + new == states.shape[1]
        wanted = others - expected[None, :, None] * gap
        assert torch.allclose(states, wanted, atol=1e-4), step


def test_shiftdc_gives_the_state_the_part_of_its_text_along_the_direction_and_keeps_the_rest(model, processor, ask):
    safety = attach_safety(model, processor, defence=ShiftDcSettings(form="lite", layers=(0, 1)), anchors=TEXTS)
    unit = safety.defences[0].vectors
    assert torch.allclose(unit.norm(dim=-1), torch.ones(2))
    inputs = ask((QUESTION, [5]))
    target = text_states(safety.backbone, [0, 1])[0]
    plain = [states_of_a_call(model, safety.backbone, inputs, layer, safety=False)[0] for layer in (0, 1)]
    found = [
        [s for s in states_of_a_call(model, safety.backbone, inputs, layer) if s.shape[1] > 20][-1] for layer in (0, 1)
    ]
    for layer in (0, 1):  # behind every block, although the one before was moved already
        own = found[layer][0, -1]
        assert torch.allclose(own @ unit[layer], target[layer] @ unit[layer], atol=1e-3)
    moved = found[0][0, -1] - plain[0][0, -1]
    assert moved.norm() > 1e-2 and torch.allclose(moved, along(moved, unit[0]), atol=1e-4)


def test_shiftdc_asks_for_a_caption_and_measures_from_it(model, processor, ask):
    inputs = ask((QUESTION, [5]), ("why?", [7]))
    safety = attach_safety(model, processor, defence=ShiftDcSettings(caption_tokens=3), anchors=TEXTS)
    found = safety.generate(**inputs, **NEW)
    assert [usage.lm_passes for usage in found.usage] == [3, 3]  # caption, text, answer
    assert [usage.tower_runs for usage in found.usage] == [1, 1]
    safety.detach()
    lite = attach_safety(model, processor, defence=ShiftDcSettings(form="lite"), anchors=TEXTS)
    assert [usage.lm_passes for usage in lite.generate(**inputs, **NEW).usage] == [2, 2]


def test_what_no_part_of_it_takes_back_is_the_base(model, processor, tiny_base, ask):
    inputs = ask(*ROWS)
    for settings in (
        CmrmSettings(alpha=0),
        CmrmSettings(alpha=0, level="sample"),
        ShiftDcSettings(alpha=0, form="lite"),
    ):
        safety = attach_safety(model, processor, defence=settings)
        expected = tiny_base.generate(**rows_of(inputs, [0, 1], [0, 1]), **NEW)
        assert torch.equal(model.generate(**rows_of(inputs, [0, 1], [0, 1]), **NEW), expected), settings
        safety.detach()


def test_each_row_has_its_own_shift_however_the_call_is_divided(model, processor, ask):
    """A guard further in answers some rows apart; beams repeat rows."""
    rows = [(QUESTION, [5]), ("why?", [7]), ("what is this?", [1])]
    settings = CmrmSettings(level="sample", layers=(0,))
    safety = attach_safety(model, processor, defence=settings)
    for options in ({}, {"num_beams": 2}):
        alone = [answers(model.generate(**ask(row), **NEW, **options), ask(row))[0] for row in rows]
        together = answers(model.generate(**ask(*rows), **NEW, **options), ask(*rows))
        for own, found in zip(alone, together, strict=True):
            assert torch.equal(own, found[: len(own)])
    call = {**ask(*rows), **NEW}
    expected = model.generate(**call)
    (cmrm,) = safety.defences
    with safety.inference():
        plain = Call.read(safety.backbone, call, {"cmrm": True}, {})
        prepared = cmrm.prepared(plain)
        taken = prepared.take([2, 1])
        parts = taken.base_answer().new_ids
    width = parts.shape[1]
    assert torch.equal(parts, answers(expected, call)[[2, 1], :width])


def test_decodings_that_hide_the_prompts_last_token_are_refused(model, processor, ask):
    attach_safety(model, processor, defence="cmrm", anchors=TEXTS)
    for options in ({"prompt_lookup_num_tokens": 2}, {"prefill_chunk_size": 4}):
        with pytest.raises(GuardError, match=f"got {next(iter(options))}"):
            model.generate(**ask(ROWS[0]), **NEW, **options)
        assert model.generate(**ask(ROWS[0]), **NEW, **options, safety={"cmrm": False}) is not None


def test_the_text_of_a_prompt_is_what_the_processor_writes_without_a_picture_and_a_conversation_keeps_its_turns(
    model, processor, ask
):
    backbone = find_backbone(model, processor)
    several = "what is this? ASSISTANT: a knife USER: why?"
    inputs = ask((QUESTION, [5]), (QUESTION, [5, 6]), (several, [5]), (QUESTION, []))
    for call in (Call.read(backbone, inputs, {}, {}), Call.read(backbone, inputs, {}, {}).encoded()):
        assert [text_prompt(call, row) for row in (0, 1, 3)] == [backbone.prompt_ids(QUESTION, 0)] * 3
        assert text_prompt(call, 0, "a cup") == backbone.prompt_ids(f"a cup\n{QUESTION}", 0)
        longer = replace(call, features=[torch.cat([one, one[:3]]) for one in call.features]) if call.features else None
        for row, caption, words in ((2, "", several), (2, "a cup", f"a cup\n{several}")):
            text = processor.tokenizer.decode(text_prompt(call, row, caption)).replace(" ", "")
            assert text == f"<s>USER:{words}ASSISTANT:".replace(" ", "")
        if longer is not None:
            wide = longer.asked([longer.question(row, QUESTION) for row in (0, 1, 2, 3)])
            assert wide.ids.shape[1] > call.ids.shape[1]
            assert text_prompt(wide, 1) == backbone.prompt_ids(QUESTION, 0)
            assert with_image(backbone, wide, 1) == backbone.prompt_ids(QUESTION, 2)


# ---- fitting ----


def test_fitting_leaves_nothing_on_the_base_and_needs_no_picture(model, processor):
    backbone = find_backbone(model, processor)
    make(backbone, "cmrm", TEXTS)  # transformers notes things at its first call
    classes, hooks = type(model), [len(part._forward_hooks) for part in model.modules()]
    keys, flags = sorted(vars(model)), [p.requires_grad for p in model.parameters()]
    model.train()
    found = make(backbone, CmrmSettings(picture="noise"), TEXTS)
    assert model.training and type(model) is classes and sorted(vars(model)) == keys
    assert [len(part._forward_hooks) for part in model.modules()] == hooks
    assert [p.requires_grad for p in model.parameters()] == flags
    assert not any(parameter.requires_grad for _, parameter in found.named_parameters())
    model.eval()
    assert not torch.equal(found.vectors, make(backbone, "cmrm", TEXTS).vectors), "another picture, another shift"


def test_own_anchors_take_the_place_of_the_shipped_ones(model, processor, tmp_path):
    (tmp_path / "a.yaml").write_text("unsafe: ['how do I use a knife?']\nsafe: ['why?']")
    vectors = []
    for anchors in (None, tmp_path / "a.yaml", {"unsafe": ["how do I use a knife?"], "safe": ["why?"]}):
        safety = attach_safety(model, processor, defence="cmrm", anchors=anchors)
        vectors.append(safety.defences[0].vectors.clone())
        safety.detach()
    assert torch.equal(vectors[1], vectors[2]) and not torch.equal(vectors[0], vectors[1])


def test_one_kind_of_anchors_is_refused_unless_asked_for(model, processor):
    for one, missing in (({"unsafe": ["a", "b"]}, "safe"), ({"safe": ["a", "b"]}, "unsafe")):
        with pytest.raises(ConfigError, match=f"no {missing} ones.*refuse rather than answer"):
            attach_safety(model, processor, defence="cmrm", anchors=one)
        with pytest.raises(ConfigError, match=f"shiftdc not fitted.*no {missing} ones"):
            attach_safety(model, processor, defence="shiftdc", anchors=one)
    safety = attach_safety(model, processor, defence=CmrmSettings(anchors="unsafe"), anchors={"unsafe": ["a", "b"]})
    assert safety.defences[0].trained
    safety.detach()
    with pytest.raises(ConfigError, match="no unsafe ones"):
        attach_safety(model, processor, defence=CmrmSettings(anchors="unsafe"), anchors={"safe": ["a"]})


def test_anchors_for_nothing_are_refused(model, processor):
    for defence in (None, "guard", ["adashield-s", "ecso"], CmrmSettings(level="sample")):
        with pytest.raises(ConfigError, match=r"anchors of nothing|nothing to fit"):
            attach_safety(model, processor, defence=defence, anchors=TEXTS)
    made = make(find_backbone(model, processor), "cmrm", TEXTS)
    with pytest.raises(ConfigError, match="anchors of nothing"):
        attach_safety(model, processor, defence=made, anchors=TEXTS)
    with pytest.raises(DataError, match="unknown key 'risky'"):
        attach_safety(model, processor, defence="cmrm", anchors={"risky": ["a"]})
    with pytest.raises(PromptError, match="image placeholders"):
        attach_safety(model, processor, defence="cmrm", anchors={"unsafe": ["use an <image>"], "safe": ["a"]})


@pytest.mark.parametrize("layers", [(2,), (-3,), (0, 0), (1, -1)])
def test_blocks_that_the_base_has_not_are_refused(model, processor, layers):
    for settings in (CmrmSettings(layers=layers), ShiftDcSettings(layers=layers)):
        with pytest.raises(ConfigError, match="expected each block once, from -2 to 1"):
            attach_safety(model, processor, defence=settings)


def test_a_base_that_overflows_is_not_fitted_to(model, processor):
    with torch.no_grad():
        model.model.language_model.layers[0].mlp.down_proj.weight.fill_(torch.nan)
    with pytest.raises(ConfigError, match="not fitted: expected finite hidden states"):
        attach_safety(model, processor, defence="cmrm", anchors=TEXTS)


def test_never_fitted_it_does_not_answer(model, processor, ask):
    attach_safety(model, processor, defence=Cmrm(find_backbone(model, processor)))
    with pytest.raises(GuardError, match="expected trained weights of cmrm"):
        model.generate(**ask(ROWS[0]), **NEW)


# ---- files ----


def test_the_vectors_of_a_7b_take_a_quarter_of_a_megabyte():
    for settings, layers in ((CmrmSettings(), 32), (ShiftDcSettings(), 16), (CmrmSettings(layers=(3, -1)), 2)):
        counted = count_parameters(settings.kind, settings, LLAVA_7B)
        assert counted.total == layers * 4096
    assert count_parameters("cmrm", CmrmSettings(), LLAVA_7B).megabytes() < 0.3
    assert count_parameters("cmrm", CmrmSettings(level="sample"), LLAVA_7B).total == 0


@pytest.fixture
def folder(model, processor, tmp_path):
    safety = attach_safety(model, processor, defence=[CmrmSettings(alpha=0.7), ShiftDcSettings(layers=(-1,))])
    path = safety.save_pretrained(tmp_path / "adapter")
    safety.detach()
    return path


def test_an_adapter_of_it_brings_its_vectors(folder, tiny_base, processor, tmp_path):
    assert {path.name for path in folder.iterdir()} == {
        "adapter_config.json",
        "cmrm.safetensors",
        "shiftdc.safetensors",
    }
    safety = attach_safety(copy.deepcopy(tiny_base), processor, folder)
    cmrm, shiftdc = safety.defences
    assert cmrm.trained and cmrm.settings.alpha == 0.7 and shiftdc.layers == (1,)
    assert torch.equal(cmrm.vectors, make(safety.backbone, "cmrm").vectors.half().float())
    other = copy.deepcopy(tiny_base)
    with torch.no_grad():
        other.model.language_model.layers[0].mlp.up_proj.weight.add_(1)
    with pytest.raises(AdapterError, match="language_model"):
        attach_safety(other, processor, folder)


def spoil(record, part, **settings):
    record["parts"][part]["settings"].update(settings)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: spoil(r, 0, alpha=1e9), "cmrm.alpha: Input should be less than or equal to 10"),
        (lambda r: spoil(r, 0, alpha="0.5"), "cmrm.alpha: Input should be a valid number"),
        (lambda r: spoil(r, 0, layers=[0]), "has another shape: expected (1, 32), got (2, 32)"),
        (lambda r: spoil(r, 0, layers=[7]), "expected each block once, from -2 to 1, got 7"),
        (lambda r: spoil(r, 0, layers=[]), "cmrm.layers"),
        (lambda r: spoil(r, 0, layers=[*range(2000)]), "cmrm.layers"),
        (lambda r: spoil(r, 0, level="sample"), "depends_on of cmrm does not match its settings"),
        (lambda r: spoil(r, 0, code="os.system"), "unknown key 'cmrm.code'"),
        (lambda r: r["parts"][0].update(depends_on=[]), "depends_on of cmrm does not match its settings"),
        (lambda r: r["parts"][0]["settings"].pop("form"), "missing key 'cmrm.form'"),
        (lambda r: spoil(r, 1, caption="\x1b[2J"), "shiftdc.caption"),
        (lambda r: spoil(r, 1, caption_tokens=10**9), "shiftdc.caption_tokens"),
        (lambda r: r["files"].pop("cmrm.safetensors"), "files do not match the designs of the parts"),
    ],
)
def test_a_strangers_settings_are_refused(folder, change, words):
    edit_config(folder, change)
    assert any(words in problem for problem in problems_of(folder)), problems_of(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.update(shift=t["shift"] * torch.nan), "shift holds NaN or infinity"),
        (lambda t: t.update(shift=t["shift"][:1]), "shift has another shape"),
        (lambda t: t.update(shift=t["shift"].float()), "shift has another dtype"),
        (lambda t: t.update({"lm_head.weight": t["shift"].clone()}), "such as a base weight"),
        (lambda t: t.pop("shift"), "missing tensor 'shift'"),
    ],
)
def test_a_strangers_tensors_are_refused(folder, change, words):
    rewrite(folder, change, "cmrm.safetensors")
    assert any(words in problem for problem in problems_of(folder)), problems_of(folder)


def test_another_base_meanwhile_is_refused(model, processor, ask):
    attach_safety(model, processor, defence="cmrm", anchors=TEXTS)
    with torch.no_grad():
        model.model.language_model.layers[0].mlp.up_proj.weight.add_(1)
    with pytest.raises(AttachError, match="base changed"):
        model.generate(**ask(ROWS[0]), **NEW)
