import pytest
from pydantic import ValidationError

from safety_modules.config import PRESETS, BaseSizes, LoraSettings, SafetyConfig
from safety_modules.errors import ConfigError


def test_presets_are_what_the_documentation_says():
    default, paper = SafetyConfig.preset("default"), SafetyConfig.preset("paper")
    assert default == SafetyConfig()
    assert SafetyConfig.preset("no-lora") == SafetyConfig(lora=None)
    assert (default.projector, default.width, default.query, default.mode) == ("mlp", 128, "reading", "gated")
    assert (paper.projector, paper.width, paper.query, paper.mode) == (
        "c_abstractor",
        None,
        "first_token",
        "always",
    )
    assert (paper.num_head_tokens, paper.num_lm_tokens, paper.attention_heads) == (64, 64, 8)
    assert (default.ensemble, paper.ensemble) == (2, 1)
    assert paper.lora == LoraSettings(r=256, alpha=16, dropout=0.05)


def test_a_config_survives_json():
    for name in PRESETS:
        config = SafetyConfig.preset(name)
        assert SafetyConfig.model_validate_json(config.model_dump_json()) == config


def test_unknown_preset_names_the_known_ones():
    with pytest.raises(ConfigError, match="expected one of default, no-lora, paper, got 'papre'"):
        SafetyConfig.preset("papre")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"widht": 64}, "Extra inputs are not permitted"),
        ({"width": 0}, "greater than 0"),
        ({"width": 100, "attention_heads": 8}, "width 100 is not a multiple of attention_heads 8"),
        ({"num_head_tokens": 0}, "greater than 0"),
        ({"projector": "resampler"}, "'mlp' or 'c_abstractor'"),
        ({"lora": {"r": 8, "target_modules": []}}, "at least 1 item"),
        ({"lora": {"target_modules": ["q_proj", "q_proj"]}}, "repeat a name"),
        ({"lora": {"target_modules": [".*"]}}, "match pattern"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(changes, words):
    with pytest.raises(ValidationError, match=words):
        SafetyConfig(**changes)


def test_open_width_follows_the_base_and_must_suit_the_heads():
    config = SafetyConfig(width=None, attention_heads=8)
    assert config.feature_width(4096) == 4096
    assert SafetyConfig().feature_width(4096) == 128
    with pytest.raises(ConfigError, match="expected a divisor of 36, got 8"):
        config.feature_width(36)


def test_sizes_refuse_a_grid_that_does_not_hold_the_patches():
    with pytest.raises(ValidationError, match="grid 24 x 24 does not hold num_patches = 577"):
        BaseSizes(1024, 4096, 577, (24, 24), 32064, 32)
