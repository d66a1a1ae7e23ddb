"""`docs/adapter-format.md` says what the code does."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from adapters import CONFIG, SIZES
from safety_modules.adapter import format as adapter_format
from safety_modules.adapter import header as adapter_header
from safety_modules.adapter.checks import MOST_CONFIG_BYTES
from safety_modules.adapter.format import (
    AdapterConfig,
    BaseRecord,
    PartRecord,
    format_files,
    lora_shapes,
    peft_config,
)
from safety_modules.backbones.bases import LORA_PREFIX
from safety_modules.config import BaseSizes, LoraSettings, SafetyConfig
from safety_modules.defences.guard.guard import Guard, GuardSettings
from safety_modules.defences.guard.reading import BLOCKS
from safety_modules.defences.lora_tuning import LoraTuningSettings
from safety_modules.defences.meta_token import MetaTokenSettings
from safety_modules.defences.registry import KINDS
from safety_modules.io import strict
from safety_modules.taxonomy import Taxonomy

PAGE = (Path(__file__).parents[2] / "docs" / "adapter-format.md").read_text(encoding="utf-8")
CODE = set(re.findall(r"`([^`\n]+)`", PAGE))
SECTION = re.compile(r"^#+ (.*)$", re.MULTILINE)


def table(heading):
    """First cells of the table under a heading."""
    part = SECTION.split(PAGE)
    text = part[part.index(heading) + 1]
    return {
        name
        for line in text.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`([^`]+)`", line[: line.index("|", 2)])
    }


def names(model: type[BaseModel]):
    return set(model.model_fields)


@pytest.mark.parametrize(
    ("heading", "model"),
    [
        ("`adapter_config.json`", AdapterConfig),
        ("`parts`: the defences", PartRecord),
        ("Settings of `guard`", GuardSettings),
        ("`design`", SafetyConfig),
    ],
)
def test_every_key_has_its_row_and_no_row_is_left_over(heading, model):
    assert table(heading) == names(model) - ({"kind"} if model is GuardSettings else set())


@pytest.mark.parametrize("model", [BaseRecord, LoraSettings, Taxonomy, LoraTuningSettings, MetaTokenSettings])
def test_every_nested_key_is_named(model):
    assert names(model) <= CODE


def test_every_size_is_named():
    assert set(BaseSizes.__dataclass_fields__) <= CODE


def test_the_layout_is_the_formats_files():
    said = table("Layout")
    files = {file.replace("<kind>", kind) for file in said for kind in KINDS if kind != "guard"}
    assert files == {file for file in format_files() if file.partition("/")[0] not in ("safety.safetensors", "lora")}
    assert {file for file in said if "<kind>" not in file} == {"adapter_config.json"}
    assert {"safety.safetensors", "lora/"} <= CODE


def test_every_key_of_the_lora_config_is_named():
    assert set(peft_config(LoraSettings())) <= CODE


def test_dtypes_and_limits_are_the_codes():
    assert set(adapter_format.DTYPES) <= CODE
    assert adapter_format.FORMAT in CODE and f"format version {adapter_format.FORMAT_VERSION}" in PAGE
    assert MOST_CONFIG_BYTES == adapter_header.MOST_HEADER_BYTES == 1_000_000 and "1 000 000 bytes" in PAGE
    assert f"at most {strict.MOST_LEVELS} levels" in PAGE.replace("\n", " ")
    assert f"{adapter_format.MOST_TENSOR_BYTES:,}".replace(",", " ") in PAGE
    assert f"at most {adapter_header.MOST_DIMENSIONS} sizes" in PAGE


def test_every_tensor_of_the_default_design_is_in_the_table_with_its_shape():
    sizes = {"Dv": SIZES.vision_width, "D": SIZES.text_width, "T": 6, "L": 4, "W": 16, "1": 1, "7": 7}
    sizes |= {"2W": 32, "3W": 48, "TW": 96, "`num_head_tokens`": 8, "`num_lm_tokens`": 8}
    reading, said = CONFIG.model_copy(update={"query": SafetyConfig().query}), {}
    part = SECTION.split(PAGE)
    for line in part[part.index("`safety.safetensors`") + 1].splitlines():
        if line.startswith("| `"):
            _, left, right, _ = line.split("|")
            shapes = [
                tuple(sizes[size.strip()] for size in text.split(",")) for text in re.findall(r"\(([^)]*)\)", right)
            ]
            rows = re.findall(r"`([^`]+)`", left)
            for name, shape in zip(rows, shapes * len(rows) if len(shapes) == 1 else shapes, strict=False):
                ends = ("weight", "bias") if "*" in name else ("",)
                blocks = map(str, range(BLOCKS)) if "<n>" in name else ("",)
                said |= {name.replace("*", e).replace("<n>", n): shape for n in blocks for e in ends}
    peer = {f"peers.0.{name}": shape for name, shape in said.items()} | {
        "peers.0.lm_tokens.weight": (0, SIZES.text_width)
    }
    assert said | peer == {
        name: tuple(shape) for name, shape in Guard.shapes(GuardSettings(design=reading), SIZES).items()
    }


def test_lora_tensors_are_named_as_the_page_says():
    pattern = "base_model.model.model.language_model.layers.<i>.<p>.lora_A.weight"
    assert pattern in CODE
    name = pattern.replace("<i>", "1").replace("<p>", "self_attn.v_proj")
    assert lora_shapes(CONFIG.lora, SIZES)[name.removeprefix(LORA_PREFIX)] == (2, 32)
