import pytest
import torch

from safety_modules.config import BaseSizes, SafetyConfig
from safety_modules.defences.guard.modules import SafetyModules
from safety_modules.defences.guard.published import FirstTokenHead
from safety_modules.defences.guard.reading import ReadingHead
from safety_modules.errors import ConfigError

SIZES = BaseSizes(vision_width=16, text_width=32, num_patches=12, grid=(3, 4), vocab_size=100, num_layers=2)


def make_modules(preset="default", **changes):
    torch.manual_seed(0)
    return SafetyModules(SafetyConfig(**{**SafetyConfig.preset(preset).model_dump(), **changes}), SIZES)


def test_both_presets_judge_a_batch():
    for preset, head in (("default", ReadingHead), ("paper", FirstTokenHead)):
        modules = make_modules(preset)
        assert isinstance(modules.head, head)
        out = modules(torch.randn(2, 12, 16), torch.randn(2, 5, 32), torch.ones(2, 5, dtype=torch.bool))
        assert out.type_logits.shape == (2, 7)
        assert out.level_logits.shape == (2, 4)
        assert out.attention.shape == (2, 6, 12)


def test_sizes_come_from_the_base():
    modules = make_modules("paper")
    assert modules.head_tokens().shape == (64, 32)  # D_s = D as published
    assert modules.lm_tokens().shape == (64, 32)
    assert make_modules().head_tokens().shape == (8, 128)
    assert make_modules().lm_tokens().shape == (8, 32)


def test_an_image_alone_gets_a_verdict_and_a_question_sharpens_it():
    modules, vision = make_modules(), torch.randn(2, 12, 16)
    alone, asked = modules(vision), modules(vision, torch.randn(2, 5, 32))
    assert not torch.allclose(alone.type_logits, asked.type_logits)


def test_every_parameter_but_the_language_model_s_tokens_gets_a_gradient():
    modules = make_modules()
    for question in (None, torch.randn(2, 5, 32)):
        out = modules(torch.randn(2, 12, 16), question)
        (out.type_logits.square().sum() + out.level_logits.square().sum()).backward()
    parameters = [(name, p) for name, p in modules.named_parameters() if p.numel()]
    without = {name for name, p in parameters if p.grad is None or not p.grad.any()}
    assert without == {"lm_tokens.weight"}  # s2 learns through the language model's loss


def test_inputs_of_any_dtype_are_cast_at_the_border():
    modules, vision, question = make_modules(), torch.randn(1, 12, 16), torch.randn(1, 5, 32)
    half = modules(vision.bfloat16(), question.bfloat16())
    assert half.type_logits.dtype == torch.float32
    assert torch.equal(half.type_logits, modules(vision.bfloat16().float(), question.bfloat16().float()).type_logits)
    assert modules.bfloat16()(vision, question).type_logits.dtype == torch.bfloat16


def test_a_row_s_verdict_does_not_depend_on_its_neighbours():
    modules, vision, question = make_modules().eval(), torch.randn(3, 12, 16), torch.randn(3, 5, 32)
    together = modules(vision, question).type_logits
    alone = torch.cat([modules(vision[i : i + 1], question[i : i + 1]).type_logits for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_no_submodule_shadows_a_method_of_nn_module():
    methods = set(dir(torch.nn.Module))
    for preset in ("default", "paper"):
        for name, _ in make_modules(preset).named_modules():
            assert name.rpartition(".")[2] not in methods


@pytest.mark.parametrize(
    ("vision", "question", "mask", "words"),
    [
        (
            (1, 13, 16),
            None,
            None,
            r"vision features of another shape: expected \(B, 12, 16\), got \(1, 13, 16\)",
        ),
        ((12, 16), None, None, "vision features of another shape"),
        ((1, 12, 16), (1, 5, 31), None, "question embeddings of another shape"),
        ((2, 12, 16), (1, 5, 32), None, "question embeddings of another shape"),
        ((1, 12, 16), (1, 5, 32), (1, 4), "question mask of another shape"),
        ((1, 12, 16), None, (1, 4), "question mask without a question"),
    ],
)
def test_a_tensor_of_another_base_is_refused(vision, question, mask, words):
    with pytest.raises(ConfigError, match=words):
        make_modules()(
            torch.zeros(vision),
            None if question is None else torch.zeros(question),
            None if mask is None else torch.ones(mask),
        )


def test_heads_that_do_not_divide_the_base_s_width_are_refused():
    with pytest.raises(ConfigError, match="expected a divisor of 32, got 5"):
        make_modules(width=None, attention_heads=5)


def test_an_ensemble_says_the_mean_of_what_its_sets_say():
    modules, vision, question = make_modules(ensemble=3).eval(), torch.randn(2, 12, 16), torch.randn(2, 5, 32)
    said, each = modules(vision, question), modules.each(vision, question)
    assert len(each) == 3 and not torch.allclose(each[0].type_logits, each[1].type_logits)
    for together, *parts in zip(said[:3], *(one[:3] for one in each), strict=True):
        assert torch.allclose(together, sum(parts) / 3, atol=1e-6)


def test_an_ensemble_of_one_is_a_single_set_bit_for_bit():
    alone, vision = make_modules(ensemble=1).eval(), torch.randn(2, 12, 16)
    for said, own in zip(alone(vision)[:3], alone.each(vision)[0][:3], strict=True):
        assert torch.equal(said, own)
    assert not any(name.startswith("peers.") for name in alone.state_dict())
