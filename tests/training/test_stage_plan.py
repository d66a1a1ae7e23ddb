"""What a stage will take, worked out on the meta device, against what it then takes."""

import pytest
import torch
from plan_cases import small
from transformers import AutoModelForImageTextToText

from safety_modules.adapter.parameters import count_parameters
from safety_modules.backbones.bases import published_config
from safety_modules.backbones.hf_llava import HFModules
from safety_modules.config import LoraSettings, SafetyConfig
from safety_modules.defences.guard.guard import GuardSettings
from safety_modules.defences.guard.modules import SafetyModules
from safety_modules.errors import ConfigError
from safety_modules.training.plan import ATTENTION, Setting, cost, stage_resources, step_cost
from safety_modules.training.recipe import Recipe

pytestmark = pytest.mark.matrix

DESIGN = SafetyConfig(width=16, num_head_tokens=2, num_lm_tokens=2, attention_heads=2, lora=LoraSettings(r=2))
SETTING = Setting(dtype="float32", text_tokens=40, answer_tokens=10, pictures=3)


def recipe(stage: int = 2, **changes) -> Recipe:
    return Recipe(**{"stage": stage, "steps": 5, "batch_size": 4, "learning_rate": 1e-3, **changes})


def test_living_bytes_and_operations_of_a_product_are_counted():
    left, right = torch.empty(3, 5, device="meta"), torch.empty(5, 7, device="meta", requires_grad=True)
    right.grad = torch.zeros_like(right)

    def step() -> None:
        product = left @ right  # 84 bytes
        doubled = product * 2  # 84
        del product  # nothing needs it later
        doubled.sum().backward()  # 4 for the sum; backwards at most 84 + 84 or 84 + 140 beside it

    found = cost(step, [left, right, right.grad])
    assert found.flops == 2 * (2 * 3 * 5 * 7)  # forwards, and the gradient of one factor
    assert 2 * 84 <= found.peak <= 84 + 84 + 140 + 8


@pytest.mark.parametrize("checkpointed", [False, True])
def test_what_is_planned_from_few_blocks_is_what_all_of_them_take(checkpointed):
    config, asked = small(7), recipe(activation_checkpointing=checkpointed)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, attn_implementation=ATTENTION).requires_grad_(False)
    whole = step_cost(model, DESIGN, asked, SETTING, rows=4, checkpointed=checkpointed)
    planned = stage_resources(config, DESIGN, asked, SETTING)
    assert planned.memory["activations"] == pytest.approx(whole.peak, rel=0.01)
    assert planned.step_flops == whole.flops


def test_planned_weights_are_those_of_the_model_and_the_modules(tiny_base):
    needed = stage_resources(tiny_base.config, DESIGN, recipe(), SETTING)
    assert needed.memory["base weights"] == sum(parameter.nbytes for parameter in tiny_base.parameters())
    parameters = count_parameters("guard", GuardSettings(design=DESIGN), HFModules(tiny_base).read_sizes()).total
    assert needed.memory["safety modules and LoRA"] == needed.memory["gradients"] == 4 * parameters
    assert needed.memory["AdamW's two moments"] == 8 * parameters


def test_stage_1_trains_the_head_alone(tiny_base):
    needed = stage_resources(tiny_base.config, DESIGN, recipe(1), SETTING)
    modules = SafetyModules(DESIGN, HFModules(tiny_base).read_sizes())
    head = sum(p.numel() for name, p in modules.named_parameters() if not name.startswith("lm_tokens"))
    assert needed.memory["gradients"] == 4 * head
    picture = 16 * 24 * 2  # 16 patches, 24 wide, float16
    assert (needed.features, needed.read) == (3 * picture, 4 * picture)


def test_checkpointing_takes_less_memory_and_a_third_more_arithmetic():
    kept = stage_resources(small(12), DESIGN, recipe(), SETTING)
    again = stage_resources(small(12), DESIGN, recipe(activation_checkpointing=True), SETTING)
    assert again.activations == kept.activations
    assert again.total < kept.total
    assert 1.2 < again.step_flops / kept.step_flops < 1.5


def test_distributed_share_samples_and_a_sharded_base():
    alone = stage_resources(small(8), DESIGN, recipe(gradient_accumulation=4), SETTING)
    shared = stage_resources(
        small(8), DESIGN, recipe(gradient_accumulation=4), Setting(**{**vars(SETTING), "processes": 4, "sharded": True})
    )
    assert shared.step_flops == alone.step_flops / 4
    assert shared.memory["base weights"] < alone.memory["base weights"]
    assert shared.memory["activations"] == alone.memory["activations"]  # a forward pass has as many rows


def test_arithmetic_of_a_7b_step_is_four_operations_a_weight_and_token():
    asked = recipe(batch_size=1, type_weight=0, level_weight=0, precision="bfloat16")
    needed = stage_resources(published_config("llava-1.5-7b"), SafetyConfig(), asked, Setting(text_tokens=256))
    linears = 32 * (4 * 4096**2 + 3 * 4096 * 11_008)
    tokens = 576 + 8 + 256
    # 2 forwards, 2 for the gradient of the activations; attention and LoRA come on top.
    assert 1.0 < needed.step_flops / (4 * linears * tokens) < 1.1
    assert needed.memory["base weights"] == pytest.approx(14.1e9, rel=0.01)


def test_published_design_is_planned_too():
    needed = stage_resources(small(3), SafetyConfig.preset("paper"), recipe(1), SETTING)
    assert needed.memory["activations"] > 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"quantise": "int4"}, "expected nf4 or int8, got 'int4'"),
        ({"quantise": "nf4", "sharded": True}, "sharded or quantised, got both"),
        ({"processes": 3}, "step not shared"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        stage_resources(small(), DESIGN, recipe(), Setting(**{**vars(SETTING), **changes}))
