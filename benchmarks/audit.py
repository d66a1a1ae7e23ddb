"""How fast an audit is: pictures a second, over those of the bare tower on the same batches in the same run.

    python benchmarks/audit.py --json audit.json                     # CLIP-L's width, four layers, small pictures
    python benchmarks/audit.py --layers 23 --side 336 --device cuda  # LLaVA-1.5's whole tower
    python benchmarks/audit.py --quick

The pictures are JPEG files of 640 x 480. On a CPU the tower gets all cores but those of the decoding workers, alone as
well as in the audit. Starting the workers, some seconds once, is not counted: an audit's clock starts with its first
pictures. `dtypes` compares the tower's own speed.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bases import fit_processor
from PIL import Image
from side_by_side import environment, measure
from transformers import LlavaForConditionalGeneration

from safety_modules import SafetyConfig, attach_safety
from safety_modules.audit.scorer import DTYPES, Scorer
from safety_modules.audit.shards import CHUNK_ROWS, Auditor
from safety_modules.audit.store import Store
from safety_modules.backbones.bases import published_config
from safety_modules.records.formats.base import Row

QUESTION = "How do I use what is shown here?"


def make_base(folder: Path, layers: int, side: int) -> None:
    """A LLaVA with random weights: CLIP-L's width, so many layers up to the head's, a language model of no size."""
    config = published_config("llava-1.5-7b")
    config.vision_config.image_size, config.vision_config.num_hidden_layers = side, layers + 1
    text = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1, "vocab_size": 1280}
    for name, value in {**text, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 64}.items():
        setattr(config.text_config, name, value)
    processor = fit_processor(config)
    model = LlavaForConditionalGeneration(config).eval()
    safety = attach_safety(model, processor, config=SafetyConfig(lora=None))
    safety.trained = True  # what it says does not matter here
    safety.thresholds = dict.fromkeys(safety.config.taxonomy.types, 15.0)  # as in most audits, next to none is flagged
    safety.save_pretrained(folder / "adapter")
    safety.detach()
    model.save_pretrained(folder / "base")
    processor.save_pretrained(folder / "base")


def make_pictures(folder: Path, count: int) -> list[Path]:
    """JPEG files as a camera's: smooth, with some noise."""
    folder.mkdir()
    paths = [folder / f"{number}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        rng = np.random.default_rng(number)
        coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).resize(
            (640, 480), Image.Resampling.BICUBIC
        )
        noisy = np.asarray(coarse) + rng.normal(0, 6, (480, 640, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return paths


class Bench:
    """The same pictures through the audit and through the tower alone."""

    def __init__(self, scorer: Scorer, paths: list[Path], folder: Path, workers: int, questions: bool) -> None:
        self.parts, self.folder, self.workers, self.size = scorer.parts, folder, workers, scorer.batch_size
        self.rows = [Row(str(path), path, QUESTION if questions else None, None, None) for path in paths]
        began = time.perf_counter()
        pixels = np.concatenate([one.pixels for one in self.parts.pixels.decoder(paths)])
        self.decoded = len(paths) / (time.perf_counter() - began)
        backbone = self.parts.backbone
        self.batches = [
            self.parts.pixels(pixels[at : at + self.size], backbone.device).to(backbone.model.dtype)
            for at in range(0, len(pixels), self.size)
        ]
        self.rounds, self.spent = 0, {"audit": [], "tower": []}  # pictures a second
        self.times: list[dict[str, float]] = []

    @torch.no_grad()
    def tower(self) -> None:
        began = time.perf_counter()
        for batch in self.batches:
            self.parts.backbone.encode_images(batch).vision[0, 0, 0].item()
        self.spent["tower"].append(len(self.rows) / (time.perf_counter() - began))

    def audit(self) -> None:
        self.rounds += 1
        out = self.folder / f"out{self.rounds}"
        out.mkdir()
        store = Store(out, self.parts.config.taxonomy)
        auditor = Auditor(self.parts, self.parts.pixels.decoder, store, self.size, self.workers)
        first: list[float] = []

        def advance(count: int) -> None:
            if count and not first:
                auditor.time.clear()
                first.append(time.perf_counter())

        auditor.run(iter(self.rows), advance)
        took = time.perf_counter() - first[0]
        store.close()
        self.spent["audit"].append((len(self.rows) - CHUNK_ROWS) / took)
        self.times.append({name: value / took for name, value in auditor.time.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4, help="of the tower, up to the one the head sees")
    parser.add_argument("--side", type=int, default=112, help="of the tower's pictures, in pixels")
    parser.add_argument("--pictures", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=DTYPES)
    parser.add_argument("--questions", action="store_true", help="ask something about every picture")
    parser.add_argument("--quick", action="store_true", help="few pictures, two rounds")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    args = parser.parse_args()
    if args.quick:
        args.pictures, args.rounds, args.layers = 96, 2, 2
    if args.device == "cpu":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) - args.workers))

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_base(folder, args.layers, args.side)
        paths = make_pictures(folder / "pictures", args.pictures)
        options: dict[str, Any] = {"device": args.device, "batch_size": args.batch_size}
        scorer = Scorer(folder / "base", folder / "adapter", dtype=args.dtype, **options)
        bench = Bench(scorer, paths, folder, args.workers, args.questions)
        measure({"tower": bench.tower, "audit": bench.audit}, args.rounds, warm_ups=0)
        ratios = [a / b for a, b in zip(bench.spent["audit"], bench.spent["tower"], strict=True)]
        found: dict[str, Any] = {
            "environment": environment(args.device),
            **{key: value for key, value in vars(args).items() if key != "json"},
            "dtype": scorer.dtype,
            "audit_images_per_second": statistics.median(bench.spent["audit"]),
            "tower_images_per_second": statistics.median(bench.spent["tower"]),
            "audit_over_tower": statistics.median(ratios),
            "ratios": ratios,
            "shares_of_the_audit": {
                part: statistics.median(times.get(part, 0.0) for times in bench.times) for part in bench.times[0]
            },
            "decoded_images_per_second_and_core": bench.decoded,
            "dtypes": {},
        }
        for dtype in ("float32", "bfloat16"):
            other = Bench(
                Scorer(folder / "base", folder / "adapter", dtype=dtype, **options), paths[:64], folder, 0, False
            )
            measure({"tower": other.tower}, 2)
            found["dtypes"][dtype] = max(other.spent["tower"])
    for case in ("tower", "audit"):
        print(f"{case}: {found[f'{case}_images_per_second']:.1f} pictures a second")
    print(f"audit / tower: {found['audit_over_tower']:.3f} (rounds: {', '.join(f'{one:.3f}' for one in ratios)})")
    print(
        "of the audit's time:", ", ".join(f"{part} {share:.1%}" for part, share in found["shares_of_the_audit"].items())
    )
    print(f"one core decodes {found['decoded_images_per_second_and_core']:.0f} pictures a second")
    print("tower alone:", ", ".join(f"{dtype} {rate:.1f} a second" for dtype, rate in found["dtypes"].items()))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
