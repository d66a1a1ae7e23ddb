"""llava-pocket for vLLM on the CPU, whose attention takes no heads of 40: the same model with heads of 64."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import pad

from safety_modules import attach_safety
from safety_modules.backbones.tower import without_blocks

WIDTH = 64


def widened(name: str, tensor: torch.Tensor, heads: int, width: int) -> torch.Tensor:
    """A weight of an attention's linear, or of its LoRA, for heads of WIDTH; other tensors as they are.

    What is added is zero. Scores are divided by the root of the heads' width, so queries are multiplied by it.
    """
    linear = next((one for one in ("q_proj", "k_proj", "v_proj", "o_proj") if f".{one}." in name), None)
    if linear == "o_proj" and "lora_B" not in name:  # reads the heads
        return pad(tensor.unflatten(1, (heads, width)), (0, WIDTH - width)).flatten(1)
    if linear in ("q_proj", "k_proj", "v_proj") and "lora_A" not in name:  # writes them
        tensor = tensor * math.sqrt(WIDTH / width) if linear == "q_proj" else tensor
        return pad(tensor.unflatten(0, (heads, width)), (0, 0, 0, WIDTH - width)).flatten(0, 1)
    return tensor


def save_widened(safety: Any, base: Path, folder: Path) -> tuple[Path, Path]:
    """A base and its adapter, saved with wide heads.

    Args:
        safety: of the base.
        base: its folder.
        folder: to write to.
    """
    wide, adapter = folder / "base", folder / "adapter"
    wide.mkdir(parents=True)
    for file in base.iterdir():
        if file.is_file() and file.suffix in (".json", ".jinja"):
            shutil.copy(file, wide)
    config = json.loads((base / "config.json").read_text())
    text = config["text_config"]
    heads, width = text["num_attention_heads"], text["head_dim"]
    text["head_dim"] = WIDTH
    text["rope_parameters"]["partial_rotary_factor"] = width / WIDTH
    (wide / "config.json").write_text(json.dumps(config))
    tensors = load_file(base / "model.safetensors").items()
    of_text = lambda name: "language_model." in name  # noqa: E731
    found = {name: widened(name, one, heads, width) if of_text(name) else one for name, one in tensors}
    save_file({name: one.contiguous() for name, one in found.items()}, wide / "model.safetensors", {"format": "pt"})
    model, processor = without_blocks(wide)
    other = attach_safety(model, processor, config=safety.config)
    other.modules.load_state_dict(safety.modules.state_dict())
    lora = safety.lora.state_dict().items()
    other.lora.load_state_dict({name: widened(f".{name}", one, heads, width) for name, one in lora})
    other.thresholds, other.temperature, other.trained = safety.thresholds, safety.temperature, True
    return wide, other.save_pretrained(adapter, dtype="float32")
