import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from safety_modules.adapter.parameters import count_parameters
from safety_modules.config import BaseSizes, LoraSettings, SafetyConfig
from safety_modules.defences.guard.guard import GuardSettings
from safety_modules.defences.guard.modules import SafetyModules
from safety_modules.defences.meta_token import MetaModules, MetaTokenSettings
from safety_modules.errors import ConfigError

BLOCK_7B = (
    *((f"self_attn.{name}_proj", 4096, 4096) for name in "qkvo"),
    ("mlp.gate_proj", 4096, 11008),
    ("mlp.up_proj", 4096, 11008),
    ("mlp.down_proj", 11008, 4096),
)
LLAVA_7B = BaseSizes(1024, 4096, 576, (24, 24), 32064, 32, BLOCK_7B)


def count(design, sizes):
    return count_parameters("guard", GuardSettings(design=design), sizes)


def test_the_sizes_above_are_those_of_llava_1_5_7b():
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
            image_size=336, patch_size=14,
        ),
        text_config=LlamaConfig(vocab_size=32064),
    )  # fmt: skip
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    block = model.model.language_model.layers[0]
    linears = {
        (path, m.in_features, m.out_features) for path, m in block.named_modules() if isinstance(m, torch.nn.Linear)
    }
    assert linears == set(BLOCK_7B)
    assert (config.text_config.hidden_size, config.text_config.num_hidden_layers) == (4096, 32)


def test_default_on_llava_7b_is_an_adapter_of_tens_of_megabytes():
    counted = count(SafetyConfig.preset("default"), LLAVA_7B)
    print({part: f"{n:,} = {counted.megabytes('bfloat16', part):.2f} MB" for part, n in counted.parts.items()})
    print(f"total {counted.total:,} = {counted.megabytes('bfloat16'):.2f} MB")
    assert counted.parts["LoRA"] == 19_988_480
    assert counted.megabytes("bfloat16") <= 64
    assert counted.total - counted.parts["LoRA"] < 2_000_000


def test_paper_on_llava_7b_is_of_the_size_the_paper_reports():
    counted = count(SafetyConfig.preset("paper"), LLAVA_7B)
    print({part: f"{n:,}" for part, n in counted.parts.items()}, f"{counted.megabytes('bfloat16'):.0f} MB")
    assert counted.parts["LoRA"] == 32 * 19_988_480  # about 640 M
    assert 95e6 < counted.total - counted.parts["LoRA"] < 120e6  # about 108 M
    assert counted.megabytes("float32") == 2 * counted.megabytes("bfloat16")


def test_what_is_counted_is_what_is_then_made():
    sizes = BaseSizes(16, 32, 4, (2, 2), 64, 2, (("self_attn.q_proj", 32, 32),))
    config = SafetyConfig(lora=LoraSettings(r=3, target_modules=("q_proj",)))
    counted = count(config, sizes)
    modules = SafetyModules(config, sizes)
    assert counted.total == sum(p.numel() for p in modules.parameters()) + 2 * 3 * (32 + 32)
    assert counted.parts["safety head"] == sum(p.numel() for p in modules.head.parameters())


def test_a_count_without_lora_has_no_lora():
    assert "LoRA" not in count(SafetyConfig(lora=None), LLAVA_7B).parts


def test_lora_targets_the_base_does_not_have_are_an_error():
    with pytest.raises(ConfigError, match=r"no plan: LoRA targets are not in the language model.*\['fc1'\]"):
        count(SafetyConfig(lora=LoraSettings(target_modules=("fc1",))), LLAVA_7B)


def test_other_kinds_are_counted_by_their_own_names():
    settings = MetaTokenSettings(lora=LoraSettings(r=3, target_modules=("q_proj",)))
    counted = count_parameters("meta-token", settings, LLAVA_7B)
    modules = MetaModules(LLAVA_7B.text_width, settings)
    assert counted.parts["tokens"] == modules.tokens.weight.numel()
    assert counted.parts["head"] == sum(p.numel() for p in modules.head.parameters())
    assert counted.parts["LoRA"] == 32 * 3 * (4096 + 4096)
