"""What `test_fsdp.py` starts in several processes: MODEL OUT. Trains both stages on MODEL/data.jsonl, rank 0 saves."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoProcessor, LlavaForConditionalGeneration

from safety_modules import SafetyConfig, attach_safety, train_safety
from safety_modules.config import LoraSettings
from safety_modules.training.recipe import Recipe

DESIGN = SafetyConfig(
    width=16, num_head_tokens=2, num_lm_tokens=2, attention_heads=2, lora=LoraSettings(r=2, dropout=0.0)
)
RECIPES = [
    Recipe(stage=1, steps=2, batch_size=4, learning_rate=3e-3, save_every=0),
    Recipe(
        stage=2, steps=2, batch_size=4, learning_rate=3e-3, save_every=0, answer_tokens=3, activation_checkpointing=True
    ),
]


def train(folder: Path, out: Path):
    """Trains on the base in `folder`; nothing random, so that several processes can be compared with one."""
    model = LlavaForConditionalGeneration.from_pretrained(folder).eval()
    safety = attach_safety(model, AutoProcessor.from_pretrained(folder), config=DESIGN)
    train_safety(safety, folder / "data.jsonl", RECIPES, output_dir=out, progress=False)
    return safety


def whole(parameter: torch.Tensor) -> torch.Tensor:
    return parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter


if __name__ == "__main__":
    folder, out = map(Path, sys.argv[1:])
    safety = train(folder, out / "run")
    model = safety.backbone.model
    base = {name: whole(parameter).detach().clone() for name, parameter in model.named_parameters()}  # all take part
    held = sum(
        (p.to_local() if hasattr(p, "to_local") else p).numel() for p in model.model.language_model.layers.parameters()
    )
    if torch.distributed.get_rank() == 0:
        save_file({name: p.detach().clone() for name, p in safety.named_parameters()}, out / "trained.safetensors")
        save_file(base, out / "base.safetensors")
        (out / "held.json").write_text(json.dumps(held))
    torch.distributed.destroy_process_group()
