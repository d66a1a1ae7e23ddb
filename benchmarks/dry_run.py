"""A base of full width and random weights, from pictures to a saved adapter: do the recipes run, what do they take?

    python benchmarks/dry_run.py                                                        # one block, CPU, minutes
    python benchmarks/dry_run.py --quantize nf4 --recipes training/llava-1.5-7b/stage2-qlora.yaml
    python benchmarks/dry_run.py --device cuda --blocks 32 --batch-size 4 --steps 20 --quantize nf4 --json 7b-qlora.json

Memory and time do not depend on the weights, so on a GPU the last one gives the peak and the seconds a step of
LLaVA-1.5-7B; beside them stands what plan.py says. What is learned from random weights means nothing.
"""

import argparse
import json
import resource
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import torch
from bases import load
from side_by_side import environment

from safety_modules import SafetyConfig, attach_safety, pocket, train_safety
from safety_modules.backbones.bases import PUBLISHED, QUANTISED, load_whole, quantisation
from safety_modules.training.plan import Setting, stage_resources
from safety_modules.training.recipe import Recipe

RECIPES = Path(__file__).parent.parent / "training"


def base(args: argparse.Namespace, folder: Path) -> tuple[Any, Any]:
    """Model and processor, quantised the way users do it: while loading."""
    dtype = getattr(torch, args.dtype)
    model, processor = load(args.base, "cpu" if args.quantize else args.device, dtype, args.blocks)
    if args.quantize is None:
        return model, processor
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    del model
    settings = quantisation(args.quantize, dtype)
    quantised, processor = load_whole(folder, quantization_config=settings, dtype=dtype, device_map={"": args.device})
    return quantised.eval(), processor


def shortened(recipe: Recipe, args: argparse.Namespace) -> Recipe:
    """The recipe with a few steps, without what only a long run needs, and in the precision of the base.

    On a CPU without bfloat16 arithmetic a step in bfloat16 takes many minutes.
    """
    changes = {"steps": args.steps, "warmup_steps": 0, "evaluate_every": 0, "patience": 0, "log_every": 1}
    changes["precision"] = args.dtype
    if recipe.stage == 2:
        changes["answer_tokens"] = 8  # records without an answer ask the base for one
    if args.batch_size is not None:
        changes |= {"batch_size": args.batch_size, "gradient_accumulation": 1}
    return Recipe.model_validate({**recipe.model_dump(exclude_unset=True), **changes})


def peak_gb(device: str) -> float:
    """Highest memory so far: of the GPU's allocator, or of this process."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def stage(safety: Any, records: list[Any], recipe: Recipe, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Run a stage; what it took, beside what was planned for it."""
    if args.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    train_safety(safety, records, recipe, output_dir=folder, cache_dir=folder / "features", progress=False)
    log = json.loads((folder / f"stage{recipe.stage}" / "log.json").read_text(encoding="utf-8"))
    seconds = next(entry["train_runtime"] for entry in log if "train_runtime" in entry) / recipe.steps
    backbone = safety.backbone
    longest = max(len(backbone.prompt_ids(r.question)) + len(backbone.answer_ids(r.answer or "")) for r in records)
    text = longest - backbone.sizes.num_patches
    setting = Setting(dtype=args.dtype, quantise=args.quantize, text_tokens=text, answer_tokens=text // 2)
    planned = stage_resources(backbone.model.config, safety.config, recipe, setting)
    return {
        "seconds_a_step": round(seconds, 3),
        "peak_gb": round(peak_gb(args.device), 2),
        "planned_gb": round(planned.total / 1e9, 2),
        "planned_tflop_a_step": round(planned.step_flops / 1e12, 3),
        "losses": [entry["loss"] for entry in log if "loss" in entry],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", choices=PUBLISHED, default="llava-1.5-7b")
    parser.add_argument("--blocks", type=int, default=1, help="of the language model; 32 = the whole 7B, 40 the 13B")
    parser.add_argument(
        "--recipes", type=Path, nargs="+", help="default: stage1.yaml and stage2-qlora.yaml of the base"
    )
    parser.add_argument("--quantize", choices=QUANTISED)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--dtype",
        choices=("bfloat16", "float32"),
        help="default: bfloat16, on a CPU float32, which is far quicker there",
    )
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--batch-size", type=int, help="in the place of the recipe's, without accumulation")
    parser.add_argument("--pictures", type=int, default=6)
    parser.add_argument("--json", type=Path, help="file for the numbers")
    args = parser.parse_args()
    args.dtype = args.dtype or ("float32" if args.device == "cpu" else "bfloat16")
    files = args.recipes or [RECIPES / args.base / name for name in ("stage1.yaml", "stage2-qlora.yaml")]

    found: dict[str, Any] = {"date": str(date.today()), **vars(args), **environment(args.device)}
    records = pocket.make("safety", args.pictures, split="train")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, processor = base(args, folder / "base")
        safety = attach_safety(model, processor, config=SafetyConfig())
        for file in files:
            recipe = shortened(Recipe.from_yaml(file), args)
            found[f"stage{recipe.stage}"] = stage(safety, records, recipe, folder, args)
        safety.save_pretrained(folder / "adapter")
        verdicts = safety.classify(images=[record.image for record in records[:2]])
        safety.detach()
        again = attach_safety(model, processor, adapter=folder / "adapter")
        loaded = again.classify(images=[record.image for record in records[:2]])
        # 16 bit on disk: the same verdicts up to rounding.
        found["largest_change_by_saving"] = max(abs(a.risk - b.risk) for a, b in zip(verdicts, loaded, strict=True))
        found["adapter_mb"] = sum(f.stat().st_size for f in (folder / "adapter").rglob("*.safetensors")) / 1e6
    text = json.dumps(found, indent=1, default=str)
    print(text)
    if args.json:
        args.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
