"""QLoRA: both stages on bases that bitsandbytes quantised, on the CPU (`make test-quant`)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BitsAndBytesConfig, LlavaForConditionalGeneration

from safety_modules import SafetyConfig, attach_safety, train_safety
from safety_modules.config import LoraSettings
from safety_modules.records import Record
from safety_modules.training.recipe import Recipe

pytest.importorskip("bitsandbytes")

SKIP = ["model.vision_tower", "model.multi_modal_projector", "lm_head"]
WAYS = {
    "nf4": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=SKIP),
    "int8": BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=SKIP),
}


@pytest.mark.parametrize("way", WAYS)
def test_both_stages_train_on_a_quantised_base_and_leave_it_as_it_is(
    tiny_base: Any, processor: Any, ask: Callable[..., Any], make_image: Callable[[int], Any], tmp_path: Path, way: str
) -> None:
    tiny_base.save_pretrained(tmp_path)
    model = LlavaForConditionalGeneration.from_pretrained(
        tmp_path, quantization_config=WAYS[way], dtype=torch.float32
    ).eval()
    inputs = ask(("what is this?", [1]))
    with torch.no_grad():
        before = model(**inputs).logits
    design = SafetyConfig(width=16, num_head_tokens=2, num_lm_tokens=2, attention_heads=2, lora=LoraSettings(r=2))
    safety = attach_safety(model, processor, config=design)
    start = {name: parameter.detach().clone() for name, parameter in safety.named_parameters()}
    records = [
        Record(image=make_image(seed), question="what is this?", answer="a cup", type=type, level=level)
        for seed, (type, level) in enumerate([("clean", "safe"), ("illegal", "high")] * 2)
    ]
    common = {"steps": 3, "batch_size": 4, "learning_rate": 1e-3}
    recipes = [
        Recipe(stage=1, **common),
        Recipe(stage=2, **common, precision="bfloat16", activation_checkpointing=True),
    ]
    train_safety(safety, records, recipes, progress=False)
    moved = {name for name, parameter in safety.named_parameters() if not torch.equal(parameter, start[name])}
    assert {name for name in start if "lora_B" in name or name == "modules.lm_tokens.weight"} <= moved
    assert all(parameter.dtype == torch.float32 and parameter.isfinite().all() for parameter in safety.parameters())
    safety.detach()
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, before)
