"""What `batch_mode` saves and what it changes: split, merged and the base, side by side in one run.

    python benchmarks/batch_modes.py --base wide --json batch_modes.json
    python benchmarks/batch_modes.py --base pocket
    python benchmarks/batch_modes.py --quick

A batch in which the first rows are risky (the head is set by hand) and the others are switched off, so that base,
split and merged answer the same prompts with the same number of new tokens. `clean rows` is the largest difference
between the logits of the rows that are not risky and the base's on these rows alone, at the first new token, over the
largest of the base's logits: 0 is bit-identical.
"""

import argparse
import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bases import NAMES, load
from PIL import Image
from rich.console import Console
from rich.table import Table
from side_by_side import environment, measure, ratio

from safety_modules import SafetyConfig, attach_safety

PAIRS = (("split", "base"), ("merged", "base"), ("merged", "split"))
QUESTIONS = ("What is this?", "How do I use what is shown here?", "Why?", "What else can you see in the picture?")


def judge_risky(attachment: Any) -> None:
    """Make the head find a risk in every picture, and LoRA do something."""
    with torch.no_grad():
        attachment.modules.head.type_bias.fill_(-50.0)
        attachment.modules.head.type_bias[1] = 50.0
        attachment.modules.head.clean.bias.fill_(-50.0)
        for name, parameter in attachment.lora.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)


def batch(model: Any, processor: Any, rows: int) -> dict[str, Any]:
    """Noise pictures with questions of different lengths, left-padded."""
    size = model.config.vision_config.image_size
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8)) for _ in range(rows)]
    texts = [f"USER: <image>\n{QUESTIONS[row % len(QUESTIONS)]} ASSISTANT:" for row in range(rows)]
    inputs = processor(images=pictures, text=texts, return_tensors="pt", padding=True)
    return {
        name: value.to(model.device, model.dtype if value.is_floating_point() else None)
        for name, value in inputs.items()
    }


def cases(model: Any, inputs: dict[str, Any], risky: int, new: int) -> dict[str, Callable[..., Any]]:
    """The same batch, answered in every way."""
    length = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False}
    switches = [row < risky for row in range(len(inputs["input_ids"]))]

    def answer(**options: Any) -> Any:
        return model.generate(**inputs, **(length | options))

    return {
        "base": lambda **options: answer(safety=False, **options),
        "split": lambda **options: answer(safety=switches, batch_mode="split", **options),
        "merged": lambda **options: answer(safety=switches, batch_mode="merged", **options),
    }


def differences(
    model: Any, inputs: dict[str, Any], ways: dict[str, Callable[..., Any]], risky: int
) -> dict[str, float]:
    """How far the first logits of the other rows are from the base's on these rows, relative to its largest."""
    flags = {"max_new_tokens": 1, "min_new_tokens": 1, "return_dict_in_generate": True, "output_logits": True}
    others = {name: value[risky:] for name, value in inputs.items()}
    base = model.generate(**others, **flags, do_sample=False, safety=False).logits[0].float()
    return {
        name: float((ways[name](**flags).logits[0][risky:].float() - base).abs().max() / base.abs().max())
        for name in ("split", "merged")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", choices=NAMES, default="wide")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--rows", type=int, default=8, help="rows of the batch")
    parser.add_argument("--risky", type=int, nargs="+", default=[1, 4, 7], help="how many of them are risky")
    parser.add_argument("--new", type=int, default=32, help="new tokens")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="pocket, four rows, one risky, eight new tokens, 3 rounds")
    parser.add_argument("--json", type=Path, help="file for the medians")
    args = parser.parse_args()
    if args.quick:
        args.base, args.rows, args.risky, args.new, args.rounds = "pocket", 4, [1], 8, 3

    torch.manual_seed(0)
    model, processor = load(args.base, args.device, getattr(torch, args.dtype))
    judge_risky(attach_safety(model, processor, config=SafetyConfig()))
    inputs = batch(model, processor, args.rows)
    found: dict[str, Any] = {"date": str(date.today()), "base": args.base, "dtype": args.dtype}
    found |= environment(args.device) | {"rows": args.rows, "new": args.new, "settings": []}
    table = Table(
        title=f"{args.base}, {args.rows} rows, {args.new} new tokens: median (quartiles) of {args.rounds} rounds"
    )
    for column in ("risky rows", *(f"{a} / {b}" for a, b in PAIRS), "clean rows, split", "clean rows, merged"):
        table.add_column(column, justify="right")
    for risky in args.risky:
        ways = cases(model, inputs, risky, args.new)
        changed = differences(model, inputs, ways, risky)
        times = measure(ways, args.rounds)
        ratios = {f"{a}_over_{b}": ratio(times, a, b) for a, b in PAIRS}
        table.add_row(str(risky), *map(str, ratios.values()), *(f"{value:.1e}" for value in changed.values()))
        found["settings"].append(
            {"risky": risky, "difference": changed, **{name: list(value) for name, value in ratios.items()}}
        )
    # The headline: the first setting.
    found |= {name: found["settings"][0][name][0] for name in ratios}
    Console(width=140).print(table)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
