"""One of several processes of a training; started by test_distributed.py."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoProcessor, LlavaForConditionalGeneration

from safety_modules import SafetyConfig, attach_safety, train_safety
from safety_modules.config import LoraSettings
from safety_modules.records import Record
from safety_modules.training import distributed
from safety_modules.training.recipe import Recipe

# No noise, no dropout: what is random is each process's own.
DESIGN = SafetyConfig(
    width=16, num_head_tokens=2, num_lm_tokens=2, attention_heads=2, lora=LoraSettings(r=2, dropout=0.0)
)


def pictures() -> list[Record]:
    """Clean and risky ones, with answers of unlike lengths."""
    found = []
    for seed in range(12):
        type, level = (("clean", "safe"), ("illegal", "high"), ("privacy", "low"))[seed % 3]
        pixels = np.random.default_rng(seed).integers(0, 256, (28, 28, 3), dtype=np.uint8)
        words = {"question": "what is this?"[: 6 + seed], "answer": "a cup of tea"[: 1 + seed]}
        found.append(Record(image=Image.fromarray(pixels), **words, type=type, level=level))
    return found


def records() -> list[Record]:
    """With a text-only record that the base itself answers."""
    return [*pictures(), Record(image=None, question="a knife?", answer=None, type="clean", level="safe")]


def main(base: Path, out: Path) -> None:
    model = LlavaForConditionalGeneration.from_pretrained(base).eval()
    safety = attach_safety(model, AutoProcessor.from_pretrained(base), config=DESIGN)
    common = {"steps": 4, "batch_size": 8, "learning_rate": 1e-3, "save_every": 2}
    recipes = [Recipe(stage=1, **common), Recipe(stage=2, **common, text_only_share=0.2, answer_tokens=3)]
    train_safety(safety, records(), recipes, records(), out, progress=False)
    weights = {name: parameter.detach() for name, parameter in safety.named_parameters()}
    save_file(weights, out / f"weights-{distributed.rank()}-of-{distributed.count()}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
